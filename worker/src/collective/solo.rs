//! A gang of one: every collective is the identity. Arguments are checked as by the other backends, so that a job
//! that runs alone also runs on many ranks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use diptych_common::ids::Rank;
use tch::{TchError, Tensor};

use super::operand::{self, OperandProblem};
use super::{AbortHandle, Collective, CollectiveError, Gang, Op};

/// The collective of a world of 1, on any device.
#[derive(Debug, Clone, Default)]
pub struct Solo {
    aborted: Arc<AtomicBool>,
}

/// A gang of one rank.
pub fn gang() -> Gang {
    let solo = Solo::default();
    let flag = Arc::clone(&solo.aborted);
    let both = Arc::new(solo);
    Gang {
        statistics: Arc::clone(&both) as Arc<dyn Collective>,
        gradients: both,
        abort: AbortHandle::new(move || flag.store(true, Ordering::SeqCst)),
    }
}

// === impl Solo ===

impl Solo {
    fn call(&self, op: Op, checked: Result<(), OperandProblem>) -> Result<(), CollectiveError> {
        if self.aborted.load(Ordering::SeqCst) {
            return Err(CollectiveError::Aborted);
        }
        checked.map_err(|problem| CollectiveError::Operand { op, problem })
    }
}

impl Collective for Solo {
    fn rank(&self) -> Rank {
        Rank::new(0)
    }

    fn world(&self) -> usize {
        1
    }

    fn all_reduce(&self, tensor: &mut Tensor) -> Result<(), CollectiveError> {
        self.call(Op::AllReduce, operand::check_summable(tensor).map(drop))
    }

    fn all_gather(
        &self,
        tensor: &Tensor,
        rows_per_rank: &[i64],
    ) -> Result<Tensor, CollectiveError> {
        let op = Op::AllGather;
        let checked =
            operand::check(tensor).and_then(|_| operand::check_rows(tensor, rows_per_rank, 0, 1));
        self.call(op, checked)?;
        copy(tensor).map_err(|error| CollectiveError::Operand {
            op,
            problem: error.into(),
        })
    }

    fn broadcast(&self, tensor: &mut Tensor, root: Rank) -> Result<(), CollectiveError> {
        let checked = operand::check(tensor).and_then(|_| operand::check_root(root, 1));
        self.call(Op::Broadcast, checked)
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        self.call(Op::Barrier, Ok(()))
    }

    fn waited(&self) -> Duration {
        Duration::ZERO
    }

    fn abort(&self) {
        self.aborted.store(true, Ordering::SeqCst);
    }
}

/// The data without its gradient's history, in memory of its own.
fn copy(tensor: &Tensor) -> Result<Tensor, TchError> {
    let source = tensor.f_detach()?;
    let mut copied = source.f_empty_like()?;
    copied.f_copy_(&source)?;
    Ok(copied)
}
