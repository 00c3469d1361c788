//! What an agent lends: the GPUs that it finds, CPU slots, and how a trainer is started on each.

mod wish; // which GPUs it is to lend
mod survey; // which GPUs there are
mod visible; // which of them CUDA shows, and in which order
mod verdict; // whether a CUDA rank could run
mod cores; // cores near each of them
mod roster; // devices and seats
mod here; // of this machine
mod health; // what goes wrong with GPUs meanwhile

pub use cores::Cores;
pub use health::{faults, lasting};
pub use here::{lend, watch};
#[cfg(test)]
pub(in crate::agent) use roster::samples;
pub use roster::{Lent, NoSuchGpus, Roster, Seat, Seats, Share};
pub use survey::{Found, survey};
pub use verdict::verdict;
pub use visible::{CudaView, UnknownOrder};
pub use wish::{GpuWish, NoWish};
