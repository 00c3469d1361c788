//! `predict` and `embed`: the worker does them, because it holds libtorch. `admin restore`: the coordinator does.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use crate::binaries::Program;
use crate::failure::{Code, Failure};

/// Becomes another program; returns only if that fails.
pub(super) fn become_program(program: &Program, args: &[OsString]) -> Result<(), Failure> {
    let error = std::process::Command::new(program.path()).args(args).exec();
    Err(Failure::new(
        Code::Failed,
        format!("run {}: {error}", program.path().display()),
    ))
}
