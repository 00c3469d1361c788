//! Factors, probabilities, orders and sigmas.

use std::collections::BTreeMap;

use diptych_common::spec::{
    AugmentSpec, BlurSigma, Brightness, ColorOrder, ColorSpec, Implementation,
};
use diptych_images::augment::{ColorOp, Key, ViewParams};

use super::statistics::{assert_counts, assert_uniform};
use super::{OFFICIAL, TORCHVISION, drawn, key};

const SIZE: (usize, usize) = (60, 80);
const ADDITIVE: Implementation = Implementation::Official {
    brightness: Brightness::Additive,
};

fn with(implementation: Implementation, order: ColorOrder, strength: f64) -> AugmentSpec {
    AugmentSpec {
        implementation,
        color: Some(ColorSpec {
            strength,
            probability: 0.8,
            hue_saturation: true,
            order,
        }),
        ..AugmentSpec::simclr(224)
    }
}

/// What an operation is, apart from its number.
fn name(op: &ColorOp) -> (&'static str, f64) {
    match *op {
        ColorOp::Brightness(f) => ("brightness", f.into()),
        ColorOp::Shift(f) => ("shift", f.into()),
        ColorOp::Contrast(f) => ("contrast", f.into()),
        ColorOp::Saturation(f) => ("saturation", f.into()),
        ColorOp::Hue(f) => ("hue", f.into()),
        ColorOp::GrayContrast(f) => ("gray contrast", f.into()),
        ColorOp::GraySaturation(f) => ("gray saturation", f.into()),
    }
}

#[test]
fn each_operation_is_done_as_often_as_the_paper_says() {
    let n = 40_000;
    let all: Vec<ViewParams> = drawn(&AugmentSpec::simclr(224), SIZE, n).collect();
    let tests: [(&str, fn(&ViewParams) -> bool, f64); 4] = [
        ("flip", |view| view.flip, 0.5),
        ("gray", |view| view.gray, 0.2),
        ("blur", |view| view.blur.is_some(), 0.5),
        ("colour", |view| !view.color.is_empty(), 0.8),
    ];
    for (what, test, probability) in tests {
        let yes = all.iter().filter(|view| test(view)).count() as u64;
        assert_counts(what, &[yes, n - yes], &[probability, 1.0 - probability]);
    }
    // Gray is drawn apart from colour.
    let both = all
        .iter()
        .filter(|view| view.gray && !view.color.is_empty())
        .count() as u64;
    assert_counts("gray and colour", &[both, n - both], &[0.16, 0.84]);
}

#[test]
fn factors_are_uniform_over_the_ranges_of_the_strength() {
    for (implementation, strength) in [
        (OFFICIAL, 1.0),
        (OFFICIAL, 0.5),
        (ADDITIVE, 1.0),
        (TORCHVISION, 0.5),
        (OFFICIAL, 1.25),
    ] {
        let mut values: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for view in drawn(
            &with(implementation, ColorOrder::Random, strength),
            SIZE,
            20_000,
        ) {
            for (name, value) in view.color.iter().map(name) {
                values.entry(name).or_default().push(value);
            }
        }
        let names: Vec<&str> = values.keys().copied().collect();
        let wanted: &[&str] = match implementation {
            ADDITIVE => &["contrast", "hue", "saturation", "shift"],
            OFFICIAL => &["brightness", "contrast", "hue", "saturation"],
            _ => &["brightness", "gray contrast", "gray saturation", "hue"],
        };
        assert_eq!(names, wanted);
        for (name, values) in values {
            let (low, high) = match name {
                "hue" => (-0.2 * strength, 0.2 * strength),
                "shift" => (-0.8 * strength, 0.8 * strength),
                _ => (1.0 - 0.8 * strength, 1.0 + 0.8 * strength),
            };
            assert_uniform(&format!("{name} at {strength}"), values, low, high);
        }
    }
}

#[test]
fn every_order_is_as_likely_or_there_is_one() {
    for implementation in [OFFICIAL, TORCHVISION] {
        let mut orders: BTreeMap<Vec<&str>, u64> = BTreeMap::new();
        for view in drawn(&with(implementation, ColorOrder::Random, 1.0), SIZE, 40_000) {
            *orders
                .entry(view.color.iter().map(|op| name(op).0).collect())
                .or_default() += 1;
        }
        orders.remove(&Vec::new());
        assert_eq!(orders.len(), 24);
        let counts: Vec<u64> = orders.into_values().collect();
        assert_counts("orders", &counts, &[1.0 / 24.0; 24]);
    }
    for view in drawn(&with(OFFICIAL, ColorOrder::Fixed, 1.0), SIZE, 200) {
        let order: Vec<&str> = view.color.iter().map(|op| name(op).0).collect();
        let fixed = ["brightness", "contrast", "saturation", "hue"];
        assert!(order.is_empty() || order == fixed, "{order:?}");
    }
}

#[test]
fn a_sigma_belongs_to_an_image_or_to_a_view_of_a_step() {
    let own = drawn(&AugmentSpec::simclr(224), SIZE, 20_000).filter_map(|view| view.blur);
    assert_uniform("sigmas of images", own, 0.1, 2.0);

    let spec = AugmentSpec {
        blur_sigma: BlurSigma::View,
        ..AugmentSpec::simclr(224)
    };
    let of_step = |step, view| {
        let key = move |sample: u64| Key {
            step,
            view,
            position: sample as u32,
            ..key(sample)
        };
        let blurs: Vec<Option<f64>> = (0..20)
            .map(|sample| ViewParams::draw(&spec, &key(sample), SIZE.0, SIZE.1).blur)
            .collect();
        // Who is blurred is still drawn image by image.
        assert!(blurs.contains(&None));
        let mut sigmas: Vec<f64> = blurs.into_iter().flatten().collect();
        sigmas.dedup();
        match sigmas[..] {
            [sigma] => sigma,
            _ => panic!("{sigmas:?} in one view of one step"),
        }
    };
    assert_ne!(of_step(4, 0), of_step(4, 1));
    assert_eq!(of_step(4, 0), of_step(4, 0));
    assert_uniform(
        "sigmas of views",
        (0..3_000).map(|step| of_step(step, 0)),
        0.1,
        2.0,
    );
    // All else is as it is with a sigma for each image.
    let each = drawn(&AugmentSpec::simclr(224), SIZE, 100);
    for (shared, own) in drawn(&spec, SIZE, 100).zip(each) {
        assert_eq!(shared.blur.is_some(), own.blur.is_some());
        assert_eq!(
            ViewParams {
                blur: None,
                ..shared
            },
            ViewParams { blur: None, ..own }
        );
    }
}

#[test]
fn a_view_is_a_function_of_its_key() {
    let spec = AugmentSpec::simclr(224);
    let draw = |key: Key| ViewParams::draw(&spec, &key, 375, 500);
    let base = key(1);
    assert_eq!(draw(base), draw(base));
    for other in [
        Key { seed: 12, ..base },
        Key { phase: 3, ..base },
        Key { step: 8, ..base },
        Key {
            position: 4,
            ..base
        },
        Key { sample: 2, ..base },
        Key { view: 0, ..base },
    ] {
        assert_ne!(draw(base), draw(other));
    }
}

/// Jobs that were begun under an earlier release go on with the same pictures.
#[test]
fn what_is_drawn_stays_what_it_was() {
    let drawn: Vec<String> = drawn(&AugmentSpec::simclr(224), (375, 500), 8)
        .map(|view| format!("{view:?}"))
        .collect();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/augment/views.txt");
    let known = std::fs::read_to_string(file).unwrap();
    assert_eq!(drawn.join("\n"), known.trim_end());
}

#[test]
fn crop_and_flip_alone_touch_no_colour() {
    for view in drawn(&AugmentSpec::plain(224), SIZE, 500) {
        assert!(view.color.is_empty() && !view.gray && view.blur.is_none());
    }
    let small = AugmentSpec::simclr_small(32);
    assert!(drawn(&small, SIZE, 500).all(|view| view.blur.is_none()));
    assert_eq!(small.color.unwrap().strength, 0.5);
}
