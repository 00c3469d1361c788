//! `checkpoint …`.

use std::io::Write;

use diptych_common::ids::JobId;
use diptych_proto::v1;

use crate::args::checkpoint::Which;
use crate::client::Client;
use crate::failure::{Code, Failure};
use crate::output::Printer;
use crate::view::checkpoint::{CheckpointList, CheckpointState, CheckpointView};

pub(super) async fn list<W: Write>(
    client: &Client,
    job: &JobId,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let request = || v1::ListCheckpointsRequest {
        job: job.to_string(),
    };
    let answer = client
        .retry(|| async { client.checkpoints().list(request()).await })
        .await?;
    out.print(&CheckpointList(
        answer
            .checkpoints
            .into_iter()
            .map(CheckpointView::from)
            .collect(),
    ))
}

pub(super) async fn describe<W: Write>(
    client: &Client,
    which: &Which,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    out.print(&find(client, which).await?)
}

pub(super) async fn verify<W: Write>(
    client: &Client,
    which: &Which,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let answer = client
        .retry(|| async { client.checkpoints().verify(request(which)).await })
        .await?;
    let view = CheckpointView::from(answer);
    out.print(&view)?;
    match (view.state, view.problem) {
        (CheckpointState::Verified, _) => Ok(()),
        (_, problem) => {
            let problem = problem.unwrap_or_else(|| "it is not verified yet".to_owned());
            Err(Failure::new(
                Code::Failed,
                format!("{} at step {}: {problem}", view.phase, view.step),
            ))
        }
    }
}

pub(super) async fn pin<W: Write>(
    client: &Client,
    which: &Which,
    pinned: bool,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let request = || v1::PinRequest {
        checkpoint: Some(request(which)),
        pinned,
    };
    let answer = client
        .retry(|| async { client.checkpoints().pin(request()).await })
        .await?;
    out.print(&CheckpointView::from(answer))
}

/// One checkpoint as the coordinator knows it.
pub(super) async fn find(client: &Client, which: &Which) -> Result<CheckpointView, Failure> {
    client
        .retry(|| async { client.checkpoints().get(request(which)).await })
        .await
        .map(CheckpointView::from)
}

fn request(which: &Which) -> v1::CheckpointRequest {
    v1::CheckpointRequest {
        job: which.job.to_string(),
        phase: which
            .phase
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        step: which.step,
    }
}
