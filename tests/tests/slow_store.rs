//! A store that is slow, dead and silent in turn: training goes on, memory stays, saves are skipped with an event, and
//! once the store is back a checkpoint is committed. `tests/measure/slow-store` does it for ten minutes.

use std::time::Duration;

use anyhow::{Result, ensure};
use diptych_tests::slow_store::{Options, measure};

// The store is in this process, and the harness waits for programs that use it.
#[tokio::test(flavor = "multi_thread")]
async fn training_goes_on_beside_a_store_that_is_slow_or_dead() -> Result<()> {
    let report = measure(Options {
        calm: Duration::from_secs(4),
        slow: Duration::from_secs(8),
        dead: Duration::from_secs(4),
        silent: Duration::from_secs(4),
    })
    .await?;
    println!("{report}");
    for window in &report.windows {
        ensure!(window.steps > 3, "{}: {} steps", window.name, window.steps);
        let (before, after) = window.memory;
        ensure!(
            after < before + 64.0,
            "{}: memory grew from {before} to {after} MiB",
            window.name
        );
    }
    let skipped: usize = report.windows.iter().map(|window| window.saves.1).sum();
    ensure!(skipped > 0, "saves are skipped, and people told");
    Ok(())
}
