//! Bytes that one rank sends in a step, and how many small collectives it takes part in.

use serde::Serialize;

use crate::spec::{PhaseKind, PhaseSpec};

use super::network::Networks;

/// Bytes of a bucket of gradients: what is left to send when backward ends.
const BUCKET: f64 = (4_u64 << 20) as f64;
/// Columns of the second gather: log-sum-exp, whether the positive wins, entropy.
const FIGURES: u64 = 3;

/// Bytes that each rank sends in a step; it receives as many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Traffic {
    /// The gradients' ring all-reduce: 2 (W − 1)/W of their size.
    pub gradients: u64,
    /// The loss's two all-gathers, of unit rows and of figures for each, and a memory's of the rows that it takes:
    /// (W − 1)/W of their size.
    pub embeddings: u64,
    /// Batch-norm statistics: in forward an all-gather of counts, means and variances, in backward an all-reduce of two
    /// sums, all in f64.
    pub statistics: u64,
    /// Collectives that training waits for whatever their size.
    pub small: u64,
}

impl Traffic {
    /// Of a world of `ranks`.
    pub(super) fn of(phase: &PhaseSpec, networks: &Networks, ranks: u32) -> Self {
        if ranks < 2 {
            return Self::default();
        }
        let element = phase.gang.precision.weight_bytes();
        let others = f64::from(ranks - 1);
        let share = others / f64::from(ranks);
        let parts = u64::from(phase.groups / phase.micro_batch_groups.max(1));
        let pretrains = matches!(phase.kind, PhaseKind::Pretrain(_));
        let averaged = u64::from(networks.average.is_some());
        let forwards = if pretrains && parts > 1 { 2 } else { 1 } + averaged;
        let groups = u64::from(phase.groups);
        let dim = networks.own.output();
        let rows = if pretrains {
            2 * u64::from(phase.batch)
        } else {
            0
        };
        let (mut gathered, mut summed, mut norms) = (0, 0, 0);
        if networks.whole {
            for channels in networks.own.norms() {
                gathered += forwards * groups * (1 + 2 * channels) * 8;
                summed += groups * 2 * channels * 8;
                norms += 1;
            }
        }
        Self {
            gradients: (2.0 * share * (element * networks.trained()) as f64) as u64,
            embeddings: (share * (element * rows * (dim * (1 + averaged) + FIGURES)) as f64) as u64,
            statistics: (others * gathered as f64 + 2.0 * share * summed as f64) as u64,
            small: norms * parts * (forwards + 1) + if pretrains { 3 + averaged } else { 2 },
        }
    }

    /// Bytes in all.
    pub fn total(&self) -> u64 {
        self.gradients + self.embeddings + self.statistics
    }

    /// Seconds that gradients travel, and the part that no backward pass can hide: the last bucket's.
    pub(super) fn gradient_s(&self, bytes_per_s: f64) -> (f64, f64) {
        let all = self.gradients as f64;
        (all / bytes_per_s, all.min(2.0 * BUCKET) / bytes_per_s)
    }
}
