//! The pure core: [`apply()`] takes the state from event to event. No clock, no socket, no randomness.

pub mod time; // the two clocks
pub mod settings; // how long to wait for what
pub mod failure; // why attempts end
pub mod checkpoint; // what a phase has saved
pub mod job; // jobs, phases, attempts, ranks
pub mod run; // a live attempt's ranks
pub mod pace; // how fast they go
pub mod worker; // workers and their devices
pub mod record; // what is remembered of a worker
pub mod apart; // workers that are not placed together
pub mod deletion; // objects that nobody needs
pub mod event; // everything that can happen
pub mod observation; // what is worth measuring of it
pub mod outcome; // everything that follows
pub mod state; // all of it, with undo
pub mod change; // what became different, as rows
pub mod apply; // one event
pub mod invariants; // what always holds

pub use apart::{Apart, Pair};
pub use apply::apply;
pub use change::{Change, StoredJob};
pub use checkpoint::{
    Check, Checkpoint, CheckpointId, CheckpointRecord, CheckpointRef, CheckpointState,
    StoredObject, Trouble,
};
pub use deletion::Deletion;
pub use event::{
    DeviceReport, Event, RankEvent, RankReport, Registration, Reread, RunningRank, Scale, Submit,
    VerifyReport,
};
pub use failure::{Exit, Failure, FailureKind};
pub use invariants::check_invariants;
pub use job::{
    Away, Brings, Budget, Job, JobRecord, JobState, Metric, Phase, PhasePlan, PhaseRecord,
    PhaseState, Placement, Progress, Range, RequestId, Seat, Secret, StartFrom, Submission,
};
pub use observation::Observation;
pub use outcome::{
    Answer, BeginState, Effect, Happening, Ignored, Order, OrderTo, Outcome, Peer, PrepareOrder,
    Refusal,
};
pub use pace::{Activity, Pace, Pulse, Stride};
pub use record::{Blame, WorkerRecord};
pub use run::{LeavePlan, LeaveWhy, RankState, Run, Save, Stage, TensorDigest};
pub use settings::Settings;
pub use state::State;
pub use time::{Mono, Now, UnixMs};
pub use worker::{Hold, Link, RankId, SessionId, Slot, Worker};
