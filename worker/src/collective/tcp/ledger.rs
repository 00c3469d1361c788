//! For a backend whose data goes elsewhere: every rank announces its calls to every other one without waiting for
//! anybody, and a thread compares them as they come. So a disagreement, or the loss of a peer, is known to a host whose
//! device waits.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use diptych_common::ids::Rank;
use nix::poll::PollFlags;

use super::shared::{Shared, lock};
use crate::collective::call::CALL_BYTES;
use crate::collective::{Call, CollectiveError, Disagreement};

/// Channels that keep books here.
const LANES: usize = 2;
/// A lane and a call.
const ENTRY: usize = 1 + CALL_BYTES;
/// How long a rank that leaves waits for its last entries to be taken.
const LAST_ENTRIES: Duration = Duration::from_secs(1);
/// Longest sleep of a thread that waits for a failure which another thread may have noticed.
const GLANCE: Duration = Duration::from_millis(20);

/// The announcements of one gang.
#[derive(Debug)]
pub(in crate::collective) struct Ledger {
    shared: Arc<Shared>,
    me: usize,
    links: Vec<Option<Arc<TcpStream>>>,
    book: Mutex<Book>,
    confirmed: Condvar,
    bell: (UnixStream, UnixStream),
    closed: AtomicBool,
}

/// Which channel of the gang a call is made on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::collective) enum Lane {
    Statistics = 0,
    Gradients = 1,
}

#[derive(Debug)]
struct Book {
    lanes: [Page; LANES],
    peers: Vec<Peer>,
}

/// The calls of one channel.
#[derive(Debug)]
struct Page {
    me: usize,
    /// Own calls that not every peer has made yet.
    open: VecDeque<Call>,
    /// Number of the first of them.
    first: u64,
    /// How many calls each peer has made as this rank did.
    agreed: Vec<u64>,
    /// What peers announced before this rank did.
    early: Vec<VecDeque<Call>>,
}

/// Bytes on their way to and from a peer.
#[derive(Debug, Default)]
struct Peer {
    outgoing: VecDeque<u8>,
    incoming: Vec<u8>,
    /// It has closed its end.
    gone: bool,
}

// === impl Ledger ===

impl Ledger {
    pub(super) fn new(
        shared: Arc<Shared>,
        me: Rank,
        links: Vec<Option<Arc<TcpStream>>>,
    ) -> io::Result<Self> {
        let bell = UnixStream::pair()?;
        bell.0.set_nonblocking(true)?;
        bell.1.set_nonblocking(true)?;
        let world = links.len();
        let me = me.get() as usize;
        let page = || Page {
            me,
            open: VecDeque::new(),
            first: 0,
            agreed: vec![0; world],
            early: vec![VecDeque::new(); world],
        };
        Ok(Self {
            shared,
            me,
            book: Mutex::new(Book {
                lanes: [page(), page()],
                peers: links.iter().map(|_| Peer::default()).collect(),
            }),
            links,
            confirmed: Condvar::new(),
            bell,
            closed: AtomicBool::new(false),
        })
    }

    /// Says that this rank makes this call, the next one of its lane.
    pub(in crate::collective) fn announce(
        &self,
        lane: Lane,
        call: Call,
    ) -> Result<(), CollectiveError> {
        self.check()?;
        let mut book = lock(&self.book);
        let entry = [&[lane as u8][..], &call.encode()].concat();
        for peer in (0..self.links.len()).filter(|peer| *peer != self.me) {
            if book.peers[peer].gone {
                drop(book);
                let why = self.shared.last_word(Rank::new(peer as u32));
                return Err(self.fail(why));
            }
            book.peers[peer].outgoing.extend(&entry);
        }
        let compared = book.lanes[lane as usize].add(call);
        drop(book);
        compared.map_err(|error| self.fail(error))?;
        self.ring();
        Ok(())
    }

    /// Waits until every rank has made the first `calls` calls of a lane, or the gang fails; returns how long it waited.
    pub(in crate::collective) fn await_agreement(
        &self,
        lane: Lane,
        calls: u64,
    ) -> Result<Duration, CollectiveError> {
        let mut since = None;
        let mut book = lock(&self.book);
        loop {
            self.check()?;
            if book.lanes[lane as usize].agreed_by_all() >= calls {
                return Ok(since.map_or(Duration::ZERO, |since: Instant| since.elapsed()));
            }
            since.get_or_insert_with(Instant::now);
            let waited = self.confirmed.wait_timeout(book, GLANCE);
            book = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for the gang to fail; `None` if it did not in this time.
    pub(in crate::collective) fn await_failure(
        &self,
        longest: Duration,
    ) -> Option<CollectiveError> {
        let until = Instant::now() + longest;
        let mut book = lock(&self.book);
        loop {
            if let Err(error) = self.check() {
                return Some(error);
            }
            if Instant::now() >= until {
                return None;
            }
            let waited = self.confirmed.wait_timeout(book, GLANCE);
            book = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The failure of the gang, if it failed.
    pub(in crate::collective) fn check(&self) -> Result<(), CollectiveError> {
        self.shared.check()
    }

    /// Fails the gang; the first failure stays, and is returned.
    pub(in crate::collective) fn fail(&self, error: CollectiveError) -> CollectiveError {
        let first = self.shared.fail(error);
        self.confirmed.notify_all();
        first
    }

    /// Ends [`keep`](Self::keep) after the last entries.
    pub(in crate::collective) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.ring();
    }

    /// Carries and compares entries until the gang fails (then the reason is returned) or [`close`](Self::close).
    /// `glance` is called every so often, and may find a failure of its own.
    pub(in crate::collective) fn keep(
        &self,
        every: Duration,
        glance: impl Fn() -> Result<(), CollectiveError>,
    ) -> Option<CollectiveError> {
        let kept = self.keep_books(every, glance);
        let failed = kept.err().map(|error| self.fail(error));
        self.confirmed.notify_all();
        failed
    }

    fn keep_books(
        &self,
        every: Duration,
        glance: impl Fn() -> Result<(), CollectiveError>,
    ) -> Result<(), CollectiveError> {
        let mut last = Instant::now();
        loop {
            self.shared.check()?;
            let closed = self.closed.load(Ordering::Acquire);
            self.carry()?;
            if closed {
                return self.send_the_rest();
            }
            self.wait(every)?;
            // Every announcement ends the wait.
            if last.elapsed() >= every {
                glance()?;
                last = Instant::now();
            }
        }
    }

    /// Moves what the links take and have now.
    fn carry(&self) -> Result<(), CollectiveError> {
        let mut lost = None;
        {
            let mut book = lock(&self.book);
            for (peer, link) in self.peers() {
                let open = book.carry(peer, link)?;
                // A peer that has left in order owes nothing if it made all the calls that this rank made.
                if !open && book.owes(peer) {
                    lost = Some(peer);
                }
            }
        }
        self.confirmed.notify_all();
        match lost {
            Some(peer) => Err(self.shared.last_word(Rank::new(peer as u32))),
            None => Ok(()),
        }
    }

    fn wait(&self, longest: Duration) -> Result<(), CollectiveError> {
        let links: Vec<_> = {
            let book = lock(&self.book);
            self.peers()
                .filter(|(peer, _)| !book.peers[*peer].gone)
                .map(|(peer, link)| match book.peers[peer].outgoing.is_empty() {
                    true => (link, PollFlags::POLLIN),
                    false => (link, PollFlags::POLLIN | PollFlags::POLLOUT),
                })
                .collect()
        };
        let sockets = links.iter().map(|(link, flags)| (link.as_fd(), *flags));
        let bell = (self.bell.1.as_fd(), PollFlags::POLLIN);
        self.shared.wait(sockets.chain([bell]), Some(longest))?;
        // Rung or not: what it holds has been heard.
        let _ = (&self.bell.1).read(&mut [0; 64]);
        Ok(())
    }

    fn send_the_rest(&self) -> Result<(), CollectiveError> {
        let until = Instant::now() + LAST_ENTRIES;
        loop {
            self.carry()?;
            let book = lock(&self.book);
            let done = book
                .peers
                .iter()
                .all(|peer| peer.gone || peer.outgoing.is_empty());
            drop(book);
            let left = until.saturating_duration_since(Instant::now());
            if done || left.is_zero() {
                return Ok(());
            }
            self.wait(left)?;
        }
    }

    fn peers(&self) -> impl Iterator<Item = (usize, &Arc<TcpStream>)> {
        let links = self.links.iter().enumerate();
        links.filter_map(|(peer, link)| Some((peer, link.as_ref()?)))
    }

    fn ring(&self) {
        // A full buffer has rung enough.
        let _ = (&self.bell.0).write(&[1]);
    }
}

// === impl Book ===

impl Book {
    /// Moves bytes to and from a peer and reads its entries; false once it has closed its end.
    fn carry(&mut self, peer: usize, link: &TcpStream) -> Result<bool, CollectiveError> {
        let Self { lanes, peers } = self;
        let state = &mut peers[peer];
        state.send(link);
        state.receive(link);
        let rank = Rank::new(peer as u32);
        let whole = state.incoming.len() / ENTRY * ENTRY;
        for entry in state
            .incoming
            .drain(..whole)
            .as_slice()
            .as_chunks::<ENTRY>()
            .0
        {
            let malformed = CollectiveError::Malformed { rank, what: "call" };
            let [lane, call @ ..] = entry;
            let page = lanes.get_mut(usize::from(*lane)).ok_or(malformed.clone())?;
            let call = Call::decode(call).filter(|call| call.rank == rank);
            page.hear(peer, call.ok_or(malformed)?)?;
        }
        Ok(!state.gone)
    }

    /// Whether this rank made calls that the peer has not made.
    fn owes(&self, peer: usize) -> bool {
        self.lanes
            .iter()
            .any(|page| page.agreed[peer] < page.first + page.open.len() as u64)
    }
}

// === impl Page ===

impl Page {
    fn add(&mut self, call: Call) -> Result<(), CollectiveError> {
        for peer in 0..self.early.len() {
            if let Some(other) = self.early[peer].pop_front() {
                compare(&call, other)?;
                self.agreed[peer] += 1;
            }
        }
        self.open.push_back(call);
        self.forget();
        Ok(())
    }

    fn hear(&mut self, peer: usize, other: Call) -> Result<(), CollectiveError> {
        let at = self.agreed[peer] - self.first;
        match self.open.get(at as usize) {
            Some(own) => compare(own, other)?,
            None => {
                self.early[peer].push_back(other);
                return Ok(());
            }
        }
        self.agreed[peer] += 1;
        self.forget();
        Ok(())
    }

    /// How many calls all peers have made as this rank did.
    fn agreed_by_all(&self) -> u64 {
        let made = self.first + self.open.len() as u64;
        let peers = self.agreed.iter().enumerate();
        peers
            .filter(|(peer, _)| *peer != self.me)
            .map(|(_, agreed)| *agreed)
            .min()
            .unwrap_or(made)
    }

    /// Drops own calls that every peer has made.
    fn forget(&mut self) {
        let agreed = self.agreed_by_all();
        while self.first < agreed && self.open.pop_front().is_some() {
            self.first += 1;
        }
    }
}

// === impl Peer ===

impl Peer {
    fn send(&mut self, mut link: &TcpStream) {
        while !self.gone && !self.outgoing.is_empty() {
            match link.write(self.outgoing.as_slices().0) {
                Ok(sent) if sent > 0 => drop(self.outgoing.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => self.gone = true,
            }
        }
    }

    fn receive(&mut self, mut link: &TcpStream) {
        let mut room = [0; 64 * ENTRY];
        loop {
            match link.read(&mut room) {
                Ok(received) if received > 0 => self.incoming.extend_from_slice(&room[..received]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => {
                    self.gone = true;
                    return;
                }
            }
        }
    }
}

fn compare(own: &Call, other: Call) -> Result<(), CollectiveError> {
    if own.agrees_with(&other) {
        return Ok(());
    }
    let one = own.clone();
    Err(CollectiveError::Mismatch(Box::new(Disagreement {
        one,
        other,
    })))
}
