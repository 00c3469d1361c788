//! Devices and gangs, and what becomes of them.

use std::collections::BTreeMap;

use diptych_common::ids::{JobId, WorkerId};
use diptych_common::spec::Device;

use crate::core::{Apart, Brings, Hold, Mono, Seat, Settings, State};

/// The devices as they are, at one time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problem {
    /// Free devices of reachable workers, by worker and index.
    pub free: Vec<FreeDevice>,
    /// Devices of reachable workers on which a trainer waits for its job's next attempt.
    pub kept: Vec<KeptDevice>,
    /// Pairs of workers that are not placed together.
    pub apart: Apart,
    /// CPU slots.
    pub cpu: Capacity,
    /// GPUs.
    pub cuda: Capacity,
    /// A worker joined a moment ago: more may follow.
    pub settling: bool,
}

/// A device that nobody has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FreeDevice {
    /// What kind.
    pub kind: Device,
    /// Where.
    pub seat: Seat,
}

/// A device on which a trainer waits for its job's next attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptDevice {
    /// What kind.
    pub kind: Device,
    /// Where.
    pub seat: Seat,
    /// Whose.
    pub job: JobId,
}

impl Wait {
    /// Stable name, for people and programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotEnoughDevices { .. } => "not_enough_devices",
            Self::BehindOtherJobs { .. } => "behind_other_jobs",
            Self::DevicesReleasing { .. } => "devices_releasing",
            Self::WorkersJoining => "workers_joining",
            Self::KeptApart { .. } => "workers_apart",
        }
    }
}

/// Devices of one kind that are not free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capacity {
    /// All of workers that are not lost, free ones too.
    pub total: usize,
    /// Whose former rank is about to be gone.
    pub soon: usize,
}

/// A gang that wants a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GangRequest {
    /// Whose.
    pub job: JobId,
    /// All ranks are on this kind.
    pub kind: Device,
    /// Fewest ranks, at least 1.
    pub min: u32,
    /// Most ranks, at least `min`.
    pub max: u32,
    /// Its own trainers that wait, by what they bring.
    pub kept: BTreeMap<Seat, Brings>,
}

/// What becomes of the gangs, in the order in which they were given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Solution {
    /// Placed, with a seat per rank, in rank order.
    pub placed: Vec<(JobId, Vec<Seat>)>,
    /// Not placed, and why.
    pub waiting: Vec<(JobId, Wait)>,
}

/// Why a gang is not placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// Too few devices are free.
    NotEnoughDevices {
        /// The fewest that would do.
        needed: u32,
        /// Free now.
        free: usize,
        /// Free or not.
        total: usize,
    },
    /// A job before it in the queue waits for devices of the same kind.
    BehindOtherJobs {
        /// That job.
        first: JobId,
    },
    /// It could run now, but more devices are about to be free.
    DevicesReleasing {
        /// How many.
        soon: usize,
    },
    /// It could run now, but workers are still joining.
    WorkersJoining,
    /// Devices would do, but these workers could not reach each other a while ago.
    KeptApart {
        /// One.
        one: WorkerId,
        /// The other.
        other: WorkerId,
    },
}

impl Problem {
    /// The devices of a state.
    pub fn of(state: &State, now: Mono) -> Self {
        let settings: &Settings = state.settings();
        let mut problem = Self {
            apart: state.apart(now),
            ..Self::default()
        };
        for worker in state.workers().values().filter(|worker| !worker.is_lost()) {
            problem.settling |= now.since(worker.registered) < settings.settle;
            let takes_ranks = state.takes_ranks(worker);
            for slot in &worker.slots {
                let kind = slot.kind;
                let open = takes_ranks && slot.problem.is_none();
                let seat = Seat {
                    worker: worker.id.clone(),
                    device: slot.index,
                };
                let capacity = problem.capacity_mut(kind);
                capacity.total += usize::from(open || slot.hold != Hold::Free);
                match &slot.hold {
                    Hold::Releasing { pressed: false, .. } if open => capacity.soon += 1,
                    Hold::Free if open => problem.free.push(FreeDevice { kind, seat }),
                    Hold::Kept(rank) if open => problem.kept.push(KeptDevice {
                        kind,
                        seat,
                        job: rank.job.clone(),
                    }),
                    Hold::Free | Hold::Held(_) | Hold::Kept(_) | Hold::Releasing { .. } => {}
                }
            }
        }
        problem
    }

    /// Devices of one kind.
    pub fn capacity(&self, kind: Device) -> Capacity {
        match kind {
            Device::Cpu => self.cpu,
            Device::Cuda => self.cuda,
        }
    }

    fn capacity_mut(&mut self, kind: Device) -> &mut Capacity {
        match kind {
            Device::Cpu => &mut self.cpu,
            Device::Cuda => &mut self.cuda,
        }
    }
}

/// The free devices of one worker.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    /// Whose.
    pub(super) worker: WorkerId,
    /// Indices, ascending.
    pub(super) devices: Vec<u32>,
}

impl Problem {
    /// The free devices of one kind, by worker.
    pub(super) fn shelves(&self, kind: Device) -> Vec<Shelf> {
        let mut shelves: Vec<Shelf> = Vec::new();
        for device in self.free.iter().filter(|device| device.kind == kind) {
            match shelves
                .last_mut()
                .filter(|shelf| shelf.worker == device.seat.worker)
            {
                Some(shelf) => shelf.devices.push(device.seat.device),
                None => {
                    let worker = device.seat.worker.clone();
                    shelves.push(Shelf {
                        worker,
                        devices: vec![device.seat.device],
                    });
                }
            }
        }
        shelves
    }
}
