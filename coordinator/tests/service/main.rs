//! The coordinator over real sockets, with workers that speak the real protocol.

#![allow(clippy::unwrap_used)] // helpers of tests panic as tests do

mod env; // a coordinator in this process, and its clients
mod jobs; // submit to succeeded, streams, refusals
mod restart; // the store outlives the process
mod backup; // a copy of the database, and the way back
mod operations; // settings, and the port for those who watch
mod agents; // sessions, refused registrations, logs
mod sweep; // objects that nobody needs
mod outage; // the database cannot be written
mod process; // the binary itself
