//! Encoder and head.

use super::super::draft::{EncoderDraft, HeadDraft};
use super::super::{BasicShortcut, EncoderSpec, HeadSpec, Stem};
use super::check::{At, Check};

/// The widest network: ResNet-50 ×8 has 1.5 billion parameters.
const MAX_WIDTH: f64 = 8.0;

pub(super) fn encoder(check: &mut Check, at: &At, draft: &EncoderDraft) -> EncoderSpec {
    check.require(
        &at.field("depth"),
        [18, 34, 50].contains(&draft.depth),
        || match draft.depth {
            0 => "is required: 18, 34 or 50".to_owned(),
            depth => format!("{depth} is not 18, 34 or 50"),
        },
    );
    let stem = draft.stem.as_deref().map_or(Stem::ImageNet, |word| {
        check.choice(
            &at.field("stem"),
            word,
            &[("imagenet", Stem::ImageNet), ("cifar", Stem::Cifar)],
        )
    });
    let shortcuts = [
        ("identity", BasicShortcut::Identity),
        ("projection", BasicShortcut::Projection),
    ];
    let shortcut = draft.basic_shortcut.as_deref();
    let shortcut_at = at.field("basic_shortcut");
    check.require(
        &shortcut_at,
        shortcut.is_none() || draft.depth != 50,
        || "belongs to depth 18 and 34: depth 50 always has a projection there".to_owned(),
    );
    let basic_shortcut = shortcut.map_or(BasicShortcut::Identity, |word| {
        check.choice(&shortcut_at, word, &shortcuts)
    });
    EncoderSpec {
        depth: draft.depth,
        width: width(check, &at.field("width"), draft.width),
        stem,
        basic_shortcut,
    }
}

fn width(check: &mut Check, at: &At, width: Option<f64>) -> f64 {
    let width = check.positive(at, width.unwrap_or(1.0), MAX_WIDTH);
    let channels = 64.0 * width;
    if (0.0..=64.0 * MAX_WIDTH).contains(&channels) && width > 0.0 && channels.fract() != 0.0 {
        let near = channels.round().max(1.0) / 64.0;
        check.refuse(at, format!("{width} gives {channels} channels, not a whole number: 64 × width must be one, e.g. {near}"));
    }
    width
}

pub(super) fn head(check: &mut Check, at: &At, draft: Option<&HeadDraft>) -> HeadSpec {
    let draft = draft.cloned().unwrap_or_default();
    HeadSpec {
        layers: check.count(&at.field("layers"), draft.layers.unwrap_or(2), 2, 3),
        dim: check.count(&at.field("dim"), draft.dim.unwrap_or(128), 1, 65_536),
    }
}

/// The views must suit the network that sees them.
pub(super) fn fits(check: &mut Check, at: &At, encoder: &EncoderSpec, image_size: u32) {
    let (low, high) = match encoder.stem {
        Stem::Cifar => (8, 64),
        Stem::ImageNet => (32, 1024),
    };
    check.require(at, (low..=high).contains(&image_size), || match (image_size, encoder.stem) {
        (0, _) => "is required: the side of the square that the network sees, in pixels".to_owned(),
        (_, Stem::Cifar) => format!("{image_size} does not suit `stem: cifar`: {low} to {high} pixels"),
        (_, Stem::ImageNet) => format!("{image_size} does not suit `stem: imagenet`: {low} to {high} pixels; smaller images want `stem: cifar`"),
    });
}
