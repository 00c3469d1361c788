use super::*;

#[test]
fn events_that_may_be_lost_are_sent_again_after_a_reconnect() {
    let mut table = Table::new();
    table.start(1, 0, 0);
    for event in [ready(), progress(5), progress(9), part(10)] {
        assert_eq!(
            table.report(1, 0, event.clone()),
            [Effect::Up(key(1, 0), event)]
        );
    }
    table.apply(Event::Disconnected);
    for event in [progress(11), progress(12), part(20)] {
        assert_eq!(table.report(1, 0, event), [], "nobody listens");
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
        table.report(1, 0, part(step));
    }
    let checkpoint = v1::CheckpointRef {
        step: 20,
        ..v1::CheckpointRef::default()
    };
    let committed = Command::Committed(v1::Committed {
        checkpoint: Some(checkpoint),
    });
    let id = table.id(1, 0);
    assert_eq!(
        table.apply(Event::Command(key(1, 0), committed.clone())),
        [Effect::Tell(id, key(1, 0), committed)]
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
    for _ in 0..2 {
        assert!(matches!(
            table.apply(Event::Connected).as_slice(),
            [Effect::Up(_, Reported::Exited(_))]
        ));
        table.apply(Event::Disconnected);
    }
    table.later(REMEMBER_ENDED);
    assert_eq!(table.apply(Event::Connected), []);
    assert_eq!(table.state.next_deadline(), None);
}

#[test]
fn a_held_rank_is_listed_and_says_so_again_until_it_is_prepared_again() {
    let mut table = Table::training();
    table.report(1, 0, progress(6));
    table.apply(Event::Abort(keep(1)));
    table.report(1, 0, held(7));
    table.report(1, 1, held(7));
    for _ in 0..2 {
        table.apply(Event::Disconnected);
        let listed: Vec<_> = table.state.running().collect();
        assert!(
            listed
                .iter()
                .all(|rank| rank.held && rank.step == 7 && rank.attempt == 1),
            "{listed:?}"
        );
        assert_eq!(
            ups(&table.apply(Event::Connected)),
            [(key(1, 0), held(7)), (key(1, 1), held(7))]
        );
    }
    table.start(2, 0, 0);
    table.apply(Event::Disconnected);
    assert_eq!(
        ups(&table.apply(Event::Connected)),
        [(key(1, 1), held(7))],
        "the other has begun anew"
    );
    let listed: Vec<_> = table.state.running().collect();
    assert_eq!((listed[0].attempt, listed[0].held), (2, false));
    assert_eq!((listed[1].attempt, listed[1].held), (1, true));
}

#[test]
fn a_manifest_that_was_written_without_a_coordinator_reaches_it_later() {
    let mut table = Table::training();
    table.report(1, 0, progress(5));
    table.apply(Event::Disconnected);
    table.later(PATIENCE.orphan_limit / 2);
    table.report(1, 0, progress(6));
    let written = Reported::ManifestWritten(v1::ManifestWritten {
        checkpoint: Some(v1::CheckpointRef {
            step: 7,
            ..v1::CheckpointRef::default()
        }),
        best: None,
    });
    table.report(1, 0, written.clone());
    table.report(1, 0, held(7));
    let again = ups(&table.apply(Event::Connected));
    let of_rank_0: Vec<_> = again
        .iter()
        .filter(|(of, _)| *of == key(1, 0))
        .map(|(_, event)| event.clone())
        .collect();
    let [Reported::Progress(sent), rest @ ..] = of_rank_0.as_slice() else {
        panic!("measurements that were never sent: {again:?}");
    };
    assert_eq!(sent.step, 6);
    assert_eq!(rest, [written, held(7)]);
}

#[test]
fn held_ranks_take_what_belongs_to_their_save_and_nothing_else() {
    let mut table = Table::training();
    table.report(1, 0, held(7));
    let id = table.id(1, 0);
    let committed = Command::Committed(v1::Committed::default());
    assert_eq!(
        table.apply(Event::Command(key(1, 0), committed.clone())),
        [Effect::Tell(id, key(1, 0), committed)]
    );
    for refused in [
        Command::Begin(begin()),
        Command::Leave(v1::Leave::default()),
        Command::Ping(v1::Ping {}),
    ] {
        let effects = table.apply(Event::Command(key(1, 0), refused));
        assert!(
            matches!(effects.as_slice(), [Effect::Refused(_, _)]),
            "{effects:?}"
        );
    }
}
