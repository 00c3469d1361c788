//! Settings of a process: a file, over it the environment, over that flags. Every problem is found before anything starts.

mod layers; // who gave what
mod effective; // what holds, as a file that gives the same again
mod schema; // what there is, for editors and checkers

pub use effective::{Effective, without_password};
pub use layers::{Environment, Layers, Origin, Problem, Problems};
pub use schema::{DurationText, schema};
