//! Verbs for those who run the coordinator.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use diptych_common::ids::JobId;

/// Back up the coordinator, bring a backup back, collect what a bug report needs.
#[derive(Debug, Clone, Args)]
pub(crate) struct Admin {
    #[command(subcommand)]
    pub(crate) verb: AdminVerb,
}

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum AdminVerb {
    Backup(Backup),
    Restore(Restore),
    DebugBundle(DebugBundle),
}

/// Copy the coordinator's database to a file here, while it runs.
///
/// The copy is consistent: the jobs, their history and which checkpoints are valid, all as of one moment. It is checked
/// against its checksum, appears under its name only when it is whole, and never overwrites a file. Checkpoints are not in
/// it: they are in the object store. It holds the jobs' secrets, so keep it as you keep credentials.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  diptych admin backup --to diptych-$(date -u +%Y%m%dT%H%M%SZ)
  diptych admin backup --to backup -o json | jq -r .digest
`diptych admin restore` brings it back.")]
pub(crate) struct Backup {
    /// File to write, which must not be there yet.
    #[arg(long, value_name = "FILE")]
    pub(crate) to: PathBuf,
}

/// Put a backup in the place of the database, on the coordinator's machine, while no coordinator runs.
///
/// Runs `diptych-coordinator restore`. The backup is checked whole, and brought to this version, before anything changes;
/// a data directory that a coordinator uses is refused. Attempt numbers go on far behind those in the backup, as some were
/// given out after it was made. Agents that still train what the backup does not know are told to stop; their jobs go on
/// from the newest checkpoint that it knows.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  systemctl stop diptych-coordinator
  diptych admin restore --from diptych-20260102T030405Z --data-dir /var/lib/diptych --force
  systemctl start diptych-coordinator")]
pub(crate) struct Restore {
    /// The backup.
    #[arg(long, value_name = "FILE")]
    pub(crate) from: PathBuf,
    /// The coordinator's data directory; made if it is not there.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Put a database that is there aside: it is renamed, not deleted.
    #[arg(long)]
    pub(crate) force: bool,
}

/// Collect what a bug report needs in one .tar.gz: versions, settings, workers, jobs, their events, explanations and the
/// last lines of their ranks.
///
/// Its README.txt says what is in it. Passwords in URLs are left out; specs, names of machines and what trainers printed
/// are in it: look before you pass it on. What cannot be had is named in it, and the rest is there.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  diptych admin debug-bundle                        every job that has not ended, and the ten that ended last
  diptych admin debug-bundle --job digits-3f9a01 --tail 1000 --to bug.tar.gz")]
pub(crate) struct DebugBundle {
    /// File to write, which must not be there yet [default: diptych-debug-TIME.tar.gz].
    #[arg(long, value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,
    /// Only this job; may be given several times.
    #[arg(long = "job", value_name = "JOB")]
    pub(crate) jobs: Vec<JobId>,
    /// Last lines of each rank.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) tail: u64,
}
