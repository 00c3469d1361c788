//! NT-Xent over the rows of all ranks (SimCLR v1 §2.1) and its exact gradient, without a graph.
//!
//! With `z = u/‖u‖`, `M = 2N` rows, partner `p(i) = (i + N) mod M`, `s_ij = z_i·z_j/τ`, `s_ii = −∞` and
//! `lse_i = log Σ_j exp s_ij`:
//! `L = (1/M) Σ_i (lse_i − s_{i,p(i)})` and, since S is symmetric,
//! `∂L/∂z_i = 1/(Mτ) · [Σ_j (exp(s_ij − lse_i) + exp(s_ij − lse_j)) z_j − 2 z_{p(i)}]`.
//! So a rank needs everyone's z (one gather) and lse (another), and nobody's gradient. A strip of rows of S is made,
//! used and dropped: memory is O(strip + M·d).
//!
//! Rows q of the memory (SimCLR v2 §2) stand in every anchor's denominator alone, as constants: `lse_i` sums over
//! `exp(z_i·q_k/τ)`, too, and the gradient gains `1/(Mτ) · Σ_k exp(z_i·q_k/τ − lse_i) q_k`.

mod queue; // the memory's rows in the denominator

use diptych_common::spec::NtXentSpec;
use tch::{Device, Kind, Tensor, no_grad};

use crate::collective::Collective;
use crate::device::{StepError, send};
use crate::gather::RowOrder;
use queue::Queue;

/// What one strip of S may be.
#[derive(Debug, Clone, Copy)]
struct StripSize {
    elements: i64,
    rows: i64,
}

/// Unit vectors at this temperature or above need no shift: |s| ≤ 40, so that exp neither overflows nor vanishes.
const NO_SHIFT_TEMPERATURE: f64 = 0.025;
/// Smallest squared norm that is divided by (official code).
const MIN_SQUARED_NORM: f64 = 1e-12;
/// Keeps the logarithm of the entropy finite (official code).
const ENTROPY_EPS: f64 = 1e-8;

/// The loss of one step, on the device: the host has not waited for it.
#[derive(Debug)]
pub struct NtXent {
    /// Gradient of the loss with respect to this rank's rows, in the order and dtype given.
    pub gradient: Tensor,
    /// [`Figures`], `[3]` of f64.
    figures: Tensor,
}

/// What a step is told by; the same on every rank.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// Times `spec.scale`.
    pub loss: f64,
    /// Share of the first views whose most similar second view is their own.
    pub accuracy: f64,
    /// Mean entropy in nats of the first views' softmax over all second views.
    pub entropy: f64,
}

/// This rank's anchors in canonical order, and where they stand.
struct Anchors {
    /// Canonical positions, ascending; on the device too, and those of their partners.
    positions: Vec<i64>,
    here: Tensor,
    partners: Tensor,
    /// Row of `positions[k]` among the rows given, on the device.
    local: Tensor,
    /// Rows / τ.
    scaled: Tensor,
}

/// Rows of S over all columns of the batch.
struct Strip {
    s: Tensor,
    /// How many of its rows are first views; they come first.
    first_views: i64,
}

/// All rows of all ranks.
struct All {
    z: Tensor,
    pairs: i64,
    shifted: bool,
    strip: StripSize,
}

/// `u` holds this rank's rows `[n, d]` in the order that `order` gives them; all ranks call together. `queue` are the
/// memory's unit rows `[k, d]`, the same on every rank.
///
/// # Errors
/// [`StepError::Shape`] where rows do not fit the order, [`StepError::Collective`], [`StepError::Torch`].
pub fn nt_xent(
    u: &Tensor,
    spec: &NtXentSpec,
    order: &RowOrder,
    queue: Option<&Tensor>,
    channel: &dyn Collective,
) -> Result<NtXent, StepError> {
    no_grad(|| {
        let kind = if u.kind() == Kind::Double {
            Kind::Double
        } else {
            Kind::Float
        };
        let unit = Unit::new(&u.f_detach()?.f_to_kind(kind)?, spec.normalize)?;
        let z = order.gather(&unit.z, channel)?;
        let shifted = !spec.normalize || spec.temperature < NO_SHIFT_TEMPERATURE;
        let all = All {
            z,
            pairs: order.total() / 2,
            shifted,
            strip: StripSize::on(u.device()),
        };
        let anchors = Anchors::new(
            &all.z,
            order.of_rank(channel.rank().get() as usize),
            spec.temperature,
        )?;

        let queue = queue
            .filter(|rows| rows.size()[0] > 0)
            .map(|rows| Queue::new(rows, &all))
            .transpose()?;
        let mut own = forward(&all, &anchors)?;
        if let Some(queue) = &queue {
            queue.widen(&mut own, &anchors)?;
        }
        let figures = order.gather(&anchors.restore(&own)?, channel)?;
        let lse = figures.f_select(1, 0)?.f_contiguous()?;
        let (first, second) = (
            all.z.f_narrow(0, 0, all.pairs)?,
            all.z.f_narrow(0, all.pairs, all.pairs)?,
        );
        let positives = (first * second).f_sum(Kind::Double)? / spec.temperature;
        let rows = order.total() as f64;
        let loss = spec.scale * (lse.f_sum(Kind::Double)? - 2.0 * positives) / rows;
        let mut gradient = backward(&all, &anchors, &lse)?;
        if let Some(queue) = &queue {
            queue.repel(&mut gradient, &anchors, &lse)?;
        }
        let gradient = gradient * (spec.scale / (rows * spec.temperature));
        let mean = |column| -> Result<Tensor, StepError> {
            Ok(figures.f_select(1, column)?.f_sum(Kind::Double)? / all.pairs as f64)
        };
        Ok(NtXent {
            gradient: unit
                .gradient(&anchors.restore(&gradient)?)?
                .f_to_kind(u.kind())?,
            figures: Tensor::f_stack(&[loss, mean(1)?, mean(2)?], 0)?,
        })
    })
}

// === impl StripSize ===

impl StripSize {
    /// A CPU works in its cache; on a GPU a launch should be worth its time (docs/plan.md counts both).
    fn on(device: Device) -> Self {
        match device {
            Device::Cuda(_) => Self {
                elements: 1 << 24,
                rows: 1 << 13,
            },
            _ => Self {
                elements: 1 << 20,
                rows: 512,
            },
        }
    }
}

// === impl All ===

impl All {
    /// Runs of so many rows whose strips over all columns are small: (first row, rows).
    fn strips(&self, rows: i64) -> impl Iterator<Item = (i64, i64)> + use<> {
        let columns = self.z.size()[0].max(1);
        let step = (self.strip.elements / columns).clamp(1, self.strip.rows);
        (0..rows)
            .step_by(step as usize)
            .map(move |start| (start, step.min(rows - start)))
    }
}

// === impl NtXent ===

impl NtXent {
    /// Waits for the device.
    ///
    /// # Errors
    /// [`StepError::NonFinite`] for a loss that is not a number, [`StepError::Torch`].
    pub fn figures(&self) -> Result<Figures, StepError> {
        let mut figures = [0.0f64; 3];
        self.figures
            .f_to_device(Device::Cpu)?
            .f_copy_data(&mut figures, 3)?;
        let [loss, accuracy, entropy] = figures;
        if !loss.is_finite() {
            return Err(StepError::NonFinite {
                tensor: "loss".to_owned(),
            });
        }
        Ok(Figures {
            loss,
            accuracy,
            entropy,
        })
    }
}

/// Rows brought to unit length.
pub(crate) fn unit_rows(u: &Tensor) -> Result<Tensor, StepError> {
    Ok(Unit::new(u, true)?.z)
}

/// Per anchor: its lse, and for first views whether the positive wins, and the entropy.
fn forward(all: &All, anchors: &Anchors) -> Result<Tensor, StepError> {
    let kind = all.z.kind();
    let mut figures = Vec::new();
    for (start, rows) in all.strips(anchors.positions.len() as i64) {
        let Strip { s, first_views } = anchors.strip(all, start, rows)?;
        let mut metrics = vec![Tensor::f_zeros(
            [2, rows - first_views],
            (kind, s.device()),
        )?];
        let second_views = s
            .f_narrow(0, 0, first_views)?
            .f_narrow(1, all.pairs, all.pairs)?;
        let (correct, best) = if first_views > 0 {
            let own = anchors.here.f_narrow(0, start, first_views)?;
            let positive = second_views
                .f_gather(1, &own.f_unsqueeze(1)?, false)?
                .f_squeeze_dim(1)?;
            let best = second_views.f_amax([1i64].as_slice(), false)?;
            (
                Some(positive.f_ge_tensor(&best)?.f_to_kind(kind)?),
                Some(best),
            )
        } else {
            (None, None)
        };
        let softmax = match &best {
            Some(best) if all.shifted => Some((&second_views - best.f_unsqueeze(1)?).f_exp_()?),
            _ => None,
        };
        // From here on `s` and its part `second_views` hold exponentials.
        let lse = log_sum_exp(s, all.shifted)?;
        if let Some(correct) = correct {
            let entropy = entropy(&softmax.unwrap_or(second_views))?;
            metrics.insert(0, Tensor::f_stack(&[correct, entropy], 0)?);
        }
        let metrics = Tensor::f_cat(&metrics, 1)?;
        figures.push(Tensor::f_cat(&[lse.f_unsqueeze(0)?, metrics], 0)?);
    }
    if figures.is_empty() {
        return Ok(Tensor::f_zeros([0, 3], (kind, all.z.device()))?);
    }
    Ok(Tensor::f_cat(&figures, 1)?
        .f_transpose(0, 1)?
        .f_contiguous()?)
}

/// `log Σ exp s` per row; leaves the exponentials in `s`, each divided by its row's largest if `shifted`.
fn log_sum_exp(mut s: Tensor, shifted: bool) -> Result<Tensor, StepError> {
    let shift = shifted
        .then(|| s.f_amax([1i64].as_slice(), true))
        .transpose()?;
    if let Some(shift) = &shift {
        let _ = s.f_sub_(shift)?;
    }
    let kind = s.kind();
    let mut lse = s
        .f_exp_()?
        .f_sum_dim_intlist([1i64].as_slice(), false, kind)?
        .f_log_()?;
    if let Some(shift) = shift {
        let _ = lse.f_add_(&shift.f_squeeze_dim(1)?)?;
    }
    Ok(lse)
}

/// `−Σ p ln(p + ε)` per row, `p` proportional to the given weights.
fn entropy(weights: &Tensor) -> Result<Tensor, StepError> {
    let total = weights.f_sum_dim_intlist([1i64].as_slice(), true, weights.kind())?;
    let p = weights / total;
    let log = (&p + ENTROPY_EPS).f_log_()?;
    Ok((p * log)
        .f_sum_dim_intlist([1i64].as_slice(), false, weights.kind())?
        .f_neg()?)
}

/// `Σ_j (P_ij + P_ji) z_j − 2 z_{p(i)}` per anchor.
fn backward(all: &All, anchors: &Anchors, lse: &Tensor) -> Result<Tensor, StepError> {
    let sums = all
        .z
        .f_empty_like()?
        .f_narrow(0, 0, anchors.positions.len() as i64)?;
    let of_anchors = lse.f_index_select(0, &anchors.here)?.f_unsqueeze(1)?;
    let (row_weight, column_weight) = (of_anchors.f_neg()?.f_exp_()?, lse.f_neg()?.f_exp_()?);
    for (start, count) in all.strips(anchors.positions.len() as i64) {
        let Strip { mut s, .. } = anchors.strip(all, start, count)?;
        let mut weights = if all.shifted {
            let by_column = (&s - lse).f_exp_()?;
            let by_row = s.f_sub_(&of_anchors.f_narrow(0, start, count)?)?.f_exp_()?;
            by_row + by_column
        } else {
            s.f_exp_()?
                .f_mul_(&(row_weight.f_narrow(0, start, count)? + &column_weight))?
        };
        // Before the product: where the positive wins, its weight nearly cancels.
        let partners = anchors.partners.f_narrow(0, start, count)?.f_unsqueeze(1)?;
        let twice = Tensor::f_full([count, 1], -2.0, (weights.kind(), weights.device()))?;
        let _ = weights.f_scatter_add_(1, &partners, &twice)?;
        let _ = weights.f_mm_out(&sums.f_narrow(0, start, count)?, &all.z)?;
    }
    Ok(sums)
}

/// Rows brought to unit length, or left alone.
struct Unit {
    z: Tensor,
    /// 1/‖u‖, and where that was clamped.
    inverse: Option<(Tensor, Tensor)>,
}

// === impl Unit ===

impl Unit {
    fn new(u: &Tensor, normalize: bool) -> Result<Self, StepError> {
        if !normalize {
            return Ok(Self {
                z: u.shallow_clone(),
                inverse: None,
            });
        }
        let squared = (u * u).f_sum_dim_intlist([1i64].as_slice(), true, u.kind())?;
        let clamped = squared.f_lt(MIN_SQUARED_NORM)?;
        let inverse = squared.f_clamp_min(MIN_SQUARED_NORM)?.f_rsqrt_()?;
        Ok(Self {
            z: u * &inverse,
            inverse: Some((inverse, clamped)),
        })
    }

    /// Gradient with respect to u from that with respect to z: `(g − (g·z) z)/‖u‖`.
    fn gradient(&self, g: &Tensor) -> Result<Tensor, StepError> {
        let Some((inverse, clamped)) = &self.inverse else {
            return Ok(g.shallow_clone());
        };
        let along = (g * &self.z)
            .f_sum_dim_intlist([1i64].as_slice(), true, g.kind())?
            .f_masked_fill(clamped, 0.0)?;
        Ok((g - along * &self.z) * inverse)
    }
}

// === impl Anchors ===

impl Anchors {
    fn new(z: &Tensor, canonical: &[i64], temperature: f64) -> Result<Self, StepError> {
        let mut pairs: Vec<(i64, i64)> = canonical.iter().copied().zip(0..).collect();
        pairs.sort_unstable();
        let (positions, local): (Vec<i64>, Vec<i64>) = pairs.into_iter().unzip();
        let (rows, device) = (z.size()[0], z.device());
        let here = send(&Tensor::f_from_slice(&positions)?, device)?;
        let scaled = z.f_index_select(0, &here)? / temperature;
        Ok(Self {
            partners: here.f_add_scalar(rows / 2)?.f_remainder(rows)?,
            local: send(&Tensor::f_from_slice(&local)?, device)?,
            positions,
            here,
            scaled,
        })
    }

    /// `z·x/τ` of anchors `start..start + count` and every row x.
    fn against(&self, start: i64, count: i64, rows: &Tensor) -> Result<Tensor, StepError> {
        Ok(self
            .scaled
            .f_narrow(0, start, count)?
            .f_mm(&rows.f_transpose(0, 1)?)?)
    }

    /// Rows `start..start + rows` of S, with −∞ on the diagonal.
    fn strip(&self, all: &All, start: i64, rows: i64) -> Result<Strip, StepError> {
        let own = &self.positions[start as usize..(start + rows) as usize];
        let mut s = self.against(start, rows, &all.z)?;
        let diagonal = self.here.f_narrow(0, start, rows)?.f_unsqueeze(1)?;
        let _ = s.f_scatter_value_(1, &diagonal, f64::NEG_INFINITY)?;
        let first_views = own.partition_point(|&position| position < all.pairs) as i64;
        Ok(Strip { s, first_views })
    }

    /// Rows in the order of anchors to the order given.
    fn restore(&self, rows: &Tensor) -> Result<Tensor, StepError> {
        Ok(rows.f_empty_like()?.f_index_copy(0, &self.local, rows)?)
    }
}

#[cfg(test)]
mod tests;
