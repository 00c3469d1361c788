//! `logs` and `events`.

use std::collections::HashMap;
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
struct Printed(HashMap<(String, u64, u32), u64>);

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
}

/// Prints trainers' output.
pub(super) async fn logs<W: Write>(
    client: &Client,
    args: &Logs,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let request = || v1::LogsRequest {
        job: args.job.to_string(),
        phase: args
            .phase
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        attempt: args.attempt,
        rank: args.rank,
        follow: args.follow,
        tail: args.tail.unwrap_or(0),
    };
    // Asking for no line of the past is not the same as asking for all of them.
    let skip_past = args.tail == Some(0);
    if skip_past && !args.follow {
        return Ok(());
    }
    let mut printed = Printed::default();
    let each = |line: v1::LogLine| {
        if printed.is_news(&line) {
            out.item(&LogView::from(line))?;
        }
        Ok(ControlFlow::Continue(()))
    };
    let open = || async { client.jobs().logs(request()).await };
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
    }
}
