//! The links of one channel: readiness-driven sends and receives, and the agreement that opens every call.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use diptych_common::ids::Rank;
use nix::poll::PollFlags;

use super::shared::{Shared, lock};
use crate::collective::call::CALL_BYTES;
use crate::collective::{Call, CollectiveError, Disagreement};

/// One rank's end of a channel.
#[derive(Debug)]
pub(super) struct Channel {
    shared: Arc<Shared>,
    rank: usize,
    /// By rank; `None` at this rank's own place.
    links: Vec<Option<Arc<TcpStream>>>,
    /// Number of the next call. Held during a call, so that calls of several threads follow each other.
    sequence: Mutex<u64>,
    /// Nanoseconds blocked so far.
    waited: AtomicU64,
}

/// A letter on its way to a peer.
struct Outgoing {
    to: usize,
    sent: usize,
}

/// A peer's announcement and payload on their way here.
struct Incoming<'a> {
    from: usize,
    record: [u8; CALL_BYTES],
    room: &'a mut [u8],
    received: usize,
}

// === impl Channel ===

impl Channel {
    pub(super) fn new(shared: Arc<Shared>, rank: Rank, links: Vec<Option<Arc<TcpStream>>>) -> Self {
        Self {
            shared,
            rank: rank.get() as usize,
            links,
            sequence: Mutex::new(0),
            waited: AtomicU64::new(0),
        }
    }

    pub(super) fn rank(&self) -> usize {
        self.rank
    }

    pub(super) fn world(&self) -> usize {
        self.links.len()
    }

    /// Runs one numbered call. An error fails the gang.
    pub(super) fn call<T>(
        &self,
        body: impl FnOnce(u64) -> Result<T, CollectiveError>,
    ) -> Result<T, CollectiveError> {
        let mut sequence = lock(&self.sequence);
        self.shared.check()?;
        let done = body(*sequence).map_err(|error| self.shared.fail(error))?;
        *sequence += 1;
        Ok(done)
    }

    pub(super) fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited.load(Ordering::Relaxed))
    }

    pub(super) fn abort(&self) {
        self.shared.fail(CollectiveError::Aborted);
    }

    /// Announces `call` to every peer with `payload` behind it, checks that every peer announces the same, and only
    /// then fills `rooms[peer]` with that peer's payload. This rank's own room stays as it is.
    pub(super) fn agree(
        &self,
        call: &Call,
        payload: &[u8],
        rooms: Vec<&mut [u8]>,
    ) -> Result<(), CollectiveError> {
        let letter = [&call.encode()[..], payload].concat();
        let peers = |peer: &usize| *peer != self.rank;
        let mut sends: Vec<Outgoing> = (0..self.world())
            .filter(peers)
            .map(|to| Outgoing { to, sent: 0 })
            .collect();
        let mut receives: Vec<Incoming<'_>> = rooms
            .into_iter()
            .enumerate()
            .filter(|(from, _)| peers(from))
            .map(|(from, room)| Incoming {
                from,
                record: [0; CALL_BYTES],
                room,
                received: 0,
            })
            .collect();
        loop {
            let mut moved = false;
            for send in &mut sends {
                let sent = self.try_send(send.to, &letter[send.sent..])?;
                send.sent += sent;
                moved |= sent > 0;
            }
            for receive in &mut receives {
                moved |= self.advance(call, receive)?;
            }
            sends.retain(|send| send.sent < letter.len());
            receives.retain(|receive| receive.received < CALL_BYTES + receive.room.len());
            if sends.is_empty() && receives.is_empty() {
                return Ok(());
            }
            if !moved {
                let to = sends.iter().map(|send| send.to);
                self.wait(to, receives.iter().map(|receive| receive.from))?;
            }
        }
    }

    /// Sends what the link takes now: 0 if it takes nothing. `bytes` is not empty.
    pub(super) fn try_send(&self, to: usize, bytes: &[u8]) -> Result<usize, CollectiveError> {
        self.moved(to, self.link(to).and_then(|mut link| link.write(bytes)))
    }

    /// Receives what the link has now: 0 if it has nothing. `room` is not empty.
    pub(super) fn try_receive(
        &self,
        from: usize,
        room: &mut [u8],
    ) -> Result<usize, CollectiveError> {
        self.moved(from, self.link(from).and_then(|mut link| link.read(room)))
    }

    /// Blocks until one of the links can move bytes, or the gang fails.
    pub(super) fn wait(
        &self,
        to: impl Iterator<Item = usize>,
        from: impl Iterator<Item = usize>,
    ) -> Result<(), CollectiveError> {
        let to = to.map(|peer| (peer, PollFlags::POLLOUT));
        let wanted = to.chain(from.map(|peer| (peer, PollFlags::POLLIN)));
        let started = Instant::now();
        let woken = self.shared.wait(
            wanted.filter_map(|(peer, flags)| Some((self.link(peer).ok()?.as_fd(), flags))),
            None,
        );
        let blocked = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.waited.fetch_add(blocked, Ordering::Relaxed);
        woken
    }

    /// Takes one step in reading a peer's letter.
    fn advance(&self, call: &Call, receive: &mut Incoming<'_>) -> Result<bool, CollectiveError> {
        let Incoming {
            from,
            record,
            room,
            received,
        } = receive;
        if *received < CALL_BYTES {
            *received += match self.try_receive(*from, &mut record[*received..])? {
                0 => return Ok(false),
                n => n,
            };
            if *received == CALL_BYTES {
                self.check_call(call, *from, record)?;
            }
            return Ok(true);
        }
        match &mut room[*received - CALL_BYTES..] {
            [] => Ok(false),
            rest => {
                let n = self.try_receive(*from, rest)?;
                *received += n;
                Ok(n > 0)
            }
        }
    }

    fn check_call(
        &self,
        own: &Call,
        from: usize,
        record: &[u8; CALL_BYTES],
    ) -> Result<(), CollectiveError> {
        let rank = Rank::new(from as u32);
        match Call::decode(record) {
            Some(other) if other.rank != rank => {
                Err(CollectiveError::Malformed { rank, what: "call" })
            }
            Some(other) if !own.agrees_with(&other) => {
                Err(CollectiveError::Mismatch(Box::new(Disagreement {
                    one: own.clone(),
                    other,
                })))
            }
            Some(_) => Ok(()),
            None => Err(CollectiveError::Malformed { rank, what: "call" }),
        }
    }

    fn link(&self, peer: usize) -> io::Result<&TcpStream> {
        self.links
            .get(peer)
            .and_then(Option::as_deref)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn moved(&self, peer: usize, result: io::Result<usize>) -> Result<usize, CollectiveError> {
        match result {
            Ok(n) if n > 0 => Ok(n),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(0)
            }
            Ok(_) | Err(_) => Err(self.shared.last_word(Rank::new(peer as u32))),
        }
    }
}
