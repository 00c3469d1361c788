//! What Prometheus is told: counted from what was committed, and read off the state when it asks.

mod job; // what is counted of one job
mod measurements; // of all of them: a fold over committed batches
mod page; // the counts, as series
mod gauges; // what the state is, when somebody asks
mod calls; // how long answers take
mod port; // the two together, behind the operations port

pub use calls::{CallTimes, Calls};
pub use measurements::{Measured, Measurements};
pub use port::Port;
