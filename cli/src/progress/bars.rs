//! One bar a phase.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::figures::{figures, gang};
use crate::view::{JobView, PhaseState, PhaseView};

/// Bars of all phases of one job.
#[derive(Debug)]
pub(crate) struct Bars {
    area: MultiProgress,
    bars: Vec<ProgressBar>,
    /// Below the phases: what a waiting job waits for.
    reason: ProgressBar,
}

impl Bars {
    /// No bars until the first update.
    pub(crate) fn new() -> Self {
        Self {
            area: MultiProgress::new(),
            bars: Vec::new(),
            reason: ProgressBar::hidden(),
        }
    }

    /// Shows the job as it is now.
    pub(crate) fn update(&mut self, job: &JobView) {
        if self.bars.len() != job.phases.len() {
            self.bars = self.lay_out(job);
            self.reason = self.area.add(ProgressBar::new(1).with_style(line()));
        }
        for (bar, phase) in self.bars.iter().zip(&job.phases) {
            show(bar, phase);
        }
        self.reason.set_message(reason(job));
        if job.state.has_ended() {
            self.bars.iter().for_each(ProgressBar::abandon);
            // How it ended is printed after the bars.
            self.reason.finish_and_clear();
        }
    }

    /// Prints one line above the bars.
    pub(crate) fn say(&self, line: &str) {
        // A terminal that has gone away is no failure of the job.
        let _printed = self.area.println(line);
    }

    fn lay_out(&self, job: &JobView) -> Vec<ProgressBar> {
        let width = job
            .phases
            .iter()
            .map(|phase| phase.name.len())
            .max()
            .unwrap_or(0);
        // The message is cut at the terminal's edge: a bar stays one line.
        let template = format!("{{prefix:{width}}} {{bar:24.cyan/dim}} {{wide_msg}}");
        let style = ProgressStyle::with_template(&template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("━╸─");
        let bar = |phase: &PhaseView| {
            let bar = self.area.add(ProgressBar::new(phase.total_steps.max(1)));
            bar.set_style(style.clone());
            bar.set_prefix(phase.name.clone());
            bar
        };
        job.phases.iter().map(bar).collect()
    }
}

/// One line of text.
fn line() -> ProgressStyle {
    ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// What the job waits for, as the coordinator says it; nothing while it runs.
fn reason(job: &JobView) -> String {
    let reason = job.reason.as_ref().filter(|_| !job.state.has_ended());
    reason
        .map(|reason| format!("{}: {reason}", job.state.word()))
        .unwrap_or_default()
}

fn show(bar: &ProgressBar, phase: &PhaseView) {
    bar.set_length(phase.total_steps.max(1));
    bar.set_position(if phase.state == PhaseState::Done {
        phase.total_steps.max(1)
    } else {
        phase.step
    });
    let mut parts = vec![phase.state.word().to_owned()];
    if phase.total_steps > 0 {
        parts.push(phase.steps());
    }
    parts.extend(gang(phase));
    parts.extend(Some(figures(phase)).filter(|text| !text.is_empty()));
    bar.set_message(parts.join(" · "));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::JobState;
    use crate::view::job::samples::{job, phase};

    #[test]
    fn a_waiting_job_says_what_it_waits_for() {
        let mut bars = Bars::new();
        let mut now = job(vec![phase("pretrain", PhaseState::Pending)]);
        now.state = JobState::Queued;
        now.reason = Some("needs 2 CPU slots; 0 of 1 are free".to_owned());
        bars.update(&now);
        assert_eq!(
            bars.reason.message(),
            "queued: needs 2 CPU slots; 0 of 1 are free"
        );
        now.state = JobState::Running;
        now.reason = None;
        bars.update(&now);
        assert_eq!(bars.reason.message(), "");
    }
}
