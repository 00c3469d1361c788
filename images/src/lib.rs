//! Stored bytes to augmented views, without libtorch.

pub mod draw; // random numbers named by keys
pub mod shard; // URL → index → encoded bytes
pub mod decode; // encoded bytes → RGB pixels
pub mod augment; // RGB pixels → views
pub mod inspect; // what a data set looks like
