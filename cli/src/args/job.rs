//! Verbs about one job, or all of them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, value_parser};
use diptych_common::ids::{JobId, PhaseName};
use diptych_common::units::{UnitError, parse_duration};

use crate::view::JobState;

/// A spec file and changes to it.
#[derive(Debug, Clone, Args)]
pub(crate) struct SpecFile {
    /// Job spec in YAML; `-` reads standard input. `${NAME}` is replaced from the environment.
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Change one field, e.g. `seed=7`, `phases[0].batch=512` or `phases.pretrain.batch=512`. May be repeated.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub(crate) set: Vec<String>,
}

/// Queue a job.
///
/// Prints the job's id once the coordinator has it on disk. The request id makes a repeated submit safe: the same id
/// and spec give the same job.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  diptych submit -f job.yaml
  diptych submit -f job.yaml --set seed=7 --set phases[0].epochs=100 --follow
  diptych submit -f job.yaml --dry-run -o json
  JOB=$(diptych submit -f job.yaml) && diptych wait $JOB --timeout 2h")]
pub(crate) struct Submit {
    #[command(flatten)]
    pub(crate) spec: SpecFile,
    /// Validate here and on the coordinator, and queue nothing.
    #[arg(long, conflicts_with_all = ["wait", "follow"])]
    pub(crate) dry_run: bool,
    /// Name of this request; generated unless given. A retried submit with the same name gives the same job.
    #[arg(long, value_name = "ID")]
    pub(crate) request_id: Option<String>,
    /// Wait for the end, quietly; exit as `diptych wait`.
    #[arg(long, conflicts_with = "follow")]
    pub(crate) wait: bool,
    /// Show progress to the end; exit as `diptych wait`. Ctrl-C detaches.
    #[arg(long)]
    pub(crate) follow: bool,
}

/// Check a spec without a coordinator: every error at once, with its path.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  diptych validate -f job.yaml
  diptych spec example | diptych validate -f -
  diptych validate -f job.yaml -o json")]
pub(crate) struct Validate {
    #[command(flatten)]
    pub(crate) spec: SpecFile,
}

/// List jobs, newest first.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  diptych list
  diptych list --state running --state queued
  diptych list -o json | jq -r '.[].job'")]
pub(crate) struct List {
    /// Only jobs in this state. May be repeated.
    #[arg(long, value_enum)]
    pub(crate) state: Vec<JobState>,
}

/// Show one job: phases, attempts, measurements, results.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  diptych describe digits-3f9a01
  diptych describe digits-3f9a01 -o yaml     with the spec as the coordinator holds it")]
pub(crate) struct Describe {
    /// Job id.
    pub(crate) job: JobId,
}

/// Follow a job with progress bars, to its end.
///
/// One bar a phase, with images/s, loss, accuracy and the time left; plain lines when standard error is not a
/// terminal. Survives a restart of the coordinator. Ctrl-C detaches, the job goes on. Exits as `diptych wait`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  diptych watch digits-3f9a01
  diptych watch digits-3f9a01 -o json        one document a line, at each change")]
pub(crate) struct Watch {
    /// Job id.
    pub(crate) job: JobId,
}

/// Print trainers' output, by phase, attempt and rank.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  diptych logs digits-3f9a01 --follow        waits while the job is pending
  diptych logs digits-3f9a01 --phase pretrain --attempt 2 --rank 0 --tail 100")]
pub(crate) struct Logs {
    /// Job id.
    pub(crate) job: JobId,
    /// Go on with new lines until the job ends.
    #[arg(long)]
    pub(crate) follow: bool,
    /// Only this phase.
    #[arg(long, value_name = "NAME")]
    pub(crate) phase: Option<PhaseName>,
    /// Only this attempt.
    #[arg(long, value_name = "N")]
    pub(crate) attempt: Option<u64>,
    /// Only this rank.
    #[arg(long, value_name = "N")]
    pub(crate) rank: Option<u32>,
    /// Start with the last N lines.
    #[arg(long, value_name = "N")]
    pub(crate) tail: Option<u64>,
}

/// Print what happened to a job, oldest first.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  diptych events digits-3f9a01
  diptych events digits-3f9a01 --follow -o json | jq -r .message")]
pub(crate) struct Events {
    /// Job id.
    pub(crate) job: JobId,
    /// Go on with new ones until the job ends.
    #[arg(long)]
    pub(crate) follow: bool,
}

/// Say why a job waits, or why it failed.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:
  diptych explain digits-3f9a01              the first cause, the rank and its last lines")]
pub(crate) struct Explain {
    /// Job id.
    pub(crate) job: JobId,
}

/// Stop a job. Its checkpoints stay; `diptych retry` goes on from them.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:
  diptych cancel digits-3f9a01 --reason \"wrong data\"")]
pub(crate) struct Cancel {
    /// Job id.
    pub(crate) job: JobId,
    /// Kept with the job, for whoever looks later.
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
}

/// Wait for the end of a job: exit 0 if it succeeded, 1 if not, 6 if the time ran out.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:
  diptych wait digits-3f9a01 --timeout 2h && diptych checkpoint export digits-3f9a01 --out student.safetensors")]
pub(crate) struct Wait {
    /// Job id.
    pub(crate) job: JobId,
    /// Give up after this long, e.g. `30m`.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

/// Queue a failed or cancelled job again, from its newest verified checkpoint.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:
  diptych retry digits-3f9a01 && diptych watch digits-3f9a01")]
pub(crate) struct Retry {
    /// Job id.
    pub(crate) job: JobId,
}

/// Set how many ranks a job's phases may have, in place of the spec's.
///
/// Holds until the job ends, over restarts of the coordinator. A running gang that is too large shrinks at a step that its
/// ranks agree on; one that may be larger grows once devices are free. Nothing is aborted or lost, and the samples of
/// every step stay the same.
#[derive(Debug, Clone, Args)]
#[command(
    group = ArgGroup::new("range").args(["min", "max"]).required(true).multiple(true),
    after_help = "\
Examples:
  diptych scale digits-3f9a01 --max 2        leaves the other devices to other jobs
  diptych scale digits-3f9a01 --phase pretrain --min 4 --max 8"
)]
pub(crate) struct Scale {
    /// Job id.
    pub(crate) job: JobId,
    /// Only this phase. Default: every phase that is not done.
    #[arg(long, value_name = "NAME")]
    pub(crate) phase: Option<PhaseName>,
    /// Fewest ranks that a gang may have. Default: as it is.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub(crate) min: Option<u32>,
    /// Most ranks that a gang may have. Default: as it is.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub(crate) max: Option<u32>,
}

/// Forget an ended job: its record, events, logs and metrics.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  diptych delete digits-3f9a01               checkpoints stay in the object store
  diptych delete digits-3f9a01 --objects     they go, too")]
pub(crate) struct Delete {
    /// Job id.
    pub(crate) job: JobId,
    /// Delete its checkpoints from the object store, too.
    #[arg(long)]
    pub(crate) objects: bool,
}

/// Print the history of every measurement; kept after the end.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  diptych metrics digits-3f9a01 -o csv > metrics.csv
  diptych metrics digits-3f9a01 --phase pretrain")]
pub(crate) struct Metrics {
    /// Job id.
    pub(crate) job: JobId,
    /// Only this phase.
    #[arg(long, value_name = "NAME")]
    pub(crate) phase: Option<PhaseName>,
}

/// As a flag takes it, e.g. `30m`.
pub(super) fn duration(text: &str) -> Result<Duration, UnitError> {
    parse_duration(text)
}
