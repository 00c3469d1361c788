//! Linear warm-up, then half a cosine to zero (SimCLR v1 §2.3; official code, `WarmUpAndCosineDecay`).

use std::f64::consts::PI;

use diptych_common::spec::{Length, OptimizerSpec, Scaling};

/// The learning rate of every step of a phase.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    peak: f64,
    warmup_steps: u64,
    total_steps: u64,
}

/// A step that is about to be committed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Steps committed before it.
    pub step: u64,
    /// Its learning rate.
    pub rate: f64,
}

// === impl Schedule ===

impl Schedule {
    /// For `examples` training images and a global `batch`.
    pub fn new(spec: &OptimizerSpec, length: Length, examples: u64, batch: u32) -> Self {
        let total_steps = length.steps(examples, batch);
        let (examples, batch) = (examples as f64, f64::from(batch.max(1)));
        let factor = match spec.scaling {
            Scaling::Linear => batch / 256.0,
            Scaling::Sqrt => batch.sqrt(),
            Scaling::None => 1.0,
        };
        let warmup_steps = (spec.warmup_epochs * examples / batch).floor() as u64;
        Self {
            peak: spec.learning_rate * factor,
            warmup_steps,
            total_steps,
        }
    }

    /// The rate at the end of the warm-up.
    pub fn peak(&self) -> f64 {
        self.peak
    }

    /// Steps of the warm-up: `floor(warmup_epochs · examples / batch)`.
    pub fn warmup_steps(&self) -> u64 {
        self.warmup_steps
    }

    /// Steps of the phase: `floor(examples · epochs / batch) + 1`, or as the spec says.
    pub fn total_steps(&self) -> u64 {
        self.total_steps
    }

    /// Step `step`, counted from 0, with its rate.
    pub fn pace(&self, step: u64) -> Pace {
        let rate = self.rate(step);
        Pace { step, rate }
    }

    /// The rate of step `step`, counted from 0: the first of a warm-up is 0.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * step as f64 / self.warmup_steps as f64;
        }
        let length = self.total_steps.saturating_sub(self.warmup_steps);
        if length == 0 {
            return 0.0;
        }
        let done = (step - self.warmup_steps).min(length) as f64 / length as f64;
        self.peak * 0.5 * (1.0 + (PI * done).cos())
    }
}
