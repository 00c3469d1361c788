//! Verbs about contexts, specs and the program itself.

use clap::{Args, Subcommand};

/// Print a spec to start from, or the reference of every field.
#[derive(Debug, Clone, Args)]
pub(crate) struct Spec {
    #[command(subcommand)]
    pub(crate) verb: SpecVerb,
}

/// What to print.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum SpecVerb {
    /// Print a spec that runs: all four phases, with comments.
    #[command(after_help = "Example:\n  diptych spec example > job.yaml")]
    Example,
    /// Print the JSON schema: every field with its meaning and default.
    #[command(
        after_help = "Example:\n  diptych spec schema > diptych.schema.json   for editors that check YAML"
    )]
    Schema,
}

/// Print a completion script for a shell.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  source <(diptych completion bash)
  diptych completion zsh > ~/.zfunc/_diptych")]
pub(crate) struct Completion {
    /// Which shell.
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// Name coordinators, and choose one.
#[derive(Debug, Clone, Args)]
pub(crate) struct Context {
    #[command(subcommand)]
    pub(crate) verb: ContextVerb,
}

/// What to do with the names.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ContextVerb {
    /// List contexts; `*` marks the one in use.
    List,
    /// Choose the context that later commands use.
    #[command(after_help = "Example:\n  diptych context use lab")]
    Use {
        /// Its name.
        name: String,
    },
    /// Add a context, or change its server.
    #[command(
        after_help = "Example:\n  diptych context set lab --server http://coordinator.lab:7654"
    )]
    Set {
        /// Its name. The server is given with --server.
        name: String,
    },
}

/// Print the version of this program and of the coordinator.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  diptych version\n  diptych version --client      without a coordinator"
)]
pub(crate) struct Version {
    /// Only this program's.
    #[arg(long)]
    pub(crate) client: bool,
}
