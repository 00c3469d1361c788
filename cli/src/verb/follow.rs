//! A job's progress to its end, with what it recovered from.

use std::cell::RefCell;
use std::time::Duration;

use diptych_common::ids::JobId;
use tokio::sync::mpsc;

use crate::client::Client;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::progress::recovery::{Cause, Recovery};
use crate::view::JobView;

/// How long a line about a recovery waits for its cause.
const ASK: Duration = Duration::from_secs(5);

/// Shows a job as it changes, with one line for each attempt that another follows, and returns it once it has ended.
pub(crate) async fn follow(
    client: &Client,
    job: &JobId,
    progress: Progress,
) -> Result<JobView, Failure> {
    let progress = &RefCell::new(progress);
    let (recovered, mut recoveries) = mpsc::unbounded_channel();
    // The sender ends with the watch, and the lines with the sender.
    let watch = Box::pin(async move {
        let show = |view: &JobView| {
            for recovery in progress.borrow_mut().update(view) {
                // The other end lives as long as this one.
                let _sent = recovered.send(recovery);
            }
            Ok(())
        };
        client.watch(job, show).await
    });
    let lines = async {
        while let Some(recovery) = recoveries.recv().await {
            let cause = cause(client, job, &recovery).await;
            let line = recovery.line(cause.as_ref());
            progress.borrow_mut().say(&line);
        }
    };
    let (ended, ()) = tokio::join!(watch, lines);
    ended
}

/// Why the former attempt ended; a coordinator that does not say so in time makes a shorter line.
async fn cause(client: &Client, job: &JobId, recovery: &Recovery) -> Option<Cause> {
    let events = tokio::time::timeout(ASK, client.events(job)).await;
    recovery.cause(&events.ok()?.ok()?)
}
