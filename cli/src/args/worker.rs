//! Verbs about workers.

use std::time::Duration;

use clap::{Args, Subcommand};
use diptych_common::ids::WorkerId;

/// Look at workers, and keep ranks off them.
#[derive(Debug, Clone, Args)]
pub(crate) struct Worker {
    #[command(subcommand)]
    pub(crate) verb: WorkerVerb,
}

/// What to do with them.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum WorkerVerb {
    /// List workers, their devices and what runs on them.
    #[command(after_help = "Example:\n  diptych worker list")]
    List,
    Describe(Describe),
    Cordon(Cordon),
    Uncordon(Uncordon),
    Drain(Drain),
    Top(Top),
}

/// Show one worker: its devices, its ranks, and the failures of late that were its own.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  diptych worker describe worker-1")]
pub(crate) struct Describe {
    /// Worker, as `diptych worker list` names it.
    pub(crate) worker: WorkerId,
}

/// Place no new ranks on a worker. What it runs goes on; `diptych worker drain` moves that, too.
///
/// Holds over restarts of the worker and of the coordinator, until `diptych worker uncordon`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:
  diptych worker cordon worker-1 --reason \"ECC errors on GPU 3\"")]
pub(crate) struct Cordon {
    /// Worker, as `diptych worker list` names it.
    pub(crate) worker: WorkerId,
    /// Kept with the worker, for whoever looks later.
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
}

/// Let a worker take ranks again, and forget the failures that it was blamed for.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  diptych worker uncordon worker-1")]
pub(crate) struct Uncordon {
    /// Worker, as `diptych worker list` names it.
    pub(crate) worker: WorkerId,
}

/// Cordon a worker and move what it runs elsewhere, at a step that all ranks agree on.
///
/// Where enough ranks remain they go on from memory; else the step is saved first. Nothing is lost within the deadline.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  diptych worker drain worker-1 --wait && ssh worker-1 sudo reboot
  diptych worker drain worker-1 --deadline 10m --reason \"kernel update\"
  diptych worker uncordon worker-1           lets it in again")]
pub(crate) struct Drain {
    /// Worker, as `diptych worker list` names it.
    pub(crate) worker: WorkerId,
    /// Ranks that are still there after this are aborted; the other ranks of their gangs keep their state.
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = deadline)]
    pub(crate) deadline: Duration,
    /// Kept with the worker, for whoever looks later.
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
    /// Wait until the worker runs nothing; exit 6 if it still does a minute after the deadline.
    #[arg(long)]
    pub(crate) wait: bool,
}

/// Show what every rank does and how long its steps take; a straggler is marked.
///
/// BUSY is the part of a step in which a rank did not wait for its peers, SLOWNESS that over the median of its gang.
/// A table that renews itself every second; printed once where standard output is not a terminal, and as a document.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  diptych worker top
  diptych worker top --once
  diptych worker top -o json | jq '.ranks[] | select(.slow)'")]
pub(crate) struct Top {
    /// Print one table and end.
    #[arg(long)]
    pub(crate) once: bool,
}

/// The wire counts milliseconds, and its 0 stands for the coordinator's own choice.
fn deadline(text: &str) -> Result<Duration, String> {
    let deadline = super::job::duration(text).map_err(|error| error.to_string())?;
    if deadline < Duration::from_millis(1) {
        return Err("must be at least 1ms".to_owned());
    }
    Ok(deadline)
}
