//! Views.

use super::super::draft::AugmentDraft;
use super::super::{
    AugmentSpec, BlurSigma, Brightness, ColorOrder, ColorSpec, Implementation, Interpolation,
    ViewsOn,
};
use super::check::{At, Check};

/// Images from this size on are blurred in pretraining by default; smaller ones (CIFAR) are not (SimCLR v1 §B.9).
const BLUR_FROM: u32 = 64;

/// Whose operations, before what only one of them has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Official,
    Torchvision,
}

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
    let color_probability = probability("color_probability", draft.color_probability, 0.8);
    let grayscale_probability = probability(
        "grayscale_probability",
        draft.grayscale_probability,
        if pretrain { 0.2 } else { 0.0 },
    );
    let blur = if pretrain && draft.image_size >= BLUR_FROM {
        0.5
    } else {
        0.0
    };
    let blur_probability = probability("blur_probability", draft.blur_probability, blur);
    let color = ColorSpec {
        strength,
        probability: color_probability,
        hue_saturation: draft.color_hue_saturation.unwrap_or(true),
        order: check.choice(
            &at.field("color_order"),
            draft.color_order.as_deref().unwrap_or("random"),
            &[("random", ColorOrder::Random), ("fixed", ColorOrder::Fixed)],
        ),
    };
    AugmentSpec {
        image_size: draft.image_size,
        implementation: implementation(check, at, &draft),
        grayscale_probability,
        blur_probability,
        blur_sigma: check.choice(
            &at.field("blur_sigma"),
            draft.blur_sigma.as_deref().unwrap_or("image"),
            &[("image", BlurSigma::Image), ("view", BlurSigma::View)],
        ),
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
        place: check.choice(
            &at.field("place"),
            draft.place.as_deref().unwrap_or("host"),
            &[
                ("host", ViewsOn::Host),
                ("device", ViewsOn::Device),
                ("resident", ViewsOn::Resident),
            ],
        ),
        flip: draft.flip.unwrap_or(true),
        color: (strength > 0.0).then_some(color),
    }
}

/// Both fields are read whatever the implementation, so that a wrong word is always named.
fn implementation(check: &mut Check, at: &At, draft: &AugmentDraft) -> Implementation {
    let whose = check.choice(
        &at.field("implementation"),
        draft.implementation.as_deref().unwrap_or("official"),
        &[
            ("official", Whose::Official),
            ("torchvision", Whose::Torchvision),
        ],
    );
    let (brightness_at, interpolation_at) = (at.field("brightness"), at.field("interpolation"));
    let brightness = check.choice(
        &brightness_at,
        draft.brightness.as_deref().unwrap_or("multiplicative"),
        &[
            ("multiplicative", Brightness::Multiplicative),
            ("additive", Brightness::Additive),
        ],
    );
    let interpolation = draft.interpolation.as_deref().unwrap_or(match whose {
        Whose::Official => "bicubic",
        Whose::Torchvision => "bilinear",
    });
    let interpolation = check.choice(
        &interpolation_at,
        interpolation,
        &[
            ("bilinear", Interpolation::Bilinear),
            ("bicubic", Interpolation::Bicubic),
        ],
    );
    match whose {
        Whose::Official => {
            check.require(&interpolation_at, interpolation == Interpolation::Bicubic, || {
                "`bilinear` goes with `implementation: torchvision`: the official code resizes bicubically".to_owned()
            });
            Implementation::Official { brightness }
        }
        Whose::Torchvision => {
            check.require(
                &brightness_at,
                brightness == Brightness::Multiplicative,
                || {
                    "`additive` goes with `implementation: official`: torchvision multiplies"
                        .to_owned()
                },
            );
            Implementation::Torchvision { interpolation }
        }
    }
}

fn range(check: &mut Check, at: &At, [low, high]: [f64; 2], most: f64) -> (f64, f64) {
    check.require(at, low > 0.0 && low <= high && high <= most, || {
        format!("[{low}, {high}] is not a range above 0 and up to {most}, the smaller number first")
    });
    (low, high)
}
