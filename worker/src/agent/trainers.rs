//! What the agent needs of whoever runs its trainers: processes of this machine, in production.

use std::future::Future;
use std::io;

use diptych_proto::v1;
use diptych_proto::v1::rank_command::Command;
use diptych_proto::v1::rank_event::Event as Reported;

use super::core::{ProcessId, RankKey};

/// What a trainer did.
#[derive(Debug)]
pub enum TrainerEvent {
    /// It reported, as the rank that it says it is.
    Reported(ProcessId, RankKey, Reported),
    /// It ended, and everything that it said before has been passed on.
    Exited(ProcessId, v1::Exited),
}

/// Runs trainers; what they do arrives beside, as [`TrainerEvent`]s. An id is started once.
pub trait Trainers: Send {
    /// Starts a trainer and gives it its assignment, which it reads before anything else.
    ///
    /// # Errors
    /// When it cannot be started; then nothing is ever heard of it.
    fn start(
        &mut self,
        id: ProcessId,
        key: RankKey,
        prepare: v1::Prepare,
    ) -> impl Future<Output = io::Result<()>> + Send;

    /// Passes a command on, to the trainer as the rank `key`; one that has ended misses it.
    fn tell(&mut self, id: ProcessId, key: RankKey, command: Command);

    /// Ends a trainer and whatever it started, now. Its exit is reported as any other.
    fn kill(&mut self, id: ProcessId);

    /// Forgets a trainer whose exit was reported.
    fn forget(&mut self, id: ProcessId);
}
