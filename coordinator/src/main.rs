//! `diptych-coordinator`: schedules jobs over workers.

use clap::{Parser, Subcommand};
use diptych_common::telemetry;
use diptych_coordinator::app;
use diptych_coordinator::bench::{self, BenchArgs};
use diptych_coordinator::config::{Config, Flags};

/// Schedules jobs over workers. Listens on this machine only unless told otherwise.
#[derive(Debug, Parser)]
#[command(
    name = "diptych-coordinator",
    version,
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Simulated workers and jobs over real gRPC; prints one JSON line.
    Bench(BenchArgs),
}

#[tokio::main]
async fn main() -> std::process::ExitCode {
    match run(Cli::parse()).await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("diptych-coordinator: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    if let Some(Command::Bench(args)) = cli.command {
        return bench::run(args).await;
    }
    let config = Config::load(cli.flags)?;
    telemetry::init(config.log_format, &config.log)?;
    app::run(config).await
}
