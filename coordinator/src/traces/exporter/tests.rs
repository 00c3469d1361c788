use std::collections::VecDeque;
use std::sync::Mutex;

use super::*;
use crate::core::UnixMs;
use crate::traces::ids::Part;
use crate::traces::{SpanId, TraceId};

/// What a collector says to one export.
#[derive(Debug, Clone, Copy)]
enum Says {
    /// It takes all but so many.
    Takes(u64),
    No(Code),
    /// Nothing, ever.
    Hangs,
}

/// Says one thing after the other, the last of them for ever.
#[derive(Debug, Clone)]
struct Scripted(Arc<Mutex<VecDeque<Says>>>);

impl Scripted {
    fn new(says: &[Says]) -> Self {
        Self(Arc::new(Mutex::new(says.iter().copied().collect())))
    }

    fn now_says(&self, says: Says) {
        *self.0.lock().unwrap() = VecDeque::from([says]);
    }

    /// What it says next, besides.
    fn left(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

#[async_trait::async_trait]
impl Collector for Scripted {
    async fn export(&mut self, spans: &[Span]) -> Result<u64, Status> {
        assert!((1..=BATCH).contains(&spans.len()));
        let says = {
            let mut says = self.0.lock().unwrap();
            let next = says[0];
            if says.len() > 1 {
                says.pop_front();
            }
            next
        };
        match says {
            Says::Takes(refused) => Ok(refused),
            Says::No(code) => Err(Status::new(code, "no")),
            Says::Hangs => std::future::pending().await,
        }
    }
}

fn spans(count: usize) -> Vec<Span> {
    let job = "job-1".parse().unwrap();
    let span = Span {
        trace: TraceId::of(&job),
        id: SpanId::of(&job, Part::Job),
        parent: None,
        name: "job".to_owned(),
        start: UnixMs::new(1),
        end: UnixMs::new(2),
        attributes: Vec::new(),
        events: Vec::new(),
        left_out: 0,
        error: None,
    };
    vec![span; count]
}

fn counted(counts: &Counts) -> (u64, u64) {
    let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
    (read(&counts.0.sent), read(&counts.0.dropped))
}

#[tokio::test(start_paused = true)]
async fn what_becomes_of_spans_is_counted() {
    let away = Says::No(Code::Unavailable);
    for (says, took_s, sent, dropped) in [
        (&[Says::Takes(0)][..], 0, 3, 0),
        (&[Says::Takes(1)], 0, 2, 1),
        // More than there were.
        (&[Says::Takes(9)], 0, 0, 3),
        (&[away, away, away, Says::Takes(0)], 1 + 2 + 4, 3, 0),
        (&[Says::Hangs, Says::Takes(0)], 10 + 1, 3, 0),
        (&[Says::No(Code::InvalidArgument), Says::Takes(0)], 0, 0, 3),
        (&[Says::No(Code::Unimplemented), Says::Takes(0)], 0, 0, 3),
    ] {
        let (exporter, outlet) = Exporter::start_with(Scripted::new(says));
        let counts = outlet.counts().clone();
        let since = Instant::now();
        outlet.send(spans(3));
        while counted(&counts) != (sent, dropped) {
            assert!(
                since.elapsed() < PATIENCE,
                "{says:?}: {:?}",
                counted(&counts)
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(since.elapsed().as_secs(), took_s, "{says:?}");
        drop(outlet);
        exporter.flush().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_is_away_costs_no_more_than_the_queue() {
    let collector = Scripted::new(&[Says::No(Code::Unavailable)]);
    let (_exporter, outlet) = Exporter::start_with(collector.clone());
    let since = Instant::now();
    outlet.send(spans(WAITING + 1000));
    assert_eq!(since.elapsed(), Duration::ZERO, "nobody waits");
    assert_eq!(counted(outlet.counts()), (0, 1000));
    tokio::time::sleep(PATIENCE + LONGEST_PAUSE).await;
    let (sent, dropped) = counted(outlet.counts());
    assert_eq!(
        (sent, dropped),
        (0, 1000 + BATCH as u64),
        "one batch was given up"
    );
    collector.now_says(Says::Takes(0));
    tokio::time::sleep(LONGEST_PAUSE).await;
    let rest = (WAITING - BATCH) as u64;
    assert_eq!(counted(outlet.counts()), (rest, dropped));
}

#[tokio::test(start_paused = true)]
async fn the_end_sends_what_waits_and_does_not_wait_long() {
    let away = Says::No(Code::Unavailable);
    for (says, sent, within) in [
        (Says::Takes(0), 300, Duration::ZERO),
        (away, 0, Duration::ZERO),
        (Says::Hangs, 0, FLUSH),
    ] {
        let (exporter, outlet) = Exporter::start_with(Scripted::new(&[says]));
        let counts = outlet.counts().clone();
        outlet.send(spans(300));
        drop(outlet);
        let since = Instant::now();
        exporter.flush().await;
        assert_eq!(counted(&counts).0, sent, "{says:?}");
        assert!(since.elapsed() <= within, "{says:?}: {:?}", since.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_ends_with_the_process() {
    let says = [Says::No(Code::Unavailable), Says::Takes(0)];
    let collector = Scripted::new(&says);
    let (exporter, outlet) = Exporter::start_with(collector.clone());
    let counts = outlet.counts().clone();
    outlet.send(spans(3));
    while collector.left() == says.len() {
        tokio::task::yield_now().await;
    }
    drop(outlet);
    let since = Instant::now();
    exporter.flush().await;
    assert_eq!(counted(&counts), (3, 0));
    assert_eq!(since.elapsed(), Duration::ZERO);
}
