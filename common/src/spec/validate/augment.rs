//! Views.

use super::super::draft::AugmentDraft;
use super::super::{AugmentSpec, ColorSpec};
use super::check::{At, Check};

/// Images from this size on are blurred in pretraining by default; smaller ones (CIFAR) are not (SimCLR v1 §B.9).
const BLUR_FROM: u32 = 64;

pub(super) fn augment(
    check: &mut Check,
    at: &At,
    draft: Option<&AugmentDraft>,
    pretrain: bool,
) -> AugmentSpec {
    let draft = draft.cloned().unwrap_or_default();
    let strength = check.within(
        &at.field("color_strength"),
        draft
            .color_strength
            .unwrap_or(if pretrain { 1.0 } else { 0.0 }),
        0.0,
        1.25,
    );
    let mut probability = |field: &str, value: Option<f64>, default: f64| {
        check.within(&at.field(field), value.unwrap_or(default), 0.0, 1.0)
    };
    let color = ColorSpec {
        strength,
        probability: probability("color_probability", draft.color_probability, 0.8),
        hue_saturation: draft.color_hue_saturation.unwrap_or(true),
    };
    let blur = if pretrain && draft.image_size >= BLUR_FROM {
        0.5
    } else {
        0.0
    };
    AugmentSpec {
        image_size: draft.image_size,
        grayscale_probability: probability(
            "grayscale_probability",
            draft.grayscale_probability,
            if pretrain { 0.2 } else { 0.0 },
        ),
        blur_probability: probability("blur_probability", draft.blur_probability, blur),
        crop_area: range(
            check,
            &at.field("crop_area"),
            draft.crop_area.unwrap_or([0.08, 1.0]),
            1.0,
        ),
        crop_aspect: range(
            check,
            &at.field("crop_aspect"),
            draft.crop_aspect.unwrap_or([0.75, 4.0 / 3.0]),
            10.0,
        ),
        flip: draft.flip.unwrap_or(true),
        color: (strength > 0.0).then_some(color),
    }
}

fn range(check: &mut Check, at: &At, [low, high]: [f64; 2], most: f64) -> (f64, f64) {
    check.require(at, low > 0.0 && low <= high && high <= most, || {
        format!("[{low}, {high}] is not a range above 0 and up to {most}, the smaller number first")
    });
    (low, high)
}
