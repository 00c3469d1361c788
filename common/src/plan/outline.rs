use crate::spec::{JobSpec, PhaseKind, PhaseSpec};

use super::facts::{DataFacts, Facts};
use super::memory::Setting;
use super::network::Networks;

/// What a phase comes to on any number of ranks.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Outline {
    pub(super) train: DataFacts,
    pub(super) eval: Option<DataFacts>,
    pub(super) networks: Networks,
    /// Training images that it uses: an epoch.
    pub(super) images: u64,
    /// Optimiser steps.
    pub(super) steps: u64,
    /// Evaluations, the last one included.
    pub(super) evaluations: u64,
}

impl Outline {
    pub(super) fn of(spec: &JobSpec, phase: &PhaseSpec, facts: &Facts) -> Self {
        let train = facts.of(spec, &phase.train);
        let eval = phase.eval.as_ref().map(|name| facts.of(spec, name));
        let images = match &phase.kind {
            PhaseKind::Pretrain(_) | PhaseKind::Distill(_) => train.images,
            PhaseKind::LinearEval(spec) => train.chosen(&spec.labels, &facts.lists),
            PhaseKind::Finetune(spec) => train.chosen(&spec.labels, &facts.lists),
        };
        let steps = phase.length.steps(images, phase.batch);
        let interval = phase.evaluation_interval(steps, images);
        let on_the_way = interval.map_or(0, |every| steps.saturating_sub(1) / every.max(1));
        Self {
            networks: Networks::of(spec, phase, train.classes),
            evaluations: if eval.is_some() { on_the_way + 1 } else { 0 },
            images,
            steps,
            train,
            eval,
        }
    }

    /// What memory on so many ranks depends on.
    pub(super) fn setting<'a>(&'a self, phase: &'a PhaseSpec, ranks: u32) -> Setting<'a> {
        Setting {
            phase,
            networks: &self.networks,
            train: &self.train,
            eval: self.eval.as_ref(),
            images: self.images,
            steps: self.steps,
            evaluated: self.evaluations > 1,
            ranks,
        }
    }
}
