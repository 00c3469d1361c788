//! An image to a view.

use diptych_common::checkpoint::Preprocessing;
use diptych_common::spec::AugmentSpec;

use crate::decode::Image;

use super::{Key, ViewParams, blur, center_crop, color, resize};

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

/// Makes the view that `key` names: crop, bicubic resize, flip, colours, gray, blur, clip.
///
/// `out` receives `3 · image_size²` floats in [0, 1]: the red, the green and the blue plane.
///
/// # Panics
/// When `out` has another length.
pub fn augment(
    image: &Image,
    spec: &AugmentSpec,
    key: &Key,
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let side = spec.image_size as usize;
    assert_eq!(
        out.len(),
        3 * side * side,
        "a view has 3 · image_size² floats"
    );
    let params = ViewParams::draw(spec, key, image.height, image.width);
    resize::bicubic(
        image,
        params.crop,
        params.flip,
        side,
        &mut scratch.resize,
        out,
    );
    for &op in &params.color {
        color::apply(op, out);
    }
    if params.gray {
        color::grayscale(out);
    }
    color::clip(out);
    if let Some(sigma) = params.blur {
        blur::blur(sigma, side, &mut scratch.blur, out);
        color::clip(out);
    }
}

/// What evaluation does to an image for views of this size: the one place that says so, for [`evaluation`] and for
/// what checkpoints and exports state.
pub fn preprocessing(image_size: u32) -> Preprocessing {
    Preprocessing {
        image_size,
        crop_proportion: if image_size <= WHOLE_UP_TO {
            1.0
        } else {
            EVALUATION_PROPORTION
        },
    }
}

/// Makes the evaluation view as it is stated: the central square of a share of the shorter side, resized. `out` is as in
/// [`augment`].
///
/// # Panics
/// When `out` has not `3 · image_size²` floats.
pub fn evaluation(image: &Image, stated: Preprocessing, scratch: &mut Scratch, out: &mut [f32]) {
    let side = stated.image_size as usize;
    assert_eq!(
        out.len(),
        3 * side * side,
        "a view has 3 · image_size² floats"
    );
    let crop = center_crop(image.height, image.width, stated.crop_proportion);
    resize::bicubic(image, crop, false, side, &mut scratch.resize, out);
    color::clip(out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use diptych_common::spec::ColorSpec;

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
        let spec = AugmentSpec {
            image_size: 64,
            crop_area: (0.08, 1.0),
            crop_aspect: (0.75, 4.0 / 3.0),
            flip: true,
            color: Some(ColorSpec {
                strength: 1.0,
                probability: 0.8,
                hue_saturation: true,
            }),
            grayscale_probability: 0.2,
            blur_probability: 0.5,
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
            augment(&image, &spec, &key, &mut used, &mut first);
            augment(&image, &spec, &key, &mut Scratch::default(), &mut again);
            assert_eq!(first, again, "sample {sample}");
            assert!(first.iter().all(|value| (0.0..=1.0).contains(value)));
        }
    }

    #[test]
    fn small_images_are_evaluated_whole() {
        let image = noise(32);
        let mut out = vec![0.0; 3 * 32 * 32];
        evaluation(&image, preprocessing(32), &mut Scratch::default(), &mut out);
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
        assert_eq!(preprocessing(64).crop_proportion, 0.875);
        evaluation(&image, preprocessing(64), &mut scratch, &mut before);
        image.pixels[..3 * 40].fill(0);
        evaluation(&image, preprocessing(64), &mut scratch, &mut after);
        assert_eq!(before, after);
        let whole = Preprocessing {
            crop_proportion: 1.0,
            ..preprocessing(64)
        };
        evaluation(&image, whole, &mut scratch, &mut after);
        assert_ne!(before, after);
    }
}
