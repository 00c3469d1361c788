//! A job's progress on standard error: bars on a terminal, plain lines elsewhere.

pub(crate) mod recovery; // attempts that others follow
pub(crate) mod figures; // a phase in numbers
pub(crate) mod bars; // on a terminal
pub(crate) mod lines; // in a file or a pipe

use std::io::IsTerminal as _;
use std::time::Instant;

use bars::Bars;
use lines::Lines;
use recovery::{Recoveries, Recovery};

use crate::view::JobView;

/// Shows a job as it changes.
#[derive(Debug)]
pub(crate) struct Progress {
    form: Form,
    recoveries: Recoveries,
}

#[derive(Debug)]
enum Form {
    /// One bar a phase.
    Bars(Bars),
    /// A line at each change of state, at each evaluation and now and then.
    Lines(Lines),
}

impl Progress {
    /// What fits standard error.
    pub(crate) fn to_stderr() -> Self {
        let form = if std::io::stderr().is_terminal() {
            Form::Bars(Bars::new())
        } else {
            Form::Lines(Lines::default())
        };
        Self {
            form,
            recoveries: Recoveries::default(),
        }
    }

    /// Shows the job as it is now, and returns what [`say`](Self::say) should tell of.
    pub(crate) fn update(&mut self, job: &JobView) -> Vec<Recovery> {
        let recoveries = self.recoveries.observe(job);
        let job = self.recoveries.without_stale(job);
        match &mut self.form {
            Form::Bars(bars) => bars.update(&job),
            Form::Lines(lines) => {
                for line in lines.update(&job, Instant::now()) {
                    eprintln!("{line}");
                }
            }
        }
        recoveries
    }

    /// Prints one line that stays.
    pub(crate) fn say(&mut self, line: &str) {
        match &self.form {
            Form::Bars(bars) => bars.say(line),
            Form::Lines(_) => eprintln!("{line}"),
        }
    }
}
