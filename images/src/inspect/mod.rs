//! What a data set looks like: people look before they train.

mod report; // counts, sizes, problems
mod operation; // what an augmentation consists of
mod sheet; // whole originals beside their two views
mod canvas; // pictures into one picture

pub use canvas::Picture;
pub use report::{ClassCount, Problem, Report, Sides, inspect};
pub use sheet::{Views, contact_sheet, grid, operations_sheet};
