//! Collectives over NCCL, for gangs of CUDA ranks.
//!
//! A call on device memory is queued on a stream of the channel's own, between what the caller's operations have queued
//! before and what they queue after; the host goes on. [`settle`](super::Collective::settle) proves that all calls came
//! to their end. Host memory goes over TCP.
//!
//! Nothing waits inside NCCL: communicators are made and used without blocking, and asked how they are. Every call is
//! announced to all peers over TCP, where a thread compares what the ranks announce. It, a peer's last word or death,
//! an abort, and an error that NCCL reports end all communicators of the attempt, which frees device and host.

mod library; // libnccl.so.2, if there is one that works
mod id; // how the ranks of an attempt find each other
mod communicator; // one of NCCL's communicators, and all of an attempt
mod timeline; // streams
mod channel; // the trait
mod gang; // both channels of an attempt
#[cfg(test)]
pub(super) mod pretend; // the backend over a fake library, on host memory

pub use gang::{Rendezvous, connect};
pub use id::Id;
pub use library::{Nccl, NcclError, Version};
