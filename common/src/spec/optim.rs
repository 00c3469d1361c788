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
    /// Weight decay: added to the gradient, or decoupled from it under AdamW.
    pub weight_decay: f64,
}

/// The update rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// Layer-wise adaptive rates (You et al. 2017).
    Lars {
        /// η in `η‖w‖/‖g‖`.
        trust_coefficient: f64,
        /// Momentum, in [0, 1).
        momentum: f64,
        /// What the momentum adds up.
        kind: MomentumKind,
    },
    /// Stochastic gradient descent with Nesterov momentum.
    Sgd {
        /// Momentum, in [0, 1).
        momentum: f64,
    },
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019).
    AdamW {
        /// Decay of the mean of gradients, in [0, 1).
        beta1: f64,
        /// Decay of the mean of squared gradients, in [0, 1).
        beta2: f64,
        /// Added to the root of the second mean.
        epsilon: f64,
    },
}

/// What LARS' momentum adds up (official code, `classic_momentum`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MomentumKind {
    /// Steps: gradients times rate and trust ratio.
    Classic,
    /// Gradients; rate and the trust ratio of the momentum come after.
    Popular,
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
