//! The wire: package `diptych.v1`, generated from `diptych/v1/*.proto`, and the conversions at its edge.

pub mod convert; // wire ↔ domain
pub mod status; // errors ↔ gRPC status

/// Generated messages, clients and servers. Nothing past a crate's edge module holds these.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::pedantic
)]
pub mod v1 {
    tonic::include_proto!("diptych.v1");
}

/// What a TensorBoard event file holds.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::pedantic
)]
pub mod tensorboard {
    tonic::include_proto!("tensorboard");
}

/// The compiled descriptors, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Bytes of one message that a coordinator takes.
pub const MAX_REQUEST: usize = 16 << 20;

/// Bytes of one message that agents and clients take: an order holds a spec that came in a request, a list holds many.
pub const MAX_ANSWER: usize = 64 << 20;

/// The protocol that this build speaks. 1: first release.
pub const PROTOCOL: u32 = 1;

/// The oldest protocol that this build still accepts.
pub const OLDEST_PROTOCOL: u32 = 1;
