//! Checkpoints.

use std::io::{self, Write};

use diptych_common::units::Bytes;
use diptych_proto::v1;
use serde::Serialize;

use super::{some_text, time};
use crate::output::Output;
use crate::output::table::{columns, or_dash, properties};

/// Where a checkpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CheckpointState {
    /// The manifest is in the store.
    Committed,
    /// Sizes and hashes were re-read.
    Verified,
    /// Re-reading failed.
    Broken,
    /// A state that this version does not know.
    Unknown,
}

/// A checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct CheckpointView {
    pub(crate) phase: String,
    pub(crate) step: u64,
    pub(crate) attempt: u64,
    pub(crate) state: CheckpointState,
    pub(crate) pinned: bool,
    /// The phase's result: its last, or its best where the spec asks for that.
    #[serde(rename = "final")]
    pub(crate) is_final: bool,
    /// The best so far, where the spec asks for that.
    #[serde(rename = "best")]
    pub(crate) is_best: bool,
    pub(crate) bytes: u64,
    pub(crate) at: Option<String>,
    /// What re-reading found wrong.
    pub(crate) problem: Option<String>,
    /// URL under which the keys are.
    pub(crate) storage: String,
    /// Key of the manifest.
    pub(crate) manifest: String,
    /// BLAKE3 of the manifest.
    pub(crate) digest: String,
}

/// Many checkpoints.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct CheckpointList(pub(crate) Vec<CheckpointView>);

impl CheckpointState {
    fn word(self) -> &'static str {
        match self {
            CheckpointState::Committed => "committed",
            CheckpointState::Verified => "verified",
            CheckpointState::Broken => "broken",
            CheckpointState::Unknown => "unknown",
        }
    }
}

impl From<v1::Checkpoint> for CheckpointView {
    fn from(checkpoint: v1::Checkpoint) -> Self {
        let state = match checkpoint.state() {
            v1::CheckpointState::Unspecified => CheckpointState::Unknown,
            v1::CheckpointState::Committed => CheckpointState::Committed,
            v1::CheckpointState::Verified => CheckpointState::Verified,
            v1::CheckpointState::Broken => CheckpointState::Broken,
        };
        let reference = checkpoint.checkpoint.unwrap_or_default();
        Self {
            phase: reference.phase,
            step: reference.step,
            attempt: checkpoint.attempt,
            state,
            pinned: checkpoint.pinned,
            is_final: checkpoint.r#final,
            is_best: checkpoint.best,
            bytes: checkpoint.bytes,
            at: time(checkpoint.at),
            problem: some_text(checkpoint.problem),
            storage: checkpoint.storage,
            manifest: reference.manifest,
            digest: reference.digest,
        }
    }
}

impl Output for CheckpointList {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let rows = self.0.iter().map(|checkpoint| {
            let marks = [
                ("final", checkpoint.is_final),
                ("best", checkpoint.is_best),
                ("pinned", checkpoint.pinned),
            ];
            let marks = marks.iter().filter(|(_, is)| *is).map(|(mark, _)| *mark);
            let marks = some_text(marks.collect::<Vec<_>>().join(","));
            vec![
                checkpoint.phase.clone(),
                checkpoint.step.to_string(),
                checkpoint.attempt.to_string(),
                checkpoint.state.word().to_owned(),
                or_dash(marks),
                Bytes::new(checkpoint.bytes).to_string(),
                or_dash(checkpoint.at.as_ref()),
            ]
        });
        columns(
            out,
            &["PHASE", "STEP", "ATTEMPT", "STATE", "MARKS", "SIZE", "AT"],
            rows,
        )
    }
}

impl Output for CheckpointView {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let yes = |flag: bool| Some(if flag { "yes" } else { "no" }.to_owned());
        properties(
            out,
            &[
                ("phase", Some(self.phase.clone())),
                ("step", Some(self.step.to_string())),
                ("attempt", Some(self.attempt.to_string())),
                ("state", Some(self.state.word().to_owned())),
                ("problem", self.problem.clone()),
                ("final", yes(self.is_final)),
                ("best", yes(self.is_best)),
                ("pinned", yes(self.pinned)),
                ("size", Some(Bytes::new(self.bytes).to_string())),
                ("at", self.at.clone()),
                ("storage", Some(self.storage.clone())),
                ("manifest", Some(self.manifest.clone())),
                ("digest", Some(self.digest.clone())),
            ],
        )
    }
}
