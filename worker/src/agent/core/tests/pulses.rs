use super::super::pulse::{HELD_UP, PING};
use super::*;

/// Trainers say nothing but what they are made to say.
fn silent(mut table: Table) -> Table {
    table.answers = false;
    table
}

fn pong() -> Reported {
    Reported::Pong(v1::Pong {})
}

#[test]
fn a_trainer_is_asked_once_it_has_spoken() {
    let mut table = silent(Table::new());
    table.start(1, 0, 0);
    assert_eq!(pinged(&table.later(PATIENCE.unresponsive * 2)), []);
    assert_eq!(table.state.next_deadline(), None, "loading may take long");
    assert_eq!(table.report(1, 0, pong()), [], "pongs stay here");
    assert_eq!(pinged(&table.later(PING)), [key(1, 0)]);
    assert_eq!(pinged(&table.later(PING)), [key(1, 0)]);
}

#[test]
fn any_word_counts_as_life() {
    let mut table = silent(Table::training());
    table.report(1, 1, pong());
    let third = PATIENCE.unresponsive / 3;
    for step in 0..9 {
        assert_eq!(killed(&table.later(third)), []);
        table.report(1, 0, progress(step));
        table.report(1, 1, pong());
    }
}

#[test]
fn a_silent_trainer_is_reported_as_stalled_and_killed() {
    let mut table = silent(Table::training());
    assert_eq!(killed(&table.later(PATIENCE.unresponsive - MOMENT)), []);
    table.report(1, 1, pong());
    let effects = table.later(MOMENT);
    assert_eq!(killed(&effects), [key(1, 0)]);
    let told = ups(&effects);
    let [(of, Reported::Failed(failed))] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!(*of, key(1, 0));
    assert_eq!(failed.kind(), v1::FailureKind::Stalled);
    assert!(failed.message.contains("3.0 s"), "{}", failed.message);
    assert_eq!(
        told_to_leave(&effects),
        [(key(1, 1), true)],
        "its neighbour would wait for it in a collective"
    );
    table.report(1, 1, held(3));
    table.report(1, 1, pong());
    assert_eq!(pinged(&table.later(PING)), [key(1, 1)]);
}

#[test]
fn a_held_trainer_is_watched_as_well() {
    let mut table = silent(Table::training());
    table.report(1, 0, held(3));
    table.report(1, 1, held(3));
    assert_eq!(
        killed(&table.later(PATIENCE.unresponsive)),
        [key(1, 0), key(1, 1)]
    );
}

#[test]
fn an_agent_that_was_itself_held_up_forgives() {
    let mut table = silent(Table::training());
    table.now += PING + HELD_UP + PATIENCE.unresponsive * 9;
    assert_eq!(killed(&table.apply(Event::Tick)), []);
    assert_eq!(killed(&table.later(PATIENCE.unresponsive - MOMENT)), []);
    assert_eq!(
        killed(&table.later(MOMENT)),
        [key(1, 0)],
        "but not for ever"
    );
}

#[test]
fn another_event_than_its_tick_may_be_the_first_to_show_that_it_was_held_up() {
    let mut table = silent(Table::training());
    table.now += PING + HELD_UP + PATIENCE.unresponsive * 9;
    let effects = table.report(1, 1, progress(3));
    assert_eq!(killed(&effects), []);
}
