//! The rows of all ranks, in one canonical order.
//!
//! Ranks hold their rows as `[group][view][lane, j]`. The loss is computed in the order `[view][position]`, which does
//! not depend on the number of ranks: row i of the first view has its partner at i + N.

use diptych_common::ids::Rank;
use tch::Tensor;

use crate::batch::Layout;
use crate::collective::Collective;
use crate::device::{StepError, send};

/// Who holds which row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowOrder {
    rows_per_rank: Vec<i64>,
    /// Canonical position of each row of the ranks' concatenation.
    canonical: Vec<i64>,
}

// === impl RowOrder ===

impl RowOrder {
    /// `canonical[k]` is the canonical position of the k-th row of all ranks' rows, one rank after the other.
    ///
    /// # Errors
    /// [`StepError::Shape`] where it is no permutation of an even, positive number of rows.
    pub fn new(rows_per_rank: Vec<i64>, canonical: Vec<i64>) -> Result<Self, StepError> {
        let total: i64 = rows_per_rank.iter().sum();
        let mut seen = vec![false; canonical.len()];
        let mut mark = |&position: &i64| {
            let slot = usize::try_from(position)
                .ok()
                .and_then(|position| seen.get_mut(position));
            slot.is_some_and(|slot| !std::mem::replace(slot, true))
        };
        let fits = rows_per_rank.iter().all(|&rows| rows >= 0)
            && total == canonical.len() as i64
            && total > 0
            && total % 2 == 0
            && canonical.iter().all(&mut mark);
        if !fits {
            return Err(StepError::Shape {
                what: "order of rows",
                expected: format!(
                    "a permutation of the {total} rows of {} ranks, an even number",
                    rows_per_rank.len()
                ),
                got: format!("{} positions", canonical.len()),
            });
        }
        Ok(Self {
            rows_per_rank,
            canonical,
        })
    }

    /// The rows of both views of a step.
    ///
    /// # Errors
    /// [`StepError::Shape`], which a valid layout does not give.
    pub fn of_step(layout: &Layout) -> Result<Self, StepError> {
        let ranks = (0..layout.world()).map(Rank::new);
        let canonical = ranks
            .flat_map(|rank| layout.canonical_rows(rank, 2))
            .collect();
        Self::new(layout.rows_per_rank(2), canonical)
    }

    /// One rank that holds `rows` rows in canonical order.
    ///
    /// # Errors
    /// [`StepError::Shape`] where `rows` is not even and positive.
    pub fn single(rows: i64) -> Result<Self, StepError> {
        Self::new(vec![rows], (0..rows).collect())
    }

    /// M, the rows of all ranks.
    pub fn total(&self) -> i64 {
        self.canonical.len() as i64
    }

    /// Canonical positions of a rank's rows, in the order it holds them.
    pub fn of_rank(&self, rank: usize) -> &[i64] {
        let start: i64 = self.rows_per_rank.iter().take(rank).sum();
        let rows = self.rows_per_rank.get(rank).copied().unwrap_or(0);
        &self.canonical[start as usize..(start + rows) as usize]
    }

    /// Every rank's rows in canonical order.
    ///
    /// # Errors
    /// [`StepError::Shape`] where the local rows are not this rank's share; [`StepError::Collective`].
    pub fn gather(&self, local: &Tensor, channel: &dyn Collective) -> Result<Tensor, StepError> {
        let rank = channel.rank().get() as usize;
        let share = self.rows_per_rank.get(rank).copied();
        if share != Some(local.size()[0]) || self.rows_per_rank.len() != channel.world() {
            return Err(StepError::Shape {
                what: "rows of this rank",
                expected: format!("{share:?} of {} ranks", self.rows_per_rank.len()),
                got: format!("{} of {} ranks", local.size()[0], channel.world()),
            });
        }
        let rows = channel.all_gather(&local.f_contiguous()?, &self.rows_per_rank)?;
        if self.canonical.iter().copied().eq(0..self.total()) {
            return Ok(rows);
        }
        let positions = send(&Tensor::f_from_slice(&self.canonical)?, rows.device())?;
        Ok(rows.f_empty_like()?.f_index_copy(0, &positions, &rows)?)
    }
}
