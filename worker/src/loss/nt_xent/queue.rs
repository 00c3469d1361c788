use tch::Tensor;

use super::{All, Anchors, log_sum_exp};
use crate::device::StepError;

/// Anchors of one tile.
const ANCHORS: i64 = 512;

/// The memory's rows, and how exponentials are taken.
pub(super) struct Queue {
    rows: Tensor,
    shifted: bool,
    /// Rows of one tile.
    width: i64,
}

// === impl Queue ===

impl Queue {
    pub(super) fn new(rows: &Tensor, all: &All) -> Result<Self, StepError> {
        let (width, got) = (all.z.size()[1], rows.size());
        if got.len() != 2 || got[1] != width {
            return Err(StepError::Shape {
                what: "rows of the memory",
                expected: format!("rows of {width}"),
                got: format!("{got:?}"),
            });
        }
        Ok(Self {
            rows: rows.f_detach()?.f_to_kind(all.z.kind())?,
            shifted: all.shifted,
            width: all.strip.elements / ANCHORS,
        })
    }

    /// Tiles of anchors and of rows whose product is small: (first anchor, anchors, rows).
    fn tiles(&self, anchors: i64) -> impl Iterator<Item = Result<(i64, i64, Tensor), StepError>> {
        let (total, width) = (self.rows.size()[0], self.width);
        let starts = (0..anchors).step_by(ANCHORS as usize);
        starts.flat_map(move |start| {
            let tile = move |from| -> Result<(i64, i64, Tensor), StepError> {
                let rows = self.rows.f_narrow(0, from, width.min(total - from))?;
                Ok((start, ANCHORS.min(anchors - start), rows))
            };
            (0..total).step_by(width as usize).map(tile)
        })
    }

    /// Adds the rows' exponentials to the lse in column 0.
    pub(super) fn widen(&self, figures: &mut Tensor, anchors: &Anchors) -> Result<(), StepError> {
        let lse = figures.f_select(1, 0)?;
        for tile in self.tiles(anchors.positions.len() as i64) {
            let (start, count, rows) = tile?;
            let s = anchors.against(start, count, &rows)?;
            let mut so_far = lse.f_narrow(0, start, count)?;
            let sum = so_far.f_logaddexp(&log_sum_exp(s, self.shifted)?)?;
            so_far.f_copy_(&sum)?;
        }
        Ok(())
    }

    /// Adds `Σ_k exp(z_i·q_k/τ − lse_i) q_k` to each anchor's sum.
    pub(super) fn repel(
        &self,
        sums: &mut Tensor,
        anchors: &Anchors,
        lse: &Tensor,
    ) -> Result<(), StepError> {
        let own = lse.f_index_select(0, &anchors.here)?.f_unsqueeze(1)?;
        for tile in self.tiles(anchors.positions.len() as i64) {
            let (start, count, rows) = tile?;
            let mut weights = anchors.against(start, count, &rows)?;
            let weights = weights.f_sub_(&own.f_narrow(0, start, count)?)?.f_exp_()?;
            let _ = sums.f_narrow(0, start, count)?.f_addmm_(&weights, &rows)?;
        }
        Ok(())
    }
}
