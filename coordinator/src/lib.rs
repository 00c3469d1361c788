//! The control path: a request comes in at the top and leaves, as orders to workers, at the bottom.

pub mod grpc; // the wire: decode, ask the owner, encode
pub mod admit; // may this job in; may this wish be met
pub mod queue; // which job is next, and why one waits
pub mod place; // which devices a gang gets
pub mod assign; // an attempt: prepare, begin
pub mod track; // what workers and ranks report, and what fails
pub mod advance; // a verified checkpoint moves the phase on; retention
pub mod core; // the state, and one event's way through the folders above
pub mod store; // what outlives the process
pub mod driver; // the owner task: events in, commit, effects out
pub mod metrics; // what Prometheus is told
pub mod traces; // what a collector of traces is told
pub mod config; // settings of the process
pub mod app; // start, serve, stop
pub mod restore; // the way back from a backup
pub mod bench; // simulated workers and jobs
