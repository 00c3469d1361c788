//! Reports on their way to the agent, of one attempt after the other. Progress waits up to [`INTERVAL`] and is merged;
//! everything else goes at once, after the progress that precedes it, and the answer to a ping before all.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::control::lock;
use super::{Fence, Progress, Report};

/// Time between two reports of progress.
const INTERVAL: Duration = Duration::from_secs(1);
/// Notices that may wait for a slow agent; more are counted, not kept.
const MOST_WAITING: usize = 256;
/// Measurements that may wait in one progress report; the oldest go first.
const MOST_MEASUREMENTS: usize = 8192;

/// A report and the attempt that it is of.
pub(crate) type Fenced = (Arc<Fence>, Report);

/// The way out, shared by all attempts of a process.
#[derive(Debug, Default)]
pub(super) struct WayOut {
    outbox: Mutex<Outbox>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Outbox {
    queue: VecDeque<Fenced>,
    progress: Option<(Arc<Fence>, Progress)>,
    progress_sent: Option<Instant>,
    /// Asked for, and not answered: one answer is enough for all pings that wait.
    pong: Option<Arc<Fence>>,
    dropped: Option<(Arc<Fence>, u64)>,
    in_flight: bool,
    closed: bool,
}

/// What the writer does next.
#[derive(Debug, PartialEq)]
enum Next {
    Send(Arc<Fence>, Report),
    WaitUntil(Instant),
    Wait,
}

// === impl WayOut ===

impl WayOut {
    pub(super) fn push(&self, fence: &Arc<Fence>, report: Report) {
        lock(&self.outbox).push(fence, report);
        self.changed.notify_all();
    }

    /// Waits until every report has left, at most `patience`.
    pub(super) fn flush(&self, patience: Duration) {
        let outbox = lock(&self.outbox);
        let pending = |outbox: &mut Outbox| !outbox.is_flushed();
        // A timeout is an answer here: the process ends either way.
        drop(self.changed.wait_timeout_while(outbox, patience, pending));
    }

    /// The next report to write, waiting for one; `None` after [`close`](Self::close).
    pub(super) fn next(&self) -> Option<Fenced> {
        let mut outbox = lock(&self.outbox);
        outbox.in_flight = false;
        self.changed.notify_all();
        loop {
            if outbox.closed {
                return None;
            }
            let now = Instant::now();
            let wait = &self.changed;
            outbox = match outbox.next(now) {
                Next::Send(fence, report) => return Some((fence, report)),
                Next::Wait => wait.wait(outbox).unwrap_or_else(PoisonError::into_inner),
                Next::WaitUntil(due) => {
                    wait.wait_timeout(outbox, due - now)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }

    /// Nobody reads reports any more.
    pub(super) fn close(&self) {
        lock(&self.outbox).closed = true;
        self.changed.notify_all();
    }
}

// === impl Outbox ===

impl Outbox {
    fn push(&mut self, fence: &Arc<Fence>, report: Report) {
        match report {
            Report::Pong => self.pong = Some(Arc::clone(fence)),
            Report::Progress(newer) => match &mut self.progress {
                Some((of, waiting)) if of == fence => waiting.merge(newer),
                _ => {
                    self.push_progress();
                    self.progress = Some((Arc::clone(fence), newer));
                }
            },
            Report::Notice { .. } if self.queue.len() >= MOST_WAITING => {
                let dropped = self.dropped.take().map_or(0, |(_, dropped)| dropped);
                self.dropped = Some((Arc::clone(fence), dropped + 1));
            }
            other => {
                self.push_progress();
                self.queue.push_back((Arc::clone(fence), other));
            }
        }
    }

    fn push_progress(&mut self) {
        let progress = self.progress.take();
        self.queue
            .extend(progress.map(|(fence, progress)| (fence, Report::Progress(progress))));
    }

    fn next(&mut self, now: Instant) -> Next {
        if let Some(fence) = self.pong.take() {
            return self.send(fence, Report::Pong);
        }
        if let Some((fence, report)) = self.queue.pop_front() {
            if matches!(report, Report::Progress(_)) {
                self.progress_sent = Some(now);
            }
            return self.send(fence, report);
        }
        if let Some((fence, dropped)) = self.dropped.take() {
            let message = format!("{dropped} notices were dropped: the agent read too slowly");
            let kind = "notices_dropped";
            return self.send(fence, Report::Notice { kind, message });
        }
        let due = self.progress_sent.map(|sent| sent + INTERVAL);
        match (due.filter(|due| *due > now), self.progress.take()) {
            (_, None) => Next::Wait,
            (Some(due), waiting) => {
                self.progress = waiting;
                Next::WaitUntil(due)
            }
            (None, Some((fence, progress))) => {
                self.progress_sent = Some(now);
                self.send(fence, Report::Progress(progress))
            }
        }
    }

    fn send(&mut self, fence: Arc<Fence>, report: Report) -> Next {
        self.in_flight = true;
        Next::Send(fence, report)
    }

    /// Waiting progress does not count: whatever matters at the end pushes it out.
    fn is_flushed(&self) -> bool {
        let idle = self.queue.is_empty() && self.dropped.is_none() && self.pong.is_none();
        self.closed || (idle && !self.in_flight)
    }
}

impl Progress {
    /// Takes the newer position and rates, and keeps the measurements of both.
    fn merge(&mut self, newer: Progress) {
        let mut measurements = std::mem::take(&mut self.measurements);
        measurements.extend(newer.measurements);
        let excess = measurements.len().saturating_sub(MOST_MEASUREMENTS);
        measurements.drain(..excess);
        *self = Progress {
            measurements,
            ..newer
        };
    }
}

#[cfg(test)]
mod tests {
    use diptych_common::ids::Step;

    use super::super::Measurement;
    use super::super::control::tests::fence;
    use super::*;

    fn push(outbox: &mut Outbox, report: Report) {
        outbox.push(&fence(1), report);
    }

    fn of(report: Report) -> Next {
        Next::Send(fence(1), report)
    }

    /// What leaves next, and the attempt that it is of.
    fn sent(outbox: &mut Outbox, now: Instant) -> Option<(u64, Report)> {
        match outbox.next(now) {
            Next::Send(fence, report) => Some((fence.attempt.get(), report)),
            Next::Wait | Next::WaitUntil(_) => None,
        }
    }

    fn progress(step: u64) -> Progress {
        let measured = Measurement {
            step: Step::new(step),
            name: "loss".into(),
            value: step as f64,
        };
        Progress {
            step: Step::new(step),
            measurements: vec![measured],
            ..Progress::default()
        }
    }

    fn notice() -> Report {
        Report::Notice {
            kind: "bad_image",
            message: "x".into(),
        }
    }

    #[test]
    fn progress_is_merged_to_one_a_second() {
        let mut outbox = Outbox::default();
        let start = Instant::now();
        push(&mut outbox, Report::Progress(progress(1)));
        assert_eq!(outbox.next(start), of(Report::Progress(progress(1))));
        push(&mut outbox, Report::Progress(progress(2)));
        push(&mut outbox, Report::Progress(progress(3)));
        assert_eq!(outbox.next(start), Next::WaitUntil(start + INTERVAL));
        let Next::Send(_, Report::Progress(sent)) = outbox.next(start + INTERVAL) else {
            panic!("not sent")
        };
        assert_eq!(sent.step, Step::new(3));
        assert_eq!(
            sent.measurements
                .iter()
                .map(|m| m.value)
                .collect::<Vec<_>>(),
            [2.0, 3.0]
        );
        assert_eq!(outbox.next(start + INTERVAL), Next::Wait);
    }

    #[test]
    fn other_reports_go_at_once_and_after_the_progress_before_them() {
        let mut outbox = Outbox::default();
        let start = Instant::now();
        push(&mut outbox, Report::Progress(progress(1)));
        assert!(matches!(outbox.next(start), Next::Send(..)));
        push(&mut outbox, Report::Progress(progress(2)));
        let finished = Report::Finished {
            step: Step::new(2),
            results: Vec::new(),
        };
        push(&mut outbox, finished.clone());
        assert_eq!(outbox.next(start), of(Report::Progress(progress(2))));
        assert_eq!(outbox.next(start), of(finished));
    }

    #[test]
    fn notices_are_bounded_and_the_rest_counted() {
        let mut outbox = Outbox::default();
        for _ in 0..MOST_WAITING + 5 {
            push(&mut outbox, notice());
        }
        let now = Instant::now();
        for _ in 0..MOST_WAITING {
            assert_eq!(outbox.next(now), of(notice()));
        }
        let Next::Send(_, Report::Notice { kind, message }) = outbox.next(now) else {
            panic!("no summary")
        };
        assert_eq!(kind, "notices_dropped");
        assert!(message.starts_with("5 "), "{message}");
    }

    #[test]
    fn an_answer_to_a_ping_does_not_wait_behind_anything() {
        let mut outbox = Outbox::default();
        let start = Instant::now();
        push(&mut outbox, Report::Progress(progress(1)));
        assert!(sent(&mut outbox, start).is_some());
        push(&mut outbox, Report::Progress(progress(2)));
        push(&mut outbox, notice());
        push(&mut outbox, Report::Pong);
        push(&mut outbox, Report::Pong);
        assert!(!outbox.is_flushed());
        assert_eq!(sent(&mut outbox, start), Some((1, Report::Pong)));
        let merged = Some((1, Report::Progress(progress(2))));
        assert_eq!(sent(&mut outbox, start), merged);
    }

    #[test]
    fn every_report_is_of_the_attempt_that_made_it() {
        let mut outbox = Outbox::default();
        let start = Instant::now();
        outbox.push(&fence(1), Report::Progress(progress(1)));
        outbox.push(&fence(2), Report::Progress(progress(1)));
        outbox.push(&fence(2), notice());
        for expected in [
            (1, Report::Progress(progress(1))),
            (2, Report::Progress(progress(1))),
            (2, notice()),
        ] {
            assert_eq!(sent(&mut outbox, start), Some(expected));
        }
    }
}
