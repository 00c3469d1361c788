use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::problem::{Capacity, FreeDevice, KeptDevice};
use super::*;

fn problem(workers: &[u32], busy: usize, soon: usize) -> Problem {
    let mut free = Vec::new();
    for (worker, devices) in workers.iter().enumerate() {
        let worker: diptych_common::ids::WorkerId = format!("w{worker:02}").parse().unwrap();
        free.extend((0..*devices).map(|device| FreeDevice {
            kind: Device::Cpu,
            seat: Seat {
                worker: worker.clone(),
                device,
            },
        }));
    }
    let cpu = Capacity {
        total: free.len() + busy + soon,
        soon,
    };
    Problem {
        free,
        cpu,
        ..Problem::default()
    }
}

fn gang(job: &str, min: u32, max: u32) -> GangRequest {
    GangRequest {
        job: job.parse().unwrap(),
        kind: Device::Cpu,
        min,
        max,
        kept: BTreeMap::new(),
    }
}

fn worlds(solution: &Solution) -> Vec<(&str, usize)> {
    solution
        .placed
        .iter()
        .map(|(job, seats)| (job.as_str(), seats.len()))
        .collect()
}

#[test]
fn the_largest_world_that_fits() {
    let solution = solve(&problem(&[1, 1], 0, 0), [gang("a", 1, 4)]);
    assert_eq!(worlds(&solution), [("a", 2)]);
}

#[test]
fn few_workers_and_ranks_in_worker_order() {
    let solution = solve(
        &problem(&[1, 4, 2], 0, 0),
        [gang("a", 2, 2), gang("b", 5, 5)],
    );
    let seats = |n: usize| -> Vec<_> {
        solution.placed[n]
            .1
            .iter()
            .map(|seat| (seat.worker.as_str(), seat.device))
            .collect()
    };
    assert_eq!(seats(0), [("w02", 0), ("w02", 1)]);
    assert_eq!(
        seats(1),
        [("w00", 0), ("w01", 0), ("w01", 1), ("w01", 2), ("w01", 3)]
    );
}

#[test]
fn a_gang_that_fits_later_is_not_starved_by_small_ones() {
    let solution = solve(
        &problem(&[2], 2, 0),
        [gang("big", 4, 4), gang("small", 1, 1)],
    );
    assert_eq!(worlds(&solution), []);
    let needed = Wait::NotEnoughDevices {
        needed: 4,
        free: 2,
        total: 4,
    };
    assert_eq!(solution.waiting, [("big".parse().unwrap(), needed)]);
}

#[test]
fn a_gang_that_never_fits_lets_others_by() {
    let solution = solve(
        &problem(&[2], 0, 0),
        [gang("huge", 9, 9), gang("small", 1, 1)],
    );
    assert_eq!(worlds(&solution), [("small", 1)]);
}

#[test]
fn devices_about_to_be_free_are_waited_for() {
    let solution = solve(&problem(&[1], 0, 1), [gang("a", 1, 2)]);
    assert_eq!(
        solution.waiting,
        [("a".parse().unwrap(), Wait::DevicesReleasing { soon: 1 })]
    );
    let enough = solve(&problem(&[1], 0, 1), [gang("a", 1, 1)]);
    assert_eq!(worlds(&enough), [("a", 1)]);
}

proptest! {
    #[test]
    fn promises(
        workers in prop::collection::vec(0_u32..5, 0..6),
        busy in 0_usize..4,
        soon in 0_usize..3,
        settling: bool,
        gangs in prop::collection::vec((1_u32..6, 0_u32..4), 0..12),
    ) {
        let problem = Problem { settling, ..problem(&workers, busy, soon) };
        let requests: Vec<_> =
            gangs.iter().enumerate().map(|(n, (min, more))| gang(&format!("j{n:02}"), *min, min + more)).collect();
        let solution = solve(&problem, requests.clone());

        let seats: Vec<_> = solution.placed.iter().flat_map(|(_, seats)| seats.clone()).collect();
        let distinct: BTreeSet<_> = seats.iter().collect();
        prop_assert_eq!(distinct.len(), seats.len(), "a device twice");
        prop_assert!(seats.iter().all(|seat| problem.free.iter().any(|free| &free.seat == seat)), "not free");
        for (job, seats) in &solution.placed {
            let request = requests.iter().find(|request| &request.job == job).unwrap();
            prop_assert!((request.min..=request.max).contains(&(seats.len() as u32)), "not whole");
            prop_assert!(seats.is_sorted(), "ranks out of order");
        }
        prop_assert_eq!(&solution, &solve(&problem, requests.clone()), "not deterministic");

        let mut after = problem.clone();
        after.free.retain(|free| !distinct.contains(&free.seat));
        let rest = requests.iter().filter(|r| solution.placed.iter().all(|(job, _)| job != &r.job)).cloned();
        let again = solve(&after, rest);
        prop_assert!(again.placed.is_empty(), "not stable: {:?}", again.placed);
    }
}

/// A problem in which trainers of jobs wait on extra devices of a worker.
fn with_kept(mut problem: Problem, worker: &str, jobs: &[&str]) -> Problem {
    for (device, job) in jobs.iter().enumerate() {
        problem.kept.push(KeptDevice {
            kind: Device::Cpu,
            seat: seat(worker, device as u32),
            job: job.parse().unwrap(),
        });
        problem.cpu.total += 1;
    }
    problem
}

fn seat(worker: &str, device: u32) -> Seat {
    Seat {
        worker: worker.parse().unwrap(),
        device,
    }
}

fn keeping(request: GangRequest, kept: &[(&str, u32, Brings)]) -> GangRequest {
    let kept = kept
        .iter()
        .map(|(worker, device, brings)| (seat(worker, *device), *brings));
    GangRequest {
        kept: kept.collect(),
        ..request
    }
}

#[test]
fn survivors_go_on_at_once_and_alone_where_they_are_enough() {
    let problem = with_kept(problem(&[2], 0, 3), "x", &["a", "a"]);
    let survivors = [("x", 0, Brings::State), ("x", 1, Brings::State)];
    let request = || keeping(gang("a", 1, 4), &survivors);
    let placed = |min| {
        let request = GangRequest { min, ..request() };
        solve(&problem, [gang("first", 7, 7), request]).placed
    };
    let own = vec![("a".parse().unwrap(), vec![seat("x", 0), seat("x", 1)])];
    assert_eq!(
        placed(1),
        own,
        "whoever stands before it, and whatever is about to be free"
    );
    assert_eq!(placed(3), [], "too few: they wait their turn");
    let first = solve(
        &problem,
        [GangRequest {
            min: 3,
            ..request()
        }],
    );
    assert_eq!(worlds(&first), [("a", 4)], "with free devices, at once");
}

#[test]
fn trainers_that_only_load_are_not_waited_for() {
    let problem = with_kept(problem(&[], 0, 0), "x", &["a", "a", "a"]);
    let kept = [
        ("x", 0, Brings::State),
        ("x", 1, Brings::Process),
        ("x", 2, Brings::Readiness),
    ];
    let solution = solve(&problem, [keeping(gang("a", 1, 3), &kept)]);
    assert_eq!(solution.placed[0].1, [seat("x", 0), seat("x", 2)]);
    let stateless = [("x", 1, Brings::Process), ("x", 2, Brings::Readiness)];
    let solution = solve(&problem, [keeping(gang("a", 1, 3), &stateless)]);
    assert_eq!(
        worlds(&solution),
        [("a", 2)],
        "a gang without a state starts anew"
    );
}

#[test]
fn two_halves_never_wait_for_each_other() {
    let problem = with_kept(problem(&[], 0, 0), "x", &["a", "b"]);
    let half = |job: &str, device| keeping(gang(job, 2, 2), &[("x", device, Brings::State)]);
    let solution = solve(&problem, [half("a", 0), half("b", 1)]);
    assert_eq!(
        worlds(&solution),
        [("a", 2)],
        "the first in the queue takes both"
    );
    assert!(matches!(
        solution.waiting[..],
        [(_, Wait::NotEnoughDevices { .. })]
    ));
    let behind = solve(&problem, [half("a", 0), gang("c", 1, 1)]);
    assert_eq!(worlds(&behind), [("a", 2)]);
}

#[test]
fn workers_that_cannot_reach_each_other_are_not_placed_together() {
    let mut problem = problem(&[1, 1, 1], 0, 0);
    let pair = ("w00".parse().unwrap(), "w01".parse().unwrap());
    problem.apart = [pair].into_iter().collect();
    let solution = solve(&problem, [gang("a", 1, 3)]);
    assert_eq!(solution.placed[0].1, [seat("w00", 0), seat("w02", 0)]);
    let solution = solve(&problem, [gang("a", 3, 3)]);
    assert!(matches!(
        solution.waiting[..],
        [(_, Wait::KeptApart { .. })]
    ));
}
