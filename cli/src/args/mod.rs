//! What was typed. Nothing here reads a file or knows whether it makes sense; [`crate::command`] does.

pub(crate) mod job; // submit … metrics
pub(crate) mod worker; // worker list … top
pub(crate) mod checkpoint; // checkpoint list … unpin
pub(crate) mod plan; // plan
pub(crate) mod local; // local, predict, embed, dataset inspect
pub(crate) mod admin; // admin backup … debug-bundle
pub(crate) mod settings; // context, spec, completion

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::output::Format;

const AFTER_HELP: &str = "\
First steps:
  diptych spec example > job.yaml        a spec that runs, with comments
  diptych validate -f job.yaml           every mistake at once, offline
  diptych plan -f job.yaml               steps, memory, traffic and time of every phase, offline
  diptych local -f job.yaml --workers 2  coordinator and workers on this machine
  diptych submit -f job.yaml --follow    the same on a cluster

Which coordinator: --server, else --context, else DIPTYCH_SERVER, else DIPTYCH_CONTEXT, else the context
chosen with `diptych context use`, else http://127.0.0.1:7654.

Results go to standard output; progress, notes and errors to standard error. With -o json an error is
  {\"error\":{\"code\":\"invalid\",\"message\":\"…\",\"fields\":[{\"path\":\"phases[0].batch\",\"message\":\"…\"}]}}

Exit codes:
  0    done
  1    the job failed or was cancelled (job_failed); or another failure (failed)
  2    the command line or the spec is not valid (usage, invalid)
  3    no such job, phase, checkpoint, worker or file (not_found)
  4    the coordinator refuses the caller (unauthenticated)
  5    the coordinator or the storage cannot be reached (unavailable)
  6    a time limit ran out (timeout)
  7    the state of the job, or an earlier request, does not allow it (conflict)
  130  Ctrl-C; a followed job goes on (interrupted)";

/// SimCLR on many machines: unlabelled images in, a small accurate classifier out.
#[derive(Debug, Parser)]
#[command(name = "diptych", version, after_help = AFTER_HELP, max_term_width = 110, disable_help_subcommand = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Flags of every verb.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Globals {
    /// Form of the result.
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        help_heading = "Global options"
    )]
    pub(crate) output: Format,
    /// Coordinator to talk to, e.g. `http://coordinator:7654` [env: DIPTYCH_SERVER].
    #[arg(
        long,
        global = true,
        value_name = "URL",
        help_heading = "Global options"
    )]
    pub(crate) server: Option<String>,
    /// Named coordinator from the configuration file [env: DIPTYCH_CONTEXT].
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        help_heading = "Global options"
    )]
    pub(crate) context: Option<String>,
    /// Configuration file [env: DIPTYCH_CLI_CONFIG] [default: ~/.config/diptych/config.yaml].
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = "Global options"
    )]
    pub(crate) config: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Submit(job::Submit),
    Validate(job::Validate),
    Plan(plan::Plan),
    List(job::List),
    Describe(job::Describe),
    Watch(job::Watch),
    Logs(job::Logs),
    Events(job::Events),
    Explain(job::Explain),
    Cancel(job::Cancel),
    Wait(job::Wait),
    Retry(job::Retry),
    Scale(job::Scale),
    Delete(job::Delete),
    Metrics(job::Metrics),
    Checkpoint(checkpoint::Checkpoint),
    Worker(worker::Worker),
    Admin(admin::Admin),
    Predict(local::Predict),
    Embed(local::Embed),
    Dataset(local::Dataset),
    Local(local::Local),
    Spec(settings::Spec),
    Completion(settings::Completion),
    Context(settings::Context),
    Version(settings::Version),
}

#[cfg(test)]
mod tests;
