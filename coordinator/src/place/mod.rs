//! Gang placement: all or nothing, priority then age, the largest world that fits.

pub mod problem; // devices and gangs, and what becomes of them
pub mod solve; // the decision
pub mod preempt; // who makes room for a job of higher priority

pub use preempt::{Running, Yielded, preempt};
pub use problem::{Capacity, FreeDevice, GangRequest, KeptDevice, Problem, Solution, Wait};
pub use solve::solve;
