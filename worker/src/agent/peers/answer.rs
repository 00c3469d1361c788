//! The side that is called.

use std::pin::Pin;
use std::sync::Arc;

use diptych_common::ids::{Attempt, WorkerId};
use diptych_proto::v1;
use diptych_proto::v1::peer_message::Message;
use diptych_proto::v1::peer_service_server::PeerService;
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::super::core::AttemptKey;
use super::link::{self, SILENCE, WAITING};
use super::{Book, Links};

/// Answers other agents.
#[derive(Debug, Clone)]
pub struct Answering {
    book: Book,
}

impl Answering {
    pub(super) fn new(book: Book) -> Self {
        Self { book }
    }

    /// The links and the worker that a hello is about.
    fn admit(&self, hello: &v1::PeerHello) -> Result<(Arc<Links>, WorkerId), Status> {
        let invalid =
            |error: diptych_common::ids::NameError| Status::invalid_argument(error.to_string());
        let attempt = AttemptKey {
            job: hello.job.parse().map_err(invalid)?,
            attempt: Attempt::new(hello.attempt),
        };
        let from: WorkerId = hello.from.parse().map_err(invalid)?;
        let Some(links) = self.book.find(&attempt) else {
            return Err(Status::not_found(format!("{attempt} does not run here")));
        };
        let of_gang = links.peers.contains_key(&from);
        if !of_gang || !links.secret.proves(hello, &attempt, &from, &self.book.me) {
            let problem = format!("no proof that worker {from} is of {attempt}");
            return Err(Status::unauthenticated(problem));
        }
        Ok((links, from))
    }
}

#[tonic::async_trait]
impl PeerService for Answering {
    type LinkStream = Pin<Box<dyn Stream<Item = Result<v1::PeerMessage, Status>> + Send>>;

    async fn link(
        &self,
        request: Request<Streaming<v1::PeerMessage>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let mut incoming = request.into_inner();
        let first = tokio::time::timeout(SILENCE, incoming.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello"))??;
        let Some(Message::Hello(hello)) = first.and_then(|first| first.message) else {
            return Err(Status::invalid_argument("the first message is no hello"));
        };
        let (links, from) = self.admit(&hello)?;
        let (outgoing, waiting) = mpsc::channel(WAITING);
        let answer = links.secret.hello(&links.attempt, &links.me, &from);
        // The channel is empty: there is room.
        drop(outgoing.try_send(link::message(Message::Hello(answer))));
        tokio::spawn(async move {
            // Whether and why it was lost is told; this side waits to be called again.
            drop(link::stand(&links, &from, incoming, outgoing).await);
        });
        Ok(Response::new(Box::pin(
            ReceiverStream::new(waiting).map(Ok),
        )))
    }
}
