//! One worker: its link to the coordinator, its devices and the trainers on them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use diptych_coordinator::core::{Event, Exit, Order, RankEvent, SessionId};
use rand::Rng as _;
use rand::rngs::StdRng;

use super::trainer::{Life, Trainer};
use crate::env::Env;
use crate::words::*;

/// An agent and what it runs.
#[derive(Debug)]
pub(super) struct Agent {
    name: &'static str,
    devices: u32,
    incarnation: u32,
    pub(super) session: Option<SessionId>,
    /// It opens its next stream then.
    back_at: Duration,
    silent_until: Duration,
    heard_at: Duration,
    orders: VecDeque<(Duration, Order)>,
    pub(super) trainers: BTreeMap<u32, Trainer>,
    /// Orders for a device that another trainer still has.
    waiting: BTreeMap<u32, Order>,
    /// Last words of trainers that have ended: job, attempt, rank.
    ended: Vec<((String, u64, u32), Exit)>,
    cut: BTreeMap<&'static str, Duration>,
}

impl Agent {
    pub(super) fn new(name: &'static str, devices: u32) -> Self {
        Self {
            name,
            devices,
            incarnation: 1,
            session: None,
            back_at: Duration::ZERO,
            silent_until: Duration::ZERO,
            heard_at: Duration::ZERO,
            orders: VecDeque::new(),
            trainers: BTreeMap::new(),
            waiting: BTreeMap::new(),
            ended: Vec::new(),
            cut: BTreeMap::new(),
        }
    }

    pub(super) fn order(&mut self, order: Order, at: Duration) {
        if self.session.is_some() {
            let at = self.orders.back().map_or(at, |(last, _)| at.max(*last));
            self.orders.push_back((at, order));
        }
    }

    pub(super) fn disconnect(&mut self, back_at: Duration) {
        self.session = None;
        self.orders.clear();
        self.back_at = back_at;
    }

    /// The agent's process ends, and with it its trainers.
    pub(super) fn die(&mut self, back_at: Duration) {
        self.disconnect(back_at);
        self.incarnation += 1;
        self.trainers.clear();
        self.waiting.clear();
        self.ended.clear();
    }

    pub(super) fn silent_until(&mut self, until: Duration) {
        self.silent_until = until;
    }

    pub(super) fn kill_trainer(&mut self, nth: usize, now: Duration) {
        if let Some(trainer) = self.trainers.values_mut().nth(nth) {
            trainer.life = Life::Dying {
                at: now,
                exit: Exit::Signal(9),
            };
        }
    }

    /// A stopped process does not answer its agent, which kills it.
    pub(super) fn freeze_trainer(&mut self, nth: usize, now: Duration) {
        if let Some(trainer) = self.trainers.values_mut().nth(nth) {
            let at = now + Duration::from_secs(3);
            trainer.life = Life::Dying {
                at,
                exit: Exit::Signal(9),
            };
        }
    }

    pub(super) fn cut_from(&mut self, other: &'static str, until: Duration) {
        if other != self.name {
            self.cut.insert(other, until);
        }
    }

    pub(super) fn reaches(&self, other: &str, now: Duration) -> bool {
        self.cut.get(other).is_none_or(|until| *until <= now)
    }

    pub(super) fn repair(&mut self) {
        self.cut.clear();
        self.silent_until = Duration::ZERO;
    }

    /// What it does in one tick.
    pub(super) fn live(&mut self, env: &mut Env, rng: &mut StdRng, now: Duration) {
        if self.silent_until > now {
            return;
        }
        if self.session.is_none() && self.back_at <= now {
            self.register(env);
        }
        while let Some((_, order)) = self.orders.pop_front_if(|(at, _)| *at <= now) {
            self.obey(env, rng, order, now);
        }
        self.bury(now);
        let devices: Vec<u32> = self.waiting.keys().copied().collect();
        for device in devices {
            if !self.trainers.contains_key(&device)
                && let Some(order) = self.waiting.remove(&device)
            {
                self.obey(env, rng, order, now);
            }
        }
        let reports: Vec<_> = self
            .trainers
            .values_mut()
            .flat_map(|trainer| trainer.due(now))
            .collect();
        for (key, event) in reports {
            self.say(env, key, event);
        }
        if self.session.is_some() {
            for ((job, attempt, rank), exit) in std::mem::take(&mut self.ended) {
                self.say(env, (job, attempt, rank), exited(exit));
            }
        }
        if let Some(session) = self.session
            && now.saturating_sub(self.heard_at) >= Duration::from_secs(1)
        {
            self.heard_at = now;
            env.do_step(Event::Heartbeat {
                session,
                worker: worker(self.name),
            });
        }
    }

    /// Processes whose end has come.
    fn bury(&mut self, now: Duration) {
        let dead: Vec<u32> = self
            .trainers
            .iter()
            .filter(|(_, trainer)| matches!(trainer.life, Life::Dying { at, .. } if at <= now))
            .map(|(device, _)| *device)
            .collect();
        for device in dead {
            if let Some(trainer) = self.trainers.remove(&device)
                && let Life::Dying { exit, .. } = trainer.life
            {
                self.ended.push((trainer.key, exit));
            }
        }
    }

    fn register(&mut self, env: &mut Env) {
        let running: Vec<_> = self
            .trainers
            .iter()
            .map(|(device, trainer)| {
                let (job, attempt, rank) = trainer.key.clone();
                (job, attempt, rank, *device, trainer.phase, trainer.held())
            })
            .collect();
        let incarnation = self.incarnation.to_string();
        if !env.register_running(self.name, &incarnation, self.devices, &running) {
            return;
        }
        self.session = Some(env.session(self.name));
        // What a broken stream may have swallowed is said again.
        let again: Vec<_> = self.trainers.values().flat_map(Trainer::again).collect();
        for (key, event) in again {
            self.say(env, key, event);
        }
    }

    fn say(&self, env: &mut Env, (job, attempt, rank): (String, u64, u32), event: RankEvent) {
        if self.session.is_some() && self.session == env.open_session(self.name) {
            env.say_as(self.name, &job, attempt, rank, event);
        }
    }

    fn obey(&mut self, env: &mut Env, rng: &mut StdRng, order: Order, now: Duration) {
        match order {
            Order::Prepare(prepare) => {
                let device = prepare.device;
                let same = |trainer: &Trainer| trainer.serves(&prepare);
                match self.trainers.get_mut(&device) {
                    Some(trainer) if same(trainer) => trainer.prepare(&prepare, now, rng),
                    Some(trainer) => {
                        trainer.end(now);
                        self.waiting.insert(device, Order::Prepare(prepare));
                    }
                    None => {
                        let trainer = Trainer::start(&prepare, now, rng);
                        self.trainers.insert(device, trainer);
                    }
                }
            }
            Order::Abort {
                job,
                attempt,
                keep,
                end,
                ..
            } => {
                let hit = |(of, number, _): &(String, u64, u32)| {
                    of == job.as_str() && *number <= attempt.get()
                };
                self.waiting.retain(|_, order| {
                    !matches!(order, Order::Prepare(prepare) if prepare.to.job == job && prepare.to.attempt <= attempt)
                });
                for trainer in self
                    .trainers
                    .values_mut()
                    .filter(|trainer| hit(&trainer.key))
                {
                    let ends = end.iter().any(|rank| rank.get() == trainer.key.2);
                    if keep && !ends {
                        trainer.hold(now);
                    } else {
                        trainer.end(now);
                    }
                }
            }
            Order::End { to, .. } => {
                let key = (to.job.to_string(), to.attempt.get(), to.rank.get());
                self.waiting.retain(
                    |_, order| !matches!(order, Order::Prepare(prepare) if prepare.to == to),
                );
                let mut own = self.trainers.values_mut();
                if let Some(trainer) = own.find(|trainer| trainer.key == key) {
                    trainer.end(now);
                }
            }
            Order::Verify { .. } => super::verified(env, self.name, order),
            Order::Begin { to, state, .. } => {
                self.for_rank(&to, |trainer| trainer.begin(state.step.get(), now));
            }
            Order::Leave { to, save, .. } => self.for_rank(&to, |trainer| trainer.leave(save)),
            Order::WriteManifest { to, step, .. } => {
                let manifest = env.manifest_of(&to, step.get());
                self.for_rank(&to, |trainer| trainer.report(manifest, now));
            }
            Order::Committed { to, checkpoint } => {
                self.for_rank(&to, |trainer| trainer.committed(checkpoint.step.get(), now));
            }
            Order::Welcome => {}
        }
    }

    fn for_rank(
        &mut self,
        to: &diptych_coordinator::core::OrderTo,
        act: impl FnOnce(&mut Trainer),
    ) {
        let key = (to.job.to_string(), to.attempt.get(), to.rank.get());
        if let Some(trainer) = self
            .trainers
            .values_mut()
            .find(|trainer| trainer.key == key)
        {
            act(trainer);
        }
    }

    /// A short random wait.
    pub(super) fn soon(rng: &mut StdRng, most_ms: u64) -> Duration {
        Duration::from_millis(rng.random_range(0..most_ms.max(1)))
    }
}
