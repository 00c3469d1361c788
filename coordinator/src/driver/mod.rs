//! The owner task: events in, one commit for many, effects out. The only holder of the state.

pub mod handle; // what the wire holds
pub mod owner; // the task
mod again; // reports that wait for the database
pub mod outbox; // orders to agents
pub mod sweeper; // deletes collected checkpoints

pub use handle::{Handle, WishError};
pub use outbox::{Outbound, Outbox};
pub use owner::{Ground, Options, start, start_on};
