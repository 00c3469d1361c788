//! Which samples a step takes, on which rank, and their views as tensors.
//!
//! Everything that decides is pure and knows no machine: [`order`] names the samples of every step, [`layout`] deals
//! a step's rows to ranks, [`labels`] picks the labelled subset. [`Loader`] and [`EvalLoader`] do the work.

pub mod order; // samples of a step: epochs, blocks, lanes, windows
pub mod layout; // rows of a step: lanes, groups, ranks, canonical order
pub mod labels; // which labels a phase may use
mod source; // a phase's samples; decoded images kept where they are few
mod originals; // decoded images that stay with the device
mod place; // where views are made
mod views; // made on the device, where the spec asks
mod collate; // views straight into tensors, or what becomes views there
mod ahead; // work done ahead of time, in order
mod loader; // training steps
mod evaluate; // every sample once, not augmented
#[cfg(test)]
mod tests;

pub use ahead::Stop;
pub use collate::{Images, RowBatch};
pub use evaluate::{EvalBatch, EvalLoader, EvalOptions};
pub use labels::LabelError;
pub use layout::{Layout, LayoutError, Row};
pub use loader::{LoadError, Loader, LoaderOptions, RankBatch};
pub use order::{Order, OrderError, Shortage, Stream};
pub use originals::{Frame, Gathered, Originals, Settling};
pub use place::Place;
pub(crate) use source::BAD_SHOWN;
pub use source::{BadImage, Source, most_bad};
pub use views::{Crops, Cuts};
