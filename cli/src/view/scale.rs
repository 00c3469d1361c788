//! What another number of ranks does to a job.

use std::io::{self, Write};

use serde::Serialize;

use super::{JobView, PhaseState, PhaseView};
use crate::output::Output;
use crate::output::table::{columns, or_dash};

/// The answer to a scale: the phases that it concerns.
#[derive(Debug, Serialize)]
pub(crate) struct Scaled {
    job: String,
    phases: Vec<ScaledPhase>,
}

/// A phase, and what comes of it.
#[derive(Debug, Serialize)]
struct ScaledPhase {
    phase: String,
    state: PhaseState,
    ranks_min: u32,
    ranks_max: u32,
    /// Ranks of the present gang; 0 while there is none.
    world: u32,
    next: Next,
    /// The same, for people.
    message: String,
}

/// What a phase does next about its ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Next {
    /// It has no gang yet.
    Start,
    /// Its gang is too large.
    Shrink,
    /// Its gang may be larger.
    Grow,
    /// Its gang is as large as it may be.
    Stay,
    /// It runs no more.
    Nothing,
}

impl Scaled {
    /// Of the phases that have not ended, or of the one that was named.
    pub(crate) fn new(job: &JobView, only: Option<&str>) -> Self {
        let concerned = |phase: &&PhaseView| match only {
            Some(name) => phase.name == name,
            None => next(phase) != Next::Nothing,
        };
        Self {
            job: job.job.clone(),
            phases: job
                .phases
                .iter()
                .filter(concerned)
                .map(ScaledPhase::from)
                .collect(),
        }
    }
}

impl From<&PhaseView> for ScaledPhase {
    fn from(phase: &PhaseView) -> Self {
        let (min, max, world) = (phase.ranks_min, phase.ranks_max, phase.world);
        let next = next(phase);
        let message = match next {
            Next::Start if min == max => format!("starts on {}", ranks(max)),
            Next::Start => format!("starts on {min} to {max} ranks, as many as are free"),
            Next::Shrink => {
                format!("shrinks from {world} to {max} after a step that all agree on")
            }
            Next::Grow => format!("grows from {world} to {max} as devices are free"),
            Next::Stay => format!("goes on with {}", ranks(world)),
            Next::Nothing => "runs no more".to_owned(),
        };
        Self {
            phase: phase.name.clone(),
            state: phase.state,
            ranks_min: min,
            ranks_max: max,
            world,
            next,
            message,
        }
    }
}

fn next(phase: &PhaseView) -> Next {
    match phase.state {
        PhaseState::Done | PhaseState::Failed | PhaseState::Cancelled => Next::Nothing,
        PhaseState::Blocked | PhaseState::Pending | PhaseState::Unknown => Next::Start,
        PhaseState::Verifying => Next::Stay,
        PhaseState::Starting | PhaseState::Training => match phase.world {
            0 => Next::Start,
            world if world > phase.ranks_max => Next::Shrink,
            world if world < phase.ranks_max => Next::Grow,
            _ => Next::Stay,
        },
    }
}

/// `1 rank`, `2 ranks`.
pub(crate) fn ranks(count: u32) -> String {
    match count {
        1 => "1 rank".to_owned(),
        count => format!("{count} ranks"),
    }
}

impl Output for Scaled {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.phases.is_empty() {
            return writeln!(out, "no phase of {} is left to scale", self.job);
        }
        let rows = self.phases.iter().map(|phase| {
            let present = Some(phase.world).filter(|world| *world > 0);
            vec![
                phase.phase.clone(),
                phase.state.word().to_owned(),
                phase.ranks_min.to_string(),
                phase.ranks_max.to_string(),
                or_dash(present),
                phase.message.clone(),
            ]
        });
        columns(
            out,
            &["PHASE", "STATE", "MIN", "MAX", "PRESENT", "NEXT"],
            rows,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::job::samples::{job, phase};
    use super::*;

    fn scaled(state: PhaseState, world: u32, min: u32, max: u32) -> PhaseView {
        let mut scaled = phase("pretrain", state);
        (scaled.world, scaled.ranks_min, scaled.ranks_max) = (world, min, max);
        scaled
    }

    #[test]
    fn each_gang_is_told_what_becomes_of_it() {
        use PhaseState::{Blocked, Done, Pending, Starting, Training, Verifying};
        for (state, world, min, max, expected, message) in [
            (Blocked, 0, 2, 2, Next::Start, "starts on 2 ranks"),
            (
                Pending,
                0,
                1,
                4,
                Next::Start,
                "starts on 1 to 4 ranks, as many as are free",
            ),
            (Starting, 0, 1, 1, Next::Start, "starts on 1 rank"),
            (
                Training,
                4,
                1,
                2,
                Next::Shrink,
                "shrinks from 4 to 2 after a step that all agree on",
            ),
            (
                Training,
                1,
                1,
                4,
                Next::Grow,
                "grows from 1 to 4 as devices are free",
            ),
            (Training, 1, 1, 1, Next::Stay, "goes on with 1 rank"),
            (Verifying, 4, 1, 2, Next::Stay, "goes on with 4 ranks"),
            (Done, 0, 1, 2, Next::Nothing, "runs no more"),
        ] {
            let told = ScaledPhase::from(&scaled(state, world, min, max));
            assert_eq!((told.next, told.message.as_str()), (expected, message));
        }
    }

    #[test]
    fn phases_that_have_ended_are_told_only_by_name() {
        let mut done = scaled(PhaseState::Done, 0, 1, 2);
        done.name = "linear".to_owned();
        let job = job(vec![done, scaled(PhaseState::Training, 2, 1, 4)]);
        let table = |only| {
            let mut out = Vec::new();
            Scaled::new(&job, only).table(&mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            table(None),
            "PHASE     STATE     MIN  MAX  PRESENT  NEXT\n\
             pretrain  training  1    4    2        grows from 2 to 4 as devices are free\n"
        );
        assert!(table(Some("linear")).contains("runs no more"));
        assert_eq!(
            table(Some("other")),
            "no phase of digits-3f9a01 is left to scale\n"
        );
        let json = serde_json::to_value(Scaled::new(&job, None)).unwrap();
        assert_eq!(json["job"], "digits-3f9a01");
        assert_eq!(json["phases"][0]["next"], "grow");
        assert_eq!(json["phases"][0]["ranks_max"], 4);
    }
}
