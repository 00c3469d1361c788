use tch::TchError;

use crate::collective::CollectiveError;

/// Why a step is given up. Nothing of the state changes: weights, momentum and running statistics are those of the
/// last committed step.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// A collective of the step did not complete; the gang has failed.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// A loss or gradient is infinite or not a number.
    #[error("{tensor} is not finite")]
    NonFinite {
        /// Name of the first such tensor, or `loss`.
        tensor: String,
    },
    /// Views, rows or labels do not fit each other.
    #[error("{what}: expected {expected}, got {got}")]
    Shape {
        /// What was looked at.
        what: &'static str,
        /// What it should have been.
        expected: String,
        /// What it was.
        got: String,
    },
    /// libtorch failed.
    #[error("libtorch: {0}")]
    Torch(#[from] TchError),
}
