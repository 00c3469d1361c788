//! On a real GPU: the suite at world 1, on the device and through NCCL. Two ranks on one device need two processes:
//! `worker/tests/nccl.rs`.

use tch::Device;

use super::{connected, on_ranks, settled, values};
use crate::collective::nccl::{self, Id, Nccl, Rendezvous};
use crate::collective::{Gang, solo};
use crate::device::cuda;

fn nccl_gang() -> Gang {
    cuda::load().expect("CUDA");
    let nccl = Nccl::open().expect("NCCL");
    let id = Id::new(&nccl).expect("an id");
    let mut gangs = connected(1, move |listener, identity, peers, deadline| {
        let rendezvous = Rendezvous {
            listener,
            identity,
            peers,
            id: &id,
            deadline,
        };
        nccl::connect(&nccl, 0, rendezvous)
    });
    settled::on(Device::Cuda(0), gangs.remove(0))
}

fn solo_gang() -> Gang {
    cuda::load().expect("CUDA");
    settled::on(Device::Cuda(0), solo::gang())
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn every_promise_holds_on_a_gpu() {
    type Make = fn() -> Gang;
    for (backend, gang) in [("solo", solo_gang as Make), ("nccl", nccl_gang)] {
        for (name, promise) in values::PROMISES {
            let what = format!("{backend} on a GPU: {name}");
            on_ranks(&what, vec![gang()], move |gang| promise(&gang));
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn an_abort_frees_a_gang_on_a_gpu() {
    let gang = nccl_gang();
    gang.abort.abort();
    gang.gradients.barrier().expect_err("it was aborted");
    gang.statistics.settle().expect_err("it was aborted");
}
