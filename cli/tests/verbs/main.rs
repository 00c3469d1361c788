//! The program from outside: against a real coordinator with workers that train nothing and, for what those cannot show,
//! against one that says what a test lays out.

#![allow(clippy::unwrap_used)] // helpers of tests panic as tests do

mod program; // the program
mod cluster; // a coordinator in this process
mod life; // a job from submit to delete
mod codes; // exit codes, contexts, Ctrl-C
mod desk; // a coordinator that says what a test lays out
mod elastic; // ranks that come and go
mod admin; // backups, debug bundles
