//! What TensorFlow and torchvision themselves make of a picture (`tests/parity/augment_numbers.py`).

use std::collections::BTreeMap;

use diptych_common::spec::{AugmentSpec, Implementation, Interpolation};
use diptych_images::augment::{ColorOp, CropBox, Scratch, ViewParams, render};
use diptych_images::decode::Image;
use serde::Deserialize;

use super::statistics::assert_alike;
use super::{OFFICIAL, TORCHVISION, drawn};

/// Both sides compute in 32 bits; the numbers are written with six digits.
const TOLERANCE: f32 = 5e-6;

#[derive(Deserialize)]
struct Peer {
    version: String,
    cases: Vec<Case>,
    crops: Crops,
}

#[derive(Deserialize)]
struct Case {
    operation: String,
    number: Option<f64>,
    image: String,
    crop: [usize; 4],
    side: u32,
    every: usize,
    values: Vec<f32>,
}

#[derive(Deserialize)]
struct Crops {
    of: (usize, usize),
    /// Height, width, how often.
    counts: Vec<(usize, usize, u64)>,
}

fn tensorflow() -> Peer {
    serde_json::from_str(include_str!("tensorflow.json")).unwrap()
}

fn torchvision() -> Peer {
    serde_json::from_str(include_str!("torchvision.json")).unwrap()
}

fn picture(height: usize, width: usize) -> Image {
    let pixels = (0..3 * height * width)
        .map(|i| (i * i * 13 + i * 71) as u8)
        .collect();
    Image {
        width,
        height,
        pixels,
    }
}

fn check(case: &Case, implementation: Implementation) {
    let image = match case.image.as_str() {
        "small" => picture(14, 20),
        _ => picture(40, 40),
    };
    let [top, left, height, width] = case.crop;
    let mut params = ViewParams {
        crop: CropBox {
            height,
            width,
            top,
            left,
        },
        flip: false,
        color: Vec::new(),
        gray: false,
        blur: None,
    };
    let mut spec = AugmentSpec {
        implementation,
        ..AugmentSpec::plain(case.side)
    };
    let number = case.number.unwrap_or_default();
    match case.operation.as_str() {
        "resize" | "resize bilinear" => {}
        "resize bicubic" => {
            spec.implementation = Implementation::Torchvision {
                interpolation: Interpolation::Bicubic,
            };
        }
        "gray" => params.gray = true,
        "blur" => params.blur = Some(number),
        color => {
            let number = number as f32;
            params.color.push(match color {
                "brightness" => ColorOp::Brightness(number),
                "shift" => ColorOp::Shift(number),
                "contrast" => ColorOp::Contrast(number),
                "saturation" => ColorOp::Saturation(number),
                "hue" => ColorOp::Hue(number),
                "gray contrast" => ColorOp::GrayContrast(number),
                "gray saturation" => ColorOp::GraySaturation(number),
                other => panic!("{other} is no operation"),
            });
        }
    }
    let mut out = vec![0.0; 3 * (case.side as usize).pow(2)];
    render(&image, &spec, &params, &mut Scratch::default(), &mut out);
    let kept: Vec<f32> = out.into_iter().step_by(case.every).collect();
    assert_eq!(kept.len(), case.values.len());
    for (place, (found, wanted)) in kept.iter().zip(&case.values).enumerate() {
        assert!(
            (found - wanted).abs() < TOLERANCE,
            "{} {:?} of {:?}, value {place}: {found}, not {wanted}",
            case.operation,
            case.number,
            case.crop
        );
    }
}

fn check_crops(what: &str, crops: &Crops, implementation: Implementation) {
    let mut counts: BTreeMap<(usize, usize), [u64; 2]> = BTreeMap::new();
    for &(height, width, count) in &crops.counts {
        counts.entry((height, width)).or_default()[1] = count;
    }
    let spec = AugmentSpec {
        implementation,
        ..AugmentSpec::plain(32)
    };
    for view in drawn(&spec, crops.of, 200_000) {
        counts
            .entry((view.crop.height, view.crop.width))
            .or_default()[0] += 1;
    }
    let [ours, theirs] =
        [0, 1].map(|whose| counts.values().map(|both| both[whose]).collect::<Vec<_>>());
    assert_alike(what, &ours, &theirs);
}

#[test]
fn official_views_are_tensorflows() {
    let peer = tensorflow();
    assert_eq!(peer.cases.len(), 15, "TensorFlow {}", peer.version);
    for case in &peer.cases {
        check(case, OFFICIAL);
    }
}

#[test]
fn official_crops_are_as_frequent_as_tensorflows() {
    check_crops("TensorFlow", &tensorflow().crops, OFFICIAL);
}

#[test]
fn torchvision_views_are_torchvisions() {
    let peer = torchvision();
    assert_eq!(peer.cases.len(), 16, "torchvision {}", peer.version);
    for case in &peer.cases {
        check(case, TORCHVISION);
    }
}

#[test]
fn torchvision_crops_are_as_frequent_as_torchvisions() {
    check_crops("torchvision", &torchvision().crops, TORCHVISION);
}
