use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use diptych_common::ids::Rank;
use tch::{Device, Kind, TchError, Tensor};

use super::communicator::{Communicator, PAUSE, Progress};
use super::gang::Tie;
use super::library::{Comm, Nccl, NcclError, RawStream};
use super::timeline::Timeline;
use crate::collective::call::{Call, rows_digest};
use crate::collective::operand::{self, OperandProblem};
use crate::collective::tcp::Lane;
use crate::collective::{Collective, CollectiveError, Dtype, Op};

/// How long the device may take for what it was last given before a gang that is left counts as one that hangs.
const LAST_CALLS: Duration = Duration::from_millis(500);
/// A communicator takes a call in a fraction of this: so long its caller asks without a pause.
const SOON: Duration = Duration::from_micros(200);
/// How long a failure of NCCL waits for its cause: a peer whose death the side channel is about to tell.
const CAUSE: Duration = Duration::from_secs(1);
/// `ncclSum`.
const SUM: c_int = 0;

/// One channel of a gang: NCCL for the device's memory, TCP for the host's.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) rank: Rank,
    pub(super) world: usize,
    pub(super) device: Device,
    pub(super) lane: Lane,
    pub(super) communicator: Arc<Communicator>,
    pub(super) timeline: Box<dyn Timeline>,
    /// The gang's announcements, kept up as long as a channel lives.
    pub(super) tie: Arc<Tie>,
    /// For operands in the host's memory.
    pub(super) host: Arc<dyn Collective>,
    /// Number of the next call on the device. Held while it is queued: calls of several threads follow each other.
    pub(super) sequence: Mutex<u64>,
    /// Nanoseconds that the host waited for peers.
    pub(super) waited: AtomicU64,
}

/// What a call is about, as it is announced and checked.
struct Operand<'a> {
    op: Op,
    tensor: &'a Tensor,
    root: Rank,
    rows: u64,
}

// === impl Collective for Channel ===

impl Collective for Channel {
    fn rank(&self) -> Rank {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn all_reduce(&self, tensor: &mut Tensor) -> Result<(), CollectiveError> {
        if !self.is_here(tensor) {
            return self.host.all_reduce(tensor);
        }
        self.sum(tensor)?;
        self.join()
    }

    fn begin_all_reduce(&self, tensor: &mut Tensor) -> Result<(), CollectiveError> {
        if !self.is_here(tensor) {
            return self.host.all_reduce(tensor);
        }
        self.sum(tensor)
    }

    fn all_gather(
        &self,
        tensor: &Tensor,
        rows_per_rank: &[i64],
    ) -> Result<Tensor, CollectiveError> {
        if !self.is_here(tensor) {
            return self.host.all_gather(tensor, rows_per_rank);
        }
        let what = Operand {
            rows: rows_digest(rows_per_rank),
            ..Operand::new(Op::AllGather, tensor)
        };
        let checks = || {
            let dtype = operand::check(tensor)?;
            operand::check_rows(tensor, rows_per_rank, self.index(), self.world)?;
            Ok(dtype)
        };
        let gathered = self.queue(&what, checks, |channel, dtype| {
            channel.gather(tensor, rows_per_rank, dtype)
        })?;
        self.join()?;
        cut(&gathered, rows_per_rank).map_err(|error| self.failed(torch(Op::AllGather, error)))
    }

    fn broadcast(&self, tensor: &mut Tensor, root: Rank) -> Result<(), CollectiveError> {
        if !self.is_here(tensor) {
            return self.host.broadcast(tensor, root);
        }
        let what = Operand {
            root,
            ..Operand::new(Op::Broadcast, tensor)
        };
        let checks = || {
            let dtype = operand::check(tensor)?;
            operand::check_root(root, self.world)?;
            Ok(dtype)
        };
        self.queue(&what, checks, |channel, dtype| {
            let (place, count) = extent(tensor);
            channel.run(
                "ncclBroadcast",
                count,
                (tensor, tensor),
                |nccl, comm, stream| {
                    // SAFETY: `count` elements at `place`, kept until they are through; all ranks name the same root.
                    unsafe {
                        let root = root.get() as c_int;
                        (nccl.call.broadcast)(place, place, count, code(dtype), root, comm, stream)
                    }
                },
            )
        })?;
        self.join()
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        let mut sequence = self.sequence.lock().unwrap_or_else(PoisonError::into_inner);
        let call = Call {
            rank: self.rank,
            sequence: *sequence,
            op: Op::Barrier,
            dtype: None,
            shape: Vec::new(),
            root: Rank::new(0),
            rows: 0,
        };
        self.tie.ledger.announce(self.lane, call)?;
        *sequence += 1;
        drop(sequence);
        self.settle()?;
        self.host.barrier()
    }

    fn join(&self) -> Result<(), CollectiveError> {
        let joined = self.timeline.before_caller();
        joined.map_err(|error| self.failed(NcclError::Torch(error.to_string()).into()))?;
        self.tie.ledger.check()
    }

    fn settle(&self) -> Result<(), CollectiveError> {
        let calls = *self.sequence.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.tie.ledger.await_agreement(self.lane, calls)?;
        let nanos = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        self.waited.fetch_add(nanos, Ordering::Relaxed);
        self.await_idle()
    }

    fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited.load(Ordering::Relaxed)) + self.host.waited()
    }

    fn only_queues(&self) -> bool {
        true
    }

    fn abort(&self) {
        self.host.abort();
    }
}

// === impl Channel ===

impl Channel {
    fn index(&self) -> usize {
        self.rank.get() as usize
    }

    fn is_here(&self, tensor: &Tensor) -> bool {
        tensor.defined() && tensor.device() == self.device
    }

    /// Queues the sum. bf16 is summed in f32 and rounded once.
    fn sum(&self, tensor: &mut Tensor) -> Result<(), CollectiveError> {
        let what = Operand::new(Op::AllReduce, tensor);
        let checks = || operand::check_summable(tensor);
        let wide = self.queue(&what, checks, |channel, dtype| {
            let wide = match dtype {
                Dtype::Bf16 => Some(tensor.f_detach()?.f_to_kind(Kind::Float)?),
                _ => None,
            };
            let summed = wide.as_ref().unwrap_or(tensor);
            let dtype = if wide.is_some() { Dtype::F32 } else { dtype };
            let (place, count) = extent(summed);
            channel.run(
                "ncclAllReduce",
                count,
                (summed, summed),
                |nccl, comm, stream| {
                    // SAFETY: `count` elements at `place`, kept until they are through.
                    unsafe {
                        (nccl.call.all_reduce)(place, place, count, code(dtype), SUM, comm, stream)
                    }
                },
            )?;
            Ok(wide)
        })?;
        let Some(wide) = wide else {
            return Ok(());
        };
        self.join()?;
        let rounded = tensor.f_detach().and_then(|mut own| own.f_copy_(&wide));
        rounded.map_err(|error| self.failed(torch(Op::AllReduce, error)))
    }

    /// Queues the gather into a tensor of all ranks' rows, each padded to the most that any rank has.
    fn gather(&self, tensor: &Tensor, rows: &[i64], dtype: Dtype) -> Result<Tensor, NcclError> {
        let most = rows.iter().copied().max().unwrap_or(0);
        let own = tensor.f_detach()?;
        let mut shape = own.size();
        let share = if shape[0] == most {
            own
        } else {
            let rows = shape[0];
            shape[0] = most;
            let padded = Tensor::f_zeros(&shape, (own.kind(), self.device))?;
            padded.f_narrow(0, 0, rows)?.f_copy_(&own)?;
            padded
        };
        shape[0] = most * self.world as i64;
        let all = Tensor::f_empty(&shape, (share.kind(), self.device))?;
        let ((from, count), (to, _)) = (extent(&share), extent(&all));
        self.run(
            "ncclAllGather",
            count,
            (&share, &all),
            |nccl, comm, stream| {
                // SAFETY: `count` elements at `from`, room for as many of every rank at `to`; both kept until they are
                // through.
                unsafe { (nccl.call.all_gather)(from, to, count, code(dtype), comm, stream) }
            },
        )?;
        Ok(all)
    }

    /// Announces a call and queues it behind what this thread's operations have queued. An error fails the gang.
    fn queue<T>(
        &self,
        what: &Operand<'_>,
        checks: impl FnOnce() -> Result<Dtype, OperandProblem>,
        body: impl FnOnce(&Self, Dtype) -> Result<T, NcclError>,
    ) -> Result<T, CollectiveError> {
        let mut sequence = self.sequence.lock().unwrap_or_else(PoisonError::into_inner);
        self.tie.ledger.check()?;
        let op = what.op;
        let dtype =
            checks().map_err(|problem| self.failed(CollectiveError::Operand { op, problem }))?;
        let call = what.announced(self.rank, *sequence, dtype);
        self.tie.ledger.announce(self.lane, call)?;
        *sequence += 1;
        body(self, dtype).map_err(|error| self.failed(error.into()))
    }

    /// Queues one operation of NCCL, unless there is nothing to move. The tensors are kept until it is through.
    fn run(
        &self,
        name: &'static str,
        count: usize,
        (from, to): (&Tensor, &Tensor),
        queue: impl FnOnce(&Nccl, Comm, RawStream) -> c_int,
    ) -> Result<(), NcclError> {
        if count == 0 {
            return Ok(());
        }
        let stream = self.timeline.handle()?;
        self.timeline.after_caller()?;
        self.await_ready()?;
        self.communicator
            .call(name, |nccl, comm| queue(nccl, comm, stream))?;
        // Until then it may not be on the stream, and an event recorded now would not wait for it.
        self.await_ready()?;
        self.timeline.keep(from)?;
        self.timeline.keep(to)?;
        Ok(())
    }

    /// A communicator that does not wait may still be busy with the call before; one that was aborted takes none.
    fn await_ready(&self) -> Result<(), NcclError> {
        let since = Instant::now();
        while self.communicator.progress()? == Progress::Busy {
            if since.elapsed() < SOON {
                thread::yield_now();
            } else {
                thread::sleep(PAUSE);
            }
        }
        Ok(())
    }

    fn await_idle(&self) -> Result<(), CollectiveError> {
        loop {
            self.tie.ledger.check()?;
            match self.rests() {
                Ok(true) => return Ok(()),
                Ok(false) => thread::sleep(PAUSE),
                Err(error) => return Err(self.failed(error.into())),
            }
        }
    }

    /// Whether communicator and device are through with all that they were given.
    fn rests(&self) -> Result<bool, NcclError> {
        Ok(self.communicator.progress()? == Progress::Ready && self.timeline.idle()?)
    }

    /// Fails the gang, with the cause where there is a better one.
    fn failed(&self, error: CollectiveError) -> CollectiveError {
        if let CollectiveError::Nccl(_) = error
            && let Some(cause) = self.tie.ledger.await_failure(CAUSE)
        {
            return cause;
        }
        self.tie.ledger.fail(error)
    }
}

impl Drop for Channel {
    /// Whoever leaves in the middle of a step, by an error of its own, leaves a device that waits for peers: that must end
    /// before communicators and tensors do.
    fn drop(&mut self) {
        let until = Instant::now() + LAST_CALLS;
        while self.tie.ledger.check().is_ok() && !matches!(self.rests(), Ok(true)) {
            if Instant::now() >= until {
                self.tie.ledger.fail(CollectiveError::Aborted);
            }
            thread::sleep(PAUSE);
        }
    }
}

// === impl Operand ===

impl<'a> Operand<'a> {
    fn new(op: Op, tensor: &'a Tensor) -> Self {
        Self {
            op,
            tensor,
            root: Rank::new(0),
            rows: 0,
        }
    }

    fn announced(&self, rank: Rank, sequence: u64, dtype: Dtype) -> Call {
        Call {
            rank,
            sequence,
            op: self.op,
            dtype: Some(dtype),
            shape: self.tensor.size(),
            root: self.root,
            rows: self.rows,
        }
    }
}

/// `ncclDataType_t`.
const fn code(dtype: Dtype) -> c_int {
    match dtype {
        Dtype::U8 => 1,
        Dtype::I64 => 4,
        Dtype::F32 => 7,
        Dtype::F64 => 8,
        Dtype::Bf16 => 9,
    }
}

/// Where a dense tensor's elements are, and how many.
fn extent(tensor: &Tensor) -> (*mut c_void, usize) {
    (tensor.data_ptr(), tensor.numel())
}

/// Every rank's own rows out of padded ones.
fn cut(gathered: &Tensor, rows: &[i64]) -> Result<Tensor, TchError> {
    let most = rows.iter().copied().max().unwrap_or(0);
    if rows.iter().all(|rows| *rows == most) {
        return Ok(gathered.shallow_clone());
    }
    let parts: Result<Vec<Tensor>, TchError> = rows
        .iter()
        .zip(0..)
        .map(|(&rows, rank)| gathered.f_narrow(0, rank * most, rows))
        .collect();
    Tensor::f_cat(&parts?, 0)
}

fn torch(op: Op, error: TchError) -> CollectiveError {
    CollectiveError::Operand {
        op,
        problem: error.into(),
    }
}

impl From<TchError> for NcclError {
    fn from(error: TchError) -> Self {
        Self::Torch(error.to_string())
    }
}
