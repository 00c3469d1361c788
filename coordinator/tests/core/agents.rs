//! Agents of an [`Env`]: they register, come back, are drained, and lose each other.

use std::collections::BTreeMap;
use std::time::Duration;

use diptych_common::checkpoint::CheckpointKey;
use diptych_common::ids::{Attempt, PhaseIndex, Rank, Step};
use diptych_common::spec::Device;
use diptych_coordinator::core::{
    Answer, CheckpointRef, DeviceReport, Event, Ignored, OrderTo, RankEvent, RankId, Registration,
    RunningRank, SessionId,
};

use crate::env::Env;
use crate::words::{id, worker};

/// A trainer that lives: job, attempt, rank, device, phase, and steps where it waits with a state.
pub(crate) type Runs = (String, u64, u32, u32, PhaseIndex, Option<u64>);

/// A CPU slot that is well.
pub(crate) fn cpu_slot(index: u32) -> DeviceReport {
    DeviceReport {
        index,
        kind: Device::Cpu,
        name: String::new(),
        memory: 0,
        problem: None,
        labels: BTreeMap::new(),
    }
}

impl Env {
    pub(crate) fn session(&self, name: &str) -> SessionId {
        self.sessions[&worker(name)].0
    }

    pub(crate) fn register(
        &mut self,
        name: &str,
        incarnation: &str,
        slots: u32,
        running: &[(&str, u64, u32, u32)],
    ) {
        let session = SessionId(self.next_session);
        self.next_session += 1;
        self.opened.insert(session, worker(name));
        let former = self
            .sessions
            .insert(worker(name), (session, incarnation.to_owned(), slots));
        let held = self.held;
        let rank = |(job, attempt, rank, device): &(&str, u64, u32, u32)| {
            let rank = RankId {
                job: id(job),
                attempt: Attempt::new(*attempt),
                rank: Rank::new(*rank),
            };
            RunningRank {
                rank,
                device: *device,
                phase: PhaseIndex::new(0),
                held,
            }
        };
        let answer = self.do_step(Event::Registered(Registration {
            session,
            worker: worker(name),
            incarnation: incarnation.to_owned(),
            version: "0".to_owned(),
            host: "localhost".to_owned(),
            devices: (0..slots).map(cpu_slot).collect(),
            running: running.iter().map(rank).collect(),
            peer: String::new(),
        }));
        if let (Answer::Ignored(Ignored::AnotherAgent), Some(former)) = (answer, former) {
            self.sessions.insert(worker(name), former);
        }
    }

    /// An agent whose worker has these devices registers.
    pub(crate) fn register_devices(&mut self, name: &str, devices: Vec<DeviceReport>) {
        let session = SessionId(self.next_session);
        self.next_session += 1;
        self.opened.insert(session, worker(name));
        let slots = devices.len() as u32;
        self.sessions
            .insert(worker(name), (session, "1".to_owned(), slots));
        self.do_step(Event::Registered(Registration {
            session,
            worker: worker(name),
            incarnation: "1".to_owned(),
            version: "0".to_owned(),
            host: "localhost".to_owned(),
            devices,
            running: Vec::new(),
            peer: String::new(),
        }));
    }

    /// A GPU of a worker falls off the bus.
    pub(crate) fn device_trouble(&mut self, name: &str, device: u32) {
        self.do_step(Event::DeviceTrouble {
            session: self.session(name),
            worker: worker(name),
            device,
            problem: format!("GPU {device}: Xid 79"),
        });
    }

    /// An agent comes back with one trainer that has left its gang and waits.
    pub(crate) fn register_held(&mut self, name: &str, rank: (&str, u64, u32), step: u64) {
        let (job, attempt, number) = rank;
        self.held = Some(Step::new(step));
        self.register(name, "1", 1, &[(job, attempt, number, 0)]);
        self.held = None;
    }

    /// An agent comes back with these trainers. False where it is turned away.
    pub(crate) fn register_running(
        &mut self,
        name: &str,
        incarnation: &str,
        slots: u32,
        running: &[Runs],
    ) -> bool {
        let session = SessionId(self.next_session);
        self.next_session += 1;
        self.opened.insert(session, worker(name));
        let former = self
            .sessions
            .insert(worker(name), (session, incarnation.to_owned(), slots));
        let running = running
            .iter()
            .map(|(job, attempt, rank, device, phase, held)| RunningRank {
                rank: RankId {
                    job: id(job),
                    attempt: Attempt::new(*attempt),
                    rank: Rank::new(*rank),
                },
                device: *device,
                phase: *phase,
                held: held.map(Step::new),
            });
        let answer = self.do_step(Event::Registered(Registration {
            session,
            worker: worker(name),
            incarnation: incarnation.to_owned(),
            version: "0".to_owned(),
            host: "localhost".to_owned(),
            devices: (0..slots).map(cpu_slot).collect(),
            running: running.collect(),
            peer: String::new(),
        }));
        if answer == Answer::Ignored(Ignored::AnotherAgent) {
            match former {
                Some(former) => self.sessions.insert(worker(name), former),
                None => self.sessions.remove(&worker(name)),
            };
            return false;
        }
        true
    }

    /// The session that the coordinator knows a worker by.
    pub(crate) fn open_session(&self, name: &str) -> Option<SessionId> {
        self.state.worker(&worker(name))?.session()
    }

    /// A manifest of an attempt's save, whether or not the attempt is live.
    pub(crate) fn manifest_of(&self, to: &OrderTo, step: u64) -> RankEvent {
        let job = self.state.job(&to.job).expect("orders are about jobs");
        let found = job.phases.iter().zip(&job.submission.phases);
        let mut found = found.filter(|(phase, _)| phase.record.attempt == to.attempt);
        let plan = found
            .next()
            .map_or(&job.submission.phases[0], |(_, plan)| plan);
        let key = CheckpointKey {
            job: to.job.clone(),
            phase: plan.index,
            name: plan.name.clone(),
            step: Step::new(step),
            attempt: to.attempt,
        };
        RankEvent::ManifestWritten {
            checkpoint: CheckpointRef {
                phase: key.name.to_string(),
                manifest: key.manifest().to_string(),
                digest: "ab".repeat(32),
                step: Step::new(step),
            },
            best: None,
        }
    }

    pub(crate) fn cordon(&mut self, name: &str, reason: Option<&str>) {
        self.do_step(Event::Cordon {
            worker: worker(name),
            reason: reason.map(str::to_owned),
        });
    }

    pub(crate) fn drain(&mut self, name: &str) {
        self.do_step(Event::Drain {
            worker: worker(name),
            reason: String::new(),
            deadline: Duration::from_secs(60),
        });
    }

    pub(crate) fn link_lost(&mut self, name: &str, other: &str, job: &str) {
        let attempt = Attempt::new(self.live(job).1);
        self.do_step(Event::LinkLost {
            session: self.session(name),
            worker: worker(name),
            other: worker(other),
            rank: (id(job), attempt),
            reason: "silent for 5 s".to_owned(),
        });
    }

    pub(crate) fn reset(&mut self, name: &str) {
        self.do_step(Event::Reset {
            session: self.session(name),
            worker: worker(name),
        });
    }
}
