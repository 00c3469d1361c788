//! What the two channels of a gang share: the one failure of the gang, and the peers' last words.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use diptych_common::ids::Rank;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::notice::{NOTICE_BYTES, Notice};
use crate::collective::{CollectiveError, ConnectError, LossCause};

/// How long the watch of a peer whose data link broke may stay silent: both close together when a process dies.
const LAST_WORD: Duration = Duration::from_secs(1);

/// The state of a gang, from before it connects to after it failed.
#[derive(Debug)]
pub(super) struct Shared {
    /// The first failure; set once, and then every call ends with it.
    failure: OnceLock<CollectiveError>,
    bell: Bell,
    /// Every socket that a thread may be blocked on.
    sockets: Mutex<Vec<Weak<TcpStream>>>,
    watches: OnceLock<Watches>,
}

#[derive(Debug)]
struct Watches {
    me: Rank,
    peers: Vec<Watch>,
}

/// The connection on which a peer says its last word.
#[derive(Debug)]
struct Watch {
    peer: Rank,
    stream: Arc<TcpStream>,
    left: AtomicBool,
    heard: Mutex<Heard>,
}

/// The bytes of a last word so far.
#[derive(Debug)]
struct Heard {
    bytes: [u8; NOTICE_BYTES],
    len: usize,
}

/// Wakes a thread that waits in `poll`; once closed it wakes for ever.
#[derive(Debug)]
struct Bell {
    button: UnixStream,
    sound: UnixStream,
}

/// Locks; a thread that panicked while it held the lock left plain data behind.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Shared ===

impl Shared {
    pub(super) fn new() -> io::Result<Self> {
        let (button, sound) = UnixStream::pair()?;
        button.set_nonblocking(true)?;
        sound.set_nonblocking(true)?;
        Ok(Self {
            failure: OnceLock::new(),
            bell: Bell { button, sound },
            sockets: Mutex::default(),
            watches: OnceLock::new(),
        })
    }

    /// Fails the gang, tells the peers why, and frees every blocked thread. The first failure stays.
    pub(super) fn fail(&self, error: CollectiveError) -> CollectiveError {
        let notice = Notice::of(&error);
        if self.failure.set(error).is_ok() {
            self.say(&notice);
            for socket in lock(&self.sockets)
                .drain(..)
                .filter_map(|socket| socket.upgrade())
            {
                // A socket whose peer is gone is as good as shut down.
                let _ = socket.shutdown(Shutdown::Both);
            }
            let _ = self.bell.button.shutdown(Shutdown::Both);
        }
        self.check().err().unwrap_or(CollectiveError::Aborted)
    }

    /// The failure of the gang, if it failed.
    pub(super) fn check(&self) -> Result<(), CollectiveError> {
        self.failure
            .get()
            .map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Has `fail` shut this socket down too.
    pub(super) fn register(&self, socket: &Arc<TcpStream>) -> Result<(), CollectiveError> {
        let mut sockets = lock(&self.sockets);
        self.check()?;
        sockets.retain(|known| known.strong_count() > 0);
        sockets.push(Arc::downgrade(socket));
        Ok(())
    }

    /// Starts to listen to the peers' last words.
    pub(super) fn watch(&self, me: Rank, streams: Vec<(Rank, Arc<TcpStream>)>) {
        let silence = || {
            Mutex::new(Heard {
                bytes: [0; NOTICE_BYTES],
                len: 0,
            })
        };
        let peers = streams
            .into_iter()
            .map(|(peer, stream)| Watch {
                peer,
                stream,
                left: AtomicBool::new(false),
                heard: silence(),
            })
            .collect();
        // A gang connects once, so nothing is ever overwritten.
        let _ = self.watches.set(Watches { me, peers });
    }

    /// Wakes the thread in [`wait`](Self::wait) once.
    pub(super) fn ring(&self) {
        // A full buffer has rung enough; a closed bell rings for ever.
        let _ = (&self.bell.button).write(&[1]);
    }

    /// Blocks until one of `fds` is ready, the bell rings, a peer says a last word, or the timeout is over.
    pub(super) fn wait<'a>(
        &self,
        fds: impl IntoIterator<Item = (BorrowedFd<'a>, PollFlags)>,
        timeout: Option<Duration>,
    ) -> Result<(), CollectiveError> {
        let present: Vec<&Watch> = self.present().collect();
        let own = std::iter::once(self.bell.sound.as_fd())
            .chain(present.iter().map(|watch| watch.stream.as_fd()));
        let mut polled: Vec<PollFd<'_>> =
            own.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        polled.extend(fds.into_iter().map(|(fd, flags)| PollFd::new(fd, flags)));
        let timeout = timeout.map_or(PollTimeout::NONE, |left| {
            // Rounded up: a poll that returns just before its deadline would spin.
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut polled, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => {
                return Err(ConnectError::System {
                    what: "poll",
                    detail: error.to_string(),
                }
                .into());
            }
        }
        let happened = |polled: &PollFd<'_>| polled.any().unwrap_or(true);
        if happened(&polled[0]) {
            let _ = (&self.bell.sound).read(&mut [0; 64]);
        }
        self.check()?;
        let words = polled[1..]
            .iter()
            .zip(&present)
            .filter(|(polled, _)| happened(polled));
        let mut worst = Ok(());
        for (_, watch) in words {
            if let Err(error) = self.listen(watch)
                && (worst.is_ok() || matches!(error, CollectiveError::Mismatch(_)))
            {
                worst = Err(error);
            }
        }
        worst
    }

    /// Why the data link to `peer` broke: its last word if it has one.
    pub(super) fn last_word(&self, peer: Rank) -> CollectiveError {
        let until = Instant::now() + LAST_WORD;
        let lost = |cause| CollectiveError::PeerLost { rank: peer, cause };
        while let Some(watch) = self.present().find(|watch| watch.peer == peer) {
            let left = until.saturating_duration_since(Instant::now());
            if let Err(error) = self.check().and_then(|()| self.listen(watch)) {
                return error;
            }
            if left.is_zero() {
                return lost(LossCause::Died);
            }
            if let Err(error) = self.wait([], Some(left)) {
                return error;
            }
        }
        self.check().err().unwrap_or_else(|| lost(LossCause::Left))
    }

    fn present(&self) -> impl Iterator<Item = &Watch> {
        let peers = self.watches.get().map_or(&[][..], |watches| &watches.peers);
        peers
            .iter()
            .filter(|watch| !watch.left.load(Ordering::Acquire))
    }

    /// Reads what has come on a watch, without blocking.
    fn listen(&self, watch: &Watch) -> Result<(), CollectiveError> {
        let mut heard = lock(&watch.heard);
        let Heard { bytes, len } = &mut *heard;
        while *len < NOTICE_BYTES {
            match (&*watch.stream).read(&mut bytes[*len..]) {
                Ok(n) if n > 0 => *len += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    return Err(CollectiveError::PeerLost {
                        rank: watch.peer,
                        cause: LossCause::Died,
                    });
                }
            }
        }
        let malformed = CollectiveError::Malformed {
            rank: watch.peer,
            what: "notice",
        };
        let notice = Notice::decode(bytes).ok_or(malformed)?;
        let me = self.watches.get().map_or(watch.peer, |watches| watches.me);
        match notice.meaning(watch.peer, me) {
            Some(error) => Err(error),
            None => {
                watch.left.store(true, Ordering::Release);
                Ok(())
            }
        }
    }

    fn say(&self, notice: &Notice) {
        for watch in self.present() {
            // The first bytes on an idle connection fit its buffer; a peer that is gone needs no word.
            let _ = (&*watch.stream).write(&notice.encode());
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.failure.get().is_none() {
            self.say(&Notice::Left);
        }
    }
}
