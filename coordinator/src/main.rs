//! `diptych-coordinator`: schedules jobs over workers.

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use diptych_common::{settings, telemetry};
use diptych_coordinator::app;
use diptych_coordinator::bench::{self, BenchArgs};
use diptych_coordinator::config::{Config, Flags};
use diptych_coordinator::restore::{self, RestoreArgs};

/// Schedules jobs over workers. Listens on this machine only unless told otherwise.
///
/// Each setting may also stand in the file by the same word, and in the environment as DIPTYCH_ and that word in capitals
/// (--data-dir, `data-dir = "…"`, DIPTYCH_DATA_DIR). Flags win over the environment, that over the file.
#[derive(Debug, Parser)]
#[command(
    name = "diptych-coordinator",
    version,
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    look: Look,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Looks at the settings and starts nothing.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct Look {
    /// Print every setting as it holds, and who gave it, as a TOML file; start nothing.
    #[arg(long)]
    dump_config: bool,
    /// Check the settings and say everything that does not work; start nothing. Exit 2 where something does not.
    #[arg(long)]
    check_config: bool,
    /// Print the JSON schema of the settings; start nothing.
    #[arg(long)]
    config_schema: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Restore(RestoreArgs),
    /// Simulated workers and jobs over real gRPC; prints one JSON line.
    Bench(BenchArgs),
}

/// Settings that do not work, as the command line has it for its own.
const USAGE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = match cli.command {
        Some(Command::Restore(args)) => restore::run(args).await,
        Some(Command::Bench(args)) => bench::run(args).await,
        None if cli.look.config_schema => {
            println!(
                "{:#}",
                settings::schema::<Flags>("diptych-coordinator").to_value()
            );
            return ExitCode::SUCCESS;
        }
        None => match Config::load(&cli.flags) {
            Ok(config) => run(config, &cli.look).await,
            Err(problems) => {
                eprintln!("diptych-coordinator: {problems}");
                return ExitCode::from(USAGE);
            }
        },
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("diptych-coordinator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config, look: &Look) -> anyhow::Result<()> {
    if look.dump_config {
        print!("{}", config.effective);
        return Ok(());
    }
    if look.check_config {
        println!("the settings are valid");
        return Ok(());
    }
    telemetry::init(config.log_format, &config.log)?;
    app::run(config).await
}
