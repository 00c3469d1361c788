//! The agent: registers, holds the lease, starts and kills trainers, uploads their logs. No tensors.

pub mod identity; // who this is, and what its machine offers
pub mod devices; // what of it is lent, and how
pub mod session; // the stream to the coordinator, opened again whenever it breaks
pub mod core; // (state, event, now) → effects
pub mod kept; // events to send again after a reconnect
pub mod trainers; // what runs a trainer, as the agent sees it
pub mod supervisor; // as processes of this machine
pub mod output; // what they print
pub mod peers; // links to the agents of other workers
pub mod log_files; // where their output lies on this disk
pub mod logs; // written, and what of it is uploaded
pub mod upload; // and on its way to the coordinator
pub mod recheck; // checkpoints read again
pub mod watch; // what those who watch it are told
pub mod service; // the agent at work
pub mod command; // `diptych-worker agent`

pub use command::command;
pub use service::{AgentError, AgentOptions, run};
