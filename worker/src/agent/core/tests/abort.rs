use super::*;

#[test]
fn an_aborted_rank_that_stays_is_killed_after_the_grace() {
    let mut table = Table::training();
    let effects = table.apply(Event::Abort(abort(1)));
    assert_eq!(
        told_to_leave(&effects),
        [(key(1, 0), false), (key(1, 1), false)]
    );
    let again = table.apply(Event::Abort(abort(1)));
    assert_eq!(told_to_leave(&again), [], "told once");
    table.exit(1, 0);
    assert_eq!(killed(&table.later(PATIENCE.abort_grace - MOMENT)), []);
    assert_eq!(killed(&table.later(MOMENT)), [key(1, 1)]);
    assert_eq!(
        killed(&table.later(PATIENCE.abort_grace)),
        [],
        "killed once"
    );
    assert_eq!(table.running(), [key(1, 1)], "alive until its end is seen");
}

#[test]
fn kept_ranks_say_that_they_hold_their_state_or_are_killed() {
    let mut table = Table::training();
    let effects = table.apply(Event::Abort(keep(1)));
    assert_eq!(
        told_to_leave(&effects),
        [(key(1, 0), true), (key(1, 1), true)]
    );
    assert_eq!(ups(&table.report(1, 0, held(7))), [(key(1, 0), held(7))]);
    assert_eq!(killed(&table.later(PATIENCE.abort_grace)), [key(1, 1)]);
    assert_eq!(killed(&table.later(PATIENCE.orphan_limit)), []);
}

#[test]
fn ranks_that_are_named_end_although_the_others_are_kept() {
    let mut table = Table::training();
    let order = AbortOrder {
        end: [Rank::new(1)].into(),
        ..keep(1)
    };
    let effects = table.apply(Event::Abort(order));
    assert_eq!(
        told_to_leave(&effects),
        [(key(1, 0), true), (key(1, 1), false)]
    );
    table.report(1, 0, held(3));
    let end = AbortOrder {
        end: [Rank::new(0)].into(),
        ..keep(1)
    };
    assert_eq!(
        told_to_leave(&table.apply(Event::Abort(end))),
        [(key(1, 0), false)],
        "a held one, too"
    );
}

/// One rank in each of its lives, and what each order makes of it.
#[test]
fn every_life_knows_every_abort() {
    type Reach = fn(&mut Table);
    let lives: [(&str, Reach); 6] = [
        ("preparing", |_| {}),
        ("training", |table| drop(table.begin(1, 0))),
        ("leaving to hold", |table| {
            drop(table.apply(Event::Abort(keep(1))))
        }),
        ("held", |table| drop(table.report(1, 0, held(1)))),
        ("leaving to end", |table| {
            drop(table.apply(Event::Abort(abort(1))))
        }),
        ("finished", |table| {
            drop(table.report(1, 0, Reported::Finished(v1::Finished::default())))
        }),
    ];
    let told = |keep| vec![(key(1, 0), keep)];
    for (life, reach) in lives {
        let expected = match life {
            "leaving to hold" | "held" => (vec![], told(false)),
            "leaving to end" => (vec![], vec![]),
            _ => (told(true), told(false)),
        };
        for (order, expected) in [(keep(1), expected.0), (abort(1), expected.1)] {
            let mut table = Table::new();
            table.start(1, 0, 0);
            reach(&mut table);
            let what = format!("{life}, keep: {}", order.keep);
            let effects = table.apply(Event::Abort(order.clone()));
            assert_eq!(told_to_leave(&effects), expected, "{what}");
            let again = table.apply(Event::Abort(order));
            assert_eq!(told_to_leave(&again), [], "{what}, twice");
            let killed = killed(&table.later(PATIENCE.abort_grace));
            let stays = what == "held, keep: true";
            assert_eq!(killed.is_empty(), stays, "{what}");
        }
    }
}

#[test]
fn attempts_that_were_never_seen_and_other_jobs_leave_everything_alone() {
    let mut table = Table::new();
    assert_eq!(table.apply(Event::Abort(keep(9))), []);
    assert!(matches!(
        table.start(9, 0, 0).as_slice(),
        [Effect::Refused(_, _)]
    ));
    table.train(10);
    for order in [abort(9), keep(3)] {
        assert_eq!(table.apply(Event::Abort(order)), [], "an earlier attempt");
    }
    let other = AbortOrder {
        job: other_job(),
        ..abort(99)
    };
    assert_eq!(table.apply(Event::Abort(other)), []);
    assert_eq!(table.running(), [key(10, 0), key(10, 1)]);
}

#[test]
fn an_abort_ends_earlier_attempts_as_well() {
    let mut table = Table::training();
    let order = AbortOrder {
        end: [Rank::new(0)].into(),
        ..keep(4)
    };
    assert_eq!(
        told_to_leave(&table.apply(Event::Abort(order))),
        [(key(1, 0), true), (key(1, 1), true)],
        "rank 0 of attempt 4 is another one"
    );
}

#[test]
fn a_waiting_rank_that_is_aborted_never_starts() {
    let mut table = Table::training();
    table.apply(Event::Abort(abort(1)));
    table.start(2, 0, 0);
    let effects = table.apply(Event::Abort(abort(2)));
    assert!(
        matches!(ups(&effects).as_slice(), [(gone, Reported::Exited(_))] if *gone == key(2, 0))
    );
    assert_eq!(spawned(&table.exit(1, 0)), []);
}

#[test]
fn a_state_survives_a_second_abort_before_it_was_taken_up() {
    let mut table = Table::training();
    table.apply(Event::Abort(keep(1)));
    table.start(2, 0, 0);
    assert_eq!(table.apply(Event::Abort(keep(2))), []);
    let effects = table.report(1, 0, held(7));
    assert_eq!(taken_up(&effects), [key(2, 0)]);
    assert_eq!(told_to_leave(&effects), [(key(2, 0), true)]);
    table.report(2, 0, held(7));
    let listed: Vec<_> = table.state.running().collect();
    assert_eq!(
        (listed[0].attempt, listed[0].held, listed[0].step),
        (2, true, 7)
    );
}

#[test]
fn an_abort_that_comes_late_takes_no_state_from_the_attempt_that_waits_for_it() {
    let mut table = Table::training();
    table.apply(Event::Abort(keep(1)));
    table.start(2, 0, 0);
    assert_eq!(
        told_to_leave(&table.apply(Event::Abort(abort(1)))),
        [(key(1, 1), false)],
        "nobody waits for the other one"
    );
    assert_eq!(taken_up(&table.report(1, 0, held(7))), [key(2, 0)]);
}

#[test]
fn a_rank_whose_process_dies_while_it_is_held_back_never_starts() {
    let mut table = Table::training();
    table.apply(Event::Abort(keep(1)));
    table.start(2, 0, 0);
    table.apply(Event::Abort(keep(2)));
    let effects = table.exit(1, 0);
    let gone: Vec<_> = ups(&effects).into_iter().map(|(key, _)| key).collect();
    assert_eq!(gone, [key(1, 0), key(2, 0)]);
    assert_eq!(spawned(&effects), []);
}

#[test]
fn a_newer_attempt_replaces_one_that_waits() {
    let mut table = Table::training();
    table.apply(Event::Abort(keep(1)));
    table.start(2, 0, 0);
    let effects = table.start(3, 0, 0);
    assert!(
        matches!(ups(&effects).as_slice(), [(gone, Reported::Exited(_))] if *gone == key(2, 0))
    );
    assert_eq!(taken_up(&table.report(1, 0, held(7))), [key(3, 0)]);
}
