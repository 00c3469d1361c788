//! Features to the space of the loss: the projection head, linear classifiers, and the whole network.

mod head; // the projection head
mod linear; // classifiers and probe
mod model; // encoder, head and classifier with their named state

pub use head::{Head, HeadPart};
pub use linear::Reader;
pub use model::{Model, ModelSpec, NamedTensor, Outputs, StateError, StateRole, Trained};
