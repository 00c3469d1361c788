//! How a training image becomes a view.

/// Random augmentation (SimCLR v1 appendix A). Every probability is in [0, 1].
#[derive(Debug, Clone, PartialEq)]
pub struct AugmentSpec {
    /// Side of the view in pixels, for training and evaluation alike.
    pub image_size: u32,
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
}

/// Colour distortion with brightness, contrast, saturation and hue in random order, clipped after each.
#[derive(Debug, Clone, PartialEq)]
pub struct ColorSpec {
    /// Scales 0.8 (brightness, contrast, saturation) and 0.2 (hue). In (0, 1.25].
    pub strength: f64,
    /// Probability of distorting a view at all.
    pub probability: f64,
    /// Whether saturation and hue take part.
    pub hue_saturation: bool,
}
