//! A wire between two programs that can be cut, frozen, slowed and mended while they run.
//!
//! A frozen direction keeps what it has and delivers it when it flows again, as TCP does over a link that loses
//! everything for a while.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How the wire is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wire {
    /// Everything passes.
    Open,
    /// Connections are reset, and callers turned away.
    Cut,
    /// Connections stay, and nothing comes through: both ways, or one.
    Frozen {
        /// From the caller to the target.
        up: bool,
        /// From the target to the caller.
        down: bool,
    },
    /// Everything comes later.
    Late(Duration),
    /// Bytes per second, both ways and all connections together.
    Slow(u64),
    /// Of a hundred connections, so many are answered with HTTP's 503 and closed.
    Unwell(u64),
}

/// A running proxy; it ends when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    wire: watch::Sender<Wire>,
    _tasks: JoinSet<()>,
}

/// What all connections share.
#[derive(Debug, Clone)]
struct Shared {
    target: Arc<Mutex<String>>,
    wire: watch::Receiver<Wire>,
    /// When the next byte may leave a slow wire.
    free: Arc<Mutex<Option<Instant>>>,
    connections: Arc<AtomicU64>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Up,
    Down,
}

const CHUNK: usize = 16 << 10;
/// Chunks that a direction holds while it is late or frozen.
const QUEUE: usize = 64;

impl Proxy {
    /// Listens on a free port of `host` for connections to `target`.
    ///
    /// # Errors
    /// When the system gives no port.
    pub async fn start(host: &str, target: &str) -> Result<Self> {
        let listener = TcpListener::bind((host, 0)).await.context("bind a proxy")?;
        let address = listener.local_addr()?;
        let (wire, seen) = watch::channel(Wire::Open);
        let shared = Shared {
            target: Arc::new(Mutex::new(target.to_owned())),
            wire: seen,
            free: Arc::default(),
            connections: Arc::default(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, shared));
        Ok(Self {
            address,
            wire,
            _tasks: tasks,
        })
    }

    /// Where callers connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How the wire is from now on.
    pub fn set(&self, wire: Wire) {
        self.wire.send_replace(wire);
    }
}

impl Wire {
    fn passes(self, way: Way) -> bool {
        match self {
            Self::Cut => false,
            Self::Frozen { up, down } => match way {
                Way::Up => !up,
                Way::Down => !down,
            },
            Self::Open | Self::Late(_) | Self::Slow(_) | Self::Unwell(_) => true,
        }
    }
}

impl Shared {
    fn wire(&self) -> Wire {
        *self.wire.borrow()
    }

    /// Waits for a slow wire to take so many bytes.
    async fn pace(&self, bytes: usize) {
        let Wire::Slow(rate) = self.wire() else {
            return;
        };
        let takes = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        let until = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            let from = free.map_or_else(Instant::now, |at| at.max(Instant::now()));
            *free = Some(from + takes);
            from + takes
        };
        tokio::time::sleep_until(until).await;
    }
}

async fn accept(listener: TcpListener, shared: Shared) {
    let mut connections = JoinSet::new();
    while let Ok((caller, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(serve(caller, shared.clone()));
    }
}

async fn serve(caller: TcpStream, mut shared: Shared) {
    let number = shared.connections.fetch_add(1, Ordering::Relaxed);
    match shared.wire() {
        Wire::Cut => return reset(&caller),
        // Spread evenly, without a die.
        Wire::Unwell(share) if number.wrapping_mul(61) % 100 < share => {
            drop(turn_away(caller).await);
            return;
        }
        _ => {}
    }
    let target = shared
        .target
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let Ok(callee) = TcpStream::connect(target).await else {
        return reset(&caller);
    };
    drop(caller.set_nodelay(true));
    drop(callee.set_nodelay(true));
    let was = shared.wire();
    let ends = [&caller, &callee].map(|end| end.as_fd().try_clone_to_owned());
    let (from_caller, to_caller) = caller.into_split();
    let (from_callee, to_callee) = callee.into_split();
    let up = pump(Way::Up, from_caller, to_callee, shared.clone());
    let down = pump(Way::Down, from_callee, to_caller, shared.clone());
    let both = async { tokio::join!(up, down) };
    // A wire that became unwell turns the next request away, not the next connection.
    let broken = shared
        .wire
        .wait_for(|wire| *wire == Wire::Cut || (matches!(wire, Wire::Unwell(_)) && *wire != was));
    tokio::select! {
        _ = both => {}
        _ = broken => ends.iter().flatten().for_each(reset),
    }
}

/// A dropped socket is reset from now on, as by a machine that is gone.
fn reset(stream: &impl AsFd) {
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let _closed = nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::Linger, &linger);
}

async fn pump(way: Way, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: Shared) {
    let (late, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(QUEUE);
    let mut wire = shared.wire.clone();
    let reader = async move {
        let mut chunk = vec![0; CHUNK];
        while let Ok(length @ 1..) = from.read(&mut chunk).await {
            shared.pace(length).await;
            let delay = match shared.wire() {
                Wire::Late(delay) => delay,
                _ => Duration::ZERO,
            };
            let piece = (Instant::now() + delay, chunk[..length].to_vec());
            if late.send(piece).await.is_err() {
                break;
            }
        }
    };
    let writer = async move {
        while let Some((at, bytes)) = due.recv().await {
            tokio::time::sleep_until(at).await;
            if wire.wait_for(|wire| wire.passes(way)).await.is_err() {
                return;
            }
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        drop(to.shutdown().await);
    };
    // An end is news like any byte: it waits for a frozen wire, too.
    tokio::join!(reader, writer);
}

/// Reads a request to its end and answers that now is not the time.
async fn turn_away(mut caller: TcpStream) -> std::io::Result<()> {
    let (mut seen, mut chunk) = (Vec::new(), vec![0; CHUNK]);
    let mut left = None::<usize>;
    while left != Some(0) {
        let length = caller.read(&mut chunk).await?;
        if length == 0 {
            return Ok(());
        }
        left = match left {
            Some(left) => Some(left.saturating_sub(length)),
            None => {
                seen.extend_from_slice(&chunk[..length]);
                body_to_come(&seen)
            }
        };
    }
    caller
        .write_all(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .await?;
    caller.shutdown().await
}

/// Bytes of the body that are still to come, once the head is there.
fn body_to_come(seen: &[u8]) -> Option<usize> {
    let head = seen.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&seen[..head]).to_ascii_lowercase();
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
        .unwrap_or(0_usize);
    Some(length.saturating_sub(seen.len() - head))
}
