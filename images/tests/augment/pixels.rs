//! Colour operations against formulas written out plainly, in 64 bits.

use diptych_common::spec::AugmentSpec;
use diptych_images::augment::{ColorOp, CropBox, Scratch, ViewParams, render};
use diptych_images::decode::Image;

use super::{OFFICIAL, TORCHVISION};

const SIDE: usize = 18;

fn image() -> Image {
    let pixels = (0..3 * SIDE * SIDE)
        .map(|i| match i / 3 % 11 {
            // Gray, black, white and two equal channels among the rest.
            0 => 77,
            1 => 0,
            2 => 255,
            3 if i % 3 < 2 => 200,
            _ => (i * i * 13 + i * 71) as u8,
        })
        .collect();
    Image {
        width: SIDE,
        height: SIDE,
        pixels,
    }
}

/// The view that one operation makes of the whole image, pixel by pixel.
fn after(op: Option<ColorOp>, gray: bool) -> Vec<[f64; 3]> {
    let params = ViewParams {
        crop: CropBox {
            height: SIDE,
            width: SIDE,
            top: 0,
            left: 0,
        },
        flip: false,
        color: op.into_iter().collect(),
        gray,
        blur: None,
    };
    let mut outs = [OFFICIAL, TORCHVISION].map(|implementation| {
        let spec = AugmentSpec {
            implementation,
            ..AugmentSpec::plain(SIDE as u32)
        };
        let mut out = vec![0.0; 3 * SIDE * SIDE];
        render(&image(), &spec, &params, &mut Scratch::default(), &mut out);
        out
    });
    assert_eq!(outs[0], outs[1], "an operation is the same for everybody");
    let out = std::mem::take(&mut outs[0]);
    let channel = |channel: usize, place: usize| f64::from(out[channel * SIDE * SIDE + place]);
    (0..SIDE * SIDE)
        .map(|place| [0, 1, 2].map(|index| channel(index, place)))
        .collect()
}

fn originals() -> Vec<[f64; 3]> {
    image()
        .pixels
        .chunks_exact(3)
        .map(|pixel| [0, 1, 2].map(|channel| f64::from(pixel[channel]) / 255.0))
        .collect()
}

fn assert_each(op: Option<ColorOp>, gray: bool, wanted: impl Fn([f64; 3]) -> [f64; 3]) {
    for (found, original) in after(op, gray).into_iter().zip(originals()) {
        let wanted = wanted(original).map(|value| value.clamp(0.0, 1.0));
        assert!(
            found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 3e-6),
            "{op:?}: {original:?} became {found:?}, not {wanted:?}"
        );
    }
}

/// H, S and V in [0, 1] by the textbook's cases.
fn to_hsv([r, g, b]: [f64; 3]) -> [f64; 3] {
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    let range = most - least;
    let degrees = if range == 0.0 {
        0.0
    } else if most == r {
        60.0 * ((g - b) / range).rem_euclid(6.0)
    } else if most == g {
        60.0 * ((b - r) / range + 2.0)
    } else {
        60.0 * ((r - g) / range + 4.0)
    };
    let saturation = if most == 0.0 { 0.0 } else { range / most };
    [degrees / 360.0, saturation, most]
}

fn to_rgb([hue, saturation, value]: [f64; 3]) -> [f64; 3] {
    let chroma = value * saturation;
    let sector = hue.rem_euclid(1.0) * 6.0;
    let second = chroma * (1.0 - (sector.rem_euclid(2.0) - 1.0).abs());
    let [r, g, b] = match sector as u32 {
        0 => [chroma, second, 0.0],
        1 => [second, chroma, 0.0],
        2 => [0.0, chroma, second],
        3 => [0.0, second, chroma],
        4 => [second, 0.0, chroma],
        _ => [chroma, 0.0, second],
    };
    [r, g, b].map(|channel| channel + value - chroma)
}

fn gray([r, g, b]: [f64; 3]) -> f64 {
    0.2989 * r + 0.5870 * g + 0.1140 * b
}

#[test]
fn hue_and_saturation_are_done_in_hsv() {
    for turn in [-0.2f32, -0.07, 0.0, 0.13, 0.2, 0.25] {
        assert_each(Some(ColorOp::Hue(turn)), false, |pixel| {
            let [hue, saturation, value] = to_hsv(pixel);
            to_rgb([hue + f64::from(turn), saturation, value])
        });
    }
    for factor in [0.0f32, 0.2, 0.9, 1.0, 1.3, 2.0] {
        assert_each(Some(ColorOp::Saturation(factor)), false, |pixel| {
            let [hue, saturation, value] = to_hsv(pixel);
            to_rgb([hue, (saturation * f64::from(factor)).min(1.0), value])
        });
    }
}

#[test]
fn brightness_multiplies_in_v2_and_adds_in_v1() {
    for number in [0.2f32, 0.7, 1.0, 1.8] {
        let factor = f64::from(number);
        assert_each(Some(ColorOp::Brightness(number)), false, |pixel| {
            pixel.map(|value| value * factor)
        });
        assert_each(Some(ColorOp::Shift(number - 1.0)), false, |pixel| {
            pixel.map(|value| value + factor - 1.0)
        });
    }
}

#[test]
fn contrast_is_around_each_channels_mean_or_around_the_mean_gray() {
    let all = originals();
    let mean = |of: &dyn Fn([f64; 3]) -> f64| {
        all.iter().map(|&pixel| of(pixel)).sum::<f64>() / all.len() as f64
    };
    let means = [0, 1, 2].map(|channel| mean(&|pixel| pixel[channel]));
    let mean_gray = mean(&gray);
    for number in [0.2f32, 0.8, 1.0, 1.7] {
        let factor = f64::from(number);
        assert_each(Some(ColorOp::Contrast(number)), false, |pixel| {
            [0, 1, 2].map(|c| (pixel[c] - means[c]) * factor + means[c])
        });
        assert_each(Some(ColorOp::GrayContrast(number)), false, |pixel| {
            pixel.map(|value| value * factor + mean_gray * (1.0 - factor))
        });
    }
}

#[test]
fn gray_weighs_channels_and_torchvisions_saturation_blends_with_it() {
    assert_each(None, true, |pixel| [gray(pixel); 3]);
    for number in [0.0f32, 0.4, 1.0, 1.8] {
        let factor = f64::from(number);
        assert_each(Some(ColorOp::GraySaturation(number)), false, |pixel| {
            pixel.map(|value| value * factor + gray(pixel) * (1.0 - factor))
        });
    }
    assert_each(None, false, |pixel| pixel);
}
