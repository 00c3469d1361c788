//! What is worth measuring of what happens. Nothing decides by it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use diptych_common::ids::{Attempt, JobId, Rank, Step};

use super::event::{Event, RankEvent};
use super::failure::FailureKind;
use super::job::{Brings, Job, Placement, Seat};
use super::run::RankState;
use super::time::Mono;

/// One thing that is worth measuring.
#[derive(Debug, Clone, PartialEq)]
pub enum Observation {
    /// What is gone was noticed to be so, this long after its last sign of life.
    Noticed {
        /// How long.
        after: Duration,
    },
    /// An attempt ended before its work was done.
    Ended {
        /// Whose.
        job: JobId,
        /// Which one.
        attempt: Attempt,
        /// Why; `None` where somebody meant it.
        failure: Option<FailureKind>,
        /// Ranks that go on and are still in their collectives; `None` where nobody goes on.
        leaving: Option<BTreeSet<Rank>>,
        /// The furthest step that it reported.
        reached: Step,
    },
    /// A rank stepped.
    Stepped {
        /// Whose.
        job: JobId,
        /// In which attempt.
        attempt: Attempt,
        /// Which one.
        rank: Rank,
        /// Steps taken.
        step: Step,
        /// Seconds of one, lately.
        step_s: f64,
    },
    /// A rank is out of its collectives.
    Left {
        /// Whose.
        job: JobId,
        /// Of which attempt.
        attempt: Attempt,
        /// Which one.
        rank: Rank,
    },
    /// A rank's part of a save is in the store.
    Saved {
        /// Whose.
        job: JobId,
        /// In which attempt.
        attempt: Attempt,
        /// Of its objects.
        bytes: u64,
        /// How long the rank's steps stood still for it, where it says so.
        stall: Option<Duration>,
    },
}

impl Observation {
    /// What a report says, if it is worth measuring.
    pub fn of(event: &Event) -> Option<Self> {
        let Event::Rank(report) = event else {
            return None;
        };
        let (job, attempt, rank) = (report.job.clone(), report.attempt, report.rank);
        Some(match &report.event {
            RankEvent::Progress { step, step_s, .. } => Self::Stepped {
                job,
                attempt,
                rank,
                step: *step,
                step_s: *step_s,
            },
            RankEvent::Held { .. } | RankEvent::Exited { .. } => Self::Left { job, attempt, rank },
            RankEvent::PartSaved { objects, stall, .. } => Self::Saved {
                job,
                attempt,
                bytes: objects.iter().map(|object| object.size).sum(),
                stall: *stall,
            },
            RankEvent::Ready { .. }
            | RankEvent::ManifestWritten { .. }
            | RankEvent::Finished { .. }
            | RankEvent::Failed { .. }
            | RankEvent::Activity(_)
            | RankEvent::Notice { .. } => return None,
        })
    }

    /// Whether it holds although the report changed nothing: ranks leave attempts that have ended.
    pub fn holds_when_ignored(&self) -> bool {
        matches!(self, Self::Left { .. })
    }

    /// The live attempt of a job ends, and these trainers are kept for the next one.
    pub fn ended(
        (job, index, placement): (&Job, usize, &Placement),
        failure: Option<FailureKind>,
        kept: Option<&BTreeMap<Seat, Brings>>,
    ) -> Self {
        let phase = &job.phases[index];
        let steps = |rank: &Rank| {
            let ranks = phase.run.as_ref().map(|run| &run.ranks);
            let state = ranks.and_then(|ranks| ranks.get(rank.get() as usize));
            matches!(state, Some(RankState::Training | RankState::Back))
        };
        let leaving = kept.filter(|kept| !kept.is_empty()).map(|kept| {
            let stays = |(rank, seat): (Rank, &Seat)| {
                (kept.contains_key(seat) && steps(&rank)).then_some(rank)
            };
            placement.all().filter_map(stays).collect()
        });
        Self::Ended {
            job: job.id().clone(),
            attempt: placement.attempt,
            failure,
            leaving,
            reached: phase.progress.step,
        }
    }

    /// A gang was noticed to be stuck.
    pub fn stalled(job: &Job, index: usize, now: Mono) -> Option<Self> {
        let run = job.phases[index].run.as_ref()?;
        let after = now.since(run.pulse.at);
        Some(Self::Noticed { after })
    }
}
