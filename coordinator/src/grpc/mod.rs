//! The wire: decode, ask the owner, encode. No decisions.

pub mod server; // every service on one port
pub mod versions; // callers of another time
pub mod agents; // agents' sessions and logs
pub mod jobs; // people's wishes
pub mod follow; // streams that go on: watch, events, logs, metrics
pub mod checkpoints; // list, verify, pin
pub mod system; // workers, version
pub mod admin; // copies of the database, settings
mod decode; // wire → core
mod ranks; // ranks, as people watch them
mod encode; // core → wire

pub use server::{Serving, router, serve};
