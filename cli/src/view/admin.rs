//! Backups, debug bundles.

use std::io::{self, Write};

use diptych_common::units::Bytes;
use serde::Serialize;

use crate::output::Output;
use crate::output::table::properties;

/// A backup that was made.
#[derive(Debug, Serialize)]
pub(crate) struct Backup {
    pub(crate) file: String,
    pub(crate) bytes: u64,
    /// BLAKE3, hex.
    pub(crate) digest: String,
    pub(crate) coordinator_version: String,
}

/// A debug bundle that was made.
#[derive(Debug, Serialize)]
pub(crate) struct Bundle {
    pub(crate) file: String,
    pub(crate) bytes: u64,
    /// Jobs that are in it whole.
    pub(crate) jobs: Vec<String>,
    /// What could not be had, and why.
    pub(crate) problems: Vec<String>,
}

impl Output for Backup {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        properties(
            out,
            &[
                ("file", Some(self.file.clone())),
                ("size", Some(Bytes::new(self.bytes).to_string())),
                ("blake3", Some(self.digest.clone())),
                ("coordinator", Some(self.coordinator_version.clone())),
            ],
        )
    }
}

impl Output for Bundle {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let jobs = match self.jobs.as_slice() {
            [] => "none".to_owned(),
            jobs => jobs.join(", "),
        };
        let rows = [
            ("file", Some(self.file.clone())),
            ("size", Some(Bytes::new(self.bytes).to_string())),
            ("jobs", Some(jobs)),
        ];
        properties(out, &rows)?;
        for problem in &self.problems {
            writeln!(out, "left out: {problem}")?;
        }
        writeln!(
            out,
            "README.txt in it says what is what; it holds specs and trainers' output: look before you pass it on"
        )
    }
}
