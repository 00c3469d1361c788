//! Collectives over TCP, for gangs of CPU ranks.
//!
//! Every pair of ranks holds three connections: one per channel for data, and a *watch* that carries nothing but the
//! last word of a rank (it left, it gave up and why) or, by closing without one, its death. A call first announces
//! itself to all peers; small payloads ride along with the announcement, large ones then flow round a ring. One thread
//! drives both directions of all its links by readiness, so no direction ever waits for another.

mod handshake; // who may join: proofs of the attempt's secret
mod connect; // a listener and endpoints become a gang
mod notice; // the last word of a rank
mod shared; // what both channels share: failure, watches, abort
mod channel; // links of one channel, and agreement
mod ring; // who sends which bytes to whom, and when
mod ops; // the trait
mod ledger; // announcements for a backend whose data goes elsewhere
#[cfg(test)]
mod admission; // tests: who gets in, who does not, and whom that disturbs

pub use connect::Listener;
pub use handshake::{Identity, Secret};
pub(super) use ledger::{Lane, Ledger};

/// Payloads of at most this many bytes per rank go straight to every peer with the announcement: one flight instead
/// of a ring's 2 (world − 1).
const SMALL_BYTES: usize = 64 << 10;
