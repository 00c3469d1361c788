//! Losses on logits, as sums over rows: a step divides by the number of rows of all ranks, so that the sum over
//! micro-batches and ranks is the global mean.

use tch::{Kind, Tensor};

use crate::device::StepError;

/// `Σ −log softmax(logits)[label]` over `[n, classes]` logits and `[n]` i64 labels; rows without one (−1) do not count.
///
/// # Errors
/// [`StepError::Torch`], for example for a label outside the classes.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Tensor, StepError> {
    let labels = labels.f_unsqueeze(1)?;
    let picked = logits
        .f_log_softmax(-1, None::<Kind>)?
        .f_gather(1, &labels.f_clamp_min(0)?, false)?
        .f_masked_fill(&labels.f_lt(0)?, 0.0)?;
    Ok(picked.f_sum(None::<Kind>)?.f_neg()?)
}

/// `Σ −Σ_y P_T(y; τ) log P_S(y; τ)`, with softened outputs `softmax(logits / τ)` of a fixed teacher and the student
/// (SimCLR v2 equation 2; no τ² factor).
///
/// # Errors
/// [`StepError::Torch`].
pub fn distillation(
    student: &Tensor,
    teacher: &Tensor,
    temperature: f64,
) -> Result<Tensor, StepError> {
    let targets = (teacher.f_detach()? / temperature).f_softmax(-1, None::<Kind>)?;
    let log_student = (student / temperature).f_log_softmax(-1, None::<Kind>)?;
    Ok((targets * log_student).f_sum(None::<Kind>)?.f_neg()?)
}

/// How many rows have their label among their `k` largest logits (all that have one where there are at most `k` classes): a
/// number of f64 on the device.
///
/// # Errors
/// [`StepError::Torch`].
pub fn hits(logits: &Tensor, labels: &Tensor, k: u32) -> Result<Tensor, StepError> {
    let k = i64::from(k).min(logits.size()[1]);
    let (_, best) = logits.f_detach()?.f_topk(k, 1, true, false)?;
    Ok(best
        .f_eq_tensor(&labels.f_unsqueeze(1)?)?
        .f_sum(Kind::Double)?)
}
