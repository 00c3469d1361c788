use std::ffi::c_int;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::library::{Comm, Config, IN_PROGRESS, Nccl, NcclError, RawId, SUCCESS};

/// How long a communicator may take to say goodbye before it is ended anyhow.
const GOODBYE: Duration = Duration::from_secs(2);
/// Pause between two questions to a communicator that is busy.
pub(super) const PAUSE: Duration = Duration::from_micros(50);

/// One of NCCL's communicators, none of whose calls waits.
#[derive(Debug)]
pub(super) struct Communicator {
    nccl: Arc<Nccl>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Live(Comm),
    /// Aborted: the handle is no more.
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
    /// It was aborted.
    Ended,
}

/// All communicators of an attempt.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<Roll>);

#[derive(Debug, Default)]
struct Roll {
    ended: bool,
    members: Vec<Weak<Communicator>>,
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
        let State::Live(comm) = *self.lock() else {
            return Ok(Progress::Ended);
        };
        self.ask(comm)
    }

    /// Queues one operation; the communicator is ready. `None` where it was aborted.
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

    /// Ends it from any thread: what it has on the device ends, whatever the peers do.
    pub(super) fn abort(&self) {
        let mut state = self.lock();
        if let State::Live(comm) = std::mem::replace(&mut *state, State::Ended) {
            // SAFETY: live until now; nobody uses it again. There is nothing to do about a failure.
            unsafe { (self.nccl.call.abort)(comm) };
        }
    }

    fn ask(&self, comm: Comm) -> Result<Progress, NcclError> {
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets what is still on its way to peers arrive; whether it did.
    fn say_goodbye(&self, comm: Comm) -> bool {
        // SAFETY: a live communicator that nobody else uses any more.
        let code = unsafe { (self.nccl.call.finalize)(comm) };
        if code != SUCCESS && code != IN_PROGRESS {
            return false;
        }
        let until = Instant::now() + GOODBYE;
        loop {
            match self.ask(comm) {
                Ok(Progress::Ready) => break,
                Ok(Progress::Busy) if Instant::now() < until => thread::sleep(PAUSE),
                Ok(_) | Err(_) => return false,
            }
        }
        // SAFETY: finalized; nobody uses it again.
        unsafe { (self.nccl.call.destroy)(comm) == SUCCESS }
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        let State::Live(comm) = *self.lock() else {
            return;
        };
        if self.say_goodbye(comm) {
            *self.lock() = State::Ended;
        } else {
            self.abort();
        }
    }
}

// === impl Registry ===

impl Registry {
    /// Has [`abort_all`](Self::abort_all) end this one too, at once where that has been.
    pub(super) fn add(&self, communicator: &Arc<Communicator>) {
        let mut roll = self.lock();
        if roll.ended {
            drop(roll);
            return communicator.abort();
        }
        roll.members.push(Arc::downgrade(communicator));
    }

    /// Ends all communicators.
    pub(super) fn abort_all(&self) {
        let mut roll = self.lock();
        roll.ended = true;
        let members = std::mem::take(&mut roll.members);
        drop(roll);
        for member in members.iter().filter_map(Weak::upgrade) {
            member.abort();
        }
    }

    /// The first failure of any communicator.
    pub(super) fn check(&self) -> Result<(), NcclError> {
        let members: Vec<_> = self
            .lock()
            .members
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        members
            .iter()
            .try_for_each(|member| member.progress().map(drop))
    }

    fn lock(&self) -> MutexGuard<'_, Roll> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
