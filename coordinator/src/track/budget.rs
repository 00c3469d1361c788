//! Again, or not.

use diptych_common::ids::Step;

use crate::core::{Budget, Failure};

/// What a failure leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A new attempt.
    Again,
    /// The phase has failed.
    Stop {
        /// The failure to report: the terminal one, or the first of the series.
        cause: Failure,
        /// Why there is no new attempt.
        why: String,
    },
}

/// Where the phase stands when an attempt fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Newest committed step.
    pub committed: Option<Step>,
    /// Furthest step that any attempt reported.
    pub reached: Step,
    /// The step from which the next attempt goes on in memory, as far as it was reported; `None` where nobody keeps the
    /// state.
    pub kept: Option<Step>,
}

/// Spends a failure. Progress since the last one (a later committed checkpoint, a later step that survivors hold or,
/// while there is neither, a later step) starts the series anew. A terminal failure ends the phase whatever the budget.
pub fn spend(
    budget: &mut Budget,
    failure: &Failure,
    mark: Mark,
    (limit, terminal): (u32, bool),
) -> Verdict {
    let progressed = match (budget.committed, mark.committed) {
        (Some(before), Some(now)) => now > before,
        (None, Some(_)) => true,
        (None, None) => mark.reached > budget.reached,
        (Some(_), None) => false,
    };
    let kept = mark.kept > budget.kept;
    if progressed || kept || budget.failures == 0 {
        budget.failures = 0;
        budget.first = Some(failure.clone());
    }
    budget.failures += 1;
    budget.committed = mark.committed.max(budget.committed);
    budget.reached = mark.reached.max(budget.reached);
    budget.kept = mark.kept.max(budget.kept);
    if terminal {
        let why = format!(
            "a failure of kind {} is not tried again",
            failure.kind.name()
        );
        return Verdict::Stop {
            cause: failure.clone(),
            why,
        };
    }
    if budget.failures >= limit {
        let cause = budget.first.clone().unwrap_or_else(|| failure.clone());
        let why = format!("{} failures in a row without progress", budget.failures);
        return Verdict::Stop { cause, why };
    }
    Verdict::Again
}

#[cfg(test)]
mod tests {
    use diptych_common::ids::Attempt;
    use proptest::prelude::*;

    use super::*;
    use crate::core::FailureKind;

    fn failure(kind: FailureKind, attempt: u64) -> Failure {
        Failure {
            kind,
            attempt: Attempt::new(attempt),
            rank: None,
            worker: None,
            message: "x".into(),
            log: vec![],
            object: None,
            step: None,
        }
    }

    fn mark(committed: Option<u64>, reached: u64) -> Mark {
        Mark {
            committed: committed.map(Step::new),
            reached: Step::new(reached),
            kept: None,
        }
    }

    #[test]
    fn three_without_progress_stop_with_the_first_cause() {
        let mut budget = Budget::default();
        for attempt in 1..3 {
            let verdict = spend(
                &mut budget,
                &failure(FailureKind::Crashed, attempt),
                mark(None, 10),
                (3, false),
            );
            assert_eq!(verdict, Verdict::Again);
        }
        let Verdict::Stop { cause, .. } = spend(
            &mut budget,
            &failure(FailureKind::Crashed, 3),
            mark(None, 10),
            (3, false),
        ) else {
            panic!("goes on")
        };
        assert_eq!(cause.attempt, Attempt::new(1));
    }

    #[test]
    fn steps_count_only_until_the_first_commit() {
        let mut budget = Budget::default();
        let crash = failure(FailureKind::Crashed, 1);
        for reached in [1, 2, 3, 4, 5] {
            assert_eq!(
                spend(&mut budget, &crash, mark(None, reached), (3, false)),
                Verdict::Again
            );
        }
        for reached in [6, 7] {
            assert_eq!(
                spend(&mut budget, &crash, mark(Some(5), reached), (3, false)),
                Verdict::Again
            );
        }
        assert!(matches!(
            spend(&mut budget, &crash, mark(Some(5), 8), (3, false)),
            Verdict::Stop { .. }
        ));
    }

    #[test]
    fn a_step_that_survivors_hold_is_progress_and_the_same_step_is_not() {
        let mut budget = Budget::default();
        let crash = failure(FailureKind::Crashed, 1);
        let at = |step| Mark {
            kept: Some(Step::new(step)),
            ..mark(Some(5), step)
        };
        for step in [6, 7, 8, 9, 10] {
            let verdict = spend(&mut budget, &crash, at(step), (3, false));
            assert_eq!((verdict, budget.failures), (Verdict::Again, 1));
        }
        assert_eq!(
            spend(&mut budget, &crash, at(10), (3, false)),
            Verdict::Again
        );
        assert!(matches!(
            spend(&mut budget, &crash, at(10), (3, false)),
            Verdict::Stop { .. }
        ));
    }

    #[test]
    fn terminal_kinds_stop_at_once() {
        use FailureKind::*;
        for kind in [
            BadData,
            Refused,
            NonFinite,
            Diverged,
            DataDiffers,
            PeerLost,
            Storage,
            Crashed,
            Internal,
            BadCheckpoint,
            WorkerLost,
            NotReady,
        ] {
            let verdict = spend(
                &mut Budget::default(),
                &failure(kind, 1),
                mark(Some(1), 1),
                (3, kind.is_terminal()),
            );
            assert_eq!(
                matches!(verdict, Verdict::Stop { .. }),
                kind.is_terminal(),
                "{kind:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_series_without_progress_never_outlasts_the_limit(
            marks in prop::collection::vec((prop::option::of(0_u64..4), 0_u64..4), 1..40),
            limit in 1_u32..5,
        ) {
            let mut budget = Budget::default();
            for (committed, reached) in marks {
                let before = budget.clone();
                let verdict = spend(&mut budget, &failure(FailureKind::Crashed, 1), mark(committed, reached), (limit, false));
                prop_assert!(budget.failures <= limit);
                prop_assert!(budget.committed >= before.committed && budget.reached >= before.reached);
                if matches!(verdict, Verdict::Stop { .. }) {
                    prop_assert_eq!(budget.failures, limit);
                    budget = Budget::default();
                }
            }
        }
    }
}
