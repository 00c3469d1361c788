//! What workers and ranks report, and what fails.

pub mod registration; // an agent opens a stream
pub mod workers; // the lease
pub mod devices; // that break
pub mod ranks; // reports of ranks
pub mod steps; // of ranks that step
pub mod losses; // of ranks that leave or end
pub mod saves; // parts, manifest, commit
pub mod checks; // verification of committed checkpoints
pub mod recover; // trainers outlive their attempt
pub mod ending; // an attempt ends
pub mod budget; // again, or not
pub mod stall; // a gang that does not progress
pub mod ticks; // what time alone brings about

pub use checks::{check, verified};
pub use devices::device_trouble;
pub use ending::{Ending, end_attempt};
pub use ranks::report;
pub use registration::register;
pub use ticks::tick;
pub use workers::{LinkLost, heartbeat, leaving, link_lost, reset};
