//! Events, output, measurements and explanations.

use std::io::{self, Write};

use diptych_proto::v1;
use serde::Serialize;

use super::{JobState, fine_time, some_text};
use crate::output::Output;
use crate::output::table::columns;

/// One thing that happened.
#[derive(Debug, Serialize)]
pub(crate) struct EventView {
    pub(crate) id: u64,
    pub(crate) at: Option<String>,
    pub(crate) kind: String,
    pub(crate) phase: Option<String>,
    /// Absent where no attempt is concerned.
    pub(crate) attempt: Option<u64>,
    pub(crate) message: String,
}

/// One line of a rank.
#[derive(Debug, Serialize)]
pub(crate) struct LogView {
    pub(crate) phase: String,
    pub(crate) attempt: u64,
    pub(crate) rank: u32,
    /// Position in the rank's output.
    pub(crate) index: u64,
    pub(crate) line: String,
}

/// One measurement.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct MetricView {
    pub(crate) phase: String,
    pub(crate) step: u64,
    pub(crate) name: String,
    pub(crate) value: f64,
}

/// The measurements of a job.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Metrics(pub(crate) Vec<MetricView>);

/// Why a job waits or failed.
#[derive(Debug, Serialize)]
pub(crate) struct ExplanationView {
    pub(crate) job: String,
    pub(crate) state: JobState,
    /// In the order in which they matter.
    pub(crate) reasons: Vec<ReasonView>,
}

/// One reason.
#[derive(Debug, Serialize)]
pub(crate) struct ReasonView {
    pub(crate) code: String,
    pub(crate) phase: Option<String>,
    pub(crate) message: String,
    /// The failing rank's last lines.
    pub(crate) log: Vec<String>,
}

impl From<v1::Event> for EventView {
    fn from(event: v1::Event) -> Self {
        Self {
            id: event.id,
            at: fine_time(event.at),
            kind: event.kind,
            phase: some_text(event.phase),
            attempt: Some(event.attempt).filter(|attempt| *attempt > 0),
            message: event.message,
        }
    }
}

impl From<v1::LogLine> for LogView {
    fn from(line: v1::LogLine) -> Self {
        let v1::LogLine {
            phase,
            attempt,
            rank,
            line,
            index,
        } = line;
        Self {
            phase,
            attempt,
            rank,
            index,
            line,
        }
    }
}

impl From<v1::MetricPoint> for MetricView {
    fn from(point: v1::MetricPoint) -> Self {
        Self {
            phase: point.phase,
            step: point.step,
            name: point.name,
            value: point.value,
        }
    }
}

impl From<v1::Explanation> for ExplanationView {
    fn from(explanation: v1::Explanation) -> Self {
        let state = explanation.state().into();
        let reasons = explanation
            .reasons
            .into_iter()
            .map(ReasonView::from)
            .collect();
        Self {
            job: explanation.job,
            state,
            reasons,
        }
    }
}

impl From<v1::Reason> for ReasonView {
    fn from(reason: v1::Reason) -> Self {
        Self {
            code: reason.code,
            phase: some_text(reason.phase),
            message: reason.message,
            log: reason.log,
        }
    }
}

impl Metrics {
    /// One line a point, headings first.
    pub(crate) fn csv(&self) -> String {
        let mut text = String::from("phase,step,name,value\n");
        for point in &self.0 {
            text.push_str(&format!(
                "{},{},{},{}\n",
                point.phase, point.step, point.name, point.value
            ));
        }
        text
    }
}

impl Output for EventView {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let place = match (&self.phase, self.attempt) {
            (Some(phase), Some(attempt)) => format!("{phase}/{attempt}"),
            (Some(phase), None) => phase.clone(),
            (None, _) => "-".to_owned(),
        };
        let at = self.at.as_deref().unwrap_or("-");
        writeln!(
            out,
            "{at:<24}  {:<20}  {place:<14}  {}",
            self.kind, self.message
        )
    }
}

impl Output for LogView {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "{}/{}/{}  {}",
            self.phase, self.attempt, self.rank, self.line
        )
    }
}

impl Output for Metrics {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let rows = self.0.iter().map(|point| {
            vec![
                point.phase.clone(),
                point.step.to_string(),
                point.name.clone(),
                format!("{:.6}", point.value),
            ]
        });
        columns(out, &["PHASE", "STEP", "NAME", "VALUE"], rows)
    }
}

impl Output for ExplanationView {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{} is {}", self.job, self.state.word())?;
        if self.reasons.is_empty() && !self.state.has_ended() {
            writeln!(out, "  nothing holds it up")?;
        }
        for reason in &self.reasons {
            let phase = reason
                .phase
                .as_ref()
                .map(|phase| format!(" ({phase})"))
                .unwrap_or_default();
            // What goes on in a further line stays under its reason.
            let message = reason.message.trim_end().replace('\n', "\n      ");
            writeln!(out, "  {}{phase}: {message}", reason.code)?;
            for line in &reason.log {
                writeln!(out, "    | {line}")?;
            }
        }
        Ok(())
    }
}
