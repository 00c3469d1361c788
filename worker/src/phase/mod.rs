//! The four phases and their evaluations: [`run`] takes an assignment to its last commit.

pub mod error; // why a phase stops
pub mod refuse; // what is refused before any training
pub mod data; // the data of a phase, opened once
pub mod preflight; // the data of the whole job, before its first step
pub mod bad; // bad images: named, counted over all ranks
pub mod blueprint; // which network, from which weights
pub mod learner; // the state that is trained
pub mod stream; // training rows on the device
pub mod prepare; // assignment → ready
pub mod task; // what kinds of phases differ in
pub mod pretrain; // contrastive
mod classify; // the supervised step
pub mod linear_eval; // a classifier on the frozen encoder
pub mod finetune; // the whole network on labels
pub mod distill; // a student on a teacher's outputs
pub mod evaluation; // accuracy and neighbours over all ranks
pub mod tally; // counts of an evaluation
pub mod knn; // the nearest-neighbour classifier
pub mod cadence; // when to save and to evaluate
pub mod judge; // what evaluations decide: early stop, the best checkpoint
pub mod keeper; // saves, manifests, commits
pub mod train_loop; // the one loop
#[cfg(test)]
mod tests;

pub use error::PhaseError;
pub use learner::Learner;
pub use prepare::{Prepared, prepare};

use crate::trainer::{Assignment, Control, Report};

/// Runs one rank's share of an attempt: prepares, reports ready, waits for the start, trains, evaluates, saves, and
/// returns after the last commit.
///
/// # Errors
/// Why the rank stopped early; see [`PhaseError`].
pub fn run(assignment: Assignment, control: &Control) -> Result<(), PhaseError> {
    let prepared = prepare(assignment, control)?;
    control.report(Report::Ready(prepared.ready()?));
    let begin = control.begin()?;
    prepared.run(&begin, control)
}
