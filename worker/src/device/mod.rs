//! The only door to what tch lacks: a small C++ shim, and the settings of the thread that owns a device.

mod error; // why a step is given up
mod memory; // what is kept between steps
mod settings; // device, precision, threads
pub(crate) mod shim; // autograd in Rust, hooks, layouts, autocast
pub(crate) mod update; // optimiser steps

pub use error::StepError;
pub use memory::keep_freed_memory;
pub use settings::{Compute, Layout};
