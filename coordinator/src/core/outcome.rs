//! What follows from an event: what to remember, what to answer and what to do once that is durable.

use std::sync::Arc;

use diptych_common::ids::{Attempt, JobId, PhaseIndex, PhaseName, Rank, Step, WorkerId};

use super::checkpoint::{CheckpointId, CheckpointRef, StoredObject};
use super::deletion::Deletion;
use super::job::{Job, Metric, StartFrom};
use super::observation::Observation;
use super::time::UnixMs;
use super::worker::SessionId;

/// What follows from one event.
#[derive(Debug, Default)]
pub struct Outcome {
    /// For the jobs' histories; durable with the state.
    pub happened: Vec<Happening>,
    /// To do once the state is durable.
    pub effects: Vec<Effect>,
    /// To measure, once the state is durable.
    pub observed: Vec<Observation>,
    /// To whoever asked.
    pub answer: Answer,
}

/// One line of a job's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    /// Whose.
    pub job: JobId,
    /// When.
    pub at: UnixMs,
    /// e.g. `submitted`, `placed`, `rank_failed`, `checkpoint_committed`.
    pub kind: String,
    /// Of which phase, if one.
    pub phase: Option<PhaseName>,
    /// Of which attempt; 0 for none.
    pub attempt: Attempt,
    /// For people.
    pub message: String,
}

/// What the one who asked is told.
#[derive(Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// It was done.
    #[default]
    Done,
    /// The job of a submit.
    Submitted {
        /// Its id.
        job: JobId,
        /// False when the request id had been accepted before.
        created: bool,
    },
    /// It changes nothing, and why.
    Ignored(Ignored),
}

/// Why an event changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// Its stream is not the worker's current one.
    OldSession,
    /// Its attempt is not the job's live one.
    StaleAttempt,
    /// Its rank sits on another worker, or there is no such rank.
    NotItsRank,
    /// It had been said before.
    Repeated,
    /// The gang has not begun.
    TooEarly,
    /// The rank's work is already done.
    TooLate,
    /// Its key or step is not one of this attempt's.
    ForeignObject,
    /// No such checkpoint.
    UnknownCheckpoint,
    /// Only rank 0 may say it.
    NotRankZero,
    /// More than the limit of it.
    TooMany,
    /// Another agent is connected as this worker.
    AnotherAgent,
}

/// Something to do in the world.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Tell an agent.
    Send {
        /// On this stream.
        session: SessionId,
        /// What.
        order: Order,
    },
    /// End an agent's stream, after telling it why.
    Close {
        /// This stream.
        session: SessionId,
        /// Why.
        reason: String,
        /// Whether the same registration may succeed later.
        retry: bool,
    },
    /// Keep measurements.
    Metrics {
        /// Whose.
        job: JobId,
        /// Of which phase.
        phase: PhaseIndex,
        /// What.
        points: Vec<Metric>,
    },
    /// Delete objects; remembered with the state until they are gone.
    Delete(Deletion),
}

/// What an agent is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Order {
    /// The registration is accepted.
    Welcome,
    /// Start a trainer.
    Prepare(Box<PrepareOrder>),
    /// Every rank is ready.
    Begin {
        /// To this rank.
        to: OrderTo,
        /// In rank order.
        peers: Vec<Peer>,
        /// Rank 0's.
        nccl_id: Vec<u8>,
        /// The state that every rank begins with.
        state: BeginState,
    },
    /// Leave after a step that the ranks agree on.
    Leave {
        /// To this rank.
        to: OrderTo,
        /// Why.
        reason: String,
        /// Save that step first.
        save: bool,
    },
    /// Every part is written.
    WriteManifest {
        /// To this rank.
        to: OrderTo,
        /// Of this save.
        step: Step,
        /// In rank order.
        objects: Vec<StoredObject>,
    },
    /// A checkpoint is committed.
    Committed {
        /// To this rank.
        to: OrderTo,
        /// Which one.
        checkpoint: CheckpointRef,
    },
    /// An attempt has ended.
    Abort {
        /// Whose.
        job: JobId,
        /// Which one.
        attempt: Attempt,
        /// Why.
        reason: String,
        /// Trainers keep their state and wait, but for the ranks in `end`.
        keep: bool,
        /// Ranks that end all the same.
        end: Vec<Rank>,
    },
    /// One rank ends, the others of its attempt do not.
    End {
        /// This one.
        to: OrderTo,
        /// Why.
        reason: String,
    },
    /// Re-read a checkpoint.
    Verify {
        /// Whose.
        job: JobId,
        /// Under this URL.
        storage: String,
        /// Which one.
        checkpoint: CheckpointRef,
    },
}

/// Where one rank of a gang is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// host:port of its data plane.
    pub endpoint: String,
    /// Its worker.
    pub worker: WorkerId,
    /// host:port where its agent takes other agents' links.
    pub agent: String,
}

/// The state that a gang begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeginState {
    /// The rank that all others take it from; `None` where all hold it.
    pub source: Option<Rank>,
    /// Its steps.
    pub step: Step,
    /// Its BLAKE3, hex.
    pub digest: String,
}

/// The rank that an order is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderTo {
    /// Its job.
    pub job: JobId,
    /// Its attempt.
    pub attempt: Attempt,
    /// Its rank.
    pub rank: Rank,
}

/// A rank's share of a new attempt.
#[derive(Debug, Clone)]
pub struct PrepareOrder {
    /// To this rank.
    pub to: OrderTo,
    /// On this device of the worker.
    pub device: u32,
    /// Carries the spec.
    pub submission: Arc<super::job::Submission>,
    /// Which phase.
    pub phase: PhaseIndex,
    /// How many ranks.
    pub world: u32,
    /// Of this attempt.
    pub secret: [u8; 32],
    /// Where the phase goes on from.
    pub resume: Option<CheckpointRef>,
    /// Final checkpoints of the phases that it reads.
    pub inputs: Vec<CheckpointRef>,
    /// Since `resume` was committed or, without one, since the phase first started.
    pub unsaved: std::time::Duration,
    /// What it begins with.
    pub start: StartFrom,
    /// Whether it stands by beside the gang.
    pub reserve: bool,
    /// Steps whose batch changes nothing.
    pub skip: Vec<Step>,
}

/// Why a client's wish is refused. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such job.
    #[error("there is no job {0}; `diptych list` shows the jobs")]
    NoSuchJob(JobId),
    /// No such checkpoint.
    #[error("job {job} has no such checkpoint: {what}")]
    NoSuchCheckpoint {
        /// Whose.
        job: JobId,
        /// Which one.
        what: String,
    },
    /// The request id was used for another spec.
    #[error("request id {request:?} was used for job {job} with another spec; differing: {}", differing.join(", "))]
    RequestIdTaken {
        /// The request id.
        request: String,
        /// The job that it made.
        job: JobId,
        /// Paths of fields.
        differing: Vec<String>,
    },
    /// More active jobs than the limit.
    #[error(
        "{0} jobs are waiting or running, which is the limit; submit again when some have ended"
    )]
    TooManyJobs(usize),
    /// The random suffix is taken; another will do.
    #[error("job id {0} is taken; submit again")]
    JobIdTaken(JobId),
    /// The job is not in a state that allows it.
    #[error("job {job} {why}")]
    WrongState {
        /// Which one.
        job: JobId,
        /// What it is, and what to do.
        why: String,
    },
    /// No such worker.
    #[error("there is no worker {0}; `diptych worker list` shows the workers")]
    NoSuchWorker(WorkerId),
    /// Numbers of ranks that cannot be.
    #[error("job {job}: {}", problems.join("; "))]
    Ranks {
        /// Of which job.
        job: JobId,
        /// What is wrong, phase by phase.
        problems: Vec<String>,
    },
    /// No worker can do it now.
    #[error("{0}")]
    NoWorker(String),
}

impl Outcome {
    /// Adds a line to a job's history.
    pub fn note(
        &mut self,
        job: &Job,
        at: UnixMs,
        kind: &str,
        at_phase: Option<(usize, Attempt)>,
        message: String,
    ) {
        let phase = at_phase
            .and_then(|(index, _)| job.submission.phases.get(index))
            .map(|plan| plan.name.clone());
        let attempt = at_phase.map_or(Attempt::default(), |(_, attempt)| attempt);
        self.happened.push(Happening {
            job: job.id().clone(),
            at,
            kind: kind.to_owned(),
            phase,
            attempt,
            message,
        });
    }

    /// Tells an agent.
    pub fn send(&mut self, session: SessionId, order: Order) {
        self.effects.push(Effect::Send { session, order });
    }

    /// Names why the event changes nothing.
    pub fn ignore(&mut self, why: Ignored) {
        self.answer = Answer::Ignored(why);
    }
}

impl PartialEq for PrepareOrder {
    fn eq(&self, other: &Self) -> bool {
        self.to == other.to
            && self.device == other.device
            && Arc::ptr_eq(&self.submission, &other.submission)
            && self.resume == other.resume
            && self.inputs == other.inputs
            && self.unsaved == other.unsaved
            && self.start == other.start
            && self.reserve == other.reserve
            && self.skip == other.skip
    }
}

/// The checkpoint of a phase, in words.
pub fn checkpoint_words(phase: &str, id: CheckpointId) -> String {
    format!("{phase} step {} of attempt {}", id.step, id.attempt)
}
