//! Plain lines: at each change of state, at each evaluation, and every few seconds in between.

use std::time::{Duration, Instant};

use super::figures::{evaluated, figures, gang};
use crate::view::{JobView, PhaseState, PhaseView};

const QUIET: Duration = Duration::from_secs(10);

/// What has been said so far.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    said: Vec<Said>,
    reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
struct Said {
    state: PhaseState,
    attempt: u64,
    evaluated: Vec<String>,
    at: Instant,
}

impl Lines {
    /// The lines that are worth printing now.
    pub(crate) fn update(&mut self, job: &JobView, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        if job.reason != self.reason {
            self.reason = job.reason.clone();
            lines.extend(
                job.reason
                    .as_ref()
                    .map(|reason| format!("{}: {}: {reason}", job.job, job.state.word())),
            );
        }
        for (index, phase) in job.phases.iter().enumerate() {
            let before = self.said.get(index);
            if is_news(before, phase, now) {
                lines.push(line(phase));
                let said = Said {
                    state: phase.state,
                    attempt: phase.attempt,
                    evaluated: evaluated(phase),
                    at: now,
                };
                match self.said.get_mut(index) {
                    Some(slot) => *slot = said,
                    None => self.said.push(said),
                }
            }
        }
        lines
    }
}

fn is_news(before: Option<&Said>, phase: &PhaseView, now: Instant) -> bool {
    let Some(before) = before else { return true };
    let changed = before.state != phase.state
        || before.attempt != phase.attempt
        || before.evaluated != evaluated(phase);
    let due =
        phase.state == PhaseState::Training && now.saturating_duration_since(before.at) >= QUIET;
    changed || due
}

fn line(phase: &PhaseView) -> String {
    let mut parts = vec![format!("{}: {}", phase.name, phase.state.word())];
    if phase.step > 0 {
        parts.push(format!("step {}", phase.steps()));
    }
    parts.extend(gang(phase));
    parts.extend(Some(figures(phase)).filter(|text| !text.is_empty()));
    parts.join(" · ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::job::samples::{job, phase};

    #[test]
    fn only_news_is_printed() {
        let start = Instant::now();
        let mut lines = Lines::default();
        let mut now = job(vec![
            phase("pretrain", PhaseState::Training),
            phase("linear", PhaseState::Blocked),
        ]);
        assert_eq!(
            lines.update(&now, start),
            ["pretrain: training", "linear: blocked"]
        );

        now.phases[0].step = 3;
        now.phases[0].total_steps = 10;
        assert!(
            lines
                .update(&now, start + Duration::from_secs(1))
                .is_empty()
        );
        assert_eq!(
            lines.update(&now, start + QUIET),
            ["pretrain: training · step 3/10"]
        );

        // The probe's accuracy comes with every step.
        now.phases[0].metrics.insert("probe_top1".to_owned(), 0.1);
        assert!(lines.update(&now, start + QUIET).is_empty());
        now.phases[0].metrics.clear();

        now.phases[0].metrics.insert("knn_top1".to_owned(), 0.5);
        let line = lines.update(&now, start + QUIET);
        assert_eq!(line, ["pretrain: training · step 3/10 · kNN 50.0 %"]);

        now.phases[0].attempt = 2;
        now.reason = Some("a rank died".to_owned());
        assert_eq!(lines.update(&now, start + QUIET).len(), 2);
    }
}
