//! Device memory over a backend for the host's: down, over, up again. Slow, and needs nothing but the device: for ranks
//! that share one GPU, which NCCL refuses, and for golden cases.

use std::sync::Arc;
use std::time::Duration;

use diptych_common::ids::Rank;
use tch::{Device, TchError, Tensor};

use super::{Collective, CollectiveError, Gang, Op};

/// A channel that takes tensors of any device.
#[derive(Debug)]
struct Staged {
    host: Arc<dyn Collective>,
}

/// The same gang for tensors of any device.
pub fn gang(host: Gang) -> Gang {
    let staged = |host| Arc::new(Staged { host }) as Arc<dyn Collective>;
    Gang {
        statistics: staged(host.statistics),
        gradients: staged(host.gradients),
        abort: host.abort,
    }
}

// === impl Staged ===

impl Staged {
    /// Gives `call` the tensor's contents in the host's memory, and the tensor what it left there.
    fn on_host(
        &self,
        op: Op,
        tensor: &mut Tensor,
        call: impl FnOnce(&dyn Collective, &mut Tensor) -> Result<(), CollectiveError>,
    ) -> Result<(), CollectiveError> {
        if !tensor.defined() || tensor.device() == Device::Cpu {
            return call(self.host.as_ref(), tensor);
        }
        let mut down = down(tensor).map_err(|error| failed(op, error))?;
        call(self.host.as_ref(), &mut down)?;
        let up = tensor.f_detach().and_then(|mut own| own.f_copy_(&down));
        up.map_err(|error| failed(op, error))
    }
}

impl Collective for Staged {
    fn rank(&self) -> Rank {
        self.host.rank()
    }

    fn world(&self) -> usize {
        self.host.world()
    }

    fn all_reduce(&self, tensor: &mut Tensor) -> Result<(), CollectiveError> {
        self.on_host(Op::AllReduce, tensor, |host, tensor| {
            host.all_reduce(tensor)
        })
    }

    fn all_gather(
        &self,
        tensor: &Tensor,
        rows_per_rank: &[i64],
    ) -> Result<Tensor, CollectiveError> {
        if !tensor.defined() || tensor.device() == Device::Cpu {
            return self.host.all_gather(tensor, rows_per_rank);
        }
        let down = down(tensor).map_err(|error| failed(Op::AllGather, error))?;
        let gathered = self.host.all_gather(&down, rows_per_rank)?;
        let up = gathered.f_to_device(tensor.device());
        up.map_err(|error| failed(Op::AllGather, error))
    }

    fn broadcast(&self, tensor: &mut Tensor, root: Rank) -> Result<(), CollectiveError> {
        self.on_host(Op::Broadcast, tensor, |host, tensor| {
            host.broadcast(tensor, root)
        })
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        self.host.barrier()
    }

    fn waited(&self) -> Duration {
        self.host.waited()
    }

    fn abort(&self) {
        self.host.abort();
    }
}

fn down(tensor: &Tensor) -> Result<Tensor, TchError> {
    tensor.f_detach()?.f_to_device(Device::Cpu)
}

fn failed(op: Op, error: TchError) -> CollectiveError {
    CollectiveError::Operand {
        op,
        problem: error.into(),
    }
}
