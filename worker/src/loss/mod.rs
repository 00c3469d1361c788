//! NT-Xent in closed form, cross-entropy, distillation.

mod nt_xent; // the contrastive loss and its gradient, over all ranks
mod supervised; // losses on logits, as sums over rows

pub(crate) use nt_xent::unit_rows;
pub use nt_xent::{Figures, NtXent, nt_xent};
pub use supervised::{cross_entropy, distillation, hits};
