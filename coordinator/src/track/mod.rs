//! What workers and ranks report, and what fails.

pub mod workers; // registration and the lease
pub mod ranks; // reports of ranks
pub mod saves; // parts, manifest, commit
pub mod checks; // verification of committed checkpoints
pub mod ending; // an attempt ends
pub mod budget; // again, or not
pub mod stall; // a gang that does not progress
pub mod ticks; // what time alone brings about

pub use checks::{check, verified};
pub use ending::{Ending, end_attempt};
pub use ranks::report;
pub use ticks::tick;
pub use workers::{heartbeat, leaving, register, reset};
