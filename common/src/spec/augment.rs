//! How a training image becomes a view.

use serde::{Deserialize, Serialize};

/// Random augmentation (SimCLR v1 appendix A). Every probability is in [0, 1].
#[derive(Debug, Clone, PartialEq)]
pub struct AugmentSpec {
    /// Side of the view in pixels, for training and evaluation alike.
    pub image_size: u32,
    /// Whose operations.
    pub implementation: Implementation,
    /// Smallest and largest share of the image's area that a crop covers.
    pub crop_area: (f64, f64),
    /// Narrowest and widest aspect ratio of a crop.
    pub crop_aspect: (f64, f64),
    /// Flip left-right with probability ½.
    pub flip: bool,
    /// Colour distortion, if any.
    pub color: Option<ColorSpec>,
    /// Probability of turning the view gray.
    pub grayscale_probability: f64,
    /// Probability of a Gaussian blur with sigma uniform in [0.1, 2).
    pub blur_probability: f64,
    /// What shares a sigma.
    pub blur_sigma: BlurSigma,
    /// Where views are made.
    pub place: ViewsOn,
}

/// Where views are made. What comes out is the same, but for rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ViewsOn {
    /// By the threads that decode.
    #[default]
    Host,
    /// On the device that trains, from what the threads decode.
    Device,
    /// On the device that trains, from originals that stay in its memory: every rank decodes its data once, when the
    /// phase starts.
    Resident,
}

/// Whose operations make a view. The two differ in how crops are drawn, in resizing, in contrast and saturation, and in
/// what blur takes for pixels outside the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Implementation {
    /// The official code's, which are TensorFlow's.
    Official {
        /// Of which version.
        brightness: Brightness,
    },
    /// torchvision's on float tensors, as most PyTorch re-implementations of SimCLR use them.
    Torchvision {
        /// Between pixels; antialiased either way.
        interpolation: Interpolation,
    },
}

/// What the official code's brightness does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Brightness {
    /// SimCLR v2: times a factor.
    Multiplicative,
    /// SimCLR v1: plus a number.
    Additive,
}

/// torchvision's antialiased filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interpolation {
    /// A triangle, the default of `RandomResizedCrop`.
    Bilinear,
    /// Keys' cubic with a = −½.
    Bicubic,
}

/// How pixels are resized, in training and in evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resampling {
    /// TensorFlow 2's bicubic kernel, not antialiased.
    #[default]
    Bicubic,
    /// A triangle as wide as an output pixel.
    AntialiasedBilinear,
    /// Keys' cubic as wide as an output pixel.
    AntialiasedBicubic,
}

/// Which views are blurred with the same sigma.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlurSigma {
    /// Every image has its own (SimCLR v1 appendix A).
    Image,
    /// All first views of a step share one, and so do all second ones, as in the official code; here over all ranks.
    View,
}

/// Colour distortion with brightness, contrast, saturation and hue, clipped after each.
#[derive(Debug, Clone, PartialEq)]
pub struct ColorSpec {
    /// Scales 0.8 (brightness, contrast, saturation) and 0.2 (hue). In (0, 1.25].
    pub strength: f64,
    /// Probability of distorting a view at all.
    pub probability: f64,
    /// Whether saturation and hue take part.
    pub hue_saturation: bool,
    /// Which comes first.
    pub order: ColorOrder,
}

/// The order of the colour operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColorOrder {
    /// Drawn for each view, as in the official code.
    Random,
    /// Brightness, contrast, saturation, hue, as in the pseudo-code of SimCLR v1 appendix A.
    Fixed,
}

impl AugmentSpec {
    /// Crop and flip: what the phases after pretraining train on.
    pub fn plain(image_size: u32) -> Self {
        Self {
            image_size,
            implementation: Implementation::Official {
                brightness: Brightness::Multiplicative,
            },
            crop_area: (0.08, 1.0),
            crop_aspect: (0.75, 4.0 / 3.0),
            flip: true,
            color: None,
            grayscale_probability: 0.0,
            blur_probability: 0.0,
            blur_sigma: BlurSigma::Image,
            place: ViewsOn::Host,
        }
    }

    /// SimCLR's views of photos (v1 appendix A): colour of strength 1, gray, blur.
    pub fn simclr(image_size: u32) -> Self {
        Self {
            blur_probability: 0.5,
            ..Self::simclr_of_strength(image_size, 1.0)
        }
    }

    /// SimCLR's views of CIFAR-10 (v1 §B.9): colour of strength ½, no blur.
    pub fn simclr_small(image_size: u32) -> Self {
        Self::simclr_of_strength(image_size, 0.5)
    }

    fn simclr_of_strength(image_size: u32, strength: f64) -> Self {
        Self {
            color: Some(ColorSpec {
                strength,
                probability: 0.8,
                hue_saturation: true,
                order: ColorOrder::Random,
            }),
            grayscale_probability: 0.2,
            ..Self::plain(image_size)
        }
    }

    /// How crops become views.
    pub fn resampling(&self) -> Resampling {
        match self.implementation {
            Implementation::Official { .. } => Resampling::Bicubic,
            Implementation::Torchvision { interpolation } => match interpolation {
                Interpolation::Bilinear => Resampling::AntialiasedBilinear,
                Interpolation::Bicubic => Resampling::AntialiasedBicubic,
            },
        }
    }
}

impl Resampling {
    /// Whether it is what records of before this choice mean.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
