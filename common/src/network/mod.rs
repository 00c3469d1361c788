//! What a network is made of, without building it: tensors, parameters, work and memory.

mod widths; // channels and sizes of every stage
mod layers; // convolutions and batch norms in forward order
mod tensors; // names, shapes and roles
mod operations; // what each layer does to one view, and what stays
mod cost; // parameters, FLOPs, activation memory

pub use cost::{Parameters, activation_elements, forward_flops, parameters};
pub use operations::{Operation, operations};
pub use tensors::{Role, TensorInfo, classifier_tensors, encoder_tensors, head_tensors};
pub use widths::{Widths, features};
