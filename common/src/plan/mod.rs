//! What a job takes before it runs: steps, work, memory, traffic and time of every phase. Pure arithmetic over a valid
//! spec; `diptych plan` prints it.
//!
//! **Time.** A step of W ranks takes `compute + embeddings + statistics + exposed gradients`. The fullest rank holds
//! `⌈lanes/W⌉` lanes, so `compute = ⌈lanes/W⌉ / lanes · FLOPs of the step / (peak · mfu)`. Embeddings and statistics
//! travel while everybody waits: bytes over the wire's rate, and the latency of each small collective. Gradients travel
//! behind the backward pass of the last micro-batch, two thirds of its computation; what does not fit behind it, and the
//! last bucket, is exposed. `efficiency(W) = step(1) / (W · step(W))`, where one rank sends nothing. Reading and
//! augmenting images is not in it: `images_per_s` is what it has to keep up with.
//!
//! **Memory.** See [`Memory`]; docs/plan.md tells how far it was from what was measured.

mod facts; // how many images there are
mod machine; // how fast devices compute and send
mod layout; // images of the fullest rank
mod network; // what a phase computes
mod memory; // what a device holds
mod traffic; // what a rank sends
mod outline; // what is the same on any number of ranks
mod phase; // one phase
mod fit; // whether it fits a device, and what to change

use serde::Serialize;

pub use facts::{DataFacts, Facts, Origin};
pub use fit::{Change, Tight, advice, changes, groups_at_once, rank_memory};
pub use machine::{Machine, SHEETS, Sheet};
pub use memory::Memory;
pub use phase::{Parameters, PhasePlan, Work, World};
pub use traffic::Traffic;

use crate::spec::JobSpec;

/// A whole job.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobPlan {
    /// The user's name for the job.
    pub name: String,
    /// What times were reckoned with.
    pub machine: Machine,
    /// The phases, in spec order.
    pub phases: Vec<PhasePlan>,
}

/// Plans every phase of a job.
pub fn plan(spec: &JobSpec, facts: &Facts, machine: &Machine) -> JobPlan {
    let plan = |phase| PhasePlan::new(spec, phase, facts, machine);
    JobPlan {
        name: spec.name().to_owned(),
        machine: machine.clone(),
        phases: spec.phases().iter().map(plan).collect(),
    }
}
