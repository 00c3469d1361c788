//! Phases of a job.

use std::collections::BTreeMap;

use diptych_proto::v1;
use serde::Serialize;

use super::rank::RankView;
use super::{PhaseState, seconds_between, time};
use crate::output::table::seconds;

/// A phase.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct PhaseView {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) state: PhaseState,
    /// 0 before the first.
    pub(crate) attempt: u64,
    /// Attempts of this phase before that one.
    pub(crate) restarts: u32,
    pub(crate) step: u64,
    pub(crate) total_steps: u64,
    pub(crate) images_per_s: f64,
    pub(crate) eta_s: Option<f64>,
    pub(crate) started: Option<String>,
    pub(crate) ended: Option<String>,
    /// From start to end, once ended.
    pub(crate) seconds: Option<f64>,
    /// Worker of each rank, while placed.
    pub(crate) workers: Vec<String>,
    /// Ranks of the present gang, without reserves; 0 while there is none.
    pub(crate) world: u32,
    /// Fewest ranks that it may have; 0 where unknown.
    pub(crate) ranks_min: u32,
    /// Most ranks that it may have; 0 where unknown.
    pub(crate) ranks_max: u32,
    /// Of the present attempt, in rank order; reserves follow the gang.
    pub(crate) ranks: Vec<RankView>,
    /// Seconds of work that a loss of every rank would cost.
    pub(crate) unsaved_s: Option<f64>,
    /// Steps whose batch changed nothing, after a number that was not finite.
    pub(crate) skipped_steps: Vec<u64>,
    /// The last value of each measurement.
    pub(crate) metrics: BTreeMap<String, f64>,
    /// Results, once done: final ones, or those of the best checkpoint.
    pub(crate) results: BTreeMap<String, f64>,
    /// Steps in the best checkpoint so far, where the spec asks for it.
    pub(crate) best_step: Option<u64>,
}

impl From<v1::PhaseStatus> for PhaseView {
    fn from(phase: v1::PhaseStatus) -> Self {
        let state = phase.state().into();
        let ranks: Vec<RankView> = phase.ranks.into_iter().map(RankView::from).collect();
        let gang = match phase.workers.len() {
            0 => ranks.iter().filter(|rank| !rank.is_reserve()).count(),
            placed => placed,
        };
        Self {
            state,
            name: phase.name,
            kind: phase.kind,
            attempt: phase.attempt,
            restarts: phase.restarts,
            step: phase.step,
            total_steps: phase.total_steps,
            images_per_s: phase.images_per_s,
            eta_s: phase.eta_s,
            started: time(phase.started),
            ended: time(phase.ended),
            seconds: seconds_between(phase.started, phase.ended),
            workers: phase.workers,
            world: u32::try_from(gang).unwrap_or(u32::MAX),
            ranks_min: phase.ranks_min,
            ranks_max: phase.ranks_max,
            ranks,
            unsaved_s: phase.unsaved_s,
            skipped_steps: phase.skipped_steps,
            metrics: by_name(phase.metrics),
            results: by_name(phase.results),
            best_step: phase.best_step,
        }
    }
}

fn by_name(points: Vec<v1::MetricPoint>) -> BTreeMap<String, f64> {
    points
        .into_iter()
        .map(|point| (point.name, point.value))
        .collect()
}

impl PhaseView {
    /// `step/total`, as far as known.
    pub(crate) fn steps(&self) -> String {
        match (self.step, self.total_steps) {
            (0, 0) => "-".to_owned(),
            (step, 0) => step.to_string(),
            (step, total) => format!("{step}/{total}"),
        }
    }

    /// A measurement under the first of these names that is there: a final result, else the last value.
    pub(crate) fn value(&self, names: &[&str]) -> Option<f64> {
        let find =
            |map: &BTreeMap<String, f64>| names.iter().find_map(|name| map.get(*name).copied());
        find(&self.results).or_else(|| find(&self.metrics))
    }

    /// How many ranks it has, and may have, e.g. `2 of 1–4`; `2` where that is all there is to say.
    pub(crate) fn gang(&self) -> Option<String> {
        let range = match (self.ranks_min, self.ranks_max) {
            (_, 0) => None,
            (min, max) if min == max => Some(max.to_string()),
            (min, max) => Some(format!("{min}–{max}")),
        };
        match (self.world, range) {
            (0, range) => range,
            (world, Some(range)) if range != world.to_string() => {
                Some(format!("{world} of {range}"))
            }
            (world, _) => Some(world.to_string()),
        }
    }

    /// What the ranks hold that no checkpoint does.
    pub(crate) fn cost_of_loss(&self) -> Option<String> {
        let unsaved = self.unsaved().map(seconds)?;
        Some(format!("a loss of every rank would cost {unsaved}"))
    }

    /// Seconds of work that a loss of every rank would cost, of a phase that has not ended.
    pub(crate) fn unsaved(&self) -> Option<f64> {
        use PhaseState::{Starting, Training, Verifying};
        let live = matches!(self.state, Starting | Training | Verifying);
        self.unsaved_s
            .filter(|unsaved| live && unsaved.is_finite() && *unsaved >= 0.0)
    }

    /// Which steps changed nothing; the first few by number.
    pub(crate) fn skipped(&self) -> Option<String> {
        const SHOWN: usize = 8;
        let (count, numbers) = match self.skipped_steps.as_slice() {
            [] => return None,
            [one] => return Some(format!("step {one} was skipped: a number was not finite")),
            steps => (steps.len(), steps.iter().take(SHOWN)),
        };
        let numbers: Vec<_> = numbers.map(u64::to_string).collect();
        let more = if count > SHOWN { ", …" } else { "" };
        Some(format!(
            "{count} steps were skipped, as a number was not finite: {}{more}",
            numbers.join(", ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::job::samples::phase;
    use super::super::worker::samples::rank;
    use super::*;

    #[test]
    fn a_gang_is_told_with_what_it_may_be() {
        for (world, min, max, text) in [
            (0, 0, 0, None),
            (2, 0, 0, Some("2")),
            (0, 2, 2, Some("2")),
            (2, 2, 2, Some("2")),
            (0, 1, 4, Some("1–4")),
            (2, 1, 4, Some("2 of 1–4")),
            (4, 2, 2, Some("4 of 2")),
        ] {
            let mut phase = phase("pretrain", PhaseState::Training);
            (phase.world, phase.ranks_min, phase.ranks_max) = (world, min, max);
            assert_eq!(phase.gang().as_deref(), text);
        }
    }

    #[test]
    fn reserves_are_not_of_the_gang() {
        let mut reserve = rank("w2", 1, 0.0, 0.0);
        reserve.state = "reserve".to_owned();
        let mut status = v1::PhaseStatus {
            ranks: vec![rank("w1", 0, 1.0, 1.0), reserve],
            workers: vec!["w1".to_owned()],
            ..v1::PhaseStatus::default()
        };
        assert_eq!(PhaseView::from(status.clone()).world, 1);
        status.workers.clear();
        assert_eq!(PhaseView::from(status.clone()).world, 1);
        assert_eq!(PhaseView::from(status).ranks.len(), 2);
        assert_eq!(PhaseView::from(v1::PhaseStatus::default()).world, 0);
    }

    #[test]
    fn a_phase_says_what_a_loss_would_cost_while_it_runs() {
        let mut phase = phase("pretrain", PhaseState::Training);
        assert_eq!(phase.cost_of_loss(), None);
        phase.unsaved_s = Some(192.0);
        let cost = phase.cost_of_loss().unwrap();
        assert_eq!(cost, "a loss of every rank would cost 3m 12s");
        phase.unsaved_s = Some(f64::NAN);
        assert_eq!(phase.cost_of_loss(), None);
        phase.unsaved_s = Some(1.0);
        phase.state = PhaseState::Done;
        assert_eq!(phase.cost_of_loss(), None);
    }

    #[test]
    fn skipped_steps_are_named() {
        let mut phase = phase("pretrain", PhaseState::Training);
        assert_eq!(phase.skipped(), None);
        phase.skipped_steps = vec![7];
        let one = phase.skipped().unwrap();
        assert_eq!(one, "step 7 was skipped: a number was not finite");
        phase.skipped_steps = (1..=9).collect();
        assert_eq!(
            phase.skipped().unwrap(),
            "9 steps were skipped, as a number was not finite: 1, 2, 3, 4, 5, 6, 7, 8, …"
        );
    }
}
