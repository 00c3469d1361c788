use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use diptych_common::ids::{Attempt, JobId, Rank};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::collective::Refusal;

/// Who this rank is in which gang.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The job.
    pub job: JobId,
    /// The attempt, which fences the handshake.
    pub attempt: Attempt,
    /// This process's index in the gang.
    pub rank: Rank,
    /// Number of ranks.
    pub world: u32,
    /// Known to the ranks of this attempt only; proved, never sent.
    pub secret: Secret,
}

/// A per-attempt secret. Never shown.
#[derive(Clone, Copy)]
pub struct Secret([u8; 32]);

/// The use of one connection between two ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkUse {
    Watch,
    Statistics,
    Gradients,
    /// Announcements of calls whose data goes elsewhere.
    Ledger,
}

/// What an accepted connection turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    /// A proven peer.
    Peer { rank: Rank, link: LinkUse },
    /// A caller that was told why not.
    Refused(Refusal),
    /// Bytes of another protocol.
    Stranger,
}

/// How a dialled connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Dialled {
    /// Both sides proved the secret.
    Linked,
    /// The peer gave a reason.
    Refused(Refusal),
    /// The other side does not know the secret.
    Unproven,
}

const MAGIC: [u8; 8] = *b"diptych\x01";
const JOB_BYTES: usize = 63;
const HELLO_BYTES: usize = 8 + 1 + JOB_BYTES + 8 + 4 + 4 + 4 + 1 + NONCE_BYTES;
const NONCE_BYTES: usize = 32;
const PROOF_BYTES: usize = 32;
const CHALLENGE_BYTES: usize = 1 + NONCE_BYTES + PROOF_BYTES;
const GO_ON: u8 = 0;

/// The caller's first words, as read from the wire.
struct Hello {
    job: Vec<u8>,
    attempt: Attempt,
    from: Rank,
    to: Rank,
    world: u32,
    link: LinkUse,
}

/// The calling side: says who it is, demands the other side's proof, gives its own.
pub(super) fn dial(
    stream: &TcpStream,
    identity: &Identity,
    (to, link): (Rank, LinkUse),
    deadline: Instant,
) -> io::Result<Dialled> {
    let hello = encode_hello(identity, to, link, rand::random());
    write_by(stream, &hello, deadline)?;
    let mut verdict = [0; 1];
    read_by(stream, &mut verdict, deadline)?;
    if verdict[0] != GO_ON {
        return refusal(verdict[0]).map(Dialled::Refused);
    }
    let mut challenge = [0; CHALLENGE_BYTES - 1];
    read_by(stream, &mut challenge, deadline)?;
    let (nonce, proof) = challenge.split_at(NONCE_BYTES);
    if prove(&identity.secret, b"acceptor", &hello, nonce)
        .verify_slice(proof)
        .is_err()
    {
        return Ok(Dialled::Unproven);
    }
    write_by(
        stream,
        &prove(&identity.secret, b"dialler", &hello, nonce)
            .finalize()
            .into_bytes(),
        deadline,
    )?;
    read_by(stream, &mut verdict, deadline)?;
    match verdict[0] {
        GO_ON => Ok(Dialled::Linked),
        code => refusal(code).map(Dialled::Refused),
    }
}

/// The called side: checks who calls, proves itself, demands the proof.
pub(super) fn accept(
    stream: &TcpStream,
    identity: &Identity,
    deadline: Instant,
) -> io::Result<Accepted> {
    let mut hello = [0; HELLO_BYTES];
    read_by(stream, &mut hello[..MAGIC.len()], deadline)?;
    if hello[..MAGIC.len()] != MAGIC {
        return Ok(Accepted::Stranger);
    }
    read_by(stream, &mut hello[MAGIC.len()..], deadline)?;
    let Some(caller) = decode_hello(&hello) else {
        return Ok(Accepted::Stranger);
    };
    if let Err(reason) = admit(identity, &caller) {
        write_by(stream, &[refusal_code(reason)], deadline)?;
        return Ok(Accepted::Refused(reason));
    }
    let nonce: [u8; NONCE_BYTES] = rand::random();
    let mut challenge = [GO_ON; CHALLENGE_BYTES];
    challenge[1..=NONCE_BYTES].copy_from_slice(&nonce);
    challenge[1 + NONCE_BYTES..].copy_from_slice(
        &prove(&identity.secret, b"acceptor", &hello, &nonce)
            .finalize()
            .into_bytes(),
    );
    write_by(stream, &challenge, deadline)?;
    let mut proof = [0; PROOF_BYTES];
    read_by(stream, &mut proof, deadline)?;
    if prove(&identity.secret, b"dialler", &hello, &nonce)
        .verify_slice(&proof)
        .is_err()
    {
        write_by(stream, &[refusal_code(Refusal::Secret)], deadline)?;
        return Ok(Accepted::Refused(Refusal::Secret));
    }
    write_by(stream, &[GO_ON], deadline)?;
    Ok(Accepted::Peer {
        rank: caller.from,
        link: caller.link,
    })
}

/// A rank is called by the ranks above it only.
fn admit(identity: &Identity, caller: &Hello) -> Result<(), Refusal> {
    if caller.job != identity.job.as_str().as_bytes() {
        Err(Refusal::Job)
    } else if caller.attempt != identity.attempt {
        Err(Refusal::Attempt)
    } else if caller.world != identity.world {
        Err(Refusal::World)
    } else if caller.to != identity.rank
        || caller.from <= identity.rank
        || caller.from.get() >= identity.world
    {
        Err(Refusal::Rank)
    } else {
        Ok(())
    }
}

/// Binds a side's proof to everything said so far, both nonces included.
fn prove(secret: &Secret, side: &[u8], hello: &[u8; HELLO_BYTES], nonce: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&secret.0).expect("HMAC takes keys of any length");
    mac.update(side);
    mac.update(hello);
    mac.update(nonce);
    mac
}

fn encode_hello(
    identity: &Identity,
    to: Rank,
    link: LinkUse,
    nonce: [u8; NONCE_BYTES],
) -> [u8; HELLO_BYTES] {
    let name = identity.job.as_str().as_bytes();
    let len = name.len().min(JOB_BYTES);
    let mut job = [0; JOB_BYTES];
    job[..len].copy_from_slice(&name[..len]);
    let mut out = [0; HELLO_BYTES];
    let mut at = 0;
    for field in [
        &MAGIC[..],
        &[len as u8],
        &job,
        &identity.attempt.get().to_le_bytes(),
        &identity.rank.get().to_le_bytes(),
        &to.get().to_le_bytes(),
        &identity.world.to_le_bytes(),
        &[link.code()],
        &nonce,
    ] {
        out[at..at + field.len()].copy_from_slice(field);
        at += field.len();
    }
    out
}

fn decode_hello(bytes: &[u8; HELLO_BYTES]) -> Option<Hello> {
    let (job, numbers) = bytes[MAGIC.len()..].split_at(1 + JOB_BYTES);
    let word = |at: usize| {
        u32::from_le_bytes([
            numbers[at],
            numbers[at + 1],
            numbers[at + 2],
            numbers[at + 3],
        ])
    };
    Some(Hello {
        job: job[1..].get(..usize::from(job[0]))?.to_vec(),
        attempt: Attempt::new(u64::from(word(0)) | u64::from(word(4)) << 32),
        from: Rank::new(word(8)),
        to: Rank::new(word(12)),
        world: word(16),
        link: LinkUse::ALL
            .into_iter()
            .find(|link| link.code() == numbers[20])?,
    })
}

const fn refusal_code(reason: Refusal) -> u8 {
    match reason {
        Refusal::Job => 1,
        Refusal::Attempt => 2,
        Refusal::Rank => 3,
        Refusal::World => 4,
        Refusal::Secret => 5,
    }
}

fn refusal(code: u8) -> io::Result<Refusal> {
    [
        Refusal::Job,
        Refusal::Attempt,
        Refusal::Rank,
        Refusal::World,
        Refusal::Secret,
    ]
    .into_iter()
    .find(|reason| refusal_code(*reason) == code)
    .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an unknown verdict"))
}

fn remaining(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

/// Fills `buffer`, however slowly its bytes drip, or fails at the deadline.
fn read_by(mut stream: &TcpStream, mut buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !buffer.is_empty() {
        stream.set_read_timeout(Some(remaining(deadline)?))?;
        match stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => buffer = &mut buffer[n..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn write_by(mut stream: &TcpStream, bytes: &[u8], deadline: Instant) -> io::Result<()> {
    stream.set_write_timeout(Some(remaining(deadline)?))?;
    stream.write_all(bytes)
}

// === impl Secret ===

impl From<[u8; 32]> for Secret {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl TryFrom<&[u8]> for Secret {
    type Error = std::array::TryFromSliceError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        bytes.try_into().map(Self)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

// === impl LinkUse ===

impl LinkUse {
    pub(super) const ALL: [Self; 4] =
        [Self::Watch, Self::Statistics, Self::Gradients, Self::Ledger];
    /// What a gang needs whose data goes over TCP.
    pub(super) const WITHOUT_LEDGER: &'static [Self] =
        &[Self::Watch, Self::Statistics, Self::Gradients];

    /// Its place in a table of links, and its byte on the wire.
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Watch => 0,
            Self::Statistics => 1,
            Self::Gradients => 2,
            Self::Ledger => 3,
        }
    }
}
