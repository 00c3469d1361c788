//! LARS, Nesterov SGD, AdamW and the learning-rate schedule.

mod optimizer; // the update, and the step's one commit point
mod schedule; // steps and rates, pure

pub use optimizer::Optimizer;
pub use schedule::{Pace, Schedule};
