//! One bar a phase.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::figures::figures;
use crate::view::{JobView, PhaseState, PhaseView};

/// Bars of all phases of one job.
#[derive(Debug)]
pub(crate) struct Bars {
    area: MultiProgress,
    bars: Vec<ProgressBar>,
}

impl Bars {
    /// No bars until the first update.
    pub(crate) fn new() -> Self {
        Self {
            area: MultiProgress::new(),
            bars: Vec::new(),
        }
    }

    /// Shows the job as it is now.
    pub(crate) fn update(&mut self, job: &JobView) {
        if self.bars.len() != job.phases.len() {
            self.bars = self.lay_out(job);
        }
        for (bar, phase) in self.bars.iter().zip(&job.phases) {
            show(bar, phase);
        }
        if job.state.has_ended() {
            self.bars.iter().for_each(ProgressBar::abandon);
        }
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
    if phase.attempt > 1 {
        parts.push(format!("attempt {}", phase.attempt));
    }
    parts.extend(Some(figures(phase)).filter(|text| !text.is_empty()));
    bar.set_message(parts.join(" · "));
}
