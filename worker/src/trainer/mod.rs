//! The trainer process: one device, driven by its agent over a socket pair. It serves one attempt of its phase after
//! the other, and keeps the state of training in between.
//!
//! One thread reads commands, one writes reports; the main thread owns the device and everything of libtorch.

pub mod assignment; // what this rank is to do
pub mod report; // what this rank has to say
pub mod wire; // frames on the socket pair, and the edge to the protocol
pub mod control; // the main thread's handle on the agent, for one attempt
mod outbox; // reports on their way to the agent
pub mod attempts; // one assignment after the other, from the reader to the main thread
pub mod process; // the process from start to exit status

pub use assignment::{Assignment, Begin, Command, Leave, Peer, Place, Secret, StartFrom};
pub use control::{Aborted, Control};
pub use diptych_common::checkpoint::{CheckpointRef, StoredObject};
pub use process::{Ended, TrainerArgs, Work, run};
pub use report::{Activity, Held, Measurement, Progress, Ready, Report, StateSummary};
pub use wire::Fence;
