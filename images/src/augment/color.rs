//! Colour operations on planar floats. Values are clipped to [0, 1] after each.

use super::ColorOp;

/// Weights of red, green and blue in brightness (ITU-R BT.601, as TensorFlow).
const LUMA: [f32; 3] = [0.2989, 0.5870, 0.1140];

/// Red, green and blue planes of equal length.
struct Planes<'a>(&'a mut [f32], &'a mut [f32], &'a mut [f32]);

fn planes(pixels: &mut [f32]) -> Planes<'_> {
    let length = pixels.len() / 3;
    let (red, rest) = pixels.split_at_mut(length);
    let (green, blue) = rest.split_at_mut(length);
    Planes(red, green, blue)
}

/// Clips to [0, 1].
pub(super) fn clip(pixels: &mut [f32]) {
    for value in pixels {
        *value = value.clamp(0.0, 1.0);
    }
}

/// Applies one operation and clips.
pub(super) fn apply(op: ColorOp, pixels: &mut [f32]) {
    match op {
        ColorOp::Brightness(factor) => {
            for value in pixels {
                *value = (*value * factor).clamp(0.0, 1.0);
            }
        }
        ColorOp::Shift(difference) => {
            for value in pixels {
                *value = (*value + difference).clamp(0.0, 1.0);
            }
        }
        ColorOp::Contrast(factor) => contrast(factor, pixels),
        ColorOp::Saturation(factor) => saturation(factor, pixels),
        ColorOp::Hue(turn) => hue(turn, pixels),
        ColorOp::GrayContrast(factor) => gray_contrast(factor, pixels),
        ColorOp::GraySaturation(factor) => gray_saturation(factor, pixels),
    }
}

fn contrast(factor: f32, pixels: &mut [f32]) {
    let length = pixels.len() / 3;
    for plane in pixels.chunks_exact_mut(length.max(1)) {
        let mean = plane.iter().map(|&value| f64::from(value)).sum::<f64>() / length as f64;
        let shift = (mean * f64::from(1.0 - factor)) as f32;
        for value in plane {
            *value = (*value * factor + shift).clamp(0.0, 1.0);
        }
    }
}

/// Scaling S in HSV moves every channel along the line to the largest one: `c' = V − (V − c) · S'/S`.
fn saturation(factor: f32, pixels: &mut [f32]) {
    let Planes(red, green, blue) = planes(pixels);
    for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
        // The conversion to HSV is defined on [0, 1].
        let (cr, cg, cb) = (r.clamp(0.0, 1.0), g.clamp(0.0, 1.0), b.clamp(0.0, 1.0));
        let value = cr.max(cg).max(cb);
        let range = value - cr.min(cg).min(cb);
        // S = range / V; S' = min(S · factor, 1).
        let ratio = if range * factor > value {
            value / range
        } else {
            factor
        };
        *r = (value - (value - cr) * ratio).clamp(0.0, 1.0);
        *g = (value - (value - cg) * ratio).clamp(0.0, 1.0);
        *b = (value - (value - cb) * ratio).clamp(0.0, 1.0);
    }
}

fn hue(turn: f32, pixels: &mut [f32]) {
    let Planes(red, green, blue) = planes(pixels);
    for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
        let (cr, cg, cb) = (r.clamp(0.0, 1.0), g.clamp(0.0, 1.0), b.clamp(0.0, 1.0));
        let value = cr.max(cg).max(cb);
        let range = value - cr.min(cg).min(cb);
        if range <= 0.0 {
            (*r, *g, *b) = (cr, cg, cb);
            continue;
        }
        // Hue in sixths of the circle.
        let sixth = if value == cr {
            (cg - cb) / range
        } else if value == cg {
            (cb - cr) / range + 2.0
        } else {
            (cr - cg) / range + 4.0
        };
        let turned = (sixth + 6.0 * turn).rem_euclid(6.0);
        let channel = |n: f32| {
            let k = n + turned;
            let k = if k >= 6.0 { k - 6.0 } else { k };
            value - range * k.min(4.0 - k).clamp(0.0, 1.0)
        };
        (*r, *g, *b) = (channel(5.0), channel(3.0), channel(1.0));
    }
}

fn gray(red: f32, green: f32, blue: f32) -> f32 {
    LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
}

/// Copies the brightness to all channels.
pub(super) fn grayscale(pixels: &mut [f32]) {
    let Planes(red, green, blue) = planes(pixels);
    for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
        let gray = gray(*r, *g, *b);
        (*r, *g, *b) = (gray, gray, gray);
    }
}

fn gray_contrast(factor: f32, pixels: &mut [f32]) {
    let Planes(red, green, blue) = planes(pixels);
    let length = red.len().max(1);
    let sum: f64 = red
        .iter()
        .zip(green.iter())
        .zip(blue.iter())
        .map(|((&r, &g), &b)| f64::from(gray(r, g, b)))
        .sum();
    let shift = (sum / length as f64 * f64::from(1.0 - factor)) as f32;
    for value in pixels {
        *value = (*value * factor + shift).clamp(0.0, 1.0);
    }
}

fn gray_saturation(factor: f32, pixels: &mut [f32]) {
    let Planes(red, green, blue) = planes(pixels);
    for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
        let shift = gray(*r, *g, *b) * (1.0 - factor);
        for value in [r, g, b] {
            *value = (*value * factor + shift).clamp(0.0, 1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(op: ColorOp, rgb: [f32; 3]) -> [f32; 3] {
        let mut pixel = rgb;
        apply(op, &mut pixel);
        pixel
    }

    fn near(found: [f32; 3], wanted: [f32; 3]) {
        assert!(
            found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-5),
            "{found:?} should be {wanted:?}"
        );
    }

    #[test]
    fn hue_turns_the_circle() {
        let red = [0.9, 0.1, 0.1];
        near(one(ColorOp::Hue(1.0 / 3.0), red), [0.1, 0.9, 0.1]);
        near(one(ColorOp::Hue(-1.0 / 3.0), red), [0.1, 0.1, 0.9]);
        near(one(ColorOp::Hue(0.0), [0.3, 0.2, 0.7]), [0.3, 0.2, 0.7]);
        near(one(ColorOp::Hue(0.2), [0.4, 0.4, 0.4]), [0.4, 0.4, 0.4]);
        near(one(ColorOp::Hue(1.0 / 6.0), red), [0.9, 0.9, 0.1]);
    }

    #[test]
    fn saturation_keeps_value_and_hue() {
        near(
            one(ColorOp::Saturation(0.5), [0.8, 0.4, 0.2]),
            [0.8, 0.6, 0.5],
        );
        near(
            one(ColorOp::Saturation(0.0), [0.8, 0.4, 0.2]),
            [0.8, 0.8, 0.8],
        );
        // S = 0.75 · 1.8 is clipped to 1: the smallest channel becomes 0.
        near(
            one(ColorOp::Saturation(1.8), [0.8, 0.4, 0.2]),
            [0.8, 0.8 - 0.4 / 0.75, 0.0],
        );
    }

    #[test]
    fn brightness_and_contrast_clip() {
        near(
            one(ColorOp::Brightness(1.5), [0.2, 0.5, 0.9]),
            [0.3, 0.75, 1.0],
        );
        let mut pixels = [0.2, 0.4, 0.0, 1.0, 0.5, 0.5];
        apply(ColorOp::Contrast(1.5), &mut pixels);
        let wanted = [0.15, 0.45, 0.0, 1.0, 0.5, 0.5];
        assert!(
            pixels
                .iter()
                .zip(wanted)
                .all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-6),
            "{pixels:?}"
        );
    }

    #[test]
    fn gray_is_bt601() {
        let mut pixel = [1.0, 0.5, 0.25];
        grayscale(&mut pixel);
        near(pixel, [0.2989 + 0.2935 + 0.0285; 3]);
    }
}
