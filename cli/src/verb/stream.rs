//! `logs` and `events`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;

use diptych_common::ids::JobId;
use diptych_proto::v1;

use super::until_interrupted;
use crate::args::job::Logs;
use crate::client::Client;
use crate::client::follow::AtEnd;
use crate::failure::Failure;
use crate::output::Printer;
use crate::view::history::{EventView, LogView};

/// Which lines have been printed: the next index of each rank of each attempt.
#[derive(Debug, Default)]
struct Printed(BTreeMap<(String, u64, u32), u64>);

impl Printed {
    /// Whether a line is new; it counts as printed from now on.
    fn is_news(&mut self, line: &v1::LogLine) -> bool {
        let next = self
            .0
            .entry((line.phase.clone(), line.attempt, line.rank))
            .or_default();
        let news = line.index >= *next;
        if news {
            *next = line.index + 1;
        }
        news
    }

    /// Where the coordinator goes on.
    fn positions(&self) -> Vec<v1::LogPosition> {
        let position =
            |((phase, attempt, rank), index): (&(String, u64, u32), &u64)| v1::LogPosition {
                phase: phase.clone(),
                attempt: *attempt,
                rank: *rank,
                index: *index,
            };
        self.0.iter().map(position).collect()
    }
}

/// What to ask for. `--tail` is about the past at the first call: later ones go on from what was printed, and from
/// the beginning of ranks that have begun since.
fn request(args: &Logs, printed: &Printed, tail: Option<u64>) -> v1::LogsRequest {
    v1::LogsRequest {
        job: args.job.to_string(),
        phase: args
            .phase
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        attempt: args.attempt,
        rank: args.rank,
        follow: args.follow,
        tail: tail.unwrap_or(0),
        after: printed.positions(),
    }
}

/// Prints trainers' output.
pub(super) async fn logs<W: Write>(
    client: &Client,
    args: &Logs,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let printed = RefCell::new(Printed::default());
    let mut tail = args.tail;
    if tail == Some(0) {
        if !args.follow {
            return Ok(());
        }
        // Nothing of the past: its last lines say where that ends.
        let now = Logs {
            follow: false,
            ..args.clone()
        };
        let open = || async {
            let asked = request(&now, &printed.borrow(), Some(1));
            client.jobs().logs(asked).await
        };
        let each = |line: v1::LogLine| {
            printed.borrow_mut().is_news(&line);
            Ok(ControlFlow::Continue(()))
        };
        client.stream(&args.job, AtEnd::Stop, open, each).await?;
        tail = None;
    }
    let tail = Cell::new(tail);
    let each = |line: v1::LogLine| {
        tail.set(None);
        if printed.borrow_mut().is_news(&line) {
            out.item(&LogView::from(line))?;
        }
        Ok(ControlFlow::Continue(()))
    };
    let open = || async {
        let asked = request(args, &printed.borrow(), tail.get());
        client.jobs().logs(asked).await
    };
    let work = client.stream(&args.job, at_end(args.follow), open, each);
    until_interrupted(work, &format!("diptych logs {} --follow", args.job)).await
}

/// Prints what happened.
pub(super) async fn events<W: Write>(
    client: &Client,
    job: &JobId,
    follow: bool,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let mut last = None;
    let each = |event: v1::Event| {
        if last.is_none_or(|last| event.id > last) {
            last = Some(event.id);
            out.item(&EventView::from(event))?;
        }
        Ok(ControlFlow::Continue(()))
    };
    let open = || async {
        client
            .jobs()
            .events(v1::EventsRequest {
                job: job.to_string(),
                follow,
            })
            .await
    };
    let work = client.stream(job, at_end(follow), open, each);
    until_interrupted(work, &format!("diptych events {job} --follow")).await
}

fn at_end(follow: bool) -> AtEnd {
    if follow {
        AtEnd::UntilJobEnds
    } else {
        AtEnd::Stop
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_stream_prints_each_line_once() {
        let line = |attempt, rank, index| v1::LogLine {
            phase: "p".into(),
            attempt,
            rank,
            line: String::new(),
            index,
        };
        let mut printed = Printed::default();
        let first = [line(1, 0, 4), line(1, 1, 0), line(1, 0, 5)];
        assert!(first.iter().all(|line| printed.is_news(line)));
        // The stream starts over after a restart of the coordinator.
        let again = [
            line(1, 0, 3),
            line(1, 0, 4),
            line(1, 1, 0),
            line(1, 0, 5),
            line(1, 0, 6),
            line(2, 0, 0),
        ];
        let news: Vec<_> = again.iter().filter(|line| printed.is_news(line)).collect();
        assert_eq!(news, [&line(1, 0, 6), &line(2, 0, 0)]);
        let positions: Vec<_> = printed
            .positions()
            .into_iter()
            .map(|position| (position.attempt, position.rank, position.index))
            .collect();
        assert_eq!(positions, [(1, 0, 7), (1, 1, 1), (2, 0, 1)]);
    }
}
