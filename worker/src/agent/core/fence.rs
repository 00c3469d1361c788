//! What every message of a rank is fenced by, and what tells one trainer process from the next.

use diptych_common::ids::{Attempt, JobId, NameError, Rank};
use diptych_proto::v1;
use diptych_proto::v1::rank_command::Command;
use diptych_proto::v1::rank_event::Event as Reported;

/// One rank of one attempt: the fence of everything that concerns it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RankKey {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: Attempt,
    /// The rank.
    pub rank: Rank,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptKey {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: Attempt,
}

/// One trainer process of this agent: never used again. It may be several ranks one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(u64);

impl ProcessId {
    /// Wraps a number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }
}

impl RankKey {
    /// The key in a message.
    ///
    /// # Errors
    /// A job that has no valid name.
    pub fn parse(job: &str, attempt: u64, rank: u32) -> Result<Self, NameError> {
        Ok(Self {
            job: job.parse()?,
            attempt: Attempt::new(attempt),
            rank: Rank::new(rank),
        })
    }

    /// The attempt that the rank is of.
    pub fn of(&self) -> AttemptKey {
        AttemptKey {
            job: self.job.clone(),
            attempt: self.attempt,
        }
    }

    /// The protocol's message for an event of this rank.
    pub fn event(&self, event: Reported) -> v1::RankEvent {
        let (job, attempt, rank) = (self.job.to_string(), self.attempt.get(), self.rank.get());
        v1::RankEvent {
            job,
            attempt,
            rank,
            event: Some(event),
        }
    }

    /// The protocol's message for a command to this rank.
    pub fn command(&self, command: Command) -> v1::RankCommand {
        let (job, attempt, rank) = (self.job.to_string(), self.attempt.get(), self.rank.get());
        v1::RankCommand {
            job,
            attempt,
            rank,
            command: Some(command),
        }
    }
}

impl std::fmt::Display for RankKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} attempt {} rank {}",
            self.job, self.attempt, self.rank
        )
    }
}

impl std::fmt::Display for AttemptKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} attempt {}", self.job, self.attempt)
    }
}

impl std::fmt::Display for ProcessId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {}", self.0)
    }
}
