//! `diptych-worker doctor`: what this machine has, what it lacks for a job, and what to do about it.

mod facts; // what is here
mod figures; // how fast it is
mod judge; // what is wrong, and with what to do
mod print; // for people and for programs

use std::io::Write;
use std::process::ExitCode;

use clap::ValueEnum;

pub use facts::{CollectiveFacts, Facts, GpuFacts, ManagementFacts, SilentGpu};
pub use figures::Figure;
pub use judge::{Diagnosis, Problem, Weight, judge};

/// Arguments of `doctor`.
#[derive(Debug, Clone, clap::Args)]
pub struct DoctorArgs {
    /// The ranks that must be able to run here [default: CUDA ranks where the machine has a GPU, else CPU ranks].
    #[arg(long, value_enum)]
    pub device: Option<Wanted>,
    /// How to print.
    #[arg(long, short, value_enum, default_value = "table")]
    pub output: Output,
    /// Measure nothing.
    #[arg(long)]
    pub quick: bool,
}

/// A kind of rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Wanted {
    /// On the processor.
    Cpu,
    /// On NVIDIA GPUs.
    Cuda,
}

/// A form of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Examines the machine and prints what it found. Succeeds if a job of the wanted kind could run here.
///
/// # Errors
/// Where the report cannot be printed.
pub fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    // Before anything else that libtorch is asked.
    let mut facts = Facts::gather();
    if !args.quick {
        facts.figures = figures::measure(facts.cuda.as_ref().map_or(0, |cuda| cuda.devices));
    }
    let diagnosis = judge(&facts, args.device);
    let mut out = std::io::stdout().lock();
    match args.output {
        Output::Table => print::table(&facts, &diagnosis, &mut out)?,
        Output::Json => print::json(&facts, &diagnosis, &mut out)?,
    }
    out.flush()?;
    Ok(match diagnosis.runs {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

#[cfg(test)]
mod tests;
