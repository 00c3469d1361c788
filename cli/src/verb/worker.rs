//! `worker list`, `describe`, `cordon`, `uncordon`, `drain`.

use std::io::Write;
use std::time::Duration;

use diptych_common::ids::WorkerId;
use diptych_proto::v1;

use super::unless_interrupted;
use crate::args::worker::Drain;
use crate::client::Client;
use crate::client::follow::PATIENCE;
use crate::failure::{Code, Failure};
use crate::output::Printer;
use crate::output::table::seconds;
use crate::view::scale::ranks;
use crate::view::worker::{WorkerList, WorkerState, WorkerView};

/// How often a drain that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// What aborted ranks may take to be gone after a drain's deadline.
const SLACK: Duration = Duration::from_secs(60);

pub(super) async fn list<W: Write>(client: &Client, out: &mut Printer<W>) -> Result<(), Failure> {
    out.print(&WorkerList(all(client).await?))
}

pub(super) async fn describe<W: Write>(
    client: &Client,
    worker: &WorkerId,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let workers = all(client).await?;
    match workers.iter().find(|known| known.worker == worker.as_str()) {
        Some(found) => out.print(found),
        None => Err(unknown(worker, &workers)),
    }
}

pub(super) async fn cordon<W: Write>(
    client: &Client,
    worker: &WorkerId,
    reason: String,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let cordoned = set_cordon(client, worker, true, reason).await?;
    out.print(&cordoned)?;
    eprintln!(
        "no new ranks are placed on {worker}; what it runs goes on (`diptych worker drain {worker}` moves that, too)"
    );
    Ok(())
}

pub(super) async fn uncordon<W: Write>(
    client: &Client,
    worker: &WorkerId,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let let_in = set_cordon(client, worker, false, String::new()).await?;
    out.print(&let_in)?;
    eprintln!("{worker} takes ranks again; its earlier failures are forgotten");
    Ok(())
}

/// A state is set: the call may be repeated.
async fn set_cordon(
    client: &Client,
    worker: &WorkerId,
    cordoned: bool,
    reason: String,
) -> Result<WorkerView, Failure> {
    let request = || v1::CordonRequest {
        worker: worker.to_string(),
        cordoned,
        reason: reason.clone(),
    };
    let answer = client
        .retry(|| async { client.workers().cordon(request()).await })
        .await;
    known(client, worker, answer).await
}

pub(super) async fn drain<W: Write>(
    client: &Client,
    drain: &Drain,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let worker = &drain.worker;
    let request = || v1::DrainRequest {
        worker: worker.to_string(),
        deadline_ms: u64::try_from(drain.deadline.as_millis()).unwrap_or(u64::MAX),
        reason: drain.reason.clone(),
    };
    let answer = client
        .retry(|| async { client.workers().drain(request()).await })
        .await;
    let draining = known(client, worker, answer).await?;
    let within = seconds(drain.deadline.as_secs_f64());
    match count(&draining) {
        0 => eprintln!("{worker} takes no new ranks, and runs none"),
        left => eprintln!(
            "{worker} takes no new ranks; to be moved within {within}: {}",
            ranks(left)
        ),
    }
    if !drain.wait {
        return out.print(&draining);
    }
    let words = format!(
        "detached; the drain goes on. Come back with: diptych worker drain {worker} --wait"
    );
    let drained = unless_interrupted(until_drained(client, drain, draining), &words).await?;
    out.print(&drained)
}

/// Looks at a worker that is drained until it runs nothing.
async fn until_drained(
    client: &Client,
    drain: &Drain,
    mut last: WorkerView,
) -> Result<WorkerView, Failure> {
    let worker = &drain.worker;
    let limit = drain.deadline.saturating_add(SLACK);
    let mut told = count(&last);
    let emptied = async {
        loop {
            match draining(worker, &last)? {
                0 => return Ok(()),
                left if left != told => eprintln!("{worker}: {} left", ranks(left)),
                _ => {}
            }
            told = count(&last);
            tokio::time::sleep(LOOK).await;
            let answer = client
                .retry_for(PATIENCE, || async {
                    client.workers().list(v1::ListWorkersRequest {}).await
                })
                .await?;
            let now = answer
                .workers
                .into_iter()
                .find(|known| known.worker == worker.as_str());
            last = now.map_or_else(|| gone(&last), WorkerView::from);
        }
    };
    match tokio::time::timeout(limit, emptied).await {
        Ok(ended) => ended.map(|()| last),
        Err(_) => Err(Failure::new(
            Code::Timeout,
            format!(
                "{worker} still runs {} {} after the drain began; `diptych worker describe {worker}` shows them",
                ranks(told),
                seconds(limit.as_secs_f64())
            ),
        )),
    }
}

/// How many ranks a worker that is drained still runs.
fn draining(worker: &WorkerId, now: &WorkerView) -> Result<u32, Failure> {
    match count(now) {
        _ if now.state == WorkerState::Lost => Ok(0),
        left if left > 0 && !now.cordoned => {
            let text = format!(
                "{worker} was let in again while it was drained; it runs {}",
                ranks(left)
            );
            Err(Failure::new(Code::Conflict, text))
        }
        left => Ok(left),
    }
}

/// A worker that the coordinator does not know any more.
fn gone(last: &WorkerView) -> WorkerView {
    WorkerView {
        state: WorkerState::Lost,
        draining: false,
        running: Vec::new(),
        ranks: Vec::new(),
        ..last.clone()
    }
}

fn count(worker: &WorkerView) -> u32 {
    u32::try_from(worker.ranks.len()).unwrap_or(u32::MAX)
}

pub(super) async fn all(client: &Client) -> Result<Vec<WorkerView>, Failure> {
    let answer = client
        .retry(|| async { client.workers().list(v1::ListWorkersRequest {}).await })
        .await?;
    Ok(answer.workers.into_iter().map(WorkerView::from).collect())
}

/// An answer about a worker; where there is no such worker, a failure that names those that there are.
async fn known(
    client: &Client,
    worker: &WorkerId,
    answer: Result<v1::Worker, Failure>,
) -> Result<WorkerView, Failure> {
    match answer {
        Ok(answer) => Ok(answer.into()),
        Err(failure) if failure.code == Code::NotFound => Err(match all(client).await {
            Ok(workers) => unknown(worker, &workers),
            Err(_) => failure,
        }),
        Err(failure) => Err(failure),
    }
}

fn unknown(worker: &WorkerId, workers: &[WorkerView]) -> Failure {
    const SHOWN: usize = 8;
    let names: Vec<_> = workers
        .iter()
        .take(SHOWN)
        .map(|known| known.worker.as_str())
        .collect();
    let known = match workers.len() {
        0 => "none has registered".to_owned(),
        count if count > SHOWN => {
            format!("known: {} and {} more", names.join(", "), count - SHOWN)
        }
        _ => format!("known: {}", names.join(", ")),
    };
    Failure::new(
        Code::NotFound,
        format!("there is no worker {worker} ({known}); see `diptych worker list`"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::worker::samples;

    fn worker(name: &str, runs: u32) -> WorkerView {
        let ranks = (0..runs).map(|rank| samples::rank(name, rank, 0.0, 0.0));
        let mut worker = samples::worker(name, ranks.collect());
        worker.cordoned = true;
        WorkerView::from(worker)
    }

    #[test]
    fn a_drain_ends_when_nothing_runs_or_somebody_ends_it() {
        let name: WorkerId = "w1".parse().unwrap();
        assert_eq!(draining(&name, &worker("w1", 2)).unwrap(), 2);
        assert_eq!(draining(&name, &worker("w1", 0)).unwrap(), 0);
        assert_eq!(draining(&name, &gone(&worker("w1", 2))).unwrap(), 0);
        let mut lost = worker("w1", 2);
        lost.state = WorkerState::Lost;
        assert_eq!(draining(&name, &lost).unwrap(), 0);
        let mut let_in = worker("w1", 1);
        let_in.cordoned = false;
        let failure = draining(&name, &let_in).unwrap_err();
        assert_eq!(failure.code, Code::Conflict);
        assert_eq!(
            failure.message,
            "w1 was let in again while it was drained; it runs 1 rank"
        );
    }

    #[test]
    fn a_worker_that_is_not_there_is_told_with_those_that_are() {
        let name: WorkerId = "w0".parse().unwrap();
        for (count, says) in [
            (0, "(none has registered)"),
            (2, "(known: w1, w2)"),
            (10, "(known: w1, w2, w3, w4, w5, w6, w7, w8 and 2 more)"),
        ] {
            let workers: Vec<_> = (1..=count)
                .map(|number| worker(&format!("w{number}"), 0))
                .collect();
            let failure = unknown(&name, &workers);
            assert_eq!(failure.code, Code::NotFound);
            assert!(failure.message.contains(says), "{failure}");
        }
    }
}
