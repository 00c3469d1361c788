//! One trainer over attempts, and what a gang of them does together.

use std::collections::BTreeMap;
use std::time::Duration;

use diptych_common::ids::{PhaseIndex, Step};
use diptych_coordinator::core::{Exit, PrepareOrder, RankEvent, StartFrom, StoredObject};
use rand::rngs::StdRng;

use super::agent::Agent;
use super::{SAVE, STEPS};
use crate::words::*;

/// (job, attempt, rank).
pub(super) type Key = (String, u64, u32);

#[derive(Debug)]
pub(super) struct Trainer {
    pub(super) key: Key,
    pub(super) phase: PhaseIndex,
    world: u32,
    /// Steps in the state that it holds; `None` where it holds none.
    step: Option<u64>,
    pub(super) life: Life,
    leaves: Option<bool>,
    /// Reports on their way, and those that are said again after a reconnect.
    due: Vec<(Duration, RankEvent)>,
    said: Vec<RankEvent>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Life {
    Loading {
        until: Duration,
    },
    Ready,
    Training,
    /// It waits for the commit of the step that it saved.
    Saving {
        step: u64,
        then: Then,
    },
    Held,
    Dying {
        at: Duration,
        exit: Exit,
    },
}

/// What follows a commit.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) enum Then {
    Leave,
    Exit,
}

impl Trainer {
    pub(super) fn start(order: &PrepareOrder, now: Duration, rng: &mut StdRng) -> Self {
        let mut trainer = Self {
            key: (String::new(), 0, 0),
            phase: order.phase,
            world: 0,
            step: None,
            life: Life::Ready,
            leaves: None,
            due: Vec::new(),
            said: Vec::new(),
        };
        trainer.prepare(order, now, rng);
        trainer.life = Life::Loading {
            until: now + Agent::soon(rng, 1_500),
        };
        trainer
    }

    /// Whether this process can take the order.
    pub(super) fn serves(&self, order: &PrepareOrder) -> bool {
        let alive = !matches!(self.life, Life::Dying { .. });
        alive
            && self.key.0 == order.to.job.as_str()
            && self.phase == order.phase
            && self.key.1 <= order.to.attempt.get()
    }

    pub(super) fn prepare(&mut self, order: &PrepareOrder, now: Duration, rng: &mut StdRng) {
        let key = (
            order.to.job.to_string(),
            order.to.attempt.get(),
            order.to.rank.get(),
        );
        if key == self.key {
            return;
        }
        self.key = key;
        self.world = order.world;
        if order.start == StartFrom::Checkpoint {
            let resume = order.resume.as_ref().map_or(0, |resume| resume.step.get());
            self.step = (!order.reserve).then_some(resume);
        }
        self.leaves = None;
        self.due.clear();
        self.said.clear();
        self.life = Life::Loading {
            until: now + Agent::soon(rng, 100),
        };
    }

    pub(super) fn begin(&mut self, step: u64, now: Duration) {
        if self.life == Life::Ready {
            assert!(
                self.step.is_none_or(|held| held <= step),
                "a step is lost that a rank holds: {:?} begins at {step}, and holds {:?}",
                self.key,
                self.step
            );
            self.step = Some(step);
            self.life = Life::Training;
            if step >= STEPS {
                self.finish(step, now);
            }
        }
    }

    pub(super) fn leave(&mut self, save: bool) {
        if self.life == Life::Training {
            self.leaves = Some(save);
        }
    }

    pub(super) fn hold(&mut self, now: Duration) {
        if !matches!(self.life, Life::Held | Life::Dying { .. }) {
            self.life = Life::Held;
            self.report(held(self.step.unwrap_or(0)), now);
        }
    }

    pub(super) fn end(&mut self, now: Duration) {
        if !matches!(self.life, Life::Dying { .. }) {
            self.life = Life::Dying {
                at: now + Duration::from_millis(50),
                exit: Exit::Code(4),
            };
        }
    }

    pub(super) fn committed(&mut self, step: u64, now: Duration) {
        if let Life::Saving { step: saved, then } = self.life
            && step >= saved
        {
            match then {
                Then::Leave => self.hold(now),
                Then::Exit => {
                    self.life = Life::Dying {
                        at: now,
                        exit: Exit::Code(0),
                    }
                }
            }
        }
    }

    pub(super) fn held(&self) -> Option<u64> {
        (self.life == Life::Held).then(|| self.step.unwrap_or(0))
    }

    pub(super) fn report(&mut self, event: RankEvent, now: Duration) {
        self.due.push((now, event));
    }

    /// What it says now.
    pub(super) fn due(&mut self, now: Duration) -> Vec<(Key, RankEvent)> {
        if matches!(self.life, Life::Loading { until } if until <= now) {
            self.life = Life::Ready;
            let ready = match self.step {
                Some(step) => ready(step, &format!("{}-{}-{step}", self.key.0, self.phase)),
                None => empty(),
            };
            self.due.push((now, ready));
        }
        let mut out = Vec::new();
        for (_, event) in self.due.extract_if(.., |(at, _)| *at <= now) {
            self.said.push(event.clone());
            out.push((self.key.clone(), event));
        }
        out
    }

    pub(super) fn again(&self) -> Vec<(Key, RankEvent)> {
        self.said
            .iter()
            .map(|event| (self.key.clone(), event.clone()))
            .collect()
    }

    fn save(&mut self, step: u64, now: Duration) {
        let (job, attempt, rank) = &self.key;
        let name = if self.phase.get() == 0 { "a" } else { "b" };
        let key = format!(
            "{job}/{:02}-{name}/step-{step:012}-a{attempt:06}/shard-{rank:05}.safetensors",
            self.phase.get()
        );
        let objects = vec![StoredObject {
            key,
            size: 5,
            digest: "00".repeat(32),
        }];
        self.report(
            RankEvent::PartSaved {
                step: Step::new(step),
                objects,
                stall: None,
            },
            now,
        );
    }

    /// The last step was taken: it is saved, and the process ends once that is committed.
    fn finish(&mut self, step: u64, now: Duration) {
        self.save(step, now);
        self.report(finished(step), now);
        self.life = Life::Saving {
            step,
            then: Then::Exit,
        };
    }

    fn step(&mut self, now: Duration) {
        let step = self.step.unwrap_or(0) + 1;
        self.step = Some(step);
        self.report(progress(step), now);
        if step >= STEPS {
            return self.finish(step, now);
        }
        if step.is_multiple_of(SAVE) || self.leaves == Some(true) {
            self.save(step, now);
        }
        if self.leaves == Some(true) {
            self.life = Life::Saving {
                step,
                then: Then::Leave,
            };
        } else if self.leaves == Some(false) {
            self.hold(now);
        }
    }
}

/// Gangs whose ranks are all there and reach each other take a step together; a rank whose gang is broken leaves it.
pub(super) fn step_gangs(
    agents: &mut BTreeMap<&'static str, Agent>,
    rng: &mut StdRng,
    now: Duration,
) {
    let mut gangs: BTreeMap<(String, u64), Vec<(&'static str, u32)>> = BTreeMap::new();
    for (name, agent) in agents.iter() {
        for (device, trainer) in &agent.trainers {
            if trainer.life == Life::Training {
                let gang = (trainer.key.0.clone(), trainer.key.1);
                gangs.entry(gang).or_default().push((name, *device));
            }
        }
    }
    for seats in gangs.values() {
        let together = seats.iter().all(|(one, _)| {
            seats
                .iter()
                .all(|(other, _)| one == other || agents[one].reaches(other, now))
        });
        let mut ranks = seats
            .iter()
            .filter_map(|(name, device)| agents[name].trainers.get(device));
        let world = ranks.next().map_or(0, |trainer| trainer.world as usize);
        let whole = seats.len() == world && together;
        let leaves = seats
            .iter()
            .any(|(name, device)| agents[name].trainers[device].leaves.is_some());
        let save = seats
            .iter()
            .any(|(name, device)| agents[name].trainers[device].leaves == Some(true));
        // A rank that began before the others waits for them; one whose peer is gone sees that soon.
        let lonely = !whole && Agent::soon(rng, 10) < Duration::from_millis(2);
        for (name, device) in seats {
            let Some(trainer) = agents
                .get_mut(name)
                .and_then(|agent| agent.trainers.get_mut(device))
            else {
                continue;
            };
            if whole {
                trainer.leaves = leaves.then_some(save);
                trainer.step(now);
            } else if lonely {
                trainer.hold(now);
            }
        }
    }
}
