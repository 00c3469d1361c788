//! Gaussian blur: separable.

/// What lies outside the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Border {
    /// Black: borders darken, as in the official code.
    Zeros,
    /// The view, mirrored at its outermost pixels, as in torchvision.
    Mirror,
}

/// Weights of the blur for views of this size: the kernel is a tenth of the image long, made odd, and sums to 1.
pub fn gaussian_kernel(image_size: usize, sigma: f64) -> Vec<f64> {
    let radius = (image_size / 10 / 2) as i64;
    let weights: Vec<f64> = (-radius..=radius)
        .map(|x| (-((x * x) as f64) / (2.0 * sigma * sigma)).exp())
        .collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

/// Blurs three planes of `side × side`, rows first.
pub(super) fn blur(
    sigma: f64,
    border: Border,
    side: usize,
    scratch: &mut Vec<f32>,
    pixels: &mut [f32],
) {
    let kernel: Vec<f32> = gaussian_kernel(side, sigma)
        .into_iter()
        .map(|weight| weight as f32)
        .collect();
    let radius = kernel.len() / 2;
    for plane in pixels.chunks_exact_mut(side * side) {
        scratch.clear();
        scratch.resize((side + 2 * radius) * side, 0.0);
        // Along rows, into the middle rows of the scratch: its margins stay 0 for the second pass.
        for (row, target) in plane
            .chunks_exact(side)
            .zip(scratch[radius * side..].chunks_exact_mut(side))
        {
            for (tap, &weight) in kernel.iter().enumerate() {
                let from = tap.saturating_sub(radius);
                let to = (side + tap).saturating_sub(radius).min(side);
                if from < to {
                    let first = radius.saturating_sub(tap);
                    for (sum, value) in target[first..].iter_mut().zip(&row[from..to]) {
                        *sum += weight * value;
                    }
                }
            }
            if border == Border::Mirror {
                mirror_ends(&kernel, row, target);
            }
        }
        if border == Border::Mirror {
            // Row −d is row d, and row side − 1 + d is row side − 1 − d. A radius is a twentieth of the side at most.
            for distance in 1..=radius {
                let row = |place: usize| place * side..(place + 1) * side;
                scratch.copy_within(row(radius + distance), (radius - distance) * side);
                let last = radius + side - 1;
                scratch.copy_within(row(last - distance), (last + distance) * side);
            }
        }
        for (y, target) in plane.chunks_exact_mut(side).enumerate() {
            target.fill(0.0);
            for (tap, &weight) in kernel.iter().enumerate() {
                for (sum, value) in target.iter_mut().zip(&scratch[(y + tap) * side..][..side]) {
                    *sum += weight * value;
                }
            }
        }
    }
}

/// Adds to the first and last pixels of a blurred row what the row's mirror images give them.
fn mirror_ends(kernel: &[f32], row: &[f32], target: &mut [f32]) {
    let (radius, last) = (kernel.len() / 2, row.len() - 1);
    for x in 0..radius {
        // The tap at distance x + d to the left reads pixel −d, which is pixel d; the right end likewise.
        for distance in 1..=radius - x {
            let weight = kernel[radius + x + distance];
            target[x] += weight * row[distance];
            target[last - x] += weight * row[last - distance];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_have_the_official_lengths_and_weights() {
        assert_eq!(gaussian_kernel(224, 1.0).len(), 23);
        assert_eq!(gaussian_kernel(96, 0.7).len(), 9);
        let small = gaussian_kernel(32, 0.5);
        for (found, wanted) in
            small
                .iter()
                .zip([0.10650697891920073, 0.7869860421615984, 0.10650697891920073])
        {
            assert!((found - wanted).abs() < 1e-12);
        }
        assert_eq!(gaussian_kernel(8, 1.0), [1.0]);
    }

    #[test]
    fn a_point_becomes_the_kernel_in_both_directions_and_borders_darken() {
        let side = 40;
        let mut pixels = vec![0.0; 3 * side * side];
        pixels[20 * side + 20] = 1.0;
        pixels[side * side..].fill(1.0);
        blur(1.3, Border::Zeros, side, &mut Vec::new(), &mut pixels);
        let kernel = gaussian_kernel(side, 1.3);
        for (dy, row) in kernel.iter().enumerate() {
            for (dx, column) in kernel.iter().enumerate() {
                let found = f64::from(pixels[(18 + dy) * side + 18 + dx]);
                assert!((found - row * column).abs() < 1e-6);
            }
        }
        let white = &pixels[side * side..2 * side * side];
        assert!((white[20 * side + 20] - 1.0).abs() < 1e-5 && white[0] < 0.6);
    }

    #[test]
    fn each_border_is_the_direct_convolution_over_what_lies_outside() {
        let side = 44;
        let image: Vec<f32> = (0..3 * side * side)
            .map(|i| ((i * i * 17 + i * 29) % 101) as f32 / 100.0)
            .collect();
        for (border, sigma) in [
            (Border::Zeros, 0.4),
            (Border::Mirror, 1.9),
            (Border::Mirror, 0.4),
        ] {
            let kernel = gaussian_kernel(side, sigma);
            let radius = (kernel.len() / 2) as i64;
            let inside = |place: i64| match border {
                Border::Zeros => (0..side as i64).contains(&place).then_some(place),
                Border::Mirror => Some((side as i64 - 1) - ((side as i64 - 1) - place.abs()).abs()),
            };
            let mut found = image.clone();
            blur(sigma, border, side, &mut vec![9.0; 7], &mut found);
            for (place, found) in found.iter().enumerate() {
                let (plane, y, x) = (place / (side * side), place / side % side, place % side);
                let mut sum = 0.0;
                for (dy, wy) in (-radius..).zip(&kernel) {
                    for (dx, wx) in (-radius..).zip(&kernel) {
                        if let (Some(y), Some(x)) = (inside(y as i64 + dy), inside(x as i64 + dx)) {
                            let source = (plane * side + y as usize) * side + x as usize;
                            sum += wy * wx * f64::from(image[source]);
                        }
                    }
                }
                assert!(
                    (f64::from(*found) - sum).abs() < 1e-5,
                    "{border:?} at {plane}, {y}, {x}: {found} should be {sum}"
                );
            }
        }
    }
}
