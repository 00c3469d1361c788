//! Views made on the device: decoded crops go up as bytes, and batched operations do there what
//! [`render`](diptych_images::augment::render) does to one image on the host, by the same parameters.

mod crops; // what goes up
mod render; // crops to views
mod color; // colour operations on many views
mod blur; // one Gaussian per view

pub use crops::{Crop, Crops};

#[cfg(test)]
mod tests;
