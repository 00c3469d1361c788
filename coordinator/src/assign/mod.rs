//! An attempt: placed, prepared, begun; and picked up again after a restart of the coordinator.

pub mod attempt; // a placement becomes an attempt
pub mod begin; // every rank is ready
pub mod grow; // ranks that stand by, and when they join
pub mod leave; // a gang leaves by plan
pub mod room; // what waits makes room for itself
pub mod reattach; // attempts of a former coordinator process

pub use attempt::{place, prepare, prepare_order, solution};
pub use begin::{begin_if_ready, rank_ready};
pub use grow::grow;
pub use leave::{all_held, drain, leave, left};
pub use reattach::{reattached, restored};
