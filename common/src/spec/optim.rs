//! The optimiser and its learning-rate schedule.

/// An optimiser with linear warm-up and cosine decay.
#[derive(Debug, Clone, PartialEq)]
pub struct OptimizerSpec {
    /// The update rule.
    pub rule: Rule,
    /// Base learning rate, before scaling.
    pub learning_rate: f64,
    /// How the rate grows with the batch.
    pub scaling: Scaling,
    /// Length of the linear warm-up in epochs.
    pub warmup_epochs: f64,
    /// Momentum, in [0, 1).
    pub momentum: f64,
    /// Weight decay, added to the gradient.
    pub weight_decay: f64,
}

/// The update rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// Layer-wise adaptive rates (You et al. 2017) with classic momentum.
    Lars {
        /// η in `η‖w‖/‖g‖`.
        trust_coefficient: f64,
    },
    /// Stochastic gradient descent with Nesterov momentum.
    Sgd,
}

/// How the learning rate grows with the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scaling {
    /// × batch / 256.
    Linear,
    /// × √batch.
    Sqrt,
    /// Not at all.
    None,
}
