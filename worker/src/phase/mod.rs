//! The four phases and their evaluations: a [`Seat`] takes one assignment after the other, the last to its last commit.

pub mod error; // why a phase stops
pub mod refuse; // what is refused before any training
pub mod data; // the data of a phase, opened once
pub mod preflight; // the data of the whole job, before its first step
pub mod bad; // bad images: named, counted over all ranks
pub mod blueprint; // which network, from which weights
pub mod import; // weights that no phase of this job wrote
pub mod learner; // the state that is trained
pub mod stream; // training rows on the device
pub mod kept; // what outlives an attempt
mod room; // whether it fits the device
mod settle; // training images to the device
pub mod prepare; // assignment → ready
pub mod transfer; // a state from one rank to all
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
mod leave; // out of it by plan
#[cfg(test)]
mod tests;

pub use error::PhaseError;
pub use kept::Seat;
pub use learner::Learner;
pub use prepare::Prepared;

use diptych_common::ids::Step;
use diptych_common::spec::NonFinitePolicy;

use crate::trainer::{Assignment, Control, Ended, Report, Work};

impl Work for Seat {
    fn attempt(&mut self, assignment: Assignment, control: &Control) -> Result<Ended, PhaseError> {
        let ended = self.take_part(assignment, control);
        if let Some(kept) = &mut self.kept {
            kept.whole &= kept.learner.rest();
        }
        ended
    }

    fn forget(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.whole = false;
        }
    }

    fn holds(&self) -> Option<Step> {
        let kept = self.kept.as_ref().filter(|kept| kept.whole)?;
        Some(kept.learner.step)
    }

    fn outlives(&self, error: &PhaseError) -> bool {
        let policy = self
            .kept
            .as_ref()
            .map(|kept| kept.setup.phase.on_non_finite);
        matches!(error, PhaseError::NonFinite { .. }) && policy == Some(NonFinitePolicy::Rewind)
    }
}

impl Seat {
    fn take_part(
        &mut self,
        assignment: Assignment,
        control: &Control,
    ) -> Result<Ended, PhaseError> {
        let mut prepared = self.prepare(assignment, control)?;
        control.report(Report::Ready(prepared.ready()?));
        let begin = control.begin()?;
        prepared.run(&begin, control)
    }
}
