//! `submit`.

use std::io::Write;

use diptych_common::ids::JobId;
use diptych_proto::v1;

use super::follow::follow;
use super::{until_interrupted, watch};
use crate::client::Client;
use crate::command::{Submit, Then};
use crate::failure::{Code, Failure};
use crate::output::{Format, Printer};
use crate::progress::Progress;
use crate::view::job::Submitted;
use crate::view::summary::Summary;

/// Queues a job, and follows it where that was asked for.
pub(super) async fn submit<W: Write>(
    client: &Client,
    submit: Submit,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let dry_run = submit.then == Then::DryRun;
    let answer = send(client, &submit, dry_run).await?;
    let submitted = Submitted {
        job: Some(answer.job).filter(|job| !job.is_empty()),
        created: answer.created,
        dry_run,
        request_id: submit.request_id,
    };
    if submit.then == Then::Leave || dry_run {
        return out.print(&submitted);
    }
    let job = accepted(submitted.job.as_deref())?;
    // One document on standard output: the job at its end. People see the id at once.
    match out.format() {
        Format::Table | Format::Csv => out.print(&submitted)?,
        Format::Json | Format::Yaml => eprintln!("{job}"),
    }
    let to_its_end = async {
        match submit.then {
            Then::Follow => follow(client, &job, Progress::to_stderr()).await,
            Then::DryRun | Then::Leave | Then::Wait => client.watch(&job, |_| Ok(())).await,
        }
    };
    let ended = until_interrupted(to_its_end, &format!("diptych watch {job}")).await?;
    out.print(&Summary(ended.clone()))?;
    watch::outcome(&ended)
}

/// Sends a submit until it is answered: the request id makes that safe.
pub(crate) async fn send(
    client: &Client,
    submit: &Submit,
    dry_run: bool,
) -> Result<v1::SubmitResponse, Failure> {
    let request = || v1::SubmitRequest {
        spec: Some(v1::JobSpec::from(&*submit.spec)),
        request_id: submit.request_id.clone(),
        dry_run,
    };
    client
        .retry(|| async { client.jobs().submit(request()).await })
        .await
        .map_err(|mut failure| {
            if failure.is_transient() {
                let id = &submit.request_id;
                failure.message.push_str(&format!(
                    " (submit it again with --request-id {id}: it stays one job)"
                ));
            }
            failure
        })
}

/// The job id in an answer.
pub(crate) fn accepted(job: Option<&str>) -> Result<JobId, Failure> {
    let text = job.unwrap_or_default();
    text.parse().map_err(|error| {
        Failure::new(
            Code::Failed,
            format!("the coordinator answered with a bad job id: {error}"),
        )
    })
}
