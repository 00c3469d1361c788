//! One rank, lately: where it is, and how much of a step is its own time.

use diptych_proto::v1;
use serde::Serialize;

use super::some_text;
use crate::output::table::{or_dash, short_seconds};

/// Above this a rank holds its gang up: where the coordinator tells of a `straggler`.
const SLOW: f64 = 1.5;

/// A rank.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RankView {
    pub(crate) job: String,
    /// Absent where the coordinator says only that it runs.
    pub(crate) phase: Option<String>,
    pub(crate) attempt: u64,
    pub(crate) rank: u32,
    pub(crate) worker: String,
    /// Device index on the worker.
    pub(crate) device: u32,
    /// `away`, `starting`, `ready`, `training`, `held`, `reserve`, `finished`; `running` where no more is known.
    pub(crate) state: String,
    pub(crate) step: u64,
    /// Seconds of one step; absent where unknown.
    pub(crate) step_s: Option<f64>,
    /// Seconds of `step_s` in which it did not wait for peers; absent where unknown.
    pub(crate) busy_s: Option<f64>,
    /// `busy_s` over the median of its gang; absent where unknown.
    pub(crate) slowness: Option<f64>,
    /// Whether it holds its gang up.
    pub(crate) slow: bool,
}

/// Headings of [`RankView::pace`].
pub(crate) const PACE: [&str; 3] = ["STEP-TIME", "BUSY", "SLOWNESS"];

impl From<v1::RankStatus> for RankView {
    fn from(rank: v1::RankStatus) -> Self {
        let slowness = known(rank.slowness);
        Self {
            job: rank.job,
            phase: some_text(rank.phase),
            attempt: rank.attempt,
            rank: rank.rank,
            worker: rank.worker,
            device: rank.device,
            state: rank.state,
            step: rank.step,
            step_s: known(rank.step_s),
            busy_s: known(rank.busy_s),
            slowness,
            slow: slowness.is_some_and(|slowness| slowness > SLOW),
        }
    }
}

/// A measurement; 0 on the wire stands for an unknown one.
fn known(value: f64) -> Option<f64> {
    Some(value).filter(|value| value.is_finite() && *value > 0.0)
}

impl RankView {
    /// What a coordinator that counts no steps says of a trainer.
    pub(super) fn of_running(worker: &str, rank: &v1::RunningRank) -> Self {
        Self {
            job: rank.job.clone(),
            phase: None,
            attempt: rank.attempt,
            rank: rank.rank,
            worker: worker.to_owned(),
            device: rank.device,
            state: if rank.held { "held" } else { "running" }.to_owned(),
            step: rank.step,
            step_s: None,
            busy_s: None,
            slowness: None,
            slow: false,
        }
    }

    /// Whether it waits outside of the gang for a later attempt.
    pub(crate) fn is_reserve(&self) -> bool {
        self.state == "reserve"
    }

    /// The time of a step, its own part of it, and e.g. `slow 2.3×`.
    pub(crate) fn pace(&self) -> [String; 3] {
        let slowness = self.slowness.map(|slowness| match self.slow {
            true => format!("slow {slowness:.1}×"),
            false => format!("{slowness:.1}×"),
        });
        [
            or_dash(self.step_s.map(short_seconds)),
            or_dash(self.busy_s.map(short_seconds)),
            or_dash(slowness),
        ]
    }
}
