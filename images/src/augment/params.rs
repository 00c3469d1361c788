//! What a view's randomness is: drawn once, from its key alone.

use diptych_common::spec::{AugmentSpec, ColorSpec};

use crate::draw::Draws;

use super::crop::{self, CropBox};

/// Names one view of one sample in one step. Equal keys give equal views on every machine and in every gang.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The job's seed.
    pub seed: u64,
    /// Index of the phase.
    pub phase: u32,
    /// The optimiser step that the view is for.
    pub step: u64,
    /// Position in the step's global batch.
    pub position: u32,
    /// The sample.
    pub sample: u64,
    /// Which of the sample's views, from 0.
    pub view: u32,
}

/// Everything random about one view.
#[derive(Debug, Clone, PartialEq)]
pub struct ViewParams {
    /// The part of the image that is resized to the view.
    pub crop: CropBox,
    /// Mirror left-right.
    pub flip: bool,
    /// Colour operations in the order in which they are done; empty for none.
    pub color: Vec<ColorOp>,
    /// Turn gray.
    pub gray: bool,
    /// Standard deviation of the blur in pixels of the view.
    pub blur: Option<f64>,
}

/// One colour operation; values are clipped to [0, 1] after it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ColorOp {
    /// `x · factor`.
    Brightness(f32),
    /// `(x − mean) · factor + mean`, with the mean of each channel over the image.
    Contrast(f32),
    /// Saturation in HSV times a factor.
    Saturation(f32),
    /// Hue in HSV plus a share of the full circle.
    Hue(f32),
}

impl ViewParams {
    /// Draws a view's parameters for an image of this size.
    pub fn draw(spec: &AugmentSpec, key: &Key, height: usize, width: usize) -> Self {
        let words = [
            key.seed,
            u64::from(key.phase) << 32 | u64::from(key.view),
            key.step,
            key.sample,
        ];
        let mut draws = Draws::keyed(words, u64::from(key.position));
        let flip = draws.chance(0.5) && spec.flip;
        let gray = draws.chance(spec.grayscale_probability);
        let blurred = draws.chance(spec.blur_probability);
        let sigma = draws.uniform(0.1, 2.0);
        let color = match &spec.color {
            Some(color) => draw_color(color, &mut draws),
            None => Vec::new(),
        };
        let crop = crop::sample(spec, &mut draws, height, width);
        Self {
            crop,
            flip,
            color,
            gray,
            blur: blurred.then_some(sigma),
        }
    }
}

fn draw_color(spec: &ColorSpec, draws: &mut Draws) -> Vec<ColorOp> {
    let applied = draws.chance(spec.probability);
    let (range, turn) = (0.8 * spec.strength, 0.2 * spec.strength);
    let mut factor = || draws.uniform((1.0 - range).max(0.0), 1.0 + range) as f32;
    let mut ops = vec![ColorOp::Brightness(factor()), ColorOp::Contrast(factor())];
    if spec.hue_saturation {
        ops.push(ColorOp::Saturation(factor()));
        ops.push(ColorOp::Hue(draws.uniform(-turn, turn) as f32));
    }
    draws.shuffle(&mut ops);
    if applied { ops } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn simclr() -> AugmentSpec {
        AugmentSpec {
            image_size: 224,
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
        }
    }

    fn key(sample: u64, view: u32) -> Key {
        Key {
            seed: 3,
            phase: 0,
            step: 9,
            position: 5,
            sample,
            view,
        }
    }

    #[test]
    fn a_view_is_a_function_of_its_key() {
        let draw = |key: &Key| ViewParams::draw(&simclr(), key, 375, 500);
        assert_eq!(draw(&key(1, 0)), draw(&key(1, 0)));
        assert_ne!(draw(&key(1, 0)), draw(&key(1, 1)));
        assert_ne!(
            draw(&key(1, 0)),
            draw(&Key {
                step: 10,
                ..key(1, 0)
            })
        );
        assert_ne!(
            draw(&key(1, 0)),
            draw(&Key {
                position: 6,
                ..key(1, 0)
            })
        );
        assert_ne!(
            draw(&key(1, 0)),
            draw(&Key {
                phase: 1,
                ..key(1, 0)
            })
        );
    }

    #[test]
    fn probabilities_and_ranges_are_the_papers() {
        let n = 20_000;
        let all: Vec<ViewParams> = (0..n)
            .map(|i| ViewParams::draw(&simclr(), &key(i, 0), 375, 500))
            .collect();
        let share = |test: fn(&ViewParams) -> bool| {
            all.iter().filter(|view| test(view)).count() as f64 / n as f64
        };
        for (found, wanted) in [
            (share(|view| view.flip), 0.5),
            (share(|view| view.gray), 0.2),
            (share(|view| view.blur.is_some()), 0.5),
            (share(|view| !view.color.is_empty()), 0.8),
            (
                share(|view| matches!(view.color.first(), Some(ColorOp::Hue(_)))),
                0.2,
            ),
        ] {
            assert!(
                (found - wanted).abs() < 0.015,
                "{found} should be near {wanted}"
            );
        }
        for view in &all {
            assert!(view.blur.is_none_or(|sigma| (0.1..2.0).contains(&sigma)));
            for op in &view.color {
                match *op {
                    ColorOp::Hue(turn) => assert!((-0.2..0.2).contains(&turn)),
                    ColorOp::Brightness(f) | ColorOp::Contrast(f) | ColorOp::Saturation(f) => {
                        assert!((0.2..=1.8).contains(&f));
                    }
                }
            }
        }
    }
}
