//! `watch` and `wait`.

use std::io::Write;
use std::time::Duration;

use diptych_common::ids::JobId;

use super::follow::follow;
use super::until_interrupted;
use crate::client::Client;
use crate::failure::{Code, Failure};
use crate::output::table::seconds;
use crate::output::{Format, Printer};
use crate::progress::Progress;
use crate::view::summary::Summary;
use crate::view::{JobState, JobView};

/// Shows a job to its end: bars or lines and then its results; as JSON, every change.
pub(super) async fn watch<W: Write>(
    client: &Client,
    job: &JobId,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let come_back = format!("diptych watch {job}");
    let documents = matches!(out.format(), Format::Json | Format::Yaml);
    if documents {
        let each = |view: &JobView| out.item(view);
        let ended = until_interrupted(client.watch(job, each), &come_back).await?;
        return outcome(&ended);
    }
    let ended = until_interrupted(follow(client, job, Progress::to_stderr()), &come_back).await?;
    out.print(&Summary(ended.clone()))?;
    outcome(&ended)
}

/// Waits for the end of a job without a word.
pub(super) async fn wait<W: Write>(
    client: &Client,
    job: &JobId,
    timeout: Option<Duration>,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let ended = client.watch(job, |_| Ok(()));
    let limited = async {
        match timeout {
            None => ended.await,
            Some(limit) => tokio::time::timeout(limit, ended)
                .await
                .unwrap_or_else(|_| {
                    let text = format!(
                        "{job} has not ended within {}",
                        seconds(limit.as_secs_f64())
                    );
                    Err(Failure::new(Code::Timeout, text))
                }),
        }
    };
    let ended = until_interrupted(limited, &format!("diptych wait {job}")).await?;
    out.print(&Summary(ended.clone()))?;
    outcome(&ended)
}

/// Success, or why not.
pub(crate) fn outcome(job: &JobView) -> Result<(), Failure> {
    let JobView {
        job: id,
        state,
        reason,
        ..
    } = job;
    if *state == JobState::Succeeded {
        return Ok(());
    }
    let reason = reason
        .as_ref()
        .map(|reason| format!(": {reason}"))
        .unwrap_or_default();
    let hint = match state {
        JobState::Failed => format!("; see `diptych explain {id}`"),
        _ => String::new(),
    };
    Err(Failure::new(
        Code::JobFailed,
        format!("{id} {}{reason}{hint}", state.word()),
    ))
}
