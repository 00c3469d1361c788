use std::sync::Arc;
use std::time::Duration;

use diptych_common::ids::Rank;
use tch::{Device, Tensor};

use crate::collective::{Collective, CollectiveError, Gang};

/// Waits for every call to come to its end, and moves operands to the device where the backend works and back. So the
/// suite can be written for backends whose calls are through when they return.
#[derive(Debug)]
struct Settled {
    inner: Arc<dyn Collective>,
    device: Device,
}

/// For operands that are in the right memory.
pub(super) fn gang(gang: Gang) -> Gang {
    on(Device::Cpu, gang)
}

/// For operands in the host's memory.
pub(super) fn on(device: Device, gang: Gang) -> Gang {
    let settled = |inner| Arc::new(Settled { inner, device }) as Arc<dyn Collective>;
    Gang {
        statistics: settled(gang.statistics),
        gradients: settled(gang.gradients),
        abort: gang.abort,
    }
}

// === impl Settled ===

impl Settled {
    fn there(&self, tensor: &Tensor) -> Tensor {
        if self.device == Device::Cpu {
            tensor.shallow_clone()
        } else {
            tensor.detach().to_device(self.device)
        }
    }

    fn back(&self, from: &Tensor, to: &Tensor) {
        if self.device != Device::Cpu {
            to.detach().copy_(from);
        }
    }
}

impl Collective for Settled {
    fn rank(&self) -> Rank {
        self.inner.rank()
    }

    fn world(&self) -> usize {
        self.inner.world()
    }

    fn all_reduce(&self, tensor: &mut Tensor) -> Result<(), CollectiveError> {
        let mut there = self.there(tensor);
        self.inner.all_reduce(&mut there)?;
        self.inner.settle()?;
        self.back(&there, tensor);
        Ok(())
    }

    fn begin_all_reduce(&self, tensor: &mut Tensor) -> Result<(), CollectiveError> {
        match self.device {
            Device::Cpu => self.inner.begin_all_reduce(tensor),
            _ => self.all_reduce(tensor),
        }
    }

    fn all_gather(
        &self,
        tensor: &Tensor,
        rows_per_rank: &[i64],
    ) -> Result<Tensor, CollectiveError> {
        let gathered = self.inner.all_gather(&self.there(tensor), rows_per_rank)?;
        self.inner.settle()?;
        Ok(gathered.to_device(Device::Cpu))
    }

    fn broadcast(&self, tensor: &mut Tensor, root: Rank) -> Result<(), CollectiveError> {
        let mut there = self.there(tensor);
        self.inner.broadcast(&mut there, root)?;
        self.inner.settle()?;
        self.back(&there, tensor);
        Ok(())
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        self.inner.barrier()
    }

    fn join(&self) -> Result<(), CollectiveError> {
        self.inner.join()
    }

    fn settle(&self) -> Result<(), CollectiveError> {
        self.inner.settle()
    }

    fn only_queues(&self) -> bool {
        self.inner.only_queues()
    }

    fn waited(&self) -> Duration {
        self.inner.waited()
    }

    fn abort(&self) {
        self.inner.abort();
    }
}
