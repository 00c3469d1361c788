//! The product from outside: real coordinator, agents and trainers on loopback, driven through the CLI and gRPC.
//!
//! The binaries are those of the same build; `make test` (or `cargo build --release --bins`) makes them.

pub mod process; // one program: started, watched, killed
pub mod proxy; // wires that are cut, frozen and slowed
pub mod s3; // a bucket
pub mod collector; // who takes traces
pub mod ledger; // every committed step, from the ranks' logs
pub mod chaos; // faults at random, and what became of them
pub mod outage; // the coordinator away, at chosen moments
pub mod upgrade; // another version of the programs, exchanged under a job
pub mod slow_store; // training beside a store that is slow or dead
pub mod cluster; // a coordinator, agents and a CLI
pub mod pictures; // small images made here
pub mod specs; // small jobs on them
pub mod weights; // checkpoints side by side
