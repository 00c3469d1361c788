//! Views made on the device: decoded crops go up as bytes, or lie there within resident originals, and batched operations
//! do there what [`render`](diptych_images::augment::render) does to one image on the host, by the same parameters.

mod crops; // what goes up
mod tables; // indices and weights, in one piece
mod taps; // which pixels make a pixel
mod color; // colour operations on many views
mod blur; // one Gaussian per view
mod render; // crops to views

pub use crops::{Crops, Cuts};

#[cfg(test)]
mod tests;
