use super::*;

#[test]
fn a_prepared_rank_is_started_once() {
    let mut table = Table::new();
    assert_eq!(
        table.start(1, 0, 0),
        [Effect::Spawn(
            ProcessId::new(0),
            key(1, 0),
            Box::new(prepare(0))
        )]
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
        assert!(matches!(
            table.begin(stale, 0).as_slice(),
            [Effect::Refused(_, _)]
        ));
    }
    table.apply(Event::Abort(abort(5)));
    assert!(
        matches!(table.start(5, 0, 1).as_slice(), [Effect::Refused(_, _)]),
        "the abort overtook the order"
    );
    assert_eq!(spawned(&table.start(6, 0, 1)), [key(6, 0)]);
}

#[test]
fn a_held_process_goes_on_as_a_rank_of_the_next_attempt() {
    let mut table = Table::training();
    let id = table.id(1, 1);
    table.apply(Event::Abort(keep(1)));
    table.report(1, 1, held(7));
    assert_eq!(
        table.start(2, 0, 1),
        [Effect::Tell(id, key(2, 0), Command::Prepare(prepare(1)))]
    );
    assert_eq!(table.start(2, 0, 1), [], "sent again after a reconnect");
    assert_eq!(table.id(2, 0), id);
}

#[test]
fn a_rank_that_never_heard_of_the_end_of_its_attempt_goes_on_all_the_same() {
    let mut table = Table::training();
    let id = table.id(1, 0);
    let effects = table.start(2, 0, 0);
    assert_eq!(taken_up(&effects), [key(2, 0)]);
    assert_eq!(
        told_to_leave(&effects),
        [(key(1, 1), true)],
        "its neighbour, whose own order is on its way, is kept"
    );
    assert!(
        effects.iter().any(
            |effect| matches!(effect, Effect::Gone(attempt, ..) if *attempt == key(1, 0).of())
        ),
        "the gang that it leaves is told: {effects:?}"
    );
    assert_eq!(table.id(2, 0), id);
    assert_eq!(
        table.start(2, 1, 1),
        [],
        "waits until its process has let go"
    );
    assert_eq!(taken_up(&table.report(1, 1, held(4))), [key(2, 1)]);
}

#[test]
fn a_reserve_takes_its_place_in_the_process_that_stands_by() {
    let mut table = Table::new();
    table.start(1, 2, 0);
    table.report(1, 2, ready());
    table.start(1, 3, 1);
    let effects = table.start(2, 0, 0);
    assert_eq!(taken_up(&effects), [key(2, 0)]);
    assert_eq!(told_to_leave(&effects), [], "the other one still stands by");
    assert_eq!(taken_up(&table.start(2, 1, 1)), [key(2, 1)]);
}

#[test]
fn another_phase_of_the_job_gets_a_fresh_process() {
    let mut table = Table::training();
    table.apply(Event::Abort(keep(1)));
    table.report(1, 0, held(7));
    let next = v1::Prepare {
        phase: 1,
        ..prepare(0)
    };
    let effects = table.apply(Event::Command(key(2, 0), Command::Prepare(next.clone())));
    assert_eq!(
        told_to_leave(&effects),
        [(key(1, 0), false), (key(1, 1), false)]
    );
    assert_eq!(spawned(&effects), []);
    assert_eq!(spawned(&table.exit(1, 0)), [key(2, 0)]);
}

#[test]
fn another_job_takes_the_device_of_a_held_rank_and_never_of_a_running_one() {
    let mut table = Table::training();
    table.apply(Event::Abort(keep(1)));
    table.report(1, 0, held(7));
    let other = RankKey {
        job: other_job(),
        ..key(1, 0)
    };
    let effects = table.apply(Event::Command(other.clone(), Command::Prepare(prepare(0))));
    assert_eq!(told_to_leave(&effects), [(key(1, 0), false)]);
    assert_eq!(spawned(&table.exit(1, 0)), [other]);
    let refused = table.start(2, 0, 0);
    assert!(
        matches!(refused.as_slice(), [Effect::Up(_, Reported::Failed(_))]),
        "the device is taken: {refused:?}"
    );
}

#[test]
fn impossible_devices_are_refused_to_the_coordinator() {
    let mut table = Table::new();
    table.start(1, 1, 0);
    for device in [7, 0] {
        let refused = table.start(1, 0, device);
        assert!(
            matches!(refused.as_slice(), [Effect::Up(_, Reported::Failed(_))]),
            "device {device}: {refused:?}"
        );
    }
}

#[test]
fn a_rank_waits_until_the_former_process_of_its_device_has_let_go() {
    let mut table = Table::training();
    table.apply(Event::Abort(keep(1)));
    assert_eq!(table.start(2, 0, 0), []);
    assert_eq!(table.start(2, 1, 1), []);
    assert_eq!(
        taken_up(&table.report(1, 0, held(7))),
        [key(2, 0)],
        "it held its state"
    );
    assert_eq!(killed(&table.later(PATIENCE.abort_grace)), [key(1, 1)]);
    assert_eq!(
        spawned(&table.exit(1, 1)),
        [key(2, 1)],
        "this one never let go"
    );
}

#[test]
fn a_process_that_ends_before_it_takes_up_its_next_rank_is_replaced() {
    let mut table = Table::training();
    table.apply(Event::Abort(keep(1)));
    table.report(1, 0, held(7));
    table.start(2, 0, 0);
    let effects = table.exit(2, 0);
    assert!(
        matches!(ups(&effects).as_slice(), [(gone, Reported::Exited(_))] if *gone == key(1, 0)),
        "the end is the former rank's: {effects:?}"
    );
    assert_eq!(spawned(&effects), [key(2, 0)]);
    table.report(2, 0, ready());
    let effects = table.exit(2, 0);
    assert!(
        matches!(ups(&effects).as_slice(), [(gone, Reported::Exited(_))] if *gone == key(2, 0))
    );
    assert_eq!(spawned(&effects), []);
}

#[test]
fn what_a_process_said_as_its_former_rank_does_not_count_for_the_new_one() {
    let mut table = Table::training();
    table.apply(Event::Abort(keep(1)));
    table.report(1, 0, held(7));
    table.start(2, 0, 0);
    let id = table.id(2, 0);
    for late in [held(7), progress(7), failed(v1::FailureKind::Internal)] {
        assert_eq!(table.apply(Event::Reported(id, key(1, 0), late)), []);
    }
    assert_eq!(ups(&table.report(2, 0, ready())), [(key(2, 0), ready())]);
}

#[test]
fn a_trainer_that_cannot_start_fails_and_frees_its_device() {
    let mut table = Table::new();
    table.start(1, 0, 0);
    let id = table.id(1, 0);
    let effects = table.apply(Event::SpawnFailed(id, "no such program".into()));
    assert!(matches!(
        effects.as_slice(),
        [
            Effect::Up(_, Reported::Failed(_)),
            Effect::Up(_, Reported::Exited(_))
        ]
    ));
    assert_eq!(spawned(&table.start(2, 0, 0)), [key(2, 0)]);
}

#[test]
fn a_failed_trainer_gives_its_device_up_and_is_not_asked_again() {
    let mut table = Table::training();
    table.report(1, 0, failed(v1::FailureKind::Storage));
    assert_eq!(taken_up(&table.start(2, 0, 0)), []);
    assert_eq!(spawned(&table.exit(1, 0)), [key(2, 0)]);
}

#[test]
fn a_trainer_may_go_on_after_a_number_that_was_not_finite() {
    let mut table = Table::training();
    table.report(1, 0, failed(v1::FailureKind::NonFinite));
    assert_eq!(taken_up(&table.start(2, 0, 0)), [key(2, 0)]);
}
