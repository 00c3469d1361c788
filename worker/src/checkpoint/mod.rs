//! Training state to objects and back.

pub mod flat; // one buffer that is the object
pub mod saver; // the writing thread
pub mod load; // verified tensors

pub use flat::{FileLayout, FlatFile};
pub use load::Loaded;
pub use saver::{Saved, Saver, Storage};
