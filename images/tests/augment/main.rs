//! Views against the formulas and the distributions that they are said to have.

// What a test draws, it may look at.
#![allow(clippy::unwrap_used)]

mod statistics; // how far counts may be from what was expected
mod crops; // crop samplers against enumerations
mod draws; // factors, probabilities, orders, sigmas
mod pixels; // colour operations against plain formulas
mod peers; // TensorFlow's and torchvision's own numbers

use diptych_common::spec::{AugmentSpec, Brightness, Implementation, Interpolation};
use diptych_images::augment::{Key, ViewParams};

const OFFICIAL: Implementation = Implementation::Official {
    brightness: Brightness::Multiplicative,
};
const TORCHVISION: Implementation = Implementation::Torchvision {
    interpolation: Interpolation::Bilinear,
};

/// The key of one sample of one step.
fn key(sample: u64) -> Key {
    Key {
        seed: 11,
        phase: 2,
        step: 7,
        position: 3,
        sample,
        view: 1,
    }
}

/// What many samples draw.
fn drawn(
    spec: &AugmentSpec,
    (height, width): (usize, usize),
    samples: u64,
) -> impl Iterator<Item = ViewParams> + use<> {
    let spec = spec.clone();
    (0..samples).map(move |sample| ViewParams::draw(&spec, &key(sample), height, width))
}
