//! What a data set looks like: people look before they train.

mod report; // counts, sizes, problems
mod sheet; // originals beside their two views

pub use report::{ClassCount, Problem, Report, Sides, inspect};
pub use sheet::contact_sheet;
