//! Simulated workers and jobs over real gRPC, in one process.

pub mod run; // the measurement
pub mod simulated; // a worker that trains nothing

pub use run::{BenchArgs, run};
