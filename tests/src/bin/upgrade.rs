//! Two versions of the programs, exchanged under a running job; `make upgrade-test` runs it in both directions.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use diptych_tests::upgrade::{Part, Versions, measure, version};

/// A cluster that changes its version under a job: what that costs
#[derive(Debug, Parser)]
#[command(name = "upgrade")]
struct Arguments {
    /// Folder with the programs of a version
    #[arg(long)]
    before: PathBuf,
    /// Folder with those of the next
    #[arg(long)]
    after: PathBuf,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { before, after } = Arguments::parse();
    let up = Versions {
        from: before,
        to: after,
    };
    let back = Versions {
        from: up.to.clone(),
        to: up.from.clone(),
    };
    println!(
        "versions         ranks    exchanged    left after   all step after   steps meanwhile   taken again"
    );
    let mut worst = 0.0_f64;
    for versions in [up, back] {
        let title = format!("{} to {}", version(&versions.from)?, version(&versions.to)?);
        let gap = measure(&versions, |cost| {
            println!(
                "{title:<16} {:<8} {:<12} {:>8.2} s {:>14.2} s {:>17} {:>13}",
                format!("{:?}", cost.ranks).to_lowercase(),
                match cost.part {
                    Part::Coordinator => "coordinator".to_owned(),
                    Part::Worker(index) => format!("worker-{index}"),
                },
                cost.leave_s,
                cost.whole_s,
                cost.meanwhile,
                cost.again,
            );
        })
        .await?;
        worst = worst.max(gap);
    }
    println!(
        "no failure was counted, no trainer was restarted with the coordinator, both command lines worked throughout; final \
         weights are within {worst:.1e} of undisturbed runs"
    );
    Ok(())
}
