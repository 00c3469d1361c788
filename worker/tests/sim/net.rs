//! The simulated network as tonic wants it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use diptych_worker::agent::peers::Dial;
use diptych_worker::agent::session::Connector;
use futures::{Stream, stream};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Error, Uri};
use turmoil::net::{TcpListener, TcpStream};

/// Where the coordinator listens.
pub(crate) const COORDINATOR: (&str, u16) = ("coordinator", 7070);
/// Where every agent answers the others.
pub(crate) const PEERS: u16 = 7071;
/// As in production: a half-open connection is noticed by its pings.
const PING_EVERY: Duration = Duration::from_secs(2);
const PING_LIMIT: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(3);

/// The server's end of a connection.
#[derive(Debug)]
pub(crate) struct Accepted(TcpStream);

/// Everything that arrives at `port` of this host.
pub(crate) async fn incoming(
    port: u16,
) -> io::Result<impl Stream<Item = io::Result<Accepted>> + Send> {
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    Ok(stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await;
        Some((accepted.map(|(stream, _)| Accepted(stream)), listener))
    }))
}

/// A channel to `host:port`.
pub(crate) async fn channel(address: String) -> Result<Channel, Error> {
    let connect = tower::service_fn(move |_: Uri| {
        let address = address.clone();
        async move {
            let connecting = TcpStream::connect(address);
            let connected = tokio::time::timeout(CONNECT, connecting).await;
            Ok::<_, io::Error>(TokioIo::new(connected??))
        }
    });
    Endpoint::from_static("http://simulated")
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_LIMIT)
        .keep_alive_while_idle(true)
        .connect_with_connector(connect)
        .await
}

/// A channel to the coordinator.
pub(crate) async fn to_coordinator() -> Result<Channel, Error> {
    channel(format!("{}:{}", COORDINATOR.0, COORDINATOR.1)).await
}

/// An agent's way to the coordinator.
#[derive(Debug)]
pub(crate) struct ToCoordinator;

impl Connector for ToCoordinator {
    async fn connect(&self) -> Result<Channel, Error> {
        to_coordinator().await
    }

    fn name(&self) -> String {
        COORDINATOR.0.to_owned()
    }
}

/// An agent's way to the others.
#[derive(Debug, Clone)]
pub(crate) struct ToPeers;

impl Dial for ToPeers {
    async fn dial(&self, address: &str) -> Result<Channel, Error> {
        channel(address.to_owned()).await
    }
}

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
