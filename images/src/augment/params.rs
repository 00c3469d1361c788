//! What a view's randomness is: drawn once, from its key alone.

use diptych_common::spec::{
    AugmentSpec, BlurSigma, Brightness, ColorOrder, ColorSpec, Implementation,
};

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
    /// `x + difference`: SimCLR v1's brightness.
    Shift(f32),
    /// `(x − mean) · factor + mean`, with the mean of each channel over the image.
    Contrast(f32),
    /// Saturation in HSV times a factor.
    Saturation(f32),
    /// Hue in HSV plus a share of the full circle.
    Hue(f32),
    /// torchvision's contrast: as [`Contrast`](Self::Contrast), with the mean of the gray image for all channels.
    GrayContrast(f32),
    /// torchvision's saturation: `(x − gray) · factor + gray`, with each pixel's own gray.
    GraySaturation(f32),
}

/// Sigmas of a blur in pixels of the view, the upper end excluded.
const SIGMA: (f64, f64) = (0.1, 2.0);
/// The sample and the stream of what a step's views share: no sample and no position has them.
const SHARED: u64 = u64::MAX;

impl ViewParams {
    /// Draws a view's parameters for an image of this size.
    pub fn draw(spec: &AugmentSpec, key: &Key, height: usize, width: usize) -> Self {
        let mut draws = key.draws(key.sample, u64::from(key.position));
        let flip = draws.chance(0.5) && spec.flip;
        let gray = draws.chance(spec.grayscale_probability);
        let blurred = draws.chance(spec.blur_probability);
        let own = draws.uniform(SIGMA.0, SIGMA.1);
        let blur = blurred.then(|| match spec.blur_sigma {
            BlurSigma::Image => own,
            BlurSigma::View => key.draws(SHARED, SHARED).uniform(SIGMA.0, SIGMA.1),
        });
        let color = match &spec.color {
            Some(color) => draw_color(color, spec.implementation, &mut draws),
            None => Vec::new(),
        };
        let crop = crop::sample(spec, &mut draws, height, width);
        Self {
            crop,
            flip,
            color,
            gray,
            blur,
        }
    }
}

impl Key {
    /// The random stream of one sample at one position, for this step and view.
    fn draws(&self, sample: u64, position: u64) -> Draws {
        let words = [
            self.seed,
            u64::from(self.phase) << 32 | u64::from(self.view),
            self.step,
            sample,
        ];
        Draws::keyed(words, position)
    }
}

fn draw_color(spec: &ColorSpec, implementation: Implementation, draws: &mut Draws) -> Vec<ColorOp> {
    let applied = draws.chance(spec.probability);
    let (range, turn) = (0.8 * spec.strength, 0.2 * spec.strength);
    let (least, most) = ((1.0 - range).max(0.0), 1.0 + range);
    let mut factor = |low: f64, high: f64| draws.uniform(low, high) as f32;
    let mut ops = vec![
        match implementation {
            Implementation::Official {
                brightness: Brightness::Additive,
            } => ColorOp::Shift(factor(-range, range)),
            _ => ColorOp::Brightness(factor(least, most)),
        },
        match implementation {
            Implementation::Official { .. } => ColorOp::Contrast(factor(least, most)),
            Implementation::Torchvision { .. } => ColorOp::GrayContrast(factor(least, most)),
        },
    ];
    if spec.hue_saturation {
        let saturation = factor(least, most);
        ops.push(match implementation {
            Implementation::Official { .. } => ColorOp::Saturation(saturation),
            Implementation::Torchvision { .. } => ColorOp::GraySaturation(saturation),
        });
        ops.push(ColorOp::Hue(factor(-turn, turn)));
    }
    if spec.order == ColorOrder::Random {
        draws.shuffle(&mut ops);
    }
    if applied { ops } else { Vec::new() }
}
