//! `diptych-worker`: the agent by default; trainers, measurements and exports by subcommand.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use diptych_common::settings;
use diptych_worker::bench::BenchCommand;
use diptych_worker::config::{AgentArgs, AgentConfig};
use diptych_worker::device::DeviceChoice;
use diptych_worker::doctor::{self, DoctorArgs};
use diptych_worker::infer::{EmbedArgs, PredictArgs};
use diptych_worker::trainer::{self, TrainerArgs};
use diptych_worker::{agent, bench, infer, phase, verify};

#[derive(Debug, Parser)]
#[command(
    name = "diptych-worker",
    version,
    about = "Trains: an agent that takes ranks from a coordinator."
)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    agent: Agent,
}

#[derive(Debug, clap::Args)]
struct Agent {
    #[command(flatten)]
    settings: AgentArgs,
    #[command(flatten)]
    look: Look,
}

/// Looks at the settings and starts nothing.
#[derive(Debug, clap::Args)]
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
    /// Register with a coordinator and run the ranks that it places here (also without a subcommand).
    Agent(Box<Agent>),
    /// Run one rank; started by the agent.
    #[command(hide = true)]
    Trainer(TrainerArgs),
    /// Measure one part; prints one JSON line.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Print the classes of one's own images, by an export.
    Predict(PredictArgs),
    /// Write the features of one's own images, by an export.
    Embed(EmbedArgs),
    /// Say what this machine has, what it lacks for a job, and what to do; succeeds if a job could run here.
    Doctor(DoctorArgs),
    /// Compute the golden cases `DIR/*.json` again and compare.
    Verify {
        /// Folder of cases.
        dir: PathBuf,
        /// Where: `cpu`, `cuda` or `cuda:N`.
        #[arg(long, default_value_t = DeviceChoice::Cpu)]
        device: DeviceChoice,
    },
}

/// Settings that do not work, as the command line has it for its own.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments
        .command
        .unwrap_or(Command::Agent(Box::new(arguments.agent)))
    {
        Command::Agent(agent) => run_agent(&agent),
        Command::Trainer(args) => trainer::process::run(args, phase::Seat::default()),
        Command::Bench(what) => finish(bench::run(&what)),
        Command::Predict(args) => finish(infer::predict(&args)),
        Command::Embed(args) => finish(infer::embed(&args)),
        Command::Doctor(args) => doctor::run(&args).unwrap_or_else(|error| finish(Err(error))),
        Command::Verify { dir, device } => finish(golden(&dir, device)),
    }
}

fn run_agent(agent: &Agent) -> ExitCode {
    if agent.look.config_schema {
        let schema = settings::schema::<AgentArgs>("diptych-worker");
        println!("{:#}", schema.to_value());
        return ExitCode::SUCCESS;
    }
    let config = match AgentConfig::load(&agent.settings) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("diptych-worker: {problems}");
            return ExitCode::from(USAGE);
        }
    };
    if agent.look.dump_config {
        print!("{}", config.effective);
        return ExitCode::SUCCESS;
    }
    if agent.look.check_config {
        println!("the settings are valid");
        return ExitCode::SUCCESS;
    }
    finish(agent::command(config))
}

fn golden(dir: &Path, device: DeviceChoice) -> anyhow::Result<()> {
    let summary = verify::run(dir, device.open()?, &mut std::io::stdout().lock())?;
    anyhow::ensure!(
        summary.failed == 0,
        "{} golden cases failed",
        summary.failed
    );
    Ok(())
}

fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("diptych-worker: {error:#}");
            ExitCode::FAILURE
        }
    }
}
