//! The agent's decisions, event by event.

use super::*;

struct Table {
    state: AgentState,
    now: Instant,
}

const PATIENCE: Patience = Patience {
    abort_grace: Duration::from_millis(500),
    orphan_limit: Duration::from_secs(600),
};

fn job() -> JobId {
    "digits-0a1b2c".parse().expect("a name")
}

fn key(attempt: u64, rank: u32) -> RankKey {
    RankKey {
        job: job(),
        attempt: Attempt::new(attempt),
        rank: Rank::new(rank),
    }
}

fn prepare(device: u32) -> v1::Prepare {
    v1::Prepare {
        device,
        world: 2,
        ..v1::Prepare::default()
    }
}

fn abort(attempt: u64) -> Event {
    Event::Abort {
        job: job(),
        attempt: Attempt::new(attempt),
        reason: "rank 1 was lost".into(),
    }
}

fn told_to_leave(effect: &Effect) -> Option<RankKey> {
    match effect {
        Effect::Tell(key, Command::Abort(_)) => Some(key.clone()),
        _ => None,
    }
}

fn progress(step: u64) -> Reported {
    let point = v1::MetricPoint {
        step,
        name: "loss".into(),
        ..v1::MetricPoint::default()
    };
    Reported::Progress(v1::Progress {
        step,
        metrics: vec![point],
        ..v1::Progress::default()
    })
}

fn part(step: u64) -> Reported {
    Reported::PartSaved(v1::PartSaved {
        step,
        objects: Vec::new(),
    })
}

fn ready() -> Reported {
    Reported::Ready(v1::Ready {
        endpoint: "127.0.0.1:1".into(),
        ..v1::Ready::default()
    })
}

impl Table {
    /// An agent with two devices and a coordinator.
    fn new() -> Self {
        let now = Instant::now();
        let mut table = Self {
            state: AgentState::new(PATIENCE, 2, now),
            now,
        };
        assert_eq!(table.apply(Event::Connected), []);
        table
    }

    fn apply(&mut self, event: Event) -> Vec<Effect> {
        let effects = self.state.apply(event, self.now);
        self.check_invariants();
        effects
    }

    fn start(&mut self, attempt: u64, rank: u32, device: u32) -> Vec<Effect> {
        self.apply(Event::Command(
            key(attempt, rank),
            Command::Prepare(prepare(device)),
        ))
    }

    fn exit(&mut self, attempt: u64, rank: u32) -> Vec<Effect> {
        self.apply(Event::Exited(
            key(attempt, rank),
            v1::Exited {
                code: Some(0),
                ..v1::Exited::default()
            },
        ))
    }

    fn later(&mut self, by: Duration) -> Vec<Effect> {
        self.now += by;
        self.apply(Event::Tick)
    }

    fn running(&self) -> Vec<RankKey> {
        self.state.running().map(|(key, _)| key.clone()).collect()
    }

    fn check_invariants(&self) {
        for device in 0..self.state.devices {
            let processes = self
                .state
                .ranks
                .values()
                .filter(|held| held.device == device && held.life.has_process());
            assert!(processes.count() <= 1, "two trainers on device {device}");
        }
        for (key, held) in &self.state.ranks {
            let over = self
                .state
                .over
                .get(&key.job)
                .is_some_and(|over| key.attempt <= *over);
            assert!(
                !over || !matches!(held.life, Life::Running | Life::Waiting(_)),
                "{key} outlives its attempt"
            );
        }
    }
}

#[test]
fn a_prepared_rank_is_started_once() {
    let mut table = Table::new();
    assert_eq!(
        table.start(1, 0, 0),
        [Effect::Spawn(key(1, 0), Box::new(prepare(0)))]
    );
    assert_eq!(table.start(1, 0, 0), [], "the same order after a reconnect");
    assert_eq!(table.running(), [key(1, 0)]);
}

#[test]
fn stale_attempts_start_nothing_and_are_told_nothing() {
    let mut table = Table::new();
    table.start(3, 0, 0);
    for stale in [1, 2] {
        assert!(matches!(
            table.start(stale, 0, 1).as_slice(),
            [Effect::Refused(_, _)]
        ));
        let begin = Event::Command(key(stale, 0), Command::Begin(v1::Begin::default()));
        assert!(matches!(
            table.apply(begin).as_slice(),
            [Effect::Refused(_, _)]
        ));
    }
    table.apply(abort(5));
    assert!(
        matches!(table.start(5, 0, 1).as_slice(), [Effect::Refused(_, _)]),
        "the abort overtook the order"
    );
    assert!(matches!(
        table.start(6, 0, 1).as_slice(),
        [Effect::Spawn(_, _)]
    ));
}

#[test]
fn a_new_attempt_ends_the_old_one_and_waits_for_its_device() {
    let mut table = Table::new();
    table.start(1, 0, 0);
    let effects = table.start(2, 0, 0);
    assert_eq!(
        effects.iter().filter_map(told_to_leave).collect::<Vec<_>>(),
        [key(1, 0)]
    );
    assert!(
        !effects
            .iter()
            .any(|effect| matches!(effect, Effect::Spawn(_, _)))
    );
    let effects = table.exit(1, 0);
    assert!(
        effects.contains(&Effect::Spawn(key(2, 0), Box::new(prepare(0)))),
        "{effects:?}"
    );
}

#[test]
fn a_waiting_rank_that_is_aborted_never_starts() {
    let mut table = Table::new();
    table.start(1, 0, 0);
    table.start(2, 0, 0);
    let effects = table.apply(abort(2));
    assert!(
        matches!(effects.as_slice(), [Effect::Up(gone, Reported::Exited(_))] if *gone == key(2, 0))
    );
    assert!(
        !table
            .exit(1, 0)
            .iter()
            .any(|effect| matches!(effect, Effect::Spawn(_, _)))
    );
}

#[test]
fn impossible_devices_are_refused_to_the_coordinator() {
    let mut table = Table::new();
    assert!(matches!(
        table.start(1, 0, 7).as_slice(),
        [Effect::Up(_, Reported::Failed(_))]
    ));
    table.start(1, 1, 1);
    let other = RankKey {
        job: "other-0a1b2c".parse().expect("a name"),
        ..key(1, 0)
    };
    let effects = table.apply(Event::Command(other, Command::Prepare(prepare(1))));
    assert!(
        matches!(effects.as_slice(), [Effect::Up(_, Reported::Failed(_))]),
        "the device is taken"
    );
}

#[test]
fn an_aborted_rank_that_stays_is_killed_after_the_grace() {
    let mut table = Table::new();
    table.start(1, 0, 0);
    table.start(1, 1, 1);
    let effects = table.apply(abort(1));
    assert_eq!(
        effects.iter().filter_map(told_to_leave).collect::<Vec<_>>(),
        [key(1, 0), key(1, 1)]
    );
    assert_eq!(table.apply(abort(1)), [], "told once");
    assert_eq!(
        table.state.next_deadline(),
        Some(table.now + PATIENCE.abort_grace)
    );
    table.exit(1, 0);
    assert_eq!(
        table.later(PATIENCE.abort_grace - Duration::from_millis(1)),
        []
    );
    assert_eq!(
        table.later(Duration::from_millis(1)),
        [Effect::Kill(key(1, 1))]
    );
    assert_eq!(table.later(PATIENCE.abort_grace), [], "killed once");
    assert_eq!(table.running(), [key(1, 1)], "alive until its end is seen");
}

#[test]
fn events_that_may_be_lost_are_sent_again_after_a_reconnect() {
    let mut table = Table::new();
    table.start(1, 0, 0);
    for event in [ready(), progress(5), progress(9), part(10)] {
        assert_eq!(
            table.apply(Event::Reported(key(1, 0), event.clone())),
            [Effect::Up(key(1, 0), event)]
        );
    }
    table.apply(Event::Disconnected);
    for event in [progress(11), progress(12), part(20)] {
        assert_eq!(
            table.apply(Event::Reported(key(1, 0), event)),
            [],
            "nobody listens"
        );
    }
    let again = table.apply(Event::Connected);
    let Some(Effect::Up(_, Reported::Progress(sent))) = again.get(1) else {
        panic!("{again:?}")
    };
    assert_eq!(sent.step, 12);
    assert_eq!(
        sent.metrics
            .iter()
            .map(|point| point.step)
            .collect::<Vec<_>>(),
        [9, 11, 12]
    );
    let others: Vec<&Effect> = again
        .iter()
        .enumerate()
        .filter(|(at, _)| *at != 1)
        .map(|(_, effect)| effect)
        .collect();
    let up = |event| Effect::Up(key(1, 0), event);
    assert_eq!(others, [&up(ready()), &up(part(10)), &up(part(20))]);
}

#[test]
fn a_commit_settles_the_saves_up_to_it() {
    let mut table = Table::new();
    table.start(1, 0, 0);
    for step in [10, 20, 30] {
        table.apply(Event::Reported(key(1, 0), part(step)));
    }
    let checkpoint = v1::CheckpointRef {
        step: 20,
        ..v1::CheckpointRef::default()
    };
    let committed = Command::Committed(v1::Committed {
        checkpoint: Some(checkpoint),
    });
    assert_eq!(
        table.apply(Event::Command(key(1, 0), committed.clone())),
        [Effect::Tell(key(1, 0), committed)]
    );
    table.apply(Event::Disconnected);
    assert_eq!(
        table.apply(Event::Connected),
        [Effect::Up(key(1, 0), part(30))]
    );
}

#[test]
fn the_end_of_a_rank_is_remembered_for_a_while() {
    let mut table = Table::new();
    table.start(1, 0, 0);
    table.apply(Event::Disconnected);
    assert_eq!(table.exit(1, 0), []);
    assert!(table.running().is_empty());
    assert!(matches!(
        table.apply(Event::Connected).as_slice(),
        [Effect::Up(_, Reported::Exited(_))]
    ));
    table.later(REMEMBER_ENDED);
    assert_eq!(table.apply(Event::Connected), []);
    assert_eq!(table.state.next_deadline(), None);
}

#[test]
fn trainers_go_on_without_a_coordinator_up_to_the_orphan_limit() {
    let mut table = Table::new();
    table.start(1, 0, 0);
    table.apply(Event::Disconnected);
    table.later(PATIENCE.orphan_limit / 2);
    table.apply(Event::Disconnected);
    assert_eq!(
        table.later(PATIENCE.orphan_limit / 2 - Duration::from_secs(1)),
        []
    );
    let effects = table.later(Duration::from_secs(1));
    assert_eq!(
        effects.iter().filter_map(told_to_leave).collect::<Vec<_>>(),
        [key(1, 0)]
    );
}

#[test]
fn a_leaving_agent_ends_its_ranks_and_takes_no_more() {
    let mut table = Table::new();
    table.start(1, 0, 0);
    let effects = table.apply(Event::Stop("SIGTERM".into()));
    assert_eq!(
        effects.iter().filter_map(told_to_leave).collect::<Vec<_>>(),
        [key(1, 0)]
    );
    assert!(matches!(
        table.start(2, 1, 1).as_slice(),
        [Effect::Refused(_, _)]
    ));
}

#[test]
fn a_trainer_that_cannot_start_fails_and_frees_its_device() {
    let mut table = Table::new();
    table.start(1, 0, 0);
    let effects = table.apply(Event::SpawnFailed(key(1, 0), "no such program".into()));
    assert!(matches!(
        effects.as_slice(),
        [
            Effect::Up(_, Reported::Failed(_)),
            Effect::Up(_, Reported::Exited(_))
        ]
    ));
    assert!(matches!(
        table.start(2, 0, 0).as_slice(),
        [Effect::Spawn(_, _)]
    ));
}
