//! Stored samples: what a data set holds, and the bytes of each.
//!
//! A data set is one object, a folder of objects, or those that a pattern selects; behind any object-store URL, as
//! Parquet files, WebDataset tar shards or plain images. [`Index::open`] reads names and labels; images stay where they
//! are until [`Index::read`] asks for them.

mod error; // what can be wrong with a data set
mod runs; // numbered shards, and which are missing
mod source; // URL → objects, ranged reads
mod folder; // one image an object
mod tar; // WebDataset shards
mod parquet; // one image a row
mod index; // names, labels and places of all samples
mod read; // bytes of samples, coalesced

pub use error::DataError;
pub use index::{Index, SampleId};
