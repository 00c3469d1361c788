use diptych_common::spec::Resampling;
use tch::{Device, Kind, TchError, Tensor, no_grad};

use super::crops::{Chunk, Crops};
use super::tables::Tables;

// === impl Crops ===

impl Crops {
    /// The views, `[rows, 3, side, side]` of f32 in [0, 1], on the device: crop, resize, flip, colours, gray, blur, clip.
    /// From pinned memory the host does not wait. Crops of resident images become views on their device only.
    ///
    /// # Errors
    /// Out of memory.
    pub fn render(&self, device: Device) -> Result<Tensor, TchError> {
        let side = i64::from(self.spec.image_size);
        let shape = [self.rows as i64, 3, side, side];
        no_grad(|| {
            let (pool, tables) = (self.pool.on(device)?, self.tables.on(device)?);
            let mut views = Tensor::f_empty(shape, (Kind::Float, device))?;
            for chunk in &self.chunks {
                let made = self.chunk(chunk, &pool, &tables)?;
                let _ = views.f_index_copy_(0, &tables.indices(chunk.rows, &[-1])?, &made)?;
            }
            Ok(views)
        })
    }

    fn chunk(&self, chunk: &Chunk, pool: &Tensor, tables: &Tables) -> Result<Tensor, TchError> {
        let mut views = resized(chunk, pool, tables)?;
        // As on the host: torchvision clips a bicubic overshoot here, the official code after colours only.
        if self.spec.resampling() == Resampling::AntialiasedBicubic {
            let _ = views.f_clamp_(0.0, 1.0)?;
        }
        chunk.colors.apply(&mut views, tables)?;
        let _ = views.f_clamp_(0.0, 1.0)?;
        chunk.blur.apply(&mut views, tables)?;
        Ok(views)
    }
}

/// The crops as `[n, height, 3 · width]` of bytes. What lies beyond a smaller one are other pixels of the pool: no view
/// takes anything of them.
fn frames(chunk: &Chunk, pool: &Tensor, tables: &Tables) -> Result<Tensor, TchError> {
    let steps = |length: i64, shape: [i64; 3]| {
        Tensor::f_arange(length, (Kind::Int64, pool.device()))?.f_view(shape)
    };
    let down = tables
        .indices(chunk.stride, &[-1, 1, 1])?
        .f_mul(&steps(chunk.height, [1, -1, 1])?)?;
    let place = tables
        .indices(chunk.first, &[-1, 1, 1])?
        .f_add(&down)?
        .f_add(&steps(chunk.width, [1, 1, -1])?)?
        .f_clamp_max(pool.size()[0] - 1)?;
    pool.f_index_select(0, &place.f_view([-1])?)?
        .f_view([-1, chunk.height, 3 * chunk.width])
}

/// `[n, 3, side, side]`: along each axis one product with a matrix of weights.
fn resized(chunk: &Chunk, pool: &Tensor, tables: &Tables) -> Result<Tensor, TchError> {
    let pixels = frames(chunk, pool, tables)?.f_to_kind(Kind::Float)?;
    let rows = chunk.vertical.matrices(tables)?.f_bmm(&pixels)?;
    let (n, side) = (rows.size()[0], rows.size()[1]);
    // Interleaved to planes, now that there are fewer rows.
    let planes = rows
        .f_view([n, side, chunk.width, 3])?
        .f_permute([0, 3, 1, 2])?
        .f_reshape([n, 3 * side, chunk.width])?;
    let columns = chunk.horizontal.matrices(tables)?.f_transpose(1, 2)?;
    (planes.f_bmm(&columns)? * (1.0 / 255.0)).f_view([n, 3, side, side])
}
