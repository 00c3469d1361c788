//! The coordinator killed at four moments and away for as long as is given; `make outage` runs it.

use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use diptych_tests::outage::measure;

/// A coordinator that is killed and away for a while: what it costs
#[derive(Debug, Parser)]
struct Arguments {
    /// Seconds that it is away, by comma
    #[arg(long, value_delimiter = ',', default_value = "0,5,20,60")]
    away: Vec<u64>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let away: Vec<Duration> = Arguments::parse()
        .away
        .into_iter()
        .map(Duration::from_secs)
        .collect();
    println!("killed        away   steps alone   steps lost   ready   acknowledged");
    measure(&away, |cost| {
        println!(
            "{:<12} {:>3} s {:>13} {:>12} {:>5.2} s {:>14}",
            format!("{:?}", cost.moment),
            cost.away.as_secs(),
            cost.alone,
            cost.lost,
            cost.ready.as_secs_f64(),
            cost.submitted
        );
    })
    .await?;
    println!(
        "no trainer was restarted but the one that was killed; every acknowledged job is there once"
    );
    Ok(())
}
