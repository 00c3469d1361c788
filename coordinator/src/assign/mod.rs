//! An attempt: placed, prepared, begun; and picked up again after a restart of the coordinator.

pub mod attempt; // a placement becomes an attempt
pub mod begin; // every rank is ready
pub mod reattach; // attempts of a former coordinator process

pub use attempt::{place, prepare_order};
pub use begin::{begin_if_ready, rank_ready};
pub use reattach::{reattached, restored};
