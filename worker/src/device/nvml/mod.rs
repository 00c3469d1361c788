//! NVIDIA's management library: what GPUs a machine has, how they are doing, and what goes wrong with them. It needs the
//! driver, not CUDA, takes no device memory, and sees every device whatever `CUDA_VISIBLE_DEVICES` says.

mod functions; // the C side
mod gpu; // one device
mod faults; // Xid and ECC events as they come
mod topology; // how near two devices are

pub use faults::{Fault, FaultKind, Faults};
pub use functions::{Nvml, NvmlError};
pub use gpu::{Gpu, Load};
pub use topology::{Link, Place};

#[cfg(test)]
mod tests;
