//! Trains beside a store that is slow, dead and silent in turn, and prints steps per second, memory and saves.

use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use diptych_tests::slow_store::{Options, measure};

/// Seconds of each window.
#[derive(Debug, Parser)]
#[command(name = "slow-store")]
struct Arguments {
    /// Store as it should be: before, between and after.
    #[arg(long, default_value_t = 120)]
    calm: u64,
    /// Store at 1 MB/s.
    #[arg(long, default_value_t = 600)]
    slow: u64,
    /// Connections are reset.
    #[arg(long, default_value_t = 60)]
    dead: u64,
    /// Connections carry nothing.
    #[arg(long, default_value_t = 60)]
    silent: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let given = Arguments::parse();
    let options = Options {
        calm: Duration::from_secs(given.calm),
        slow: Duration::from_secs(given.slow),
        dead: Duration::from_secs(given.dead),
        silent: Duration::from_secs(given.silent),
    };
    println!("{}", measure(options).await?);
    Ok(())
}
