//! Control links between the agents of one attempt's workers. They carry nothing that the coordinator decides: a peer
//! that is gone is gone, and whoever waits for it in a collective hears so at once, coordinator or not.
//!
//! Of two agents the one whose name comes later dials. Each proves that it knows the attempt's secret before anything
//! that it says counts. A link is lost when its stream breaks or is silent for [`SILENCE`](link::SILENCE); it is dialled
//! again for as long as the attempt lives here. A stream that its other end closes in order is no loss.

mod answer; // the side that is called
mod dial; // the side that calls
mod link; // one link while it stands
mod proof; // of the attempt's secret

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use diptych_common::ids::{Rank, WorkerId};
use diptych_proto::v1;
use diptych_proto::v1::peer_service_server::PeerServiceServer;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::TcpListenerStream;

use super::core::{AttemptKey, LinkOrder};

pub use answer::Answering;
pub use dial::{Dial, Tcp};
pub use proof::Secret;

/// What happens on the links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerEvent {
    /// A link stands.
    Up(AttemptKey, WorkerId),
    /// It does not stand any more, for this reason.
    Lost(AttemptKey, WorkerId, String),
    /// A rank there has left its gang.
    Gone {
        /// The attempt.
        attempt: AttemptKey,
        /// The worker that says so.
        worker: WorkerId,
        /// Its rank.
        rank: Rank,
        /// Why.
        reason: String,
    },
}

/// How long an attempt that lost a rank here still answers: the others may only be about to link.
const LINGER: Duration = Duration::from_secs(10);

/// The links of one agent, to all agents of all of its attempts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Peers<D> {
    book: Book,
    dial: D,
}

/// Who is who, shared by both sides.
#[derive(Debug, Clone)]
struct Book {
    me: WorkerId,
    events: mpsc::Sender<PeerEvent>,
    attempts: Arc<Mutex<BTreeMap<AttemptKey, Arc<Links>>>>,
}

/// The links of one attempt.
#[derive(Debug)]
struct Links {
    me: WorkerId,
    attempt: AttemptKey,
    secret: Secret,
    peers: BTreeMap<WorkerId, String>,
    told: watch::Sender<Told>,
    events: mpsc::Sender<PeerEvent>,
    /// How many streams stand to each worker: for a moment there are two where one is dialled again before the end of
    /// the former is seen.
    standing: Mutex<BTreeMap<WorkerId, u32>>,
}

/// What every link of an attempt is to say.
#[derive(Debug, Clone, Default)]
struct Told {
    gone: Option<v1::PeerGone>,
    over: bool,
}

impl<D: Dial> Peers<D> {
    /// Worker `me` without links; what happens on them arrives at the receiver.
    pub fn new(me: WorkerId, dial: D) -> (Self, mpsc::Receiver<PeerEvent>) {
        let (events, received) = mpsc::channel(256);
        let book = Book {
            me,
            events,
            attempts: Arc::default(),
        };
        (Self { book, dial }, received)
    }

    /// The service that other agents call.
    pub fn service(&self) -> PeerServiceServer<Answering> {
        PeerServiceServer::new(Answering::new(self.book.clone()))
    }

    /// Answers other agents on `listener` for as long as the process lives.
    pub fn serve(&self, listener: TcpListener) {
        let server = tonic::transport::Server::builder()
            .tcp_nodelay(true)
            .add_service(self.service());
        tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            if let Err(error) = server.serve_with_incoming(incoming).await {
                tracing::error!(%error, "other agents can no longer reach this one");
            }
        });
    }

    /// Keeps links to the other agents of an attempt until [`unlink`](Self::unlink). Must be called within a tokio
    /// runtime.
    pub fn link(&self, attempt: &AttemptKey, order: LinkOrder) {
        let Ok(secret) = Secret::try_from(order.secret.as_slice()) else {
            return tracing::warn!(%attempt, "no links: the attempt's secret has not 32 bytes");
        };
        let links = Arc::new(Links {
            me: self.book.me.clone(),
            attempt: attempt.clone(),
            secret,
            peers: order.peers,
            told: watch::channel(Told::default()).0,
            events: self.book.events.clone(),
            standing: Mutex::default(),
        });
        {
            let mut attempts = lock(&self.book.attempts);
            if attempts.contains_key(attempt) {
                return;
            }
            attempts.insert(attempt.clone(), Arc::clone(&links));
        }
        for (worker, address) in &links.peers {
            if *worker < links.me {
                let call = dial::keep(
                    self.dial.clone(),
                    Arc::clone(&links),
                    worker.clone(),
                    address.clone(),
                );
                tokio::spawn(call);
            }
        }
    }

    /// Tells the other agents of an attempt, and those that link later, that a rank here has left its gang.
    pub fn gone(&self, attempt: &AttemptKey, rank: Rank, reason: String) {
        if let Some(links) = self.book.find(attempt) {
            let rank = rank.get();
            let gone = v1::PeerGone { rank, reason };
            links.told.send_modify(|told| told.gone = Some(gone));
        }
    }

    /// Says what is left to say and closes an attempt's links. Where that is a loss, whoever has not linked yet can
    /// still hear of it for [`LINGER`]. Must be called within a tokio runtime.
    pub fn unlink(&self, attempt: &AttemptKey) {
        let Some(links) = self.book.find(attempt) else {
            return;
        };
        if links.told.borrow().gone.is_none() {
            return self.book.close(attempt);
        }
        let (book, attempt) = (self.book.clone(), attempt.clone());
        tokio::spawn(async move {
            tokio::time::sleep(LINGER).await;
            book.close(&attempt);
        });
    }
}

impl Book {
    fn find(&self, attempt: &AttemptKey) -> Option<Arc<Links>> {
        lock(&self.attempts).get(attempt).map(Arc::clone)
    }

    fn close(&self, attempt: &AttemptKey) {
        if let Some(links) = lock(&self.attempts).remove(attempt) {
            links.told.send_modify(|told| told.over = true);
        }
    }
}

/// A task that panicked holds no half-made table: every update is one insertion or removal.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
