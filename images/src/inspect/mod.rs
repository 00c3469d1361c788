//! What a data set looks like: people look before they train.

mod report; // counts, sizes, problems
mod sheet; // whole originals beside their two views

pub use report::{ClassCount, Problem, Report, Sides, inspect};
pub use sheet::{Views, contact_sheet};
