//! The only door to what tch lacks: a C++ shim, what a machine offers, and the settings of the thread that owns a device.

mod library; // shared libraries that may be missing
mod driver; // the CUDA driver
pub mod nvml; // GPUs and how they are doing
pub mod cuda; // libtorch's CUDA half, loaded early
mod choice; // a device as a flag names it
mod error; // why a step is given up
mod memory; // what is kept between steps
mod settings; // device, precision, threads
pub(crate) mod shim; // autograd in Rust, hooks, layouts, autocast
pub(crate) mod norm; // batch norm in pieces
pub(crate) mod stream; // streams and memory of CUDA devices
pub(crate) mod update; // optimiser steps
#[cfg(test)]
pub(crate) mod fake; // the vendor's libraries without a GPU

pub use choice::{DeviceChoice, NoDevice};
pub use driver::{CudaVersion, Driver, DriverError, ask as ask_driver};
pub use error::StepError;
pub(crate) use library::{Library, Visibility, functions};
pub use library::{LibraryError, Tried};
pub use memory::keep_freed_memory;
pub use settings::{Compute, Layout};
pub use stream::{DeviceMemory, torch_version};
pub(crate) use stream::{fetch, memory as device_memory, pin, pinned_room, send};
