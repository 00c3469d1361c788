//! Gang placement: all or nothing, priority then age, the largest world that fits.

pub mod problem; // devices and gangs, and what becomes of them
pub mod solve; // the decision

pub use problem::{Capacity, FreeDevice, GangRequest, Problem, Solution, Wait};
pub use solve::solve;
