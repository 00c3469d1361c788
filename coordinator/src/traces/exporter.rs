//! A bounded queue, and the collector at its end. Whoever puts spans in never waits; what finds no room is counted and gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use diptych_common::operations::Family;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::codegen::http::Uri;
use tonic::{Code, Status};

use super::otlp::OverGrpc;
use super::span::Span;

/// Spans that wait for the collector.
const WAITING: usize = 2048;
/// Spans of one export.
const BATCH: usize = 256;
/// How long one export may take.
const EXPORT: Duration = Duration::from_secs(10);
/// The pause after one that failed; doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long the same spans are tried again: one of them may be what the collector cannot take.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long what waits may take once the process ends.
const FLUSH: Duration = Duration::from_secs(2);

/// Who takes spans.
#[async_trait::async_trait]
pub trait Collector: Send + 'static {
    /// Gives it spans, and returns how many of them it did not want.
    ///
    /// # Errors
    /// It took none.
    async fn export(&mut self, spans: &[Span]) -> Result<u64, Status>;
}

/// The task that sends spans.
#[derive(Debug)]
pub struct Exporter {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

/// Where spans are put in. Cheap to clone; the exporter ends with the last one.
#[derive(Debug, Clone)]
pub struct Outlet {
    spans: mpsc::Sender<Span>,
    counts: Counts,
}

/// What became of spans. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Counts(Arc<Counted>);

#[derive(Debug, Default)]
struct Counted {
    sent: AtomicU64,
    dropped: AtomicU64,
    /// Whether people are told that spans do not get through.
    told: AtomicBool,
}

struct Queue<C> {
    spans: mpsc::Receiver<Span>,
    collector: C,
    counts: Counts,
    stop: CancellationToken,
}

// === impl Exporter ===

impl Exporter {
    /// Sends spans to an OTLP collector, which need not be there.
    pub fn start(endpoint: Uri) -> (Self, Outlet) {
        Self::start_with(OverGrpc::new(endpoint))
    }

    /// Gives spans to this collector.
    pub fn start_with(collector: impl Collector) -> (Self, Outlet) {
        let (sender, spans) = mpsc::channel(WAITING);
        let counts = Counts::default();
        let stop = CancellationToken::new();
        let queue = Queue {
            spans,
            collector,
            counts: counts.clone(),
            stop: stop.clone(),
        };
        let task = tokio::spawn(queue.run());
        let outlet = Outlet {
            spans: sender,
            counts,
        };
        (Self { task, stop }, outlet)
    }

    /// Ends it once every outlet is gone, and with it what could not be sent within a moment.
    pub async fn flush(mut self) {
        self.stop.cancel();
        if tokio::time::timeout(FLUSH, &mut self.task).await.is_err() {
            self.task.abort();
            tracing::warn!("the collector did not take the last spans within {FLUSH:?}");
        }
    }
}

// === impl Outlet ===

impl Outlet {
    /// Puts spans in. Never waits.
    pub fn send(&self, spans: Vec<Span>) {
        let lost = spans
            .into_iter()
            .filter_map(|span| self.spans.try_send(span).err())
            .count();
        if lost > 0 {
            self.counts.dropped(lost as u64, "too many wait");
        }
    }

    /// What became of them.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}

// === impl Queue ===

impl<C: Collector> Queue<C> {
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.spans.recv_many(&mut batch, BATCH).await > 0 {
            self.deliver(&batch).await;
            batch.clear();
        }
    }

    async fn deliver(&mut self, batch: &[Span]) {
        let (count, since) = (batch.len() as u64, Instant::now());
        let mut pause = FIRST_PAUSE;
        loop {
            let export = tokio::time::timeout(EXPORT, self.collector.export(batch));
            let status = match export.await {
                Ok(Ok(refused)) => return self.counts.taken(count, refused.min(count)),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded(format!("no answer within {EXPORT:?}")),
            };
            let ends = self.stop.is_cancelled() || since.elapsed() >= PATIENCE;
            if ends || !may_pass(status.code()) {
                return self.counts.dropped(count, status.message());
            }
            self.counts.tell(status.message());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled() => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Whether the same spans may be taken later: what OTLP says, and what a broken connection looks like.
fn may_pass(code: Code) -> bool {
    match code {
        Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Unimplemented
        | Code::Internal
        | Code::Unauthenticated => false,
    }
}

// === impl Counts ===

impl Counts {
    /// For a reader.
    pub fn family(&self) -> Family {
        let of = |outcome: &str, count: &AtomicU64| {
            let labels = vec![("outcome", outcome.to_owned())];
            (labels, count.load(Ordering::Relaxed))
        };
        let series = [of("sent", &self.0.sent), of("dropped", &self.0.dropped)];
        Family::counters(
            "diptych_spans",
            "Spans of traces, by what became of them",
            series,
        )
    }

    fn taken(&self, count: u64, refused: u64) {
        self.0.sent.fetch_add(count - refused, Ordering::Relaxed);
        if refused > 0 {
            return self.dropped(refused, "it refused some");
        }
        if self.0.told.swap(false, Ordering::Relaxed) {
            tracing::info!("the collector takes spans again");
        }
    }

    fn dropped(&self, count: u64, why: &str) {
        self.0.dropped.fetch_add(count, Ordering::Relaxed);
        self.tell(why);
    }

    /// Tells people once, until spans get through again.
    fn tell(&self, why: &str) {
        if !self.0.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the collector does not take spans: {why}; up to {WAITING} wait for it, more are dropped"
            );
        }
    }
}

#[cfg(test)]
mod tests;
