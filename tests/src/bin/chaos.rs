//! A coordinator, agents and trainers, and faults at random: prints what each one cost, and ends with 1 where a promise
//! was not kept.

use anyhow::Result;
use clap::Parser;
use diptych_tests::chaos::fault::Kind;
use diptych_tests::chaos::{self, Options};

/// Real processes under faults at random.
#[derive(Debug, Parser)]
#[command(name = "chaos")]
struct Arguments {
    /// Chooses the faults and their times.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many faults.
    #[arg(long, default_value_t = 40)]
    faults: usize,
    /// Kinds of faults, by comma [default: all; those that need namespaces with --namespaces only].
    #[arg(long, value_delimiter = ',', value_name = "KIND")]
    kinds: Vec<String>,
    /// Agents, each with one CPU slot.
    #[arg(long, default_value_t = 3)]
    agents: usize,
    /// Steps of the job per fault.
    #[arg(long, default_value_t = 80)]
    steps_per_fault: u64,
    /// Give each agent a network namespace (root), so that links between agents can be cut.
    #[arg(long)]
    namespaces: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let given = Arguments::parse();
    let kinds = if given.kinds.is_empty() {
        let all = Kind::ALL.into_iter().map(|(kind, _)| kind);
        all.filter(|kind| given.namespaces || !kind.needs_namespaces())
            .collect()
    } else {
        let named = given.kinds.iter().map(|name| Kind::parse(name));
        named.collect::<Result<Vec<Kind>>>()?
    };
    let options = Options {
        seed: given.seed,
        faults: given.faults,
        kinds,
        agents: given.agents,
        steps_per_fault: given.steps_per_fault,
        namespaces: given.namespaces,
    };
    chaos::main(&options).await
}
