use diptych_common::spec::{Implementation, Resampling};
use tch::{Device, Kind, TchError, Tensor, no_grad};

use super::blur::{self, Border};
use super::color;
use super::crops::{Chunk, Crops};

// === impl Crops ===

impl Crops {
    /// The views, `[rows, 3, side, side]` of f32 in [0, 1], on the device: crop, resize, flip, colours, gray, blur, clip.
    ///
    /// # Errors
    /// Out of memory.
    pub fn render(&self, device: Device) -> Result<Tensor, TchError> {
        let side = i64::from(self.spec.image_size);
        let shape = [self.rows as i64, 3, side, side];
        no_grad(|| {
            let mut views = Tensor::f_empty(shape, (Kind::Float, device))?;
            for chunk in &self.chunks {
                let made = self.chunk(chunk, device)?;
                let _ = views.f_index_copy_(0, &chunk.places.f_to_device(device)?, &made)?;
            }
            Ok(views)
        })
    }

    fn chunk(&self, chunk: &Chunk, device: Device) -> Result<Tensor, TchError> {
        let mut views = resized(chunk, device)?;
        // As on the host: torchvision clips a bicubic overshoot here, the official code after colours only.
        if self.spec.resampling() == Resampling::AntialiasedBicubic {
            let _ = views.f_clamp_(0.0, 1.0)?;
        }
        color::apply(&mut views, &chunk.params)?;
        let _ = views.f_clamp_(0.0, 1.0)?;
        let border = match self.spec.implementation {
            Implementation::Official { .. } => Border::Zeros,
            Implementation::Torchvision { .. } => Border::Mirror,
        };
        let sigmas = chunk.params.iter().map(|params| params.blur);
        blur::apply(&mut views, sigmas, border)?;
        Ok(views)
    }
}

/// `[n, 3, side, side]`: along each axis one product with a matrix of weights.
fn resized(chunk: &Chunk, device: Device) -> Result<Tensor, TchError> {
    let size = chunk.pixels.size();
    let (n, height, width) = (size[0], size[1], size[2]);
    let pixels = chunk
        .pixels
        .f_to_device_(device, Kind::Uint8, true, false)?
        .f_to_kind(Kind::Float)?
        .f_view([n, height, 3 * width])?;
    let rows = chunk.vertical.matrices(device)?.f_bmm(&pixels)?;
    let side = rows.size()[1];
    // Interleaved to planes, now that there are fewer rows.
    let planes = rows
        .f_view([n, side, width, 3])?
        .f_permute([0, 3, 1, 2])?
        .f_reshape([n, 3 * side, width])?;
    let columns = chunk.horizontal.matrices(device)?.f_transpose(1, 2)?;
    (planes.f_bmm(&columns)? * (1.0 / 255.0)).f_view([n, 3, side, side])
}
