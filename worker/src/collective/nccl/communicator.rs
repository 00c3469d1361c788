use std::ffi::c_int;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::library::{Comm, Config, IN_PROGRESS, Nccl, NcclError, RawId, SUCCESS};

/// How long communicators may take to say goodbye before they are ended anyhow.
const GOODBYE: Duration = Duration::from_secs(2);
/// Pause between two questions to a communicator that is busy.
pub(super) const PAUSE: Duration = Duration::from_micros(50);

/// One of NCCL's communicators, none of whose calls waits. Its [`Registry`] ends it.
#[derive(Debug)]
pub(super) struct Communicator {
    nccl: Arc<Nccl>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Live(Comm),
    /// Destroyed or aborted: the handle is no more.
    Ended,
}

// SAFETY: NCCL's communicators may be used from any thread, one at a time: the lock sees to that.
unsafe impl Send for State {}

/// What a communicator is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// It takes the next call.
    Ready,
    /// The last call, or the meeting of the ranks, is not through.
    Busy,
    /// It is no more.
    Ended,
}

/// All communicators of an attempt.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<Roll>);

#[derive(Debug, Default)]
struct Roll {
    ended: bool,
    members: Vec<Arc<Communicator>>,
}

// === impl Communicator ===

impl Communicator {
    /// Starts to meet the other ranks, on this thread's current device; [`progress`](Self::progress) tells when they
    /// have met.
    pub(super) fn start(
        nccl: &Arc<Nccl>,
        id: RawId,
        (rank, world): (c_int, c_int),
    ) -> Result<Self, NcclError> {
        let (mut comm, mut config) = (ptr::null_mut(), Config::without_waiting());
        // SAFETY: places for the handle and the configuration, which NCCL copies.
        let code = unsafe { (nccl.call.init)(&mut comm, world, id, rank, &mut config) };
        if (code == SUCCESS || code == IN_PROGRESS) && !comm.is_null() {
            return Ok(Self {
                nccl: Arc::clone(nccl),
                state: Mutex::new(State::Live(comm)),
            });
        }
        Err(nccl.error("ncclCommInitRankConfig", code, ptr::null_mut()))
    }

    /// Whether it takes the next call, and whether an earlier one failed.
    pub(super) fn progress(&self) -> Result<Progress, NcclError> {
        let state = self.lock();
        let State::Live(comm) = *state else {
            return Ok(Progress::Ended);
        };
        let mut code = SUCCESS;
        // SAFETY: a live communicator and a place for its code.
        let asked = unsafe { (self.nccl.call.async_error)(comm, &mut code) };
        match (asked, code) {
            (SUCCESS, SUCCESS) => Ok(Progress::Ready),
            (SUCCESS, IN_PROGRESS) => Ok(Progress::Busy),
            (SUCCESS, code) => Err(self.nccl.error("a collective", code, comm)),
            (failed, _) => Err(self.nccl.error("ncclCommGetAsyncError", failed, comm)),
        }
    }

    /// Queues one operation; the communicator is ready. `None` where it is no more.
    pub(super) fn call(
        &self,
        name: &'static str,
        queue: impl FnOnce(&Nccl, Comm) -> c_int,
    ) -> Result<Option<()>, NcclError> {
        let state = self.lock();
        let State::Live(comm) = *state else {
            return Ok(None);
        };
        match queue(&self.nccl, comm) {
            SUCCESS | IN_PROGRESS => Ok(Some(())),
            code => Err(self.nccl.error(name, code, comm)),
        }
    }

    /// Starts to send what is still on its way to peers.
    fn finalize(&self) -> Result<(), NcclError> {
        // SAFETY: a live communicator that takes no more calls.
        let finalized = self.call("ncclCommFinalize", |nccl, comm| unsafe {
            (nccl.call.finalize)(comm)
        });
        finalized.map(drop)
    }

    /// The handle, where there still is one, for whoever ends it.
    fn take(&self) -> Option<Comm> {
        match std::mem::replace(&mut *self.lock(), State::Ended) {
            State::Live(comm) => Some(comm),
            State::Ended => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Registry ===

impl Registry {
    /// Ends this one too when the others end, at once where that has been.
    pub(super) fn add(&self, communicator: &Arc<Communicator>) {
        let mut roll = self.lock();
        if roll.ended {
            drop(roll);
            return abort(std::slice::from_ref(communicator));
        }
        roll.members.push(Arc::clone(communicator));
    }

    /// Ends all communicators, from any thread: what they have on the device ends, whatever the peers do.
    pub(super) fn abort_all(&self) {
        abort(&self.end());
    }

    /// Lets what is still on its way to peers arrive, then ends all communicators.
    pub(super) fn say_goodbye(&self) {
        let members = self.end();
        let until = Instant::now() + GOODBYE;
        let said = members.iter().all(|member| member.finalize().is_ok())
            && members.iter().all(|member| is_through(member, until));
        if !said {
            return abort(&members);
        }
        for member in &members {
            if let Some(comm) = member.take() {
                // SAFETY: finalized, and taken: nobody uses it again. There is nothing to do about a failure.
                unsafe { (member.nccl.call.destroy)(comm) };
            }
        }
    }

    /// The first failure of any communicator.
    pub(super) fn check(&self) -> Result<(), NcclError> {
        let members = self.lock().members.clone();
        members
            .iter()
            .try_for_each(|member| member.progress().map(drop))
    }

    fn end(&self) -> Vec<Arc<Communicator>> {
        let mut roll = self.lock();
        roll.ended = true;
        std::mem::take(&mut roll.members)
    }

    fn lock(&self) -> MutexGuard<'_, Roll> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends communicators as one group. One after the other would not do: each waits for the device to come to rest, where an
/// operation of the next one may hang.
fn abort(members: &[Arc<Communicator>]) {
    let live: Vec<_> = members
        .iter()
        .filter_map(|member| Some((&member.nccl.call, member.take()?)))
        .collect();
    let Some((call, _)) = live.first() else {
        return;
    };
    // SAFETY: all were live until they were taken; nobody uses them again. There is nothing to do about a failure.
    unsafe {
        (call.group_start)();
        for (call, comm) in &live {
            (call.abort)(*comm);
        }
        (call.group_end)();
    }
}

fn is_through(communicator: &Communicator, until: Instant) -> bool {
    loop {
        match communicator.progress() {
            Ok(Progress::Busy) if Instant::now() < until => thread::sleep(PAUSE),
            other => return other == Ok(Progress::Ready),
        }
    }
}
