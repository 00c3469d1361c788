//! A job's progress on standard error: bars on a terminal, plain lines elsewhere.

pub(crate) mod figures; // a phase in numbers
pub(crate) mod bars; // on a terminal
pub(crate) mod lines; // in a file or a pipe

use std::io::IsTerminal as _;
use std::time::Instant;

use bars::Bars;
use lines::Lines;

use crate::view::JobView;

/// Shows a job as it changes.
#[derive(Debug)]
pub(crate) enum Progress {
    /// One bar a phase.
    Bars(Bars),
    /// A line at each change of state, at each evaluation and now and then.
    Lines(Lines),
}

impl Progress {
    /// What fits standard error.
    pub(crate) fn to_stderr() -> Self {
        if std::io::stderr().is_terminal() {
            Self::Bars(Bars::new())
        } else {
            Self::Lines(Lines::default())
        }
    }

    /// Shows the job as it is now.
    pub(crate) fn update(&mut self, job: &JobView) {
        match self {
            Self::Bars(bars) => bars.update(job),
            Self::Lines(lines) => {
                for line in lines.update(job, Instant::now()) {
                    eprintln!("{line}");
                }
            }
        }
    }
}
