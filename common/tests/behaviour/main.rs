//! What the crate promises, from outside.

mod checkpoint; // written, damaged, exported, read back
mod faulty; // a store that does wrong at a chosen call
mod store_faults; // writing through it
mod torn; // a thousand damaged checkpoints, none of them loaded
mod manifest; // strict, and old files still load
mod pth; // a writer of .pth files
mod imports; // files of other programs
mod import_damage; // files that are refused
mod recipes; // every recipe is valid and can be planned
mod plan; // work, memory, traffic and time by known numbers
mod limits; // how many groups fit at once
mod spec; // defaults, and every error at once
mod views; // augmentations by their words
mod corruption; // one wrong field, one error at its path
mod drafts; // any draft, any text
