use super::*;

fn stop() -> Event {
    Event::Stop("the worker was told to stop (SIGTERM)".into())
}

fn with_grace(leave_grace: Duration) -> Table {
    let mut table = Table::alone(Patience {
        leave_grace,
        ..PATIENCE
    });
    table.apply(Event::Connected);
    table.train(1);
    table
}

fn announced(effects: &[Effect]) -> Vec<u64> {
    let told = |effect: &Effect| match effect {
        Effect::Leaving(leaving) => Some(leaving.grace_ms),
        _ => None,
    };
    effects.iter().filter_map(told).collect()
}

#[test]
fn orphans_save_and_wait_for_as_long_as_it_takes() {
    let mut table = with_grace(PATIENCE.leave_grace);
    table.apply(Event::Disconnected);
    table.later(PATIENCE.orphan_limit / 2);
    table.apply(Event::Disconnected);
    let rest = PATIENCE.orphan_limit / 2;
    assert_eq!(told_to_save(&table.later(rest - MOMENT)), []);
    let effects = table.later(MOMENT);
    assert_eq!(told_to_save(&effects), [key(1, 0), key(1, 1)]);
    assert_eq!(told_to_leave(&effects), [], "no abort");
    table.report(1, 0, held(7));
    table.report(1, 1, held(7));
    let effects = table.later(PATIENCE.orphan_limit * 20);
    assert_eq!(
        (told_to_save(&effects), told_to_leave(&effects)),
        (vec![], vec![])
    );
    assert_eq!(
        ups(&table.apply(Event::Connected)),
        [(key(1, 0), held(7)), (key(1, 1), held(7))]
    );
}

#[test]
fn orphans_that_do_not_train_just_wait() {
    let mut table = Table::new();
    table.start(1, 0, 0);
    table.start(1, 1, 1);
    table.begin(1, 1);
    table.report(1, 1, Reported::Finished(v1::Finished::default()));
    table.apply(Event::Disconnected);
    let effects = table.later(PATIENCE.orphan_limit * 2);
    assert_eq!(
        (told_to_save(&effects), told_to_leave(&effects)),
        (vec![], vec![])
    );
    assert_eq!(table.running().len(), 2);
}

#[test]
fn a_leaving_agent_says_so_follows_and_takes_no_new_work() {
    let mut table = with_grace(PATIENCE.leave_grace);
    let effects = table.apply(stop());
    assert_eq!(announced(&effects), [120_000]);
    assert_eq!(told_to_leave(&effects), []);
    assert!(!table.state.may_leave());
    table.later(Duration::from_secs(20));
    table.apply(Event::Disconnected);
    let back = table.apply(Event::Connected);
    assert_eq!(announced(&back), [100_000], "said again, with what is left");

    let other = RankKey {
        job: other_job(),
        ..key(1, 0)
    };
    table.report(1, 0, held(7));
    let effects = table.apply(Event::Command(other.clone(), Command::Prepare(prepare(0))));
    assert!(
        matches!(ups(&effects).as_slice(), [(of, Reported::Exited(_))] if *of == other),
        "{effects:?}"
    );
    assert_eq!(
        taken_up(&table.start(2, 0, 0)),
        [key(2, 0)],
        "an order that crossed the announcement goes on with what is here"
    );
    table.apply(Event::Abort(abort(2)));
    table.exit(2, 0);
    assert!(!table.state.may_leave());
    table.exit(1, 1);
    assert!(table.state.may_leave());
}

#[test]
fn an_agent_without_trainers_leaves_at_once() {
    let mut table = Table::new();
    table.apply(stop());
    assert!(table.state.may_leave());
}

#[test]
fn every_grace_ends() {
    for seconds in [0, 1, 10, 120] {
        let grace = Duration::from_secs(seconds);
        let mut table = with_grace(grace);
        let mut effects = table.apply(stop());
        if !grace.is_zero() {
            table.report(1, 1, held(7));
            assert_eq!(told_to_leave(&table.later(grace - MOMENT)), [], "{grace:?}");
            effects = table.later(MOMENT);
        }
        assert_eq!(
            told_to_leave(&effects),
            [(key(1, 0), false), (key(1, 1), false)],
            "{grace:?}: held ones, too"
        );
        table.exit(1, 0);
        assert_eq!(killed(&table.later(PATIENCE.abort_grace)), [key(1, 1)]);
        table.exit(1, 1);
        assert!(table.state.may_leave(), "{grace:?}");
    }
}

#[test]
fn a_second_signal_waits_for_nothing() {
    let mut table = with_grace(PATIENCE.leave_grace);
    table.apply(stop());
    table.later(Duration::from_secs(5));
    let effects = table.apply(stop());
    assert_eq!(announced(&effects), [0]);
    assert_eq!(
        told_to_leave(&effects),
        [(key(1, 0), false), (key(1, 1), false)]
    );
    assert_eq!(table.state.leaves_at(), Some(table.now));
}

#[test]
fn without_a_coordinator_a_leaving_agent_saves_first() {
    let mut table = with_grace(PATIENCE.leave_grace);
    table.apply(Event::Disconnected);
    table.later(Duration::from_secs(30));
    let effects = table.apply(stop());
    assert_eq!(announced(&effects), [] as [u64; 0]);
    assert_eq!(told_to_save(&effects), [key(1, 0), key(1, 1)]);
    assert_eq!(told_to_leave(&effects), []);
    assert_eq!(
        told_to_leave(&table.report(1, 0, held(7))),
        [],
        "the other still saves"
    );
    assert_eq!(
        told_to_leave(&table.report(1, 1, held(7))),
        [(key(1, 0), false), (key(1, 1), false)]
    );
}

#[test]
fn a_coordinator_that_is_away_for_a_moment_keeps_its_say() {
    let mut table = with_grace(PATIENCE.leave_grace);
    table.apply(stop());
    table.apply(Event::Disconnected);
    assert_eq!(told_to_save(&table.later(Duration::from_millis(900))), []);
    table.apply(Event::Connected);
    assert_eq!(told_to_save(&table.later(Duration::from_secs(60))), []);
    table.apply(Event::Disconnected);
    assert_eq!(
        told_to_save(&table.later(Duration::from_secs(1))),
        [key(1, 0), key(1, 1)]
    );
}

#[test]
fn a_save_that_does_not_end_within_the_grace_is_given_up() {
    for seconds in [0, 1, 10, 120] {
        let grace = Duration::from_secs(seconds);
        let mut table = with_grace(grace);
        table.apply(Event::Disconnected);
        let mut effects = table.apply(stop());
        effects.extend(table.later(grace));
        assert_eq!(
            told_to_leave(&effects),
            [(key(1, 0), false), (key(1, 1), false)],
            "{grace:?}"
        );
        assert_eq!(killed(&table.later(PATIENCE.abort_grace)).len(), 2);
    }
}

#[test]
fn what_waits_for_a_device_never_starts_on_a_leaving_agent() {
    let mut table = with_grace(PATIENCE.leave_grace);
    table.apply(Event::Abort(abort(1)));
    table.start(2, 0, 0);
    let effects = table.apply(stop());
    assert!(matches!(ups(&effects).as_slice(), [(of, Reported::Exited(_))] if *of == key(2, 0)));
    assert_eq!(spawned(&table.exit(1, 0)), []);
}
