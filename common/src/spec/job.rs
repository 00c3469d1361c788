//! The whole pipeline.

use std::collections::BTreeMap;

use crate::ids::{DataName, PhaseIndex, PhaseName};

use crate::digest::Digest;

use super::{DataSpec, EncoderSpec, HeadSpec, JobDraft, PhaseKind, PhaseSpec};

/// A valid job.
///
/// Made only by `JobSpec::try_from(draft)`; every holder may rely on: names are unique and resolve; `from` and
/// `teacher` name earlier phases of a fitting kind; lanes divide the batch; groups divide the lanes; every rank of
/// the largest gang owns at least one lane of every group; micro-batches hold whole groups.
#[derive(Debug, Clone, PartialEq)]
pub struct JobSpec {
    pub(super) draft: JobDraft,
    pub(super) seed: u64,
    pub(super) priority: i32,
    pub(super) data: BTreeMap<DataName, DataSpec>,
    pub(super) encoder: EncoderSpec,
    pub(super) head: Option<HeadSpec>,
    pub(super) phases: Vec<PhaseSpec>,
}

impl JobSpec {
    /// What was submitted: the form that is stored and sent.
    pub fn draft(&self) -> &JobDraft {
        &self.draft
    }

    /// The user's name for the job.
    pub fn name(&self) -> &str {
        &self.draft.name
    }

    /// Seed of every random stream.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Higher runs first.
    pub fn priority(&self) -> i32 {
        self.priority
    }

    /// Where checkpoints go.
    pub fn storage(&self) -> &str {
        &self.draft.storage
    }

    /// Whether phases write TensorBoard event files.
    pub fn tensorboard(&self) -> bool {
        self.draft.tensorboard.unwrap_or(true)
    }

    /// The data sets by name.
    pub fn data(&self) -> &BTreeMap<DataName, DataSpec> {
        &self.data
    }

    /// The encoder that `pretrain` and `from: random` build.
    pub fn encoder(&self) -> &EncoderSpec {
        &self.encoder
    }

    /// The projection head that `pretrain` puts on the encoder, if any.
    pub fn head(&self) -> Option<&HeadSpec> {
        self.head.as_ref()
    }

    /// BLAKE3 of the draft as compact JSON, fields in the order of [`draft`](super::draft), absent ones left out.
    pub fn digest(&self) -> Digest {
        let json = serde_json::to_vec(&self.draft)
            .expect("a draft holds only texts, numbers, lists and maps");
        Digest::of(&json)
    }

    /// The encoder that a phase trains or reads: its own, or the one of the phase that it starts from. An import
    /// must hold the job's.
    pub fn encoder_of<'a>(&'a self, phase: &'a PhaseSpec) -> &'a EncoderSpec {
        match &phase.kind {
            PhaseKind::Pretrain(pretrain) => &pretrain.encoder,
            PhaseKind::Distill(spec) => &spec.student,
            kind @ (PhaseKind::LinearEval(_) | PhaseKind::Finetune(_)) => match kind.source() {
                Source::Random | Source::Import(_) => &self.encoder,
                Source::Phase(name) => self
                    .phase_named(name)
                    .map_or(&self.encoder, |phase| self.encoder_of(phase)),
            },
        }
    }

    /// The phases, in spec order.
    pub fn phases(&self) -> &[PhaseSpec] {
        &self.phases
    }

    /// One phase.
    pub fn phase(&self, index: PhaseIndex) -> Option<&PhaseSpec> {
        self.phases.get(index.get() as usize)
    }

    /// One phase by name.
    pub fn phase_named(&self, name: &PhaseName) -> Option<&PhaseSpec> {
        self.phases.iter().find(|phase| &phase.name == name)
    }
}

/// Where initial weights come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Fresh, from the job's seed.
    Random,
    /// The verified final checkpoint of an earlier phase.
    Phase(PhaseName),
    /// A file at a URL: an export, or another program's weights (see [`crate::import`]).
    Import(String),
}

/// Whose outputs a student learns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Teacher {
    /// The verified final checkpoint of an earlier `finetune`, `linear_eval` or `distill` phase.
    Phase(PhaseName),
    /// A file at a URL, as [`Source::Import`], with a classifier.
    Import(String),
}
