//! Words that every part of Diptych shares. Pure, save for `clock`, `telemetry`, `operations` and `store`: no tonic, no libtorch.

pub mod ids; // JobId, PhaseName, WorkerId, Attempt, Rank, Step
pub mod units; // Bytes, durations
pub mod digest; // BLAKE3
pub mod version; // which programs work together
pub mod clock; // the wall clock
pub mod telemetry; // log lines
pub mod settings; // of a process: file, environment, flags
pub mod operations; // health and metrics of a process
pub mod error; // kinds of failure at a service's edge
pub mod spec; // text → draft → valid
pub mod network; // tensors, parameters, FLOPs, memory of an encoder
pub mod plan; // what a job takes before it runs
pub mod store; // URL → object store
pub mod checkpoint; // keys, manifest, shards, reader, export
pub mod import; // weights of other programs → our names, and whether they fit
