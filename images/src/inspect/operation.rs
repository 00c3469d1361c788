//! The operations of an augmentation, one by one.

use diptych_common::spec::{AugmentSpec, ColorSpec};

use crate::augment::{ColorOp, Key, ViewParams, center_crop};
use crate::decode::Image;

/// One operation, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Crop,
    Flip,
    Brightness,
    Contrast,
    Saturation,
    Hue,
    Grayscale,
    Blur,
    All,
}

impl Operation {
    /// What an augmentation does, in the order in which it does it, and all of it at last.
    pub(super) fn of(spec: &AugmentSpec) -> Vec<Self> {
        let hue_saturation = spec
            .color
            .as_ref()
            .is_some_and(|color| color.hue_saturation);
        [
            (Self::Crop, true),
            (Self::Flip, spec.flip),
            (Self::Brightness, spec.color.is_some()),
            (Self::Contrast, spec.color.is_some()),
            (Self::Saturation, hue_saturation),
            (Self::Hue, hue_saturation),
            (Self::Grayscale, spec.grayscale_probability > 0.0),
            (Self::Blur, spec.blur_probability > 0.0),
            (Self::All, true),
        ]
        .into_iter()
        .filter_map(|(operation, done)| done.then_some(operation))
        .collect()
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Crop => "crop",
            Self::Flip => "flip",
            Self::Brightness => "brightness",
            Self::Contrast => "contrast",
            Self::Saturation => "saturation",
            Self::Hue => "hue",
            Self::Grayscale => "grayscale",
            Self::Blur => "blur",
            Self::All => "all",
        }
    }

    /// A view's parameters with nothing but this operation, which is certain to be done. Without a crop the view is the
    /// largest square in the middle.
    pub(super) fn alone(self, spec: &AugmentSpec, key: &Key, image: &Image) -> ViewParams {
        let (height, width) = (image.height, image.width);
        if self == Self::All {
            return ViewParams::draw(spec, key, height, width);
        }
        let certain = AugmentSpec {
            color: spec.color.clone().map(|color| ColorSpec {
                probability: 1.0,
                ..color
            }),
            grayscale_probability: 1.0,
            blur_probability: 1.0,
            ..spec.clone()
        };
        let drawn = ViewParams::draw(&certain, key, height, width);
        ViewParams {
            crop: if self == Self::Crop {
                drawn.crop
            } else {
                center_crop(height, width, 1.0)
            },
            flip: self == Self::Flip,
            color: drawn
                .color
                .into_iter()
                .filter(|op| self == Self::of_color(op))
                .collect(),
            gray: self == Self::Grayscale,
            blur: drawn.blur.filter(|_| self == Self::Blur),
        }
    }

    fn of_color(op: &ColorOp) -> Self {
        match op {
            ColorOp::Brightness(_) | ColorOp::Shift(_) => Self::Brightness,
            ColorOp::Contrast(_) | ColorOp::GrayContrast(_) => Self::Contrast,
            ColorOp::Saturation(_) | ColorOp::GraySaturation(_) => Self::Saturation,
            ColorOp::Hue(_) => Self::Hue,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_does_one_thing_and_every_thing_has_a_row() {
        let image = Image {
            width: 50,
            height: 40,
            pixels: vec![0; 6000],
        };
        let key = Key {
            seed: 1,
            phase: 0,
            step: 0,
            position: 0,
            sample: 3,
            view: 0,
        };
        let spec = AugmentSpec::simclr(32);
        let square = center_crop(40, 50, 1.0);
        let operations = Operation::of(&spec);
        assert_eq!(operations.len(), 9);
        for operation in operations {
            let view = operation.alone(&spec, &key, &image);
            if operation == Operation::All {
                assert_eq!(view, ViewParams::draw(&spec, &key, 40, 50));
                continue;
            }
            let done = [
                view.crop != square,
                view.flip,
                view.gray,
                view.blur.is_some(),
            ];
            let done = done.iter().filter(|done| **done).count() + view.color.len();
            assert_eq!(done, 1, "{operation:?}: {view:?}");
        }
        let few = Operation::of(&AugmentSpec::plain(32));
        assert_eq!(few, [Operation::Crop, Operation::Flip, Operation::All]);
    }
}
