//! RGB images to views: floats in [0, 1], channel by channel, no mean or deviation subtracted
//! (SimCLR v1 appendix A, as the official code does it; or as torchvision does).
//!
//! What is drawn is a pure function of a [`Key`]; what is done to pixels is a pure function of what was drawn.

mod params; // key → crop, flip, colours, blur
mod crop; // crop samplers, evaluation crops
mod resize; // TensorFlow's and torchvision's kernels
mod color; // brightness, contrast, saturation, hue, gray
mod blur; // Gaussian
mod view; // all of it, in order

pub use blur::gaussian_kernel;
pub use crop::{CropBox, center_crop};
pub use params::{ColorOp, Key, ViewParams};
pub use resize::{Axis, axis};
pub use view::{Scratch, augment, evaluation, preprocessing, render};
