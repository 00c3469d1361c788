//! Random events never break a promise. The environment checks after each; here is only the noise. A failing seed is
//! printed by proptest and kept beside this file.

use diptych_common::ids::PhaseIndex;
use diptych_coordinator::core::{Event, Exit, FailureKind, RankEvent, Scale};
use proptest::prelude::*;

use crate::env::*;
use crate::words::*;

const WORKERS: [&str; 3] = ["w1", "w2", "w3"];
const JOBS: [&str; 3] = ["job-1", "job-2", "job-3"];

#[derive(Debug, Clone)]
enum Noise {
    Submit {
        job: usize,
        min: u32,
        more: u32,
        priority: i32,
    },
    Cancel(usize),
    Retry(usize),
    Delete(usize),
    Pin {
        job: usize,
        nth: usize,
        pinned: bool,
    },
    Register {
        worker: usize,
        fresh: bool,
    },
    Reset(usize),
    Leave(usize),
    Wait(u64),
    Ready {
        job: usize,
        rank: usize,
        digest: bool,
    },
    Progress {
        job: usize,
        rank: usize,
        step: u64,
    },
    Part {
        job: usize,
        rank: usize,
        step: u64,
    },
    Manifest {
        job: usize,
        step: u64,
    },
    Finished {
        job: usize,
        rank: usize,
        step: u64,
    },
    Failed {
        job: usize,
        rank: usize,
        kind: usize,
    },
    Exited {
        worker: usize,
        slot: usize,
        clean: bool,
    },
    Held {
        job: usize,
        rank: usize,
        step: u64,
    },
    AllHeld(usize, u64),
    Beside {
        job: usize,
        nth: usize,
    },
    Scale {
        job: usize,
        min: u32,
        more: u32,
    },
    Cordon(usize, bool),
    Drain(usize),
    LinkLost(usize, usize),
    NotFinite(usize),
    Verify(bool),
    Phase(usize),
    Restart,
    Undo(usize),
}

fn noise() -> impl Strategy<Value = Noise> {
    let job = 0..JOBS.len();
    let worker = 0..WORKERS.len();
    let rank = 0_usize..4;
    let step = 1_u64..6;
    prop_oneof![
        2 => (job.clone(), 1_u32..4, 0_u32..3, -1..2).prop_map(|(job, min, more, priority)| Noise::Submit { job, min, more, priority }),
        1 => job.clone().prop_map(Noise::Cancel),
        1 => job.clone().prop_map(Noise::Retry),
        1 => job.clone().prop_map(Noise::Delete),
        1 => (job.clone(), 0_usize..3, any::<bool>()).prop_map(|(job, nth, pinned)| Noise::Pin { job, nth, pinned }),
        6 => (worker.clone(), prop::bool::weighted(0.2)).prop_map(|(worker, fresh)| Noise::Register { worker, fresh }),
        1 => worker.clone().prop_map(Noise::Reset),
        1 => worker.clone().prop_map(Noise::Leave),
        3 => (50_u64..3_000).prop_map(Noise::Wait),
        4 => (job.clone(), rank.clone(), prop::bool::weighted(0.95)).prop_map(|(job, rank, digest)| Noise::Ready { job, rank, digest }),
        2 => (job.clone(), rank.clone(), step.clone()).prop_map(|(job, rank, step)| Noise::Progress { job, rank, step }),
        4 => (job.clone(), rank.clone(), step.clone()).prop_map(|(job, rank, step)| Noise::Part { job, rank, step }),
        3 => (job.clone(), step.clone()).prop_map(|(job, step)| Noise::Manifest { job, step }),
        3 => (job.clone(), rank.clone(), step.clone()).prop_map(|(job, rank, step)| Noise::Finished { job, rank, step }),
        1 => (job.clone(), rank, 0_usize..9).prop_map(|(job, rank, kind)| Noise::Failed { job, rank, kind }),
        4 => (worker, 0_usize..2, any::<bool>()).prop_map(|(worker, slot, clean)| Noise::Exited { worker, slot, clean }),
        3 => (job.clone(), 0_usize..4, step.clone()).prop_map(|(job, rank, step)| Noise::Held { job, rank, step }),
        4 => (job.clone(), step.clone()).prop_map(|(job, step)| Noise::AllHeld(job, step)),
        3 => (job.clone(), 0_usize..4).prop_map(|(job, nth)| Noise::Beside { job, nth }),
        1 => (job.clone(), 0_u32..3, 0_u32..4).prop_map(|(job, min, more)| Noise::Scale { job, min, more }),
        1 => (0..WORKERS.len(), any::<bool>()).prop_map(|(worker, off)| Noise::Cordon(worker, off)),
        1 => (0..WORKERS.len()).prop_map(Noise::Drain),
        1 => (0..WORKERS.len(), 0..WORKERS.len()).prop_map(|(one, other)| Noise::LinkLost(one, other)),
        1 => job.clone().prop_map(Noise::NotFinite),
        3 => prop::bool::weighted(0.8).prop_map(Noise::Verify),
        8 => job.clone().prop_map(Noise::Phase),
        1 => Just(Noise::Restart),
        1 => job.prop_map(Noise::Undo),
    ]
}

const KINDS: [FailureKind; 10] = [
    FailureKind::BadData,
    FailureKind::Refused,
    FailureKind::NonFinite,
    FailureKind::Diverged,
    FailureKind::DataDiffers,
    FailureKind::PeerLost,
    FailureKind::Storage,
    FailureKind::Crashed,
    FailureKind::Internal,
    FailureKind::BadCheckpoint,
];

/// The rank of a live attempt whose worker has an open session.
fn speaker(env: &Env, job: usize, rank: usize) -> Option<u32> {
    let job = env.state.job(&id(JOBS[job]))?;
    let (_, placement) = job.live()?;
    let rank = rank % placement.seats.len();
    env.state
        .worker(&placement.seats[rank].worker)?
        .session()
        .map(|_| rank as u32)
}

/// One that stands by beside a gang is ready.
fn beside(env: &mut Env, job: usize, nth: usize) {
    let Some(found) = env.state.job(&id(JOBS[job])) else {
        return;
    };
    let Some((_, placement)) = found.live() else {
        return;
    };
    let Some((rank, seat)) = placement.all().skip(placement.seats.len()).nth(nth) else {
        return;
    };
    let (attempt, name) = (placement.attempt.get(), seat.worker.to_string());
    if env
        .state
        .worker(&seat.worker)
        .is_some_and(|worker| worker.session().is_some())
    {
        env.say_as(&name, JOBS[job], attempt, rank.get(), empty());
    }
}

fn make(env: &mut Env, noise: Noise) {
    match noise {
        Noise::Submit {
            job,
            min,
            more,
            priority,
        } => {
            let spec = submission((min, min + more), priority, &["a", "b<a", "c"]);
            let _ = env.submit_as(JOBS[job], &spec, None);
        }
        Noise::Cancel(job) => drop(env.step(Event::Cancel {
            job: id(JOBS[job]),
            reason: String::new(),
        })),
        Noise::Retry(job) => drop(env.step(Event::Retry { job: id(JOBS[job]) })),
        Noise::Delete(job) => drop(env.step(Event::Delete { job: id(JOBS[job]) })),
        Noise::Pin { job, nth, pinned } => {
            let found = env
                .state
                .job(&id(JOBS[job]))
                .and_then(|job| job.phases[0].checkpoints.keys().nth(nth).copied());
            if let Some(checkpoint) = found {
                let phase = PhaseIndex::new(0);
                env.do_step(Event::Pin {
                    job: id(JOBS[job]),
                    phase,
                    checkpoint,
                    pinned,
                });
            }
        }
        Noise::Register {
            worker: index,
            fresh,
        } => {
            let known = env.state.worker(&worker(WORKERS[index])).cloned();
            let ranks: Vec<_> = known
                .iter()
                .filter(|_| !fresh)
                .flat_map(|worker| &worker.slots)
                .filter_map(|slot| slot.hold.rank().map(|rank| (rank.clone(), slot.index)))
                .collect();
            let running: Vec<_> = ranks
                .iter()
                .map(|(rank, device)| {
                    (
                        rank.job.as_str(),
                        rank.attempt.get(),
                        rank.rank.get(),
                        *device,
                    )
                })
                .collect();
            let incarnation = match (&known, fresh) {
                (Some(worker), false) => worker.incarnation.clone(),
                (Some(worker), true) => format!("{}+", worker.incarnation),
                (None, _) => "1".to_owned(),
            };
            env.register(WORKERS[index], &incarnation, 2, &running);
        }
        Noise::Reset(index) => {
            if let Some(session) = env
                .state
                .worker(&worker(WORKERS[index]))
                .and_then(|worker| worker.session())
            {
                env.do_step(Event::Reset {
                    session,
                    worker: worker(WORKERS[index]),
                });
            }
        }
        Noise::Leave(index) => {
            if let Some(session) = env
                .state
                .worker(&worker(WORKERS[index]))
                .and_then(|worker| worker.session())
            {
                env.do_step(Event::Leaving {
                    session,
                    worker: worker(WORKERS[index]),
                    grace: std::time::Duration::from_secs(120),
                });
            }
        }
        Noise::Wait(ms) => env.wait(ms),
        Noise::Ready { job, rank, digest } => {
            if let Some(rank) = speaker(env, job, rank) {
                env.say(JOBS[job], rank, ready(0, if digest { "aa" } else { "bb" }));
            }
        }
        Noise::Progress { job, rank, step } => {
            if let Some(rank) = speaker(env, job, rank) {
                env.say(JOBS[job], rank, progress(step));
            }
        }
        Noise::Part { job, rank, step } => {
            if let Some(rank) = speaker(env, job, rank) {
                let part = env.part(JOBS[job], rank, step);
                env.say(JOBS[job], rank, part);
            }
        }
        Noise::Manifest { job, step } => {
            if let Some(0) = speaker(env, job, 0) {
                let written = match env.manifest(JOBS[job], step) {
                    // Every third is the best so far.
                    RankEvent::ManifestWritten { checkpoint, .. } if step.is_multiple_of(3) => {
                        let best = Some(Vec::new());
                        RankEvent::ManifestWritten { checkpoint, best }
                    }
                    other => other,
                };
                env.say(JOBS[job], 0, written);
            }
        }
        Noise::Finished { job, rank, step } => {
            if let Some(rank) = speaker(env, job, rank) {
                env.say(JOBS[job], rank, finished(step));
            }
        }
        Noise::Failed { job, rank, kind } => {
            if let Some(rank) = speaker(env, job, rank) {
                env.say(JOBS[job], rank, failed(KINDS[kind]));
            }
        }
        Noise::Exited {
            worker: index,
            slot,
            clean,
        } => {
            let known = env
                .state
                .worker(&worker(WORKERS[index]))
                .filter(|worker| worker.session().is_some())
                .cloned();
            let held = known.and_then(|worker| worker.slots[slot].hold.rank().cloned());
            if let Some(rank) = held {
                let exit = if clean {
                    Exit::Code(0)
                } else {
                    Exit::Signal(9)
                };
                let (job, attempt, number) =
                    (rank.job.to_string(), rank.attempt.get(), rank.rank.get());
                env.say_as(WORKERS[index], &job, attempt, number, exited(exit));
            }
        }
        Noise::Held { job, rank, step } => {
            if let Some(rank) = speaker(env, job, rank) {
                env.say(JOBS[job], rank, held(step));
            }
        }
        Noise::AllHeld(job, step) => {
            let world = env
                .state
                .job(&id(JOBS[job]))
                .and_then(|job| job.live().map(|(_, p)| (p.attempt, p.seats.len())));
            for rank in 0..world.map_or(0, |(_, world)| world) {
                let live = env
                    .state
                    .job(&id(JOBS[job]))
                    .and_then(|job| job.live().map(|(_, p)| p.attempt));
                if live != world.map(|(attempt, _)| attempt) {
                    break;
                }
                if let Some(rank) = speaker(env, job, rank) {
                    env.say(JOBS[job], rank, held(step));
                }
            }
        }
        Noise::Beside { job, nth } => beside(env, job, nth),
        Noise::Scale { job, min, more } => drop(env.step(Event::Scale(Scale {
            job: id(JOBS[job]),
            phase: None,
            min: Some(min),
            max: Some(min + more),
        }))),
        Noise::Cordon(index, off) => drop(env.step(Event::Cordon {
            worker: worker(WORKERS[index]),
            reason: off.then(|| "noise".to_owned()),
        })),
        Noise::Drain(index) => drop(env.step(Event::Drain {
            worker: worker(WORKERS[index]),
            reason: String::new(),
            deadline: std::time::Duration::from_secs(2),
        })),
        Noise::LinkLost(one, other) => {
            let session = env
                .state
                .worker(&worker(WORKERS[one]))
                .and_then(|worker| worker.session());
            let live = env.state.live().iter().next().cloned();
            let attempt = live
                .as_ref()
                .and_then(|id| env.state.job(id)?.live().map(|(_, p)| p.attempt));
            if let (Some(session), Some(job), Some(attempt)) = (session, live, attempt) {
                env.do_step(Event::LinkLost {
                    session,
                    worker: worker(WORKERS[one]),
                    other: worker(WORKERS[other]),
                    rank: (job, attempt),
                    reason: "noise".to_owned(),
                });
            }
        }
        Noise::NotFinite(job) => {
            if let Some(rank) = speaker(env, job, 0) {
                env.say(JOBS[job], rank, not_finite(2));
            }
        }
        Noise::Verify(good) => {
            // Only workers that can be reached answer.
            let reachable = |env: &Env, name: &diptych_common::ids::WorkerId| {
                env.state
                    .worker(name)
                    .is_some_and(|worker| worker.session().is_some())
            };
            let orders = std::mem::take(&mut env.orders);
            env.orders = orders
                .into_iter()
                .filter(|(name, _)| reachable(env, name))
                .collect();
            env.verify_all(if good { None } else { Some("torn") });
        }
        Noise::Phase(job) => {
            let live = |env: &Env| {
                let job = env.state.job(&id(JOBS[job]))?;
                let (_, placement) = job.live()?;
                Some((placement.attempt, placement.seats.len(), placement.begun))
            };
            let Some((attempt, ranks, _)) = live(env) else {
                return;
            };
            // What a rank says may end the attempt, and another one take its place.
            let goes_on = |env: &Env| live(env).is_some_and(|(now, ..)| now == attempt);
            if (0..ranks).all(|rank| speaker(env, job, rank).is_some()) {
                for rank in 0..ranks as u32 {
                    if !goes_on(env) {
                        return;
                    }
                    env.say(JOBS[job], rank, ready(0, "aa"));
                }
                if goes_on(env) && live(env).is_some_and(|(_, _, begun)| begun) {
                    env.save(JOBS[job], 6);
                }
                for rank in 0..ranks as u32 {
                    if goes_on(env) {
                        env.say(JOBS[job], rank, finished(6));
                    }
                }
            }
        }
        Noise::Restart => env.restart(),
        Noise::Undo(job) => {
            let before = format!("{:?}", env.state);
            let submit = submission((1, 1), 0, &["a"]);
            let events = [
                Event::Submit(diptych_coordinator::core::Submit {
                    id: id("undone"),
                    submission: submit,
                    request: None,
                    secret: diptych_coordinator::core::Secret::new([0; 32]),
                }),
                Event::Place,
                Event::Cancel {
                    job: id(JOBS[job]),
                    reason: String::new(),
                },
                Event::Tick,
            ];
            for event in events {
                let now = env.now();
                let _ = diptych_coordinator::core::apply(&mut env.state, event, now);
            }
            env.state.undo();
            let sequence = |text: &str| text.split("next_sequence").next().map(str::to_owned);
            assert_eq!(
                sequence(&format!("{:?}", env.state)),
                sequence(&before),
                "undone, yet different"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn promises_hold_whatever_happens(all in prop::collection::vec(noise(), 1..250)) {
        let mut env = Env::with_workers(&[]);
        for noise in all {
            make(&mut env, noise);
        }
    }
}
