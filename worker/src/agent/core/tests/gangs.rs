use super::*;

fn gone(effects: &[Effect]) -> Vec<(u64, u32)> {
    let gone = |effect: &Effect| match effect {
        Effect::Gone(attempt, rank, _) => Some((attempt.attempt.get(), rank.get())),
        _ => None,
    };
    effects.iter().filter_map(gone).collect()
}

fn attempt(number: u64) -> AttemptKey {
    key(number, 0).of()
}

fn peer_gone(number: u64) -> Event {
    Event::PeerGone {
        attempt: attempt(number),
        worker: worker(1),
        rank: Rank::new(2),
        reason: "its process was ended by signal 9".into(),
    }
}

fn link_lost(number: u64) -> Event {
    Event::LinkLost(attempt(number), worker(5), "silent for 5 s".into())
}

#[test]
fn the_other_agents_of_a_gang_are_linked_when_it_begins() {
    let mut table = Table::new();
    table.start(1, 0, 0);
    let effects = table.begin(1, 0);
    let peers = [(1, "10.0.0.1:2"), (5, "10.0.0.5:2")]
        .map(|(number, address)| (worker(number), address.to_owned()));
    let order = LinkOrder {
        secret: vec![7; 32],
        peers: peers.into(),
    };
    assert_eq!(effects[0], Effect::Link(attempt(1), order));
    assert!(matches!(&effects[1], Effect::Tell(_, _, Command::Begin(_))));
    let again = table.begin(1, 0);
    assert!(matches!(
        again.as_slice(),
        [Effect::Tell(_, _, Command::Begin(_))]
    ));
}

#[test]
fn a_gang_of_one_worker_needs_no_links() {
    let mut table = Table::new();
    table.start(1, 0, 0);
    let mut begin = begin();
    begin.peers.truncate(2);
    let effects = table.apply(Event::Command(key(1, 0), Command::Begin(begin)));
    assert!(matches!(
        effects.as_slice(),
        [Effect::Tell(_, _, Command::Begin(_))]
    ));
    assert_eq!(gone(&table.exit(1, 0)), []);
}

#[test]
fn every_way_out_of_a_gang_is_told_to_the_others() {
    type Way = fn(&mut Table) -> Vec<Effect>;
    let ways: [(&str, Way); 7] = [
        ("exit", |table| table.exit(1, 0)),
        ("failure", |table| {
            table.report(1, 0, failed(v1::FailureKind::Storage))
        }),
        ("not finite", |table| {
            table.report(1, 0, failed(v1::FailureKind::NonFinite))
        }),
        ("lost peers", |table| {
            let held = v1::Held {
                lost_peers: vec![2],
                ..v1::Held::default()
            };
            table.report(1, 0, Reported::Held(held))
        }),
        ("abort", |table| table.apply(Event::Abort(keep(1)))),
        ("silence", |table| {
            table.answers = false;
            table.later(PATIENCE.unresponsive / 2);
            table.report(1, 1, Reported::Pong(v1::Pong {}));
            table.later(PATIENCE.unresponsive / 2)
        }),
        ("next attempt", |table| table.start(2, 0, 0)),
    ];
    for (name, way) in ways {
        let mut table = Table::training();
        let effects = way(&mut table);
        assert_eq!(gone(&effects), [(1, 0)], "{name}");
        assert_eq!(
            told_to_leave(&effects).last(),
            Some(&(key(1, 1), true)),
            "{name}: its neighbour here leaves its collective as well"
        );
    }
}

#[test]
fn ends_by_plan_are_nobodys_loss() {
    let mut table = Table::training();
    for rank in 0..2 {
        let effects = table.report(1, rank, held(7));
        assert_eq!((gone(&effects), told_to_leave(&effects)), (vec![], vec![]));
    }
    let mut table = Table::training();
    table.report(1, 0, Reported::Finished(v1::Finished::default()));
    let effects = table.exit(1, 0);
    assert_eq!((gone(&effects), told_to_leave(&effects)), (vec![], vec![]));
    let mut table = Table::new();
    table.start(1, 2, 0);
    table.report(1, 2, ready());
    assert_eq!(gone(&table.exit(1, 2)), [], "a reserve is in no collective");
}

#[test]
fn a_peer_that_is_gone_frees_the_ranks_here() {
    let mut table = Table::training();
    table.apply(Event::Disconnected);
    let effects = table.apply(peer_gone(1));
    assert_eq!(
        told_to_leave(&effects),
        [(key(1, 0), true), (key(1, 1), true)]
    );
    assert_eq!(
        gone(&effects),
        [(1, 0)],
        "whoever has no link there hears it from here"
    );
    assert_eq!(table.apply(peer_gone(1)), [], "once");
    assert_eq!(killed(&table.later(PATIENCE.abort_grace)).len(), 2);
}

#[test]
fn other_attempts_and_ranks_outside_the_collectives_stay() {
    let mut table = Table::training();
    assert_eq!(table.apply(peer_gone(2)), []);
    assert_eq!(table.apply(link_lost(2)), []);
    let mut table = Table::new();
    for rank in 0..2 {
        table.start(1, rank, rank);
    }
    table.begin(1, 0);
    let effects = table.apply(peer_gone(1));
    assert_eq!(told_to_leave(&effects), [(key(1, 0), true)]);
    let late = table.begin(1, 1);
    assert!(
        matches!(late.as_slice(), [Effect::Refused(_, _)]),
        "nobody joins a gang that is broken: {late:?}"
    );
}

#[test]
fn with_a_coordinator_a_lost_link_is_its_to_judge() {
    let mut table = Table::training();
    let effects = table.apply(link_lost(1));
    assert!(
        matches!(effects.as_slice(), [Effect::LinkLost(lost)] if lost.worker == "worker-5" && lost.attempt == 1),
        "{effects:?}"
    );
    table.apply(Event::Disconnected);
    assert_eq!(table.running().len(), 2);
}

#[test]
fn without_a_coordinator_a_lost_link_frees_the_ranks() {
    let kept = [(key(1, 0), true), (key(1, 1), true)];
    let mut table = Table::training();
    table.apply(Event::Disconnected);
    assert_eq!(told_to_leave(&table.apply(link_lost(1))), kept);

    let mut table = Table::training();
    table.apply(link_lost(1));
    let effects = table.apply(Event::Disconnected);
    assert_eq!(told_to_leave(&effects), kept, "in either order");
}

#[test]
fn a_link_that_is_back_is_not_lost() {
    let mut table = Table::training();
    table.apply(link_lost(1));
    table.apply(Event::LinkUp(attempt(1), worker(5)));
    assert_eq!(told_to_leave(&table.apply(Event::Disconnected)), []);
}

#[test]
fn a_lost_link_is_told_again_to_a_coordinator_that_may_have_missed_it() {
    let mut table = Table::training();
    table.apply(link_lost(1));
    let effects = table.apply(Event::Connected);
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::LinkLost(_)))
    );
}

#[test]
fn links_end_with_the_attempt() {
    let unlinked = |effects: &[Effect]| effects.contains(&Effect::Unlink(attempt(1)));
    let mut table = Table::training();
    table.report(1, 0, held(7));
    assert!(unlinked(&table.report(1, 1, held(7))), "all are held");
    let mut table = Table::training();
    table.apply(Event::Abort(abort(1)));
    assert!(!unlinked(&table.exit(1, 0)));
    assert!(unlinked(&table.exit(1, 1)), "all have ended");
    let mut table = Table::training();
    table.report(1, 0, held(7));
    table.report(1, 1, held(7));
    table.start(2, 0, 0);
    table.report(2, 0, ready());
    let effects = table.begin(2, 0);
    assert!(matches!(&effects[0], Effect::Link(linked, _) if *linked == attempt(2)));
}
