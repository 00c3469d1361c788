//! The trainer process: one device, driven by its agent over a socket pair.
//!
//! One thread reads commands, one writes reports; the main thread owns the device and everything of libtorch.

pub mod assignment; // what this rank is to do
pub mod report; // what this rank has to say
pub mod wire; // frames on the socket pair, and the edge to the protocol
pub mod control; // the main thread's handle on the agent
pub mod process; // the process from start to exit status

pub use assignment::{Assignment, Begin, Command, Peer, Place, Secret};
pub use control::{Aborted, Control};
pub use diptych_common::checkpoint::{CheckpointRef, StoredObject};
pub use process::{TrainerArgs, run};
pub use report::{Activity, Measurement, Progress, Ready, Report};
