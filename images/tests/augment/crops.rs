//! Crop samplers against what one gets by going through everything that they can draw.

use std::collections::BTreeMap;

use diptych_common::spec::AugmentSpec;
use diptych_images::augment::CropBox;

use super::statistics::{assert_counts, assert_uniform};
use super::{OFFICIAL, TORCHVISION, drawn};

/// Probability of each (height, width).
type Sizes = BTreeMap<(usize, usize), f64>;

fn plain(crop_area: (f64, f64)) -> AugmentSpec {
    AugmentSpec {
        crop_area,
        ..AugmentSpec::plain(32)
    }
}

fn torchvision(crop_area: (f64, f64)) -> AugmentSpec {
    AugmentSpec {
        implementation: TORCHVISION,
        ..plain(crop_area)
    }
}

fn crops(spec: &AugmentSpec, size: (usize, usize), samples: u64) -> Vec<CropBox> {
    drawn(spec, size, samples).map(|view| view.crop).collect()
}

/// Spreads what is left when every attempt fails.
fn with_fallback(
    mut accepted: Sizes,
    rejected: f64,
    attempts: i32,
    whole: (usize, usize),
) -> Sizes {
    let fallback = rejected.powi(attempts);
    let sum: f64 = accepted.values().sum();
    for probability in accepted.values_mut() {
        *probability *= (1.0 - fallback) / sum;
    }
    *accepted.entry(whole).or_default() += fallback;
    accepted
}

/// TensorFlow's kernel by its rules: for an aspect ratio, every height in the allowed range is equally likely.
fn official_sizes(spec: &AugmentSpec, (height, width): (usize, usize), steps: usize) -> Sizes {
    let area = (height * width) as f64;
    let (least, most) = (spec.crop_area.0 * area, spec.crop_area.1 * area);
    let (mut sizes, mut rejected) = (Sizes::new(), 0.0);
    for step in 0..steps {
        let share = (step as f64 + 0.5) / steps as f64;
        let aspect = spec.crop_aspect.0 + share * (spec.crop_aspect.1 - spec.crop_aspect.0);
        let wide = |rows: usize| (rows as f64 * aspect).round_ties_even() as usize;
        let rows = |area: f64| (area / aspect).sqrt().round_ties_even() as usize;
        // The largest height that fits into the image in both directions.
        let fitting = (0..=height)
            .rev()
            .find(|&rows| wide(rows) <= width)
            .unwrap();
        let high = rows(most).min(fitting);
        let low = rows(least).min(high);
        let weight = 1.0 / (steps * (high - low + 1)) as f64;
        for mut tall in low..=high {
            // A rounding error of one row is forgiven.
            if ((tall * wide(tall)) as f64) < least {
                tall += 1;
            }
            if (tall * wide(tall)) as f64 > most {
                tall -= 1;
            }
            let covered = (tall * wide(tall)) as f64;
            let fits = (1..=height).contains(&tall) && (1..=width).contains(&wide(tall));
            if fits && (least..=most).contains(&covered) && covered >= 0.1 * area {
                *sizes.entry((tall, wide(tall))).or_default() += weight;
            } else {
                rejected += weight;
            }
        }
    }
    with_fallback(sizes, rejected, 100, (height, width))
}

/// torchvision's rules over a fine grid of areas and aspect ratios.
fn torchvision_sizes(spec: &AugmentSpec, (height, width): (usize, usize), steps: usize) -> Sizes {
    let (mut sizes, mut rejected) = (Sizes::new(), 0.0);
    let weight = 1.0 / (steps * steps) as f64;
    let middle = |step: usize, (low, high): (f64, f64)| {
        low + (high - low) * (step as f64 + 0.5) / steps as f64
    };
    let logs = (spec.crop_aspect.0.ln(), spec.crop_aspect.1.ln());
    for of_area in 0..steps {
        let area = (height * width) as f64 * middle(of_area, spec.crop_area);
        for of_aspect in 0..steps {
            let aspect = middle(of_aspect, logs).exp();
            let wide = (area * aspect).sqrt().round_ties_even() as usize;
            let tall = (area / aspect).sqrt().round_ties_even() as usize;
            if wide > 0 && wide <= width && tall > 0 && tall <= height {
                *sizes.entry((tall, wide)).or_default() += weight;
            } else {
                rejected += weight;
            }
        }
    }
    with_fallback(sizes, rejected, 10, (height, width))
}

/// Compares sizes one by one.
fn assert_sizes(what: &str, crops: &[CropBox], expected: &Sizes) {
    let mut counts: BTreeMap<_, u64> = expected.keys().map(|size| (*size, 0)).collect();
    for crop in crops {
        *counts.entry((crop.height, crop.width)).or_default() += 1;
    }
    let probabilities: Vec<f64> = counts
        .keys()
        .map(|size| expected.get(size).copied().unwrap_or(0.0))
        .collect();
    let counts: Vec<u64> = counts.into_values().collect();
    assert_counts(what, &counts, &probabilities);
}

/// Compares histograms of a number that follows from the size.
fn assert_histogram(
    what: &str,
    crops: &[CropBox],
    expected: &Sizes,
    number: impl Fn(usize, usize) -> f64,
) {
    const BINS: usize = 25;
    let most = expected
        .keys()
        .map(|&(tall, wide)| number(tall, wide))
        .fold(0.0, f64::max);
    let bin = |tall: usize, wide: usize| {
        ((number(tall, wide) / most * BINS as f64) as usize).min(BINS - 1)
    };
    let (mut counts, mut probabilities) = ([0u64; BINS], [0.0; BINS]);
    for crop in crops {
        counts[bin(crop.height, crop.width)] += 1;
    }
    for (&(tall, wide), probability) in expected {
        probabilities[bin(tall, wide)] += probability;
    }
    assert_counts(what, &counts, &probabilities);
}

/// Compares offsets of the most frequent size with `places` equally likely ones.
fn assert_offsets(
    what: &str,
    crops: &[CropBox],
    offset: impl Fn(&CropBox) -> usize,
    places: impl Fn(&CropBox) -> usize,
) {
    let mut by_size: BTreeMap<_, Vec<&CropBox>> = BTreeMap::new();
    for crop in crops {
        by_size
            .entry((crop.height, crop.width))
            .or_default()
            .push(crop);
    }
    let most = by_size
        .values()
        .filter(|same| places(same[0]) > 1)
        .max_by_key(|same| same.len())
        .unwrap();
    let places = places(most[0]);
    let mut counts = vec![0; places];
    for crop in most {
        counts[offset(crop)] += 1;
    }
    assert_counts(what, &counts, &vec![1.0 / places as f64; places]);
}

#[test]
fn official_crops_have_the_distribution_of_tensorflows_kernel() {
    for (size, area) in [
        ((12, 17), (0.08, 1.0)),
        ((17, 12), (0.3, 0.8)),
        ((9, 9), (0.08, 1.0)),
    ] {
        let spec = plain(area);
        let found = crops(&spec, size, 200_000);
        let expected = official_sizes(&spec, size, 100_000);
        assert_sizes(&format!("sizes in {size:?}"), &found, &expected);
        let (height, width) = size;
        let room = |length: usize, part: usize| (length - part).max(1);
        let what = |axis: &str| format!("{axis} in {size:?}");
        assert_offsets(
            &what("rows"),
            &found,
            |crop| crop.top,
            |crop| room(height, crop.height),
        );
        assert_offsets(
            &what("columns"),
            &found,
            |crop| crop.left,
            |crop| room(width, crop.width),
        );
    }
}

#[test]
fn areas_and_aspects_of_official_crops_have_the_histograms_of_an_enumeration() {
    let (spec, size) = (plain((0.08, 1.0)), (375, 500));
    let found = crops(&spec, size, 100_000);
    let expected = official_sizes(&spec, size, 20_000);
    assert_histogram("area", &found, &expected, |tall, wide| (tall * wide) as f64);
    assert_histogram("aspect", &found, &expected, |tall, wide| {
        wide as f64 / tall as f64
    });
    assert_histogram("height", &found, &expected, |tall, _| tall as f64);
    // Trap 7 of the official code: the area is not uniform, and a tenth of the image is its least.
    let smallest = found.iter().map(|crop| crop.height * crop.width).min();
    assert!(
        smallest.is_some_and(|area| (18_750..20_000).contains(&area)),
        "{smallest:?}"
    );
    let small = found
        .iter()
        .filter(|crop| crop.height * crop.width < 375 * 500 * 4 / 10)
        .count();
    assert!(small > 45_000, "{small}");
}

#[test]
fn torchvision_crops_have_the_distribution_of_its_rules() {
    for (size, area) in [((12, 17), (0.08, 1.0)), ((17, 12), (0.3, 0.8))] {
        let spec = torchvision(area);
        let found = crops(&spec, size, 200_000);
        let expected = torchvision_sizes(&spec, size, 2_000);
        assert_sizes(&format!("sizes in {size:?}"), &found, &expected);
        let (height, width) = size;
        let what = |axis: &str| format!("{axis} in {size:?}");
        assert_offsets(
            &what("rows"),
            &found,
            |crop| crop.top,
            |crop| height - crop.height + 1,
        );
        assert_offsets(
            &what("columns"),
            &found,
            |crop| crop.left,
            |crop| width - crop.width + 1,
        );
    }
}

#[test]
fn areas_and_logarithms_of_aspects_are_uniform_in_torchvision() {
    // So large that rounding does not show, so small a crop that none is refused.
    let size = (40_000, 40_000);
    let found = crops(&torchvision((0.08, 0.5)), size, 50_000);
    let area = found
        .iter()
        .map(|crop| (crop.height * crop.width) as f64 / 1.6e9);
    assert_uniform("area", area, 0.0799, 0.5001);
    let aspect = found
        .iter()
        .map(|crop| (crop.width as f64 / crop.height as f64).ln());
    assert_uniform(
        "logarithm of the aspect",
        aspect,
        0.7499f64.ln(),
        1.3334f64.ln(),
    );
}

#[test]
fn images_without_an_allowed_crop_fall_back() {
    let whole = |height, width| CropBox {
        height,
        width,
        top: 0,
        left: 0,
    };
    for (size, official, other) in [
        (
            (1, 40),
            whole(1, 40),
            CropBox {
                height: 1,
                width: 1,
                top: 0,
                left: 19,
            },
        ),
        (
            (60, 3),
            whole(60, 3),
            CropBox {
                height: 4,
                width: 3,
                top: 28,
                left: 0,
            },
        ),
    ] {
        let found = crops(&plain((0.3, 1.0)), size, 300);
        assert!(found.iter().all(|crop| *crop == official), "{size:?}");
        let found = crops(&torchvision((0.3, 1.0)), size, 300);
        assert!(
            found.iter().all(|crop| *crop == other),
            "{size:?} {:?}",
            found[0]
        );
    }
}

#[test]
fn tiny_and_odd_images_have_crops() {
    for implementation in [OFFICIAL, TORCHVISION] {
        let spec = AugmentSpec {
            implementation,
            ..plain((0.2, 1.0))
        };
        for (height, width) in [(1, 1), (1, 40), (40, 1), (8, 8), (2, 3)] {
            for crop in crops(&spec, (height, width), 500) {
                assert!(crop.height >= 1 && crop.width >= 1);
                assert!(crop.top + crop.height <= height && crop.left + crop.width <= width);
            }
        }
    }
}
