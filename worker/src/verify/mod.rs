//! Golden cases: `diptych-worker verify DIR`.
//!
//! A file `DIR/*.json` is `{"kind": NAME, "cases": [...]}` with inputs and an independent implementation's answers in
//! float64. The code that trains computes them again; a case passes when every number holds
//! `|x − y| ≤ 1e-9 · max(|y|, 1e-3)`; the tensors of a whole network are compared in norm.

mod number; // what counts as equal
mod kinds; // one function per kind of case
mod norm; // batch norm over real ranks
mod network; // parameters and selective kernels
mod whole; // a whole network, forward and backward
mod ranks; // a gang inside this process

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;
use serde_json::Value;
use tch::Device;

use number::Case;
pub(crate) use ranks::{on_ranks, rank_gangs};

/// How many cases ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Every number held.
    pub passed: usize,
    /// Some number did not.
    pub failed: usize,
}

#[derive(Debug, Deserialize)]
struct File {
    kind: String,
    cases: Vec<Value>,
}

/// Runs every case of every `*.json` file of a folder on a device, in the order of their names. Writes a line for each kind and
/// for each case that fails, and the summary last.
///
/// # Errors
/// A folder or file that cannot be read or is not in the format, by name.
pub fn run(folder: &Path, device: Device, out: &mut impl Write) -> anyhow::Result<Summary> {
    let mut total = Summary::default();
    let files = golden_files(folder)?;
    anyhow::ensure!(!files.is_empty(), "{}: no *.json files", folder.display());
    for path in files {
        let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let file: File =
            serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))?;
        let summary = run_file(&file, (folder, device), out)?;
        total.passed += summary.passed;
        total.failed += summary.failed;
    }
    writeln!(out, "{total}")?;
    Ok(total)
}

fn golden_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let read = || format!("read {}", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(read)? {
        let path = entry.with_context(read)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn run_file(
    file: &File,
    (folder, device): (&Path, Device),
    out: &mut impl Write,
) -> anyhow::Result<Summary> {
    let mut summary = Summary::default();
    for (index, case) in file.cases.iter().enumerate() {
        match kinds::check(
            &file.kind,
            Case {
                value: case,
                device,
            },
            folder,
        ) {
            Ok(()) => summary.passed += 1,
            Err(error) => {
                summary.failed += 1;
                writeln!(out, "{} case {index}: {error:#}", file.kind)?;
            }
        }
    }
    writeln!(out, "{}: {summary}", file.kind)?;
    Ok(summary)
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}
