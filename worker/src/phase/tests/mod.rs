//! Whole phases in this process, the test playing the coordinator.

mod gang; // ranks as threads, and their coordinator
mod pipeline; // four phases; refusals
mod saves; // resume; saves that come early or fail
mod judge; // early stop; the best checkpoint
mod layers; // heads of every kind; several classifiers at once
mod curves; // event files for TensorBoard
mod imports; // exports that another job goes on from
mod fleet; // processes as threads, and their coordinator over several attempts
mod outlive; // attempts that end early, and those that go on from memory
mod by_plan; // leaving together; skipped steps
mod invariance; // any number of ranks, any micro-batch
mod room; // what does not fit a device
mod resident; // training images that stay with the device
mod data; // what is refused before training; bad images over all ranks
