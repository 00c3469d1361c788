//! Measurements: `diptych-worker bench NAME` prints one JSON line.

mod augment; // decode and two views
mod gpu; // what a device adds to every measurement
mod gang; // ranks as processes of their own
mod collective; // all-reduce, all-gather
mod nt_xent; // the contrastive loss
mod step; // one training step on several ranks
mod lars; // one optimiser update
mod checkpoint; // snapshot, save, load

use std::io::Write;

use clap::Subcommand;

pub use augment::AugmentArgs;
pub use checkpoint::CheckpointArgs;
pub use collective::CollectiveArgs;
pub use gang::GangArgs;
pub use lars::LarsArgs;
pub use nt_xent::NtXentArgs;
pub use step::{Compared, Network, StepArgs};

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Save and load a network with its momentum through the real path.
    Checkpoint(CheckpointArgs),
    /// Sum one f32 tensor over the ranks: median seconds of a call, and MiB/s of the tensor.
    AllReduce(CollectiveArgs),
    /// Gather one f32 tensor of every rank: median seconds of a call, and MiB/s of a rank's tensor.
    AllGather(CollectiveArgs),
    /// Loss and gradient of NT-Xent on one rank: median seconds, and the memory that it took.
    NtXent(NtXentArgs),
    /// One training step on random views: median seconds, and the share of the gradients' travel that backward hid.
    Step(StepArgs),
    /// One LARS update: median seconds.
    Lars(LarsArgs),
    /// Decode images and make two views of each: images a second.
    Augment(AugmentArgs),
}

/// Runs one measurement and prints its report.
///
/// # Errors
/// Whatever keeps the measurement from completing.
pub fn run(command: &BenchCommand) -> anyhow::Result<()> {
    crate::device::keep_freed_memory();
    match command {
        BenchCommand::Checkpoint(args) => checkpoint::run(args),
        BenchCommand::AllReduce(args) => collective::run(collective::Measured::AllReduce, args),
        BenchCommand::AllGather(args) => collective::run(collective::Measured::AllGather, args),
        BenchCommand::NtXent(args) => nt_xent::run(args),
        BenchCommand::Step(args) => step::run(args),
        BenchCommand::Lars(args) => lars::run(args),
        BenchCommand::Augment(args) => augment::run(args),
    }
}

/// Prints the one line of a bench: its name and its figures.
fn report(bench: &str, figures: serde_json::Value) -> anyhow::Result<()> {
    let mut line = serde_json::Map::from_iter([("bench".to_owned(), bench.into())]);
    if let serde_json::Value::Object(figures) = figures {
        line.extend(figures);
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", serde_json::Value::Object(line))?;
    Ok(stdout.flush()?)
}

/// The middle value, or the mean of the two middle ones; NaN of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }
}
