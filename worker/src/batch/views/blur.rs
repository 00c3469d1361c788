use diptych_images::augment::gaussian_kernel;
use tch::{Kind, TchError, Tensor};

use super::color::on_rows;

/// What lies outside the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Border {
    /// Black.
    Zeros,
    /// The view, mirrored at its outermost pixels.
    Mirror,
}

/// Blurs each view `[n, 3, S, S]` that has a sigma, and clips it: along each axis one product with a band matrix.
pub(super) fn apply(
    views: &mut Tensor,
    sigmas: impl Iterator<Item = Option<f64>>,
    border: Border,
) -> Result<(), TchError> {
    let (rows, sigmas): (Vec<i64>, Vec<f64>) = (0..)
        .zip(sigmas)
        .filter_map(|(row, sigma)| Some((row, sigma?)))
        .unzip();
    let side = views.size()[3];
    on_rows(views, &rows, |x| {
        let bands = bands(&sigmas, side, border)?.f_to_device(x.device())?;
        let across = x.f_matmul(&bands.f_transpose(2, 3)?)?;
        bands.f_matmul(&across)?.f_clamp(0.0, 1.0)
    })
}

/// `[n, 1, S, S]`: row p holds the weights of the pixels that make pixel p.
fn bands(sigmas: &[f64], side: i64, border: Border) -> Result<Tensor, TchError> {
    let kernels: Vec<f32> = sigmas
        .iter()
        .flat_map(|&sigma| gaussian_kernel(side as usize, sigma))
        .map(|weight| weight as f32)
        .collect();
    let (n, taps) = (
        sigmas.len() as i64,
        (kernels.len() / sigmas.len().max(1)) as i64,
    );
    let radius = taps / 2;
    let (mut places, mut inside) = (Vec::new(), Vec::new());
    for pixel in 0..side {
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
    let shape = [n, side, taps];
    let index = Tensor::f_from_slice(&places)?.f_view([1, side, taps])?;
    let weight = Tensor::f_from_slice(&kernels)?.f_view([n, 1, taps])?
        * Tensor::f_from_slice(&inside)?.f_view([1, side, taps])?;
    let mut bands = Tensor::f_zeros([n, side, side], (Kind::Float, weight.device()))?;
    let index = index.f_expand(shape, false)?;
    bands.f_scatter_add_(2, &index, &weight)?.f_unsqueeze(1)
}
