//! The program from outside, against a real coordinator with workers that train nothing.

#![allow(clippy::unwrap_used)] // helpers of tests panic as tests do

mod cluster; // a coordinator in this process, and the program beside it
mod life; // a job from submit to delete
mod codes; // exit codes, contexts, Ctrl-C
