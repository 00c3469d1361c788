use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use diptych_common::ids::Rank;
use nix::poll::PollFlags;

use super::channel::Channel;
use super::handshake::{self, Accepted, Dialled, Identity, LinkUse};
use super::ledger::Ledger;
use super::shared::Shared;
use crate::collective::{AbortHandle, Collective, CollectiveError, ConnectError, Gang};

/// Longest that one handshake may take; a caller that says nothing is dropped then.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes served at once; further callers are dropped, and peers among them call again.
const MAX_HANDSHAKES: usize = 64;
/// Longest that one attempt to reach a peer may take.
const DIAL: Duration = Duration::from_secs(5);
/// Pause before a peer is dialled again, doubled each time up to the second value.
const REDIAL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// A bound data-plane address, before the peers are known.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    addr: SocketAddr,
    shared: Arc<Shared>,
}

/// What the helper threads report to [`Listener::connect`].
enum Event {
    Linked {
        peer: Rank,
        link: LinkUse,
        stream: Arc<TcpStream>,
    },
    Failed(ConnectError),
}

/// What a helper thread needs. It does not keep a gang alive that has gone.
#[derive(Clone)]
struct Helper {
    identity: Identity,
    deadline: Instant,
    shared: Weak<Shared>,
    events: Sender<Event>,
    handshakes: Arc<AtomicUsize>,
    uses: &'static [LinkUse],
}

/// The links that stand so far, by rank and use.
struct Links(Vec<[Option<Arc<TcpStream>>; LinkUse::ALL.len()]>);

// === impl Listener ===

impl Listener {
    /// Listens on `addr` (`host:port`; port 0 takes a free one).
    ///
    /// # Errors
    /// [`ConnectError::Bind`] if the address cannot be listened on.
    pub fn bind(addr: &str) -> Result<Self, CollectiveError> {
        let refused = |error: io::Error| ConnectError::Bind {
            addr: addr.to_owned(),
            detail: error.to_string(),
        };
        let socket = TcpListener::bind(addr).map_err(refused)?;
        socket.set_nonblocking(true).map_err(refused)?;
        let bound = socket.local_addr().map_err(refused)?;
        let shared = Arc::new(Shared::new().map_err(refused)?);
        Ok(Self {
            socket,
            addr: bound,
            shared,
        })
    }

    /// The bound address, as peers dial it (if the host part is one that they can reach).
    pub fn endpoint(&self) -> String {
        self.addr.to_string()
    }

    /// Frees [`connect`](Self::connect), and later every call of the gang, from another thread.
    pub fn abort_handle(&self) -> AbortHandle {
        let shared = Arc::downgrade(&self.shared);
        AbortHandle::new(move || {
            if let Some(shared) = shared.upgrade() {
                shared.fail(CollectiveError::Aborted);
            }
        })
    }

    /// Connects to all peers: `peers[r]` is rank r's endpoint (this rank's own is not used). Callers of another job or
    /// attempt, or without the secret, are refused and do not disturb the others.
    ///
    /// # Errors
    /// [`CollectiveError::Connect`] with the reason; [`CollectiveError::Aborted`] by the abort handle.
    pub fn connect(
        self,
        identity: Identity,
        peers: &[String],
        deadline: Instant,
    ) -> Result<Gang, CollectiveError> {
        let abort = self.abort_handle();
        let rank = identity.rank;
        let (mut links, shared) =
            self.link(identity, (peers, LinkUse::WITHOUT_LEDGER), deadline)?;
        Ok(links.gang(&shared, rank, abort))
    }

    /// [`connect`](Self::connect), for a backend that moves device memory itself: the gang takes host memory.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub(in crate::collective) fn connect_with_ledger(
        self,
        identity: Identity,
        peers: &[String],
        deadline: Instant,
    ) -> Result<(Gang, Ledger), CollectiveError> {
        let abort = self.abort_handle();
        let rank = identity.rank;
        let (mut links, shared) = self.link(identity, (peers, &LinkUse::ALL), deadline)?;
        let gang = links.gang(&shared, rank, abort);
        let made = Ledger::new(Arc::clone(&shared), rank, links.take(LinkUse::Ledger));
        let ledger = made.map_err(|error| {
            let what = "make a pair of sockets";
            let detail = error.to_string();
            shared.fail(ConnectError::System { what, detail }.into())
        })?;
        Ok((gang, ledger))
    }

    /// All links of these uses to every peer.
    fn link(
        self,
        identity: Identity,
        (peers, uses): (&[String], &'static [LinkUse]),
        deadline: Instant,
    ) -> Result<(Links, Arc<Shared>), CollectiveError> {
        let Self { socket, shared, .. } = self;
        let Identity { rank, world, .. } = identity;
        if rank.get() >= world || peers.len() != world as usize {
            return Err(ConnectError::Shape {
                rank,
                world,
                peers: peers.len(),
            }
            .into());
        }
        let (sender, events) = channel();
        let handshakes = Arc::default();
        let helper = Helper {
            identity,
            deadline,
            shared: Arc::downgrade(&shared),
            events: sender,
            handshakes,
            uses,
        };
        let linked = link_all(&socket, &shared, &helper, &events, peers)
            .and_then(|links| links.ready(&shared, rank));
        match linked {
            Ok(links) => Ok((links, shared)),
            Err(error) => Err(shared.fail(error)),
        }
    }
}

/// Dials the ranks below, serves the ranks above, until every link stands.
fn link_all(
    socket: &TcpListener,
    shared: &Shared,
    helper: &Helper,
    events: &Receiver<Event>,
    peers: &[String],
) -> Result<Links, CollectiveError> {
    let rank = helper.identity.rank;
    for (peer, endpoint) in (0..rank.get()).map(Rank::new).zip(peers) {
        let (helper, endpoint) = (helper.clone(), endpoint.clone());
        spawn(format!("dial-{peer}"), move || {
            helper.dial_peer(peer, &endpoint)
        })?;
    }
    let mut links = Links::new(peers.len());
    loop {
        let missing = links.missing(rank, helper.uses);
        if missing.is_empty() {
            return Ok(links);
        }
        let left = helper.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ConnectError::Deadline { missing }.into());
        }
        shared.wait([(socket.as_fd(), PollFlags::POLLIN)], Some(left))?;
        serve_callers(socket, helper)?;
        for event in events.try_iter() {
            match event {
                // A peer that calls again has given up its earlier link.
                Event::Linked { peer, link, stream } => links.put(peer, link, stream),
                Event::Failed(error) => return Err(error.into()),
            }
        }
    }
}

/// Starts a handshake with everyone who has called.
fn serve_callers(socket: &TcpListener, helper: &Helper) -> Result<(), CollectiveError> {
    loop {
        match socket.accept() {
            Ok((stream, from)) => {
                if helper.handshakes.fetch_add(1, Ordering::AcqRel) >= MAX_HANDSHAKES {
                    helper.handshakes.fetch_sub(1, Ordering::AcqRel);
                    tracing::warn!(%from, "too many handshakes at once: caller dropped");
                    continue;
                }
                let helper = helper.clone();
                spawn("handshake".to_owned(), move || {
                    helper.serve(stream, from);
                    helper.handshakes.fetch_sub(1, Ordering::AcqRel);
                })?;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                ) => {}
            Err(error) => {
                return Err(ConnectError::System {
                    what: "accept",
                    detail: error.to_string(),
                }
                .into());
            }
        }
    }
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> Result<(), ConnectError> {
    let failed = |error: io::Error| ConnectError::System {
        what: "start a thread",
        detail: error.to_string(),
    };
    thread::Builder::new()
        .name(name)
        .spawn(body)
        .map(drop)
        .map_err(failed)
}

// === impl Helper ===

impl Helper {
    /// Makes the links to a lower rank.
    fn dial_peer(&self, peer: Rank, endpoint: &str) {
        for &link in self.uses {
            let mut pause = REDIAL.0;
            loop {
                match self.dial_once(peer, endpoint, link) {
                    Ok(Some(stream)) => {
                        self.report(Event::Linked { peer, link, stream });
                        break;
                    }
                    Err(error) => return self.report(Event::Failed(error)),
                    Ok(None) if self.is_over() => return,
                    Ok(None) => thread::sleep(pause),
                }
                pause = (pause * 2).min(REDIAL.1);
            }
        }
    }

    /// `None` if it is worth another try.
    fn dial_once(
        &self,
        rank: Rank,
        endpoint: &str,
        link: LinkUse,
    ) -> Result<Option<Arc<TcpStream>>, ConnectError> {
        let addrs = match endpoint.to_socket_addrs() {
            Ok(addrs) => addrs,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                let endpoint = endpoint.to_owned();
                return Err(ConnectError::Endpoint {
                    rank,
                    endpoint,
                    detail: error.to_string(),
                });
            }
            Err(_) => return Ok(None),
        };
        for addr in addrs {
            let until = self.deadline.min(Instant::now() + DIAL);
            let timeout = until
                .saturating_duration_since(Instant::now())
                .max(Duration::from_millis(1));
            let Ok(stream) = TcpStream::connect_timeout(&addr, timeout) else {
                continue;
            };
            let Some(stream) = self.register(stream) else {
                return Ok(None);
            };
            // The peer may still be busy with its own start; only the deadline of the whole ends the wait for it.
            match handshake::dial(&stream, &self.identity, (rank, link), self.deadline) {
                Ok(Dialled::Linked) => return Ok(Some(stream)),
                Ok(Dialled::Refused(reason)) => {
                    return Err(ConnectError::Refused { rank, addr, reason });
                }
                Ok(Dialled::Unproven) => {
                    return Err(ConnectError::Unproven {
                        rank,
                        addr,
                        attempt: self.identity.attempt,
                    });
                }
                Err(_) => {}
            }
        }
        Ok(None)
    }

    /// Finds out who called.
    fn serve(&self, stream: TcpStream, from: SocketAddr) {
        let Some(stream) = self.register(stream) else {
            return;
        };
        let until = self.deadline.min(Instant::now() + HANDSHAKE);
        match handshake::accept(&stream, &self.identity, until) {
            Ok(Accepted::Peer { rank, link }) => self.report(Event::Linked {
                peer: rank,
                link,
                stream,
            }),
            Ok(Accepted::Refused(reason)) => {
                tracing::warn!(%from, %reason, "data-plane caller refused")
            }
            Ok(Accepted::Stranger) => {
                tracing::warn!(%from, "stranger on the data-plane port dropped")
            }
            Err(error) => tracing::warn!(%from, %error, "data-plane handshake not finished"),
        }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
            || self
                .shared
                .upgrade()
                .is_none_or(|shared| shared.check().is_err())
    }

    /// `None` if the gang failed meanwhile or the socket is already broken.
    fn register(&self, stream: TcpStream) -> Option<Arc<TcpStream>> {
        let stream = Arc::new(stream);
        // Accepted sockets do not inherit non-blocking mode everywhere.
        stream.set_nonblocking(false).ok()?;
        stream.set_nodelay(true).ok()?;
        self.shared.upgrade()?.register(&stream).ok()?;
        Some(stream)
    }

    fn report(&self, event: Event) {
        // If nobody listens any more, the gang has failed or the caller came too late.
        if self.events.send(event).is_ok()
            && let Some(shared) = self.shared.upgrade()
        {
            shared.ring();
        }
    }
}

// === impl Links ===

impl Links {
    fn new(world: usize) -> Self {
        Self((0..world).map(|_| Default::default()).collect())
    }

    fn put(&mut self, peer: Rank, link: LinkUse, stream: Arc<TcpStream>) {
        if let Some(links) = self.0.get_mut(peer.get() as usize) {
            links[usize::from(link.code())] = Some(stream);
        }
    }

    fn missing(&self, own: Rank, uses: &[LinkUse]) -> Vec<Rank> {
        let ranks = (0..).map(Rank::new).zip(&self.0);
        let incomplete = ranks.filter(|(rank, links)| {
            let lacks = |link: &LinkUse| links[usize::from(link.code())].is_none();
            *rank != own && uses.iter().any(lacks)
        });
        incomplete.map(|(rank, _)| rank).collect()
    }

    /// Makes the links ready for use, and starts to watch the peers.
    fn ready(mut self, shared: &Shared, rank: Rank) -> Result<Self, CollectiveError> {
        for stream in self.0.iter().flatten().flatten() {
            let failed = |error: io::Error| ConnectError::System {
                what: "make a socket non-blocking",
                detail: error.to_string(),
            };
            stream.set_nonblocking(true).map_err(failed)?;
        }
        let watches = (0..).map(Rank::new).zip(self.take(LinkUse::Watch));
        shared.watch(
            rank,
            watches
                .filter_map(|(peer, stream)| Some((peer, stream?)))
                .collect(),
        );
        Ok(self)
    }

    fn take(&mut self, link: LinkUse) -> Vec<Option<Arc<TcpStream>>> {
        self.0
            .iter_mut()
            .map(|links| links[usize::from(link.code())].take())
            .collect()
    }

    fn gang(&mut self, shared: &Arc<Shared>, rank: Rank, abort: AbortHandle) -> Gang {
        let mut channel = |link| {
            let links = self.take(link);
            Arc::new(Channel::new(Arc::clone(shared), rank, links)) as Arc<dyn Collective>
        };
        Gang {
            statistics: channel(LinkUse::Statistics),
            gradients: channel(LinkUse::Gradients),
            abort,
        }
    }
}
