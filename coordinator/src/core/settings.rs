//! How long the core waits for what.

use std::time::Duration;

/// Bounds of every wait, and the failure budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How often an agent must be heard.
    pub heartbeat: Duration,
    /// A silent agent is lost after this.
    pub dead_after: Duration,
    /// An agent whose stream was reset is lost after this.
    pub reconnect: Duration,
    /// How long members of live attempts may take to come back after a restart of the coordinator.
    pub reattach_grace: Duration,
    /// How long a gang may take from `Prepare` until every rank is ready.
    pub prepare_deadline: Duration,
    /// A peer's loss is only a symptom: how long to wait for the failure behind it before aborting for the symptom.
    pub doubt: Duration,
    /// How long devices of an ended attempt count as nearly free, so that a gang is not placed smaller than it need be.
    pub release_grace: Duration,
    /// How long a gang that could be larger waits after a worker joined, for more to join.
    pub settle: Duration,
    /// How long a gang that could be larger stays as it is before it grows.
    pub grow_after: Duration,
    /// How long a gang may take to leave by plan.
    pub leave_deadline: Duration,
    /// How long two workers that cannot reach each other are not placed together.
    pub apart: Duration,
    /// How long a new attempt waits for the verification of a newer committed checkpoint.
    pub verify_grace: Duration,
    /// When to order the verification of a checkpoint again.
    pub verify_again: Duration,
    /// How soon a checkpoint that a worker could not read is given to another; doubles each time.
    pub unread_pause: Duration,
    /// How long a gang may go without a step, at least.
    pub stall: Duration,
    /// How many step times it may go without one, where that is longer.
    pub stall_steps: u32,
    /// As `stall`, before the first step and while the last save is written.
    pub stall_saving: Duration,
    /// As `stall`, in an evaluation.
    pub stall_evaluating: Duration,
    /// The pause before the next attempt after a failure; doubles with each failure in a row without progress.
    pub backoff: Duration,
    /// How long a lost worker stays in the list.
    pub lost_kept: Duration,
    /// Failures in a row without progress that end a phase.
    pub failures: u32,
    /// Failures within an hour that were a worker's own and cordon it; 0 never does.
    pub suspect_after: u32,
    /// Active jobs that may be here at once.
    pub jobs: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(1),
            dead_after: Duration::from_secs(5),
            reconnect: Duration::from_secs(1),
            reattach_grace: Duration::from_secs(30),
            prepare_deadline: Duration::from_secs(600),
            doubt: Duration::from_millis(300),
            release_grace: Duration::from_secs(15),
            settle: Duration::from_secs(2),
            grow_after: Duration::from_secs(10),
            leave_deadline: Duration::from_secs(120),
            apart: Duration::from_secs(600),
            verify_grace: Duration::from_secs(10),
            verify_again: Duration::from_secs(300),
            unread_pause: Duration::from_secs(1),
            stall: Duration::from_secs(60),
            stall_steps: 20,
            stall_saving: Duration::from_secs(600),
            stall_evaluating: Duration::from_secs(1800),
            backoff: Duration::from_secs(1),
            lost_kept: Duration::from_secs(3600),
            failures: 3,
            suspect_after: 5,
            jobs: 100_000,
        }
    }
}
