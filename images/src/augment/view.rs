//! An image to a view.

use diptych_common::checkpoint::Preprocessing;
use diptych_common::spec::{AugmentSpec, Implementation, Resampling};

use crate::decode::Image;

use super::resize::{self, Cut};
use super::{Key, ViewParams, blur, center_crop, color};

/// Share of the shorter side that an evaluation crop keeps.
const EVALUATION_PROPORTION: f64 = 0.875;
/// Views up to this size are of images that fill the frame (CIFAR): they are evaluated whole.
const WHOLE_UP_TO: u32 = 32;

/// Buffers of one thread, kept between images.
#[derive(Debug, Default)]
pub struct Scratch {
    resize: resize::Buffers,
    blur: Vec<f32>,
}

/// Makes the view that `key` names. `out` is as in [`render`].
///
/// # Panics
/// When `out` has not `3 · image_size²` floats.
pub fn augment(
    image: &Image,
    spec: &AugmentSpec,
    key: &Key,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let params = ViewParams::draw(spec, key, image.height, image.width);
    render(image, spec, &params, scratch, out);
}

/// Makes the view that was drawn: crop, resize, flip, colours, gray, blur, clip.
///
/// `out` receives `3 · image_size²` floats in [0, 1]: the red, the green and the blue plane.
///
/// # Panics
/// When `out` has another length.
pub fn render(
    image: &Image,
    spec: &AugmentSpec,
    params: &ViewParams,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let side = spec.image_size as usize;
    check_length(side, out);
    let cut = Cut {
        crop: params.crop,
        flip: params.flip,
        side,
    };
    let resampling = spec.resampling();
    resize::resize(image, cut, resampling, &mut scratch.resize, out);
    // torchvision resizes bytes to bytes or clips; the official code clips after colours only.
    if resampling == Resampling::AntialiasedBicubic {
        color::clip(out);
    }
    for &op in &params.color {
        color::apply(op, out);
    }
    if params.gray {
        color::grayscale(out);
    }
    color::clip(out);
    if let Some(sigma) = params.blur {
        let border = match spec.implementation {
            Implementation::Official { .. } => blur::Border::Zeros,
            Implementation::Torchvision { .. } => blur::Border::Mirror,
        };
        blur::blur(sigma, border, side, &mut scratch.blur, out);
        color::clip(out);
    }
}

/// What evaluation does to an image for such views: the one place that says so, for [`evaluation`] and for what
/// checkpoints and exports state.
pub fn preprocessing(spec: &AugmentSpec) -> Preprocessing {
    Preprocessing {
        image_size: spec.image_size,
        crop_proportion: if spec.image_size <= WHOLE_UP_TO {
            1.0
        } else {
            EVALUATION_PROPORTION
        },
        resampling: spec.resampling(),
    }
}

/// Makes the evaluation view as it is stated: the central square of a share of the shorter side, resized. `out` is as in
/// [`augment`].
///
/// # Panics
/// When `out` has not `3 · image_size²` floats.
pub fn evaluation(image: &Image, stated: Preprocessing, scratch: &mut Scratch, out: &mut [f32]) {
    let side = stated.image_size as usize;
    check_length(side, out);
    let cut = Cut {
        crop: center_crop(image.height, image.width, stated.crop_proportion),
        flip: false,
        side,
    };
    resize::resize(image, cut, stated.resampling, &mut scratch.resize, out);
    color::clip(out);
}

fn check_length(side: usize, out: &[f32]) {
    assert_eq!(
        out.len(),
        3 * side * side,
        "a view has 3 · image_size² floats"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use diptych_common::spec::{BlurSigma, Interpolation};

    fn noise(side: usize) -> Image {
        let pixels = (0..3 * side * side)
            .map(|i| (i * 7919 % 251) as u8)
            .collect();
        Image {
            width: side,
            height: side,
            pixels,
        }
    }

    #[test]
    fn views_are_repeatable_and_within_bounds() {
        let torchvision = Implementation::Torchvision {
            interpolation: Interpolation::Bicubic,
        };
        let official = AugmentSpec::simclr(64);
        let other = AugmentSpec {
            implementation: torchvision,
            blur_sigma: BlurSigma::View,
            ..AugmentSpec::simclr(64)
        };
        let image = noise(50);
        let (mut first, mut again) = (vec![0.0; 3 * 64 * 64], vec![0.0; 3 * 64 * 64]);
        let mut used = Scratch::default();
        for sample in 0..50 {
            let key = Key {
                seed: 1,
                phase: 0,
                step: 3,
                position: 4,
                sample,
                view: 1,
            };
            for spec in [&official, &other] {
                augment(&image, spec, &key, &mut used, &mut first);
                augment(&image, spec, &key, &mut Scratch::default(), &mut again);
                assert_eq!(first, again, "sample {sample}");
                assert!(first.iter().all(|value| (0.0..=1.0).contains(value)));
            }
        }
    }

    #[test]
    fn small_images_are_evaluated_whole() {
        let image = noise(32);
        let small = preprocessing(&AugmentSpec::plain(32));
        let mut out = vec![0.0; 3 * 32 * 32];
        evaluation(&image, small, &mut Scratch::default(), &mut out);
        for (plane, values) in out.chunks_exact(32 * 32).enumerate() {
            for (place, value) in values.iter().enumerate() {
                assert!((value - f32::from(image.pixels[3 * place + plane]) / 255.0).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn what_is_stated_is_what_is_done() {
        // A frame that a crop of 0.875 leaves out, on an image that is smaller than the view.
        let mut image = noise(40);
        let (mut before, mut after) = (vec![0.0; 3 * 64 * 64], vec![0.0; 3 * 64 * 64]);
        let mut scratch = Scratch::default();
        let stated = preprocessing(&AugmentSpec::plain(64));
        assert_eq!(stated.crop_proportion, 0.875);
        evaluation(&image, stated, &mut scratch, &mut before);
        image.pixels[..3 * 40].fill(0);
        evaluation(&image, stated, &mut scratch, &mut after);
        assert_eq!(before, after);
        let whole = Preprocessing {
            crop_proportion: 1.0,
            ..stated
        };
        evaluation(&image, whole, &mut scratch, &mut after);
        assert_ne!(before, after);
    }

    #[test]
    fn evaluation_resizes_as_training_does() {
        let image = noise(90);
        let torchvision = AugmentSpec {
            implementation: Implementation::Torchvision {
                interpolation: Interpolation::Bilinear,
            },
            ..AugmentSpec::plain(40)
        };
        let mut scratch = Scratch::default();
        let (mut view, mut evaluated) = (vec![0.0; 3 * 40 * 40], vec![0.0; 3 * 40 * 40]);
        for spec in [&AugmentSpec::plain(40), &torchvision] {
            let params = ViewParams {
                crop: center_crop(90, 90, 0.875),
                flip: false,
                color: Vec::new(),
                gray: false,
                blur: None,
            };
            render(&image, spec, &params, &mut scratch, &mut view);
            evaluation(&image, preprocessing(spec), &mut scratch, &mut evaluated);
            assert_eq!(view, evaluated);
        }
    }
}
