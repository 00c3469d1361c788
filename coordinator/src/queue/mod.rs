//! Which job is next, which of its phases, and why one waits.

pub mod order; // the order of jobs
pub mod ready; // the phase of a job that can be placed now
pub mod explain; // why a job waits or failed

pub use explain::{Reason, explain};
pub use order::QueueKey;
pub use ready::{Readiness, claim, pause, readiness};
