//! The job spec: text → [`draft`] (what was typed) → [`JobSpec`] (what may run). Only [`validate`] makes the last step.

pub mod overrides; // --set path=value
pub mod variables; // ${NAME}
pub mod schema; // the JSON schema
pub mod parse; // text to draft
pub mod draft; // what a user typed
pub mod data; // where images are, which labels may be used
pub mod network; // encoder and projection head
pub mod augment; // pixels to views
pub mod optim; // optimiser and schedule
pub mod phase; // one phase
pub mod job; // the whole pipeline
mod suggest; // did you mean
mod flow; // fields on one line
pub mod validate; // draft to valid, every error at once

pub use augment::{
    AugmentSpec, BlurSigma, Brightness, ColorOrder, ColorSpec, Implementation, Interpolation,
    Resampling, ViewsOn,
};
pub use data::{DataFormat, DataSpec, Labels};
pub use draft::JobDraft;
pub use flow::flow;
pub use job::{JobSpec, Source, Teacher};
pub use network::{BasicShortcut, Depth, DepthError, EncoderSpec, HeadSpec, MaxPool, Stem};
pub use optim::{MomentumKind, OptimizerSpec, Rule, Scaling};
pub use parse::load;
pub use phase::{
    CheckpointSpec, Device, DistillSpec, EvaluateSpec, FinetuneSpec, Gang, HeadLayers, Knn,
    LabelledStream, Length, LinearEvalSpec, MemorySpec, Metric, NonFinitePolicy, NtXentSpec,
    PhaseKind, PhaseSpec, Precision, PretrainSpec, StopAfter,
};
pub use schema::schema;
pub use validate::{FieldError, SpecErrors};
