//! Encoder and head.

use super::super::draft::{EncoderDraft, HeadDraft};
use super::super::{BasicShortcut, Depth, EncoderSpec, HeadSpec, MaxPool, Stem};
use super::check::{At, Check};

/// The widest network: ResNet-50 ×8 has 1.5 billion parameters.
const MAX_WIDTH: f64 = 8.0;
/// The papers go up to 4 layers.
const MAX_HEAD_LAYERS: u64 = 32;

pub(super) fn encoder(check: &mut Check, at: &At, draft: &EncoderDraft) -> EncoderSpec {
    let depth = depth(check, &at.field("depth"), draft.depth);
    let stem = draft.stem.as_deref().map_or(Stem::ImageNet, |word| {
        check.choice(
            &at.field("stem"),
            word,
            &[("imagenet", Stem::ImageNet), ("cifar", Stem::Cifar)],
        )
    });
    let selective_kernel = draft.selective_kernel.unwrap_or(false);
    EncoderSpec {
        depth,
        width: width(check, &at.field("width"), draft.width),
        stem,
        basic_shortcut: basic_shortcut(check, &at.field("basic_shortcut"), draft, depth),
        selective_kernel,
        max_pool: max_pool(check, &at.field("max_pool"), draft, stem),
    }
}

fn depth(check: &mut Check, at: &At, number: u32) -> Depth {
    Depth::try_from(number).unwrap_or_else(|error| {
        check.refuse(
            at,
            match number {
                0 => "is required: 18, 34, 50, 101, 152 or 200".to_owned(),
                _ => error.to_string(),
            },
        );
        Depth::D18
    })
}

fn basic_shortcut(check: &mut Check, at: &At, draft: &EncoderDraft, depth: Depth) -> BasicShortcut {
    let Some(word) = draft.basic_shortcut.as_deref() else {
        // A network with selective kernels is none of torchvision's, whatever the shortcut.
        return match draft.selective_kernel {
            Some(true) => BasicShortcut::Projection,
            _ => BasicShortcut::Identity,
        };
    };
    check.require(at, !depth.bottleneck(), || {
        format!("belongs to depth 18 and 34: depth {depth} always has a projection there")
    });
    let words = [
        ("identity", BasicShortcut::Identity),
        ("projection", BasicShortcut::Projection),
    ];
    check.choice(at, word, &words)
}

fn max_pool(check: &mut Check, at: &At, draft: &EncoderDraft, stem: Stem) -> MaxPool {
    let Some(word) = draft.max_pool.as_deref() else {
        return MaxPool::Torch;
    };
    check.require(at, stem == Stem::ImageNet, || {
        "belongs to `stem: imagenet`: the CIFAR stem has no pool".to_owned()
    });
    let words = [
        ("torch", MaxPool::Torch),
        ("tensorflow", MaxPool::Tensorflow),
    ];
    check.choice(at, word, &words)
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

/// A kind of head.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Nonlinear,
    Linear,
    None,
}

/// `None` where the loss compares the encoder's outputs.
pub(super) fn head(check: &mut Check, at: &At, draft: Option<&HeadDraft>) -> Option<HeadSpec> {
    let draft = draft.cloned().unwrap_or_default();
    let words = [
        ("nonlinear", Kind::Nonlinear),
        ("linear", Kind::Linear),
        ("none", Kind::None),
    ];
    let kind = draft.kind.as_deref().map_or(Kind::Nonlinear, |word| {
        check.choice(&at.field("kind"), word, &words)
    });
    let (layers_at, dim_at) = (at.field("layers"), at.field("dim"));
    let layers = match kind {
        Kind::Nonlinear => check.count(&layers_at, draft.layers.unwrap_or(2), 1, MAX_HEAD_LAYERS),
        Kind::Linear | Kind::None => {
            check.require(&layers_at, draft.layers.is_none(), || {
                "belongs to `kind: nonlinear`: a linear head has one layer, and none has none"
                    .to_owned()
            });
            1
        }
    };
    if kind == Kind::None {
        check.require(&dim_at, draft.dim.is_none(), || {
            "means nothing without a head: the loss compares the encoder's outputs".to_owned()
        });
        return None;
    }
    let dim = check.count(&dim_at, draft.dim.unwrap_or(128), 1, 65_536);
    Some(HeadSpec { layers, dim })
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
