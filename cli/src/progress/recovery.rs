//! What a follower is told of recoveries: a later attempt trains where an earlier one had.

use diptych_proto::v1;

use crate::view::scale::ranks;
use crate::view::{JobView, PhaseState, PhaseView};

/// What was seen of each phase.
#[derive(Debug, Default)]
pub(crate) struct Recoveries {
    phases: Vec<Seen>,
}

#[derive(Debug, Clone, PartialEq)]
struct Seen {
    /// The last attempt that was told of; 0 before the first.
    attempt: u64,
    /// Ranks that it had; 0 where unknown.
    world: u32,
    /// Steps that it took.
    step: u64,
    pace: Pace,
}

/// Whether rate and time left are of the present gang.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Pace {
    Known,
    /// They are the former gang's until a step is taken after this one.
    UnknownUntil(u64),
}

/// A later attempt went on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recovery {
    phase: String,
    /// The attempt that ended, and the one that goes on.
    from: u64,
    to: u64,
    /// Where it goes on, and the steps that were taken before.
    step: u64,
    reached: u64,
    /// Ranks before and after; 0 where unknown.
    world: (u32, u32),
}

/// Why an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cause {
    /// Something broke.
    Failed(String),
    /// Somebody wanted it otherwise.
    Planned(String),
}

impl Recoveries {
    /// What came to pass since the last look.
    pub(crate) fn observe(&mut self, job: &JobView) -> Vec<Recovery> {
        self.phases.truncate(job.phases.len());
        let mut recoveries = Vec::new();
        for (index, phase) in job.phases.iter().enumerate() {
            match self.phases.get_mut(index) {
                Some(seen) => recoveries.extend(seen.observe(phase)),
                None => self.phases.push(Seen::first(phase)),
            }
        }
        recoveries
    }

    /// The job without rates and times left that were measured on another gang.
    pub(crate) fn without_stale(&self, job: &JobView) -> JobView {
        let mut job = job.clone();
        for (seen, phase) in self.phases.iter().zip(&mut job.phases) {
            let moved_on = phase.attempt != seen.attempt;
            if moved_on || seen.pace != Pace::Known {
                phase.eta_s = None;
                phase.images_per_s = 0.0;
            }
        }
        job
    }
}

impl Seen {
    fn first(phase: &PhaseView) -> Self {
        Self {
            attempt: phase.attempt,
            world: phase.world,
            step: phase.step,
            pace: Pace::Known,
        }
    }

    fn observe(&mut self, phase: &PhaseView) -> Option<Recovery> {
        if phase.attempt == self.attempt {
            self.step = self.step.max(phase.step);
            if phase.world > 0 {
                self.world = phase.world;
            }
            if matches!(self.pace, Pace::UnknownUntil(step) if phase.step > step) {
                self.pace = Pace::Known;
            }
            return None;
        }
        if self.attempt == 0 || phase.attempt < self.attempt {
            *self = Self::first(phase);
            return None;
        }
        // Where it goes on is known once it does.
        let goes_on = matches!(
            phase.state,
            PhaseState::Training | PhaseState::Verifying | PhaseState::Done
        );
        if !goes_on {
            return None;
        }
        let recovery = Recovery {
            phase: phase.name.clone(),
            from: self.attempt,
            to: phase.attempt,
            step: phase.step,
            reached: self.step,
            world: (self.world, phase.world),
        };
        *self = Self {
            pace: Pace::UnknownUntil(phase.step),
            ..Self::first(phase)
        };
        Some(recovery)
    }
}

impl Recovery {
    /// Why the attempt ended that this one follows: the first cause, where several attempts did not get as far as a
    /// step.
    pub(crate) fn cause(&self, events: &[v1::Event]) -> Option<Cause> {
        let of_this = |event: &&v1::Event| {
            event.phase == self.phase && (self.from..self.to).contains(&event.attempt)
        };
        events.iter().filter(of_this).find_map(|event| {
            let said = event.message.lines().next().unwrap_or_default().to_owned();
            match event.kind.as_str() {
                "attempt_failed" => Some(Cause::Failed(said)),
                "attempt_ended" => Some(Cause::Planned(said)),
                _ => None,
            }
        })
    }

    /// One line for people.
    pub(crate) fn line(&self, cause: Option<&Cause>) -> String {
        let Self {
            phase,
            from,
            to,
            step,
            reached,
            world: (before, now),
        } = self;
        let ended = match cause {
            Some(Cause::Failed(said)) => format!("attempt {from} failed: {said}"),
            Some(Cause::Planned(said)) => format!("attempt {from} ended by plan: {said}"),
            None => format!("attempt {from} ended"),
        };
        let on = match (before, now) {
            (_, 0) => String::new(),
            (0, now) => format!(" with {}", ranks(*now)),
            (before, now) if before == now => format!(" with {}", ranks(*now)),
            (before, now) => format!(" with {} ({before} → {now})", ranks(*now)),
        };
        let again = match reached.saturating_sub(*step) {
            0 => String::new(),
            1 => "; 1 step is taken again".to_owned(),
            steps => format!("; {steps} steps are taken again"),
        };
        format!("{phase}: {ended}; attempt {to} goes on from step {step}{on}{again}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::job::samples::{job, phase};

    fn at(state: PhaseState, attempt: u64, world: u32, step: u64) -> JobView {
        let mut phase = phase("pretrain", state);
        (phase.attempt, phase.world, phase.step) = (attempt, world, step);
        phase.total_steps = 1000;
        phase.images_per_s = 640.0;
        phase.eta_s = Some(99.0);
        job(vec![phase])
    }

    fn event(kind: &str, attempt: u64, message: &str) -> v1::Event {
        v1::Event {
            kind: kind.to_owned(),
            phase: "pretrain".to_owned(),
            attempt,
            message: message.to_owned(),
            ..v1::Event::default()
        }
    }

    #[test]
    fn a_failure_is_told_once_with_where_it_goes_on() {
        use PhaseState::{Pending, Starting, Training};
        let mut recoveries = Recoveries::default();
        let mut told = Vec::new();
        for view in [
            at(Starting, 3, 2, 0),
            at(Training, 3, 2, 120),
            at(Pending, 3, 0, 120),
            at(Starting, 4, 1, 120),
            at(Training, 4, 1, 120),
            at(Training, 4, 1, 121),
        ] {
            told.extend(recoveries.observe(&view));
        }
        let [recovery] = told.as_slice() else {
            panic!("{told:?}")
        };
        let events = [
            event("placed", 3, "2 ranks on w1, w2"),
            event("attempt_failed", 2, "an older one"),
            event(
                "attempt_failed",
                3,
                "rank 1 on w2: killed by signal 9\nits last lines",
            ),
            event("attempt_failed", 4, "a later one"),
        ];
        let cause = recovery.cause(&events);
        assert_eq!(
            recovery.line(cause.as_ref()),
            "pretrain: attempt 3 failed: rank 1 on w2: killed by signal 9; \
             attempt 4 goes on from step 120 with 1 rank (2 → 1)"
        );
    }

    #[test]
    fn what_is_known_is_told() {
        let recovery = |reached, step, world| Recovery {
            phase: "pretrain".to_owned(),
            from: 3,
            to: 5,
            step,
            reached,
            world,
        };
        let planned = Cause::Planned("two more devices are free".to_owned());
        for (recovery, cause, line) in [
            (
                recovery(120, 120, (1, 3)),
                Some(&planned),
                "pretrain: attempt 3 ended by plan: two more devices are free; \
                 attempt 5 goes on from step 120 with 3 ranks (1 → 3)",
            ),
            (
                recovery(120, 100, (2, 2)),
                None,
                "pretrain: attempt 3 ended; attempt 5 goes on from step 100 with 2 ranks; 20 steps are taken again",
            ),
            (
                recovery(1, 0, (0, 0)),
                None,
                "pretrain: attempt 3 ended; attempt 5 goes on from step 0; 1 step is taken again",
            ),
        ] {
            assert_eq!(recovery.line(cause), line);
        }
    }

    #[test]
    fn the_first_cause_of_several_attempts_is_told() {
        let mut recoveries = Recoveries::default();
        recoveries.observe(&at(PhaseState::Training, 3, 2, 10));
        recoveries.observe(&at(PhaseState::Starting, 4, 2, 10));
        let told = recoveries.observe(&at(PhaseState::Training, 5, 2, 10));
        let events = [
            event("attempt_failed", 3, "first"),
            event("attempt_failed", 4, "second"),
        ];
        assert_eq!(
            told[0].cause(&events),
            Some(Cause::Failed("first".to_owned()))
        );
        assert_eq!(told[0].cause(&[]), None);
    }

    #[test]
    fn a_follower_that_comes_late_is_told_nothing_of_the_past() {
        let mut recoveries = Recoveries::default();
        for view in [
            at(PhaseState::Pending, 0, 0, 0),
            at(PhaseState::Training, 7, 2, 5),
            // The coordinator's store was put back to an older one.
            at(PhaseState::Training, 6, 2, 4),
            job(Vec::new()),
        ] {
            assert_eq!(recoveries.observe(&view), []);
        }
    }

    #[test]
    fn times_left_of_a_former_gang_are_not_shown() {
        let eta = |recoveries: &mut Recoveries, view: &JobView| {
            recoveries.observe(view);
            let phase = &recoveries.without_stale(view).phases[0];
            (phase.eta_s, phase.images_per_s)
        };
        let mut recoveries = Recoveries::default();
        let known = (Some(99.0), 640.0);
        let unknown = (None, 0.0);
        for (view, expected) in [
            (at(PhaseState::Training, 3, 2, 120), known),
            (at(PhaseState::Starting, 4, 1, 120), unknown),
            (at(PhaseState::Training, 4, 1, 100), unknown),
            (at(PhaseState::Training, 4, 1, 101), known),
        ] {
            assert_eq!(eta(&mut recoveries, &view), expected);
        }
    }
}
