//! Storms: a whole cluster in virtual time, on the core alone. Agents and trainers obey as real ones do; processes die, links
//! break, messages are late or lost, the coordinator restarts. The environment checks the promises after each event; a
//! storm checks besides that no step is lost while a rank that holds it lives, and that once the weather is fine every job
//! ends as it should.

mod agent; // one worker: its link, its trainers
mod trainer; // one process over attempts

use std::collections::BTreeMap;
use std::time::Duration;

use diptych_coordinator::core::{Event, Order, Reread, Scale, VerifyReport};
use diptych_coordinator::queue::explain;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::env::Env;
use crate::words::*;
use agent::Agent;

/// Virtual time between two looks.
const TICK: Duration = Duration::from_millis(100);
/// Faults come for so long.
const WEATHER: Duration = Duration::from_secs(30);
/// By then everything has ended, the weather being fine.
const CALM: Duration = Duration::from_secs(400);
const WORKERS: [&str; 3] = ["w1", "w2", "w3"];
const JOBS: [&str; 3] = ["job-1", "job-2", "job-3"];
/// Steps of every phase.
pub(super) const STEPS: u64 = 12;
/// Steps between saves.
pub(super) const SAVE: u64 = 4;

struct Storm {
    env: Env,
    rng: StdRng,
    agents: BTreeMap<&'static str, Agent>,
    retried: BTreeMap<&'static str, u32>,
}

#[test]
fn storms_pass() {
    let storms: u64 = match std::env::var("STORMS") {
        Ok(text) => text.parse().expect("STORMS is a number"),
        Err(_) => 10_000,
    };
    let first: u64 = match std::env::var("STORM_SEED") {
        Ok(text) => text.parse().expect("STORM_SEED is a number"),
        Err(_) => 1,
    };
    let count = if std::env::var("STORM_SEED").is_ok() {
        1
    } else {
        storms
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|lane| {
                scope.spawn(move || {
                    for seed in (first..first + count).filter(|seed| seed % threads == lane) {
                        let told = Told(seed);
                        Storm::new(seed).run();
                        std::mem::forget(told);
                    }
                })
            })
            .collect();
        for worker in workers {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

/// Names the seed of a storm that broke a promise.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        eprintln!("a storm broke a promise; again with STORM_SEED={}", self.0);
    }
}

impl Storm {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut env = Env::new();
        env.brief = true;
        for job in JOBS {
            let min = rng.random_range(1..=2);
            let max = rng.random_range(min..=4);
            let priority = rng.random_range(-1..=1);
            let mut spec = (*submission((min, max), priority, &["a", "b<a"])).clone();
            spec.phases[0].spares = rng.random_range(0..=1);
            env.submit(job, &std::sync::Arc::new(spec));
        }
        let agents = WORKERS.map(|name| (name, Agent::new(name, rng.random_range(1..=2))));
        Self {
            env,
            rng,
            agents: agents.into(),
            retried: BTreeMap::new(),
        }
    }

    fn run(&mut self) {
        while self.env.at < WEATHER {
            if self.rng.random_bool(0.12) {
                self.fault();
            }
            self.tick();
        }
        for name in WORKERS {
            let (state, id) = (&self.env.state, worker(name));
            if state.worker(&id).is_some() || state.record(&id).is_some() {
                self.env.cordon(name, None);
            }
            self.agent(name).repair();
        }
        let _ = self.scale_all_back();
        while !self.all_ended() {
            assert!(
                self.env.at < CALM,
                "I11: not ended {:?} after the storm: {:#?}\n{:#?}",
                CALM - WEATHER,
                self.standing(),
                self.env
                    .history
                    .iter()
                    .rev()
                    .take(60)
                    .rev()
                    .collect::<Vec<_>>()
            );
            self.tick();
        }
        for job in JOBS {
            self.env.traced.check(&id(job));
        }
    }

    fn agent(&mut self, name: &str) -> &mut Agent {
        self.agents.get_mut(name).expect("one of three")
    }

    fn scale_all_back(&mut self) -> Result<(), ()> {
        for job in JOBS {
            let wish = Scale {
                job: id(job),
                phase: None,
                min: Some(1),
                max: None,
            };
            self.env.step(Event::Scale(wish)).map_err(drop)?;
            self.route();
        }
        Ok(())
    }

    /// Everything that time alone brings about.
    fn tick(&mut self) {
        self.env.at += TICK;
        let now = self.env.at;
        for name in WORKERS {
            if let Some(agent) = self.agents.get_mut(name) {
                agent.live(&mut self.env, &mut self.rng, now);
            }
            self.route();
        }
        trainer::step_gangs(&mut self.agents, &mut self.rng, now);
        self.env.do_step(Event::Tick);
        self.route();
        self.drop_closed();
    }

    /// Orders go to the agents, late; what a closed stream held is lost.
    fn route(&mut self) {
        for (worker, order) in std::mem::take(&mut self.env.orders) {
            let delay = Duration::from_millis(self.rng.random_range(0..80));
            let at = self.env.at + delay;
            if let Some(agent) = self.agents.get_mut(worker.as_str()) {
                agent.order(order, at);
            }
        }
    }

    fn drop_closed(&mut self) {
        let closed = std::mem::take(&mut self.env.closed);
        for agent in self.agents.values_mut() {
            if agent
                .session
                .is_some_and(|session| closed.contains(&session))
            {
                agent.disconnect(self.env.at + Duration::from_millis(300));
            }
        }
    }

    fn fault(&mut self) {
        let now = self.env.at;
        let name = WORKERS[self.rng.random_range(0..WORKERS.len())];
        let pause = Duration::from_millis(self.rng.random_range(0..6_000));
        match self.rng.random_range(0..15) {
            0..4 => {
                let nth = self.rng.random_range(0..2);
                self.agent(name).kill_trainer(nth, now);
            }
            4 => self.agent(name).die(now + pause),
            5 | 6 => {
                let agent = self.agent(name);
                if let Some(session) = agent.session {
                    agent.disconnect(now + pause);
                    self.env.do_step(Event::Reset {
                        session,
                        worker: worker(name),
                    });
                }
            }
            7 => self.agent(name).silent_until(now + pause),
            8 => {
                let nth = self.rng.random_range(0..2);
                self.agent(name).freeze_trainer(nth, now);
            }
            9 => {
                self.env.restart();
                self.env.brief = true;
                for agent in self.agents.values_mut() {
                    let back = Duration::from_millis(self.rng.random_range(0..4_000));
                    agent.disconnect(now + back);
                }
            }
            10 => {
                let (min, max) = (self.rng.random_range(1..3), self.rng.random_range(1..5));
                let job = JOBS[self.rng.random_range(0..JOBS.len())];
                let wish = Scale {
                    job: id(job),
                    phase: None,
                    min: Some(min),
                    max: Some(max),
                };
                let _refused = self.env.step(Event::Scale(wish));
            }
            11 => drop(self.env.step(Event::Drain {
                worker: worker(name),
                reason: String::new(),
                deadline: Duration::from_secs(5),
            })),
            12 | 13 => drop(self.env.step(Event::Cordon {
                worker: worker(name),
                reason: None,
            })),
            _ => {
                let other = WORKERS[self.rng.random_range(0..WORKERS.len())];
                self.agent(name).cut_from(other, now + pause);
            }
        }
        self.route();
    }

    /// Jobs that failed in the storm are tried again: three times must do, in fine weather.
    fn all_ended(&mut self) -> bool {
        let mut ended = true;
        for job in JOBS {
            if self.env.has_succeeded(job) {
                continue;
            }
            ended = false;
            if !self.env.job(job).is_active() {
                let tries = self.retried.entry(job).or_default();
                *tries += 1;
                assert!(
                    *tries < 4,
                    "{job} fails in fine weather: {:?}",
                    self.env.history.last()
                );
                self.env.do_step(Event::Retry { job: id(job) });
                self.route();
            }
        }
        ended
    }

    fn standing(&self) -> Vec<String> {
        let now = self.env.now().mono;
        let jobs = JOBS.iter().map(|job| {
            let job = self.env.job(job);
            let why = explain(&self.env.state, job, now);
            format!(
                "{} {:?}, live {:?}: {why:?}",
                job.id(),
                job.record.state,
                job.live()
            )
        });
        let workers = self.env.state.workers().values();
        let slots = workers.map(|worker| format!("{:?}", worker));
        let agents = self.agents.values().map(|agent| format!("{agent:?}"));
        jobs.chain(slots).chain(agents).collect()
    }
}

/// A re-read checkpoint holds.
fn verified(env: &mut Env, name: &str, order: Order) {
    if let Order::Verify {
        job, checkpoint, ..
    } = order
    {
        let session = env.session(name);
        env.do_step(Event::Verified(VerifyReport {
            session,
            worker: worker(name),
            job,
            checkpoint,
            reread: Reread::Whole,
        }));
    }
}
