//! May this job in; may a client's wish be met. Every refusal is typed and changes nothing.

pub mod submission; // a valid spec, as the coordinator needs it
pub mod submit; // a new job, or the same again
pub mod wishes; // cancel, retry, delete, pin
pub mod cluster; // scale, cordon, drain

pub use cluster::{cordon, drain, scale};
pub use submission::{differences, submission, unusable};
pub use submit::submit;
pub use wishes::{cancel, deletable, delete, pin, retry};
