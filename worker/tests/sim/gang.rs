//! The data plane of simulated trainers: every rank has a connection to every other, and a collective is one frame to and
//! from each.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use turmoil::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use turmoil::net::{TcpListener, TcpStream};

/// What a rank says in a collective.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Steps committed; `u64::MAX` where it holds no state.
    pub(crate) step: u64,
    /// The state.
    pub(crate) value: u64,
    /// What it wishes, as bits.
    pub(crate) wish: u64,
}

/// The connections of one rank in one attempt.
#[derive(Debug)]
pub(crate) struct Gang {
    to: BTreeMap<u32, OwnedWriteHalf>,
    from: mpsc::UnboundedReceiver<(u32, io::Result<Frame>)>,
    heard: BTreeMap<u32, VecDeque<Frame>>,
    _readers: JoinSet<()>,
}

/// The rank whose connection broke.
#[derive(Debug)]
pub(crate) struct LostPeer(pub(crate) u32);

const RETRY: Duration = Duration::from_millis(100);
const CONNECT: Duration = Duration::from_secs(1);

impl Gang {
    /// Connects `rank` of `attempt` with the others, who listen at `peers`. Takes as long as they do.
    pub(crate) async fn form(
        listener: &TcpListener,
        (attempt, rank): (u64, u32),
        peers: &[(u32, String)],
    ) -> Self {
        let mut streams = BTreeMap::new();
        for (peer, address) in peers.iter().filter(|(peer, _)| *peer < rank) {
            streams.insert(*peer, call(address, attempt, rank).await);
        }
        while streams.len() + 1 < peers.len() {
            let answered = async {
                let (mut stream, _) = listener.accept().await?;
                let hello = tokio::time::timeout(CONNECT, read(&mut stream)).await??;
                Ok::<_, io::Error>((hello, stream))
            };
            // Whoever does not say who it is, or is of another attempt, is not let in.
            if let Ok((hello, mut stream)) = answered.await
                && hello.step == attempt
                && let Ok(peer) = u32::try_from(hello.value)
                && stream.write_all(&encode(hello)).await.is_ok()
            {
                streams.insert(peer, stream);
            }
        }
        let (heard, from) = mpsc::unbounded_channel();
        let mut readers = JoinSet::new();
        let mut to = BTreeMap::new();
        for (peer, stream) in streams {
            let (reader, writer) = stream.into_split();
            to.insert(peer, writer);
            readers.spawn(listen(peer, reader, heard.clone()));
        }
        Self {
            to,
            from,
            heard: BTreeMap::new(),
            _readers: readers,
        }
    }

    /// One collective: what every other rank says, by rank.
    ///
    /// # Errors
    /// A rank whose connection broke.
    pub(crate) async fn exchange(&mut self, said: Frame) -> Result<BTreeMap<u32, Frame>, LostPeer> {
        for (peer, stream) in &mut self.to {
            let sent = stream.write_all(&encode(said)).await;
            sent.map_err(|_| LostPeer(*peer))?;
        }
        loop {
            let mut waiting = self.to.keys().filter(|peer| {
                let heard = self.heard.get(peer);
                heard.is_none_or(VecDeque::is_empty)
            });
            if waiting.next().is_none() {
                break;
            }
            match self.from.recv().await {
                Some((peer, Ok(frame))) => self.heard.entry(peer).or_default().push_back(frame),
                Some((peer, Err(_))) => return Err(LostPeer(peer)),
                None => std::future::pending().await,
            }
        }
        let next =
            |(peer, frames): (&u32, &mut VecDeque<Frame>)| Some((*peer, frames.pop_front()?));
        Ok(self.heard.iter_mut().filter_map(next).collect())
    }
}

async fn call(address: &str, attempt: u64, rank: u32) -> TcpStream {
    let hello = Frame {
        step: attempt,
        value: u64::from(rank),
        wish: 0,
    };
    loop {
        let connected = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(&encode(hello)).await?;
            read(&mut stream).await?;
            Ok::<_, io::Error>(stream)
        };
        // Nothing is sent again on this network: a call that is not answered is made again.
        if let Ok(Ok(stream)) = tokio::time::timeout(CONNECT, connected).await {
            return stream;
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn listen(
    peer: u32,
    mut stream: OwnedReadHalf,
    heard: mpsc::UnboundedSender<(u32, io::Result<Frame>)>,
) {
    loop {
        let frame = read(&mut stream).await;
        let over = frame.is_err();
        if heard.send((peer, frame)).is_err() || over {
            return;
        }
    }
}

fn encode(frame: Frame) -> [u8; 24] {
    let mut bytes = [0; 24];
    for (place, word) in bytes
        .chunks_exact_mut(8)
        .zip([frame.step, frame.value, frame.wish])
    {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

async fn read(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<Frame> {
    Ok(Frame {
        step: stream.read_u64_le().await?,
        value: stream.read_u64_le().await?,
        wish: stream.read_u64_le().await?,
    })
}
