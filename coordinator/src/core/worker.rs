//! Workers and the devices that they lend. Nothing here is durable: workers register again.

use std::collections::BTreeMap;

use diptych_common::ids::{Attempt, JobId, Rank, WorkerId};
use diptych_common::spec::Device;

use super::outcome::OrderTo;
use super::time::{Mono, UnixMs};

/// One stream of one agent, numbered by the coordinator; a later stream has a higher number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// An agent and its devices.
#[derive(Debug, Clone, PartialEq)]
pub struct Worker {
    /// Stable over restarts of the agent.
    pub id: WorkerId,
    /// New for each agent process.
    pub incarnation: String,
    /// Of its build.
    pub version: String,
    /// Host name, for people.
    pub host: String,
    /// Its devices, by index.
    pub slots: Vec<Slot>,
    /// Whether it can be reached.
    pub link: Link,
    /// When it was first heard in this state, for people.
    pub since: UnixMs,
    /// When it first registered, as far as is known.
    pub registered: Mono,
    /// host:port where other agents reach it; empty where they cannot.
    pub peer: String,
    /// Until when what it runs has to be elsewhere, where it is being emptied.
    pub draining: Option<Mono>,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Index on its worker.
    pub index: u32,
    /// What kind.
    pub kind: Device,
    /// For people.
    pub name: String,
    /// Bytes that a rank may use; 0 where unknown.
    pub memory: u64,
    /// Why no rank can run on it; nothing is placed there.
    pub problem: Option<String>,
    /// Where it is on its machine; devices with equal values are near each other.
    pub labels: BTreeMap<String, String>,
    /// Who has it.
    pub hold: Hold,
}

/// Who has a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// Nobody.
    Free,
    /// A rank of a live attempt, or a trainer that stands by beside it.
    Held(RankId),
    /// A trainer of an ended attempt that waits for its job's next one.
    Kept(RankId),
    /// A rank of an ended attempt, whose process may still be there.
    Releasing {
        /// Which one.
        rank: RankId,
        /// Since when.
        since: Mono,
        /// Whether its agent was pressed to end it, the grace being over.
        pressed: bool,
    },
}

/// A rank of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RankId {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: Attempt,
    /// The rank.
    pub rank: Rank,
}

/// Whether a worker can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Its stream is open.
    Up {
        /// Which one.
        session: SessionId,
        /// When it was last heard.
        heard: Mono,
    },
    /// Its stream was reset.
    Suspect {
        /// When.
        since: Mono,
    },
    /// It did not come back in time, or said that it leaves.
    Lost {
        /// Since when.
        since: Mono,
    },
}

impl Worker {
    /// The open stream.
    pub fn session(&self) -> Option<SessionId> {
        match self.link {
            Link::Up { session, .. } => Some(session),
            Link::Suspect { .. } | Link::Lost { .. } => None,
        }
    }

    /// Whether it is gone.
    pub fn is_lost(&self) -> bool {
        matches!(self.link, Link::Lost { .. })
    }

    /// The device with this index.
    pub fn slot(&self, index: u32) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.index == index)
    }

    /// The device with this index.
    pub fn slot_mut(&mut self, index: u32) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.index == index)
    }
}

impl RankId {
    /// As orders name it.
    pub fn order_to(&self) -> OrderTo {
        OrderTo {
            job: self.job.clone(),
            attempt: self.attempt,
            rank: self.rank,
        }
    }
}

impl Hold {
    /// Who has it, live or ended.
    pub fn rank(&self) -> Option<&RankId> {
        match self {
            Self::Free => None,
            Self::Held(rank) | Self::Kept(rank) | Self::Releasing { rank, .. } => Some(rank),
        }
    }
}
