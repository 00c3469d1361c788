//! The side that calls: again and again, for as long as the attempt lives.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use diptych_common::ids::WorkerId;
use diptych_proto::v1;
use diptych_proto::v1::peer_message::Message;
use diptych_proto::v1::peer_service_client::PeerServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::Links;
use super::link::{self, End, SILENCE, WAITING};

/// Whatever leads to another agent.
pub trait Dial: Clone + Send + Sync + 'static {
    /// A channel to the peer service at `address` (host:port).
    fn dial(
        &self,
        address: &str,
    ) -> impl Future<Output = Result<Channel, tonic::transport::Error>> + Send;
}

/// The network.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp;

impl Dial for Tcp {
    async fn dial(&self, address: &str) -> Result<Channel, tonic::transport::Error> {
        Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(SILENCE)
            .tcp_nodelay(true)
            .connect()
            .await
    }
}

/// Why there is no link yet.
#[derive(Debug, thiserror::Error)]
enum NoLink {
    #[error("cannot connect: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("{code}: {message}", code = .0.code(), message = .0.message())]
    Status(Box<tonic::Status>),
    #[error("no answer within {} s", SILENCE.as_secs())]
    Silent,
    #[error("who answers does not know the attempt's secret")]
    Stranger,
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Tries after which people are told, once: before that, the other agent may just not have begun.
const TRIES: u32 = 8;

/// Keeps a link to `worker` at `address` until the attempt is over on either end.
pub(super) async fn keep(dial: impl Dial, links: Arc<Links>, worker: WorkerId, address: String) {
    let mut told = links.told.subscribe();
    let mut failures = 0;
    loop {
        let opened = tokio::select! {
            opened = open(&dial, &links, &worker, &address) => opened,
            _ = told.wait_for(|told| told.over) => return,
        };
        let called = match opened {
            Ok((incoming, outgoing)) => Ok(link::stand(&links, &worker, incoming, outgoing).await),
            Err(error) => Err(error),
        };
        match called {
            Ok(End::Over) => return,
            Ok(End::Lost(reason)) => {
                failures = 0;
                tracing::warn!(attempt = %links.attempt, %worker, reason, "link to another agent lost");
            }
            Err(error) => {
                failures += 1;
                if failures == TRIES {
                    tracing::warn!(attempt = %links.attempt, %worker, address, %error, "no link to another agent yet");
                }
            }
        }
        let doubled = FIRST_PAUSE.saturating_mul(1 << failures.min(10));
        tokio::select! {
            () = tokio::time::sleep(doubled.min(LONGEST_PAUSE)) => {}
            _ = told.wait_for(|told| told.over) => return,
        }
    }
}

type Opened = (Streaming<v1::PeerMessage>, mpsc::Sender<v1::PeerMessage>);

async fn open(
    dial: &impl Dial,
    links: &Links,
    worker: &WorkerId,
    address: &str,
) -> Result<Opened, NoLink> {
    let (outgoing, waiting) = mpsc::channel(WAITING);
    let hello = links.secret.hello(&links.attempt, &links.me, worker);
    // The channel is empty: there is room.
    drop(outgoing.try_send(link::message(Message::Hello(hello))));
    let opened = tokio::time::timeout(SILENCE, async {
        let mut client = PeerServiceClient::new(dial.dial(address).await?);
        let mut incoming = client
            .link(ReceiverStream::new(waiting))
            .await?
            .into_inner();
        let first = incoming.message().await?.and_then(|first| first.message);
        Ok::<_, NoLink>((incoming, first))
    });
    let (incoming, first) = opened.await.map_err(|_| NoLink::Silent)??;
    match first {
        Some(Message::Hello(hello))
            if links
                .secret
                .proves(&hello, &links.attempt, worker, &links.me) => {}
        Some(_) | None => return Err(NoLink::Stranger),
    }
    Ok((incoming, outgoing))
}

impl From<tonic::Status> for NoLink {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}
