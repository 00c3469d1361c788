//! The port for those who watch a process: is it alive, is it ready, what does it measure.

pub mod histogram; // how often a value was how large
pub mod family; // measurements under one name, and the text that Prometheus reads
pub mod server; // `/healthz`, `/readyz`, `/metrics`

pub use family::{Family, Labels, Value};
pub use histogram::Histogram;
pub use server::{Serving, Watched, serve};
