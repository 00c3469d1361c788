use std::ffi::c_int;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tch::{Device, TchError};

use super::channel::Channel;
use super::communicator::{Communicator, PAUSE, Progress, Registry};
use super::id::Id;
use super::library::{Nccl, NcclError};
use super::timeline::Timeline;
use crate::collective::tcp::{self, Lane, Ledger};
use crate::collective::{Collective, CollectiveError, ConnectError, Gang};
use crate::device::stream::{self, Stream};

/// How often communicators are asked for errors while nothing else happens.
const GLANCE: Duration = Duration::from_secs(1);

/// Where the ranks of an attempt meet.
#[derive(Debug)]
pub struct Rendezvous<'a> {
    /// This rank's data-plane port.
    pub listener: tcp::Listener,
    /// This rank.
    pub identity: tcp::Identity,
    /// Every rank's endpoint, in rank order.
    pub peers: &'a [String],
    /// What rank 0 made for this attempt.
    pub id: &'a Id,
    /// When to give up.
    pub deadline: Instant,
}

/// What keeps the books of a gang going; with the last of its handles the gang is left.
#[derive(Debug)]
pub(super) struct Tie {
    pub(super) ledger: Arc<Ledger>,
    thread: Option<JoinHandle<()>>,
}

/// Forms the gang of a CUDA device: host memory and announcements go over TCP, device memory over NCCL. The listener's
/// abort handle frees it, and later every call of the gang.
///
/// # Errors
/// As [`tcp::Listener::connect`]; [`CollectiveError::Nccl`].
pub fn connect(
    nccl: &Arc<Nccl>,
    device: usize,
    rendezvous: Rendezvous<'_>,
) -> Result<Gang, CollectiveError> {
    let failed = |error: TchError| NcclError::Torch(error.to_string());
    stream::set_device(device).map_err(failed)?;
    meet(nccl, Device::Cuda(device), rendezvous, || {
        Ok(Box::new(Stream::urgent(device)?))
    })
}

pub(super) fn meet(
    nccl: &Arc<Nccl>,
    device: Device,
    rendezvous: Rendezvous<'_>,
    timeline: impl Fn() -> Result<Box<dyn Timeline>, TchError>,
) -> Result<Gang, CollectiveError> {
    let Rendezvous {
        listener,
        identity,
        peers,
        id,
        deadline,
    } = rendezvous;
    let (rank, world) = (identity.rank, identity.world);
    let (host, ledger) = listener.connect_with_ledger(identity, peers, deadline)?;
    let (ledger, registry) = (Arc::new(ledger), Arc::new(Registry::default()));
    let tie = Arc::new(Tie {
        thread: Some(keep_books(&ledger, &registry)?),
        ledger,
    });
    let place = (rank.get() as c_int, world as c_int);
    let failed = |error: NcclError| tie.ledger.fail(error.into());
    let mut communicators = Vec::new();
    for lane in [Lane::Statistics, Lane::Gradients] {
        let started = Communicator::start(nccl, id.raw(lane as usize), place);
        let communicator = Arc::new(started.map_err(failed)?);
        registry.add(&communicator);
        await_meeting(&communicator, &tie.ledger, deadline)?;
        communicators.push(communicator);
    }
    let channel = |lane: Lane, host: Arc<dyn Collective>| -> Result<_, CollectiveError> {
        let timeline = timeline().map_err(|error| failed(error.into()))?;
        Ok(Arc::new(Channel {
            rank,
            world: world as usize,
            device,
            lane,
            communicator: Arc::clone(&communicators[lane as usize]),
            timeline,
            tie: Arc::clone(&tie),
            host,
            sequence: Mutex::new(0),
            waited: AtomicU64::new(0),
        }))
    };
    Ok(Gang {
        statistics: channel(Lane::Statistics, host.statistics)?,
        gradients: channel(Lane::Gradients, host.gradients)?,
        abort: host.abort,
    })
}

/// Starts the thread that compares announcements, asks communicators for errors, and ends them when the gang fails or is
/// left.
fn keep_books(
    ledger: &Arc<Ledger>,
    registry: &Arc<Registry>,
) -> Result<JoinHandle<()>, CollectiveError> {
    let (books, all) = (Arc::clone(ledger), Arc::clone(registry));
    let keep = move || {
        let glance = || all.check().map_err(CollectiveError::from);
        match books.keep(GLANCE, glance) {
            Some(error) => {
                tracing::debug!(%error, "communicators are aborted");
                all.abort_all();
            }
            None => all.say_goodbye(),
        }
    };
    let started = thread::Builder::new().name("nccl".to_owned()).spawn(keep);
    started.map_err(|error| {
        ledger.fail(
            ConnectError::System {
                what: "start a thread",
                detail: error.to_string(),
            }
            .into(),
        )
    })
}

fn await_meeting(
    communicator: &Communicator,
    ledger: &Ledger,
    deadline: Instant,
) -> Result<(), CollectiveError> {
    loop {
        ledger.check()?;
        match communicator.progress() {
            Ok(Progress::Ready) => return Ok(()),
            Ok(Progress::Busy) if Instant::now() < deadline => thread::sleep(PAUSE),
            Ok(Progress::Busy) => {
                let error = ConnectError::System {
                    what: "form NCCL's communicators",
                    detail: "the ranks did not meet in time; NCCL_DEBUG=INFO says why".to_owned(),
                };
                return Err(ledger.fail(error.into()));
            }
            Ok(Progress::Ended) => return Err(ledger.fail(CollectiveError::Aborted)),
            Err(error) => return Err(ledger.fail(error.into())),
        }
    }
}

impl Drop for Tie {
    fn drop(&mut self) {
        self.ledger.close();
        // Peers must hear that this rank has left before they hear that its process is gone.
        if let Some(thread) = self.thread.take() {
            // A panic of it has printed its line.
            drop(thread.join());
        }
    }
}
