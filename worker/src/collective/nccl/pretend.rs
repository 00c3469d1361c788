//! The backend with a library that sums on the host (`tests/fake/nccl.c`): everything but the GPU is the real thing.

use std::ffi::c_int;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use tch::{Device, TchError, Tensor};

use super::communicator::PAUSE;
use super::gang::{Rendezvous, meet};
use super::library::{Nccl, RawStream};
use super::timeline::Timeline;
use super::{Id, NcclError};
use crate::collective::{CollectiveError, Gang, tcp};
use crate::device::{Library, Visibility, fake, functions};

functions! {
    /// The fake library's streams.
    #[derive(Debug)]
    struct Streams {
        new: unsafe extern "C" fn() -> RawStream = "fake_stream_new",
        idle: unsafe extern "C" fn(RawStream) -> c_int = "fake_stream_idle",
        free: unsafe extern "C" fn(RawStream) = "fake_stream_free",
    }
}

/// A library of its own, with its streams.
#[derive(Debug, Clone)]
pub(in crate::collective) struct Pretend {
    nccl: Arc<Nccl>,
    streams: Streams,
}

/// A stream of the fake library: a thread.
struct FakeStream {
    streams: Streams,
    handle: RawStream,
    /// What its operations read and write.
    kept: Mutex<Vec<Tensor>>,
}

// SAFETY: the handle names an object that the fake library guards by a lock.
unsafe impl Send for FakeStream {}
// SAFETY: as above.
unsafe impl Sync for FakeStream {}

impl Pretend {
    pub(in crate::collective) fn new() -> Self {
        let name = fake::library("nccl", &[]);
        let nccl = Nccl::open_one_of(&[&name]).expect("it is whole");
        let library = Library::open(&[&name], Visibility::Local).expect("it is loaded");
        // SAFETY: the types in nccl.c.
        let streams = unsafe { Streams::load(&library) }.expect("it is whole");
        Self {
            nccl: Arc::new(nccl),
            streams,
        }
    }

    pub(in crate::collective) fn id(&self) -> Id {
        Id::new(&self.nccl).expect("an id")
    }

    pub(in crate::collective) fn connect(
        &self,
        listener: tcp::Listener,
        (identity, peers): (tcp::Identity, &[String]),
        id: &Id,
        deadline: Instant,
    ) -> Result<Gang, CollectiveError> {
        let rendezvous = Rendezvous {
            listener,
            identity,
            peers,
            id,
            deadline,
        };
        let streams = self.streams;
        meet(&self.nccl, Device::Cpu, rendezvous, || {
            Ok(Box::new(FakeStream {
                streams,
                // SAFETY: takes nothing.
                handle: unsafe { (streams.new)() },
                kept: Mutex::default(),
            }))
        })
    }
}

impl Timeline for FakeStream {
    fn handle(&self) -> Result<RawStream, TchError> {
        Ok(self.handle)
    }

    fn after_caller(&self) -> Result<(), TchError> {
        // Host operations are through when they return.
        Ok(())
    }

    fn before_caller(&self) -> Result<(), TchError> {
        while !self.idle()? {
            thread::sleep(PAUSE);
        }
        self.kept.lock().expect("no panic").clear();
        Ok(())
    }

    fn keep(&self, tensor: &Tensor) -> Result<(), TchError> {
        let mut kept = self.kept.lock().expect("no panic");
        kept.push(tensor.shallow_clone());
        Ok(())
    }

    fn idle(&self) -> Result<bool, TchError> {
        // SAFETY: the library's own stream.
        Ok(unsafe { (self.streams.idle)(self.handle) } != 0)
    }
}

impl Drop for FakeStream {
    fn drop(&mut self) {
        // The channel's communicator has ended: what hung is through.
        drop(self.before_caller());
        // SAFETY: made by `new`, freed once.
        unsafe { (self.streams.free)(self.handle) };
    }
}

impl fmt::Debug for FakeStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeStream")
    }
}

#[test]
fn an_id_survives_the_wire_and_nothing_else_is_one() {
    let id = Pretend::new().id();
    assert_eq!(Id::try_from(id.bytes()), Ok(id.clone()));
    assert_ne!(id.raw(0).0, id.raw(1).0, "each channel has its own");
    assert_eq!(Id::try_from(&id.bytes()[1..]), Err(NcclError::Id(255)));
}
