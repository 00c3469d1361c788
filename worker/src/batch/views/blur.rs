use diptych_images::augment::gaussian_kernel;
use tch::{Kind, TchError, Tensor};

use super::color::on_rows;
use super::tables::{Indices, Lists, Numbers, Tables};

/// What lies outside the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Border {
    /// Black.
    Zeros,
    /// The view, mirrored at its outermost pixels.
    Mirror,
}

/// The views that are blurred, each with its own Gaussian.
#[derive(Debug)]
pub(super) struct Blur {
    rows: Indices,
    /// `[rows, taps]`.
    kernels: Numbers,
    taps: i64,
    /// The pixels that make each pixel along an axis, `[side, taps]`, and whether they count.
    places: Indices,
    inside: Numbers,
}

impl Blur {
    /// Of views with a sigma, in pixels, or none.
    pub(super) fn of(
        side: usize,
        sigmas: impl Iterator<Item = Option<f64>>,
        border: Border,
        lists: &mut Lists,
    ) -> Self {
        let (rows, kernels): (Vec<i64>, Vec<Vec<f64>>) = (0..)
            .zip(sigmas)
            .filter_map(|(row, sigma)| Some((row, gaussian_kernel(side, sigma?))))
            .unzip();
        let taps = kernels.first().map_or(0, Vec::len) as i64;
        let (radius, side) = (taps / 2, side as i64);
        let (mut places, mut inside) = (Vec::new(), Vec::new());
        for pixel in 0..if taps == 0 { 0 } else { side } {
            for place in pixel - radius..=pixel + radius {
                let is_inside = (0..side).contains(&place);
                inside.push(f32::from(u8::from(is_inside || border == Border::Mirror)));
                places.push(match place {
                    _ if is_inside => place,
                    _ if border == Border::Zeros => 0,
                    below if below < 0 => -below,
                    above => 2 * (side - 1) - above,
                });
            }
        }
        let weights = kernels.into_iter().flatten().map(|weight| weight as f32);
        Self {
            rows: lists.indices(rows),
            kernels: lists.numbers(weights),
            taps,
            places: lists.indices(places),
            inside: lists.numbers(inside),
        }
    }

    /// Blurs and clips views `[n, 3, S, S]`: along each axis one product with a band matrix.
    pub(super) fn apply(&self, views: &mut Tensor, tables: &Tables) -> Result<(), TchError> {
        let side = views.size()[3];
        on_rows(views, (self.rows, tables), |x| {
            let bands = self.bands(side, tables)?;
            let across = x.f_matmul(&bands.f_transpose(2, 3)?)?;
            bands.f_matmul(&across)?.f_clamp(0.0, 1.0)
        })
    }

    /// `[n, 1, S, S]`: row p holds the weights of the pixels that make pixel p.
    fn bands(&self, side: i64, tables: &Tables) -> Result<Tensor, TchError> {
        let index = tables.indices(self.places, &[1, side, self.taps])?;
        let weight = tables
            .numbers(self.kernels, &[-1, 1, self.taps])?
            .f_mul(&tables.numbers(self.inside, &[1, side, self.taps])?)?;
        let n = weight.size()[0];
        let mut bands = Tensor::f_zeros([n, side, side], (Kind::Float, weight.device()))?;
        let index = index.f_expand([n, side, self.taps], false)?;
        bands.f_scatter_add_(2, &index, &weight)?.f_unsqueeze(1)
    }
}
