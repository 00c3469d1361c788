//! Where jobs and phases are.

use diptych_proto::v1;
use serde::Serialize;

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum JobState {
    /// Waits for devices.
    Queued,
    /// A phase is placed, or was.
    Running,
    /// Every phase is done.
    Succeeded,
    /// `diptych explain` says why.
    Failed,
    /// On request.
    Cancelled,
    /// A state that this version does not know.
    #[value(skip)]
    Unknown,
}

/// Where a phase is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PhaseState {
    /// An input is not done yet.
    Blocked,
    /// Waits for devices.
    Pending,
    /// Trainers start and load.
    Starting,
    /// Steps.
    Training,
    /// The final checkpoint is being verified.
    Verifying,
    /// Its final checkpoint is verified.
    Done,
    /// It will not be tried again.
    Failed,
    /// With its job.
    Cancelled,
    /// A state that this version does not know.
    Unknown,
}

impl JobState {
    /// As on the wire.
    pub(crate) fn to_wire(self) -> v1::JobState {
        match self {
            JobState::Queued => v1::JobState::Queued,
            JobState::Running => v1::JobState::Running,
            JobState::Succeeded => v1::JobState::Succeeded,
            JobState::Failed => v1::JobState::Failed,
            JobState::Cancelled => v1::JobState::Cancelled,
            JobState::Unknown => v1::JobState::Unspecified,
        }
    }

    /// Whether it will not change by itself any more.
    pub(crate) fn has_ended(self) -> bool {
        matches!(
            self,
            JobState::Succeeded | JobState::Failed | JobState::Cancelled
        )
    }

    /// One word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Succeeded => "succeeded",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
            JobState::Unknown => "unknown",
        }
    }
}

impl From<v1::JobState> for JobState {
    fn from(state: v1::JobState) -> Self {
        match state {
            v1::JobState::Unspecified => JobState::Unknown,
            v1::JobState::Queued => JobState::Queued,
            v1::JobState::Running => JobState::Running,
            v1::JobState::Succeeded => JobState::Succeeded,
            v1::JobState::Failed => JobState::Failed,
            v1::JobState::Cancelled => JobState::Cancelled,
        }
    }
}

impl PhaseState {
    /// One word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            PhaseState::Blocked => "blocked",
            PhaseState::Pending => "pending",
            PhaseState::Starting => "starting",
            PhaseState::Training => "training",
            PhaseState::Verifying => "verifying",
            PhaseState::Done => "done",
            PhaseState::Failed => "failed",
            PhaseState::Cancelled => "cancelled",
            PhaseState::Unknown => "unknown",
        }
    }
}

impl From<v1::PhaseState> for PhaseState {
    fn from(state: v1::PhaseState) -> Self {
        match state {
            v1::PhaseState::Unspecified => PhaseState::Unknown,
            v1::PhaseState::Blocked => PhaseState::Blocked,
            v1::PhaseState::Pending => PhaseState::Pending,
            v1::PhaseState::Starting => PhaseState::Starting,
            v1::PhaseState::Training => PhaseState::Training,
            v1::PhaseState::Verifying => PhaseState::Verifying,
            v1::PhaseState::Done => PhaseState::Done,
            v1::PhaseState::Failed => PhaseState::Failed,
            v1::PhaseState::Cancelled => PhaseState::Cancelled,
        }
    }
}
