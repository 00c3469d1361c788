//! What outlives the process: SQLite and the trainers' logs, in one data directory that one coordinator owns.

pub mod error; // what can go wrong
pub mod lock; // one coordinator per directory
pub mod journal; // what the owner needs of it
pub mod sqlite; // the writer: load, commit
pub mod reader; // histories, beside the writer
pub mod backup; // a copy of it, and the way back
pub mod logs; // trainers' output, by attempt and rank

pub use backup::{Restored, restore};
pub use error::StoreError;
pub use journal::{History, Journal, Stored};
pub use logs::{LogFile, Logs};
pub use reader::{Reader, StoredEvent};
pub use sqlite::{Batch, Point, Store};
