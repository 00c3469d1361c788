//! The decision.

use std::cmp::Reverse;

use diptych_common::ids::JobId;
use diptych_common::spec::Device;

use super::problem::{GangRequest, Problem, Shelf, Solution, Wait};
use crate::core::Seat;

/// The free devices of one kind, while a solution is made.
#[derive(Debug)]
struct Pool {
    kind: Device,
    shelves: Vec<Shelf>,
    free: usize,
    /// The first job that waits for what is left, which nobody behind it may take.
    kept_for: Option<JobId>,
}

/// Places gangs, given in the order of their claims.
///
/// All or nothing, on one kind of device, the largest world that fits. A gang that the cluster could hold but that
/// does not fit now keeps what is free for itself, so that small gangs behind it never starve it; one that the
/// cluster cannot hold at all keeps nothing. The rest of the requests is not read once no device is left.
/// Deterministic, and stable: solved again with its placements made, nothing moves.
pub fn solve(problem: &Problem, requests: impl IntoIterator<Item = GangRequest>) -> Solution {
    let pool = |kind| {
        let shelves = problem.shelves(kind);
        Pool {
            kind,
            free: shelves.iter().map(|shelf| shelf.devices.len()).sum(),
            shelves,
            kept_for: None,
        }
    };
    let mut pools = [pool(Device::Cpu), pool(Device::Cuda)];
    let mut solution = Solution::default();
    for request in requests {
        let pool = match request.kind {
            Device::Cpu => &mut pools[0],
            Device::Cuda => &mut pools[1],
        };
        match decide(problem, pool, &request) {
            Ok(world) => solution.placed.push((request.job, pool.take(world))),
            Err(wait) => solution.waiting.push((request.job, wait)),
        }
        if pools.iter().all(Pool::is_closed) {
            break;
        }
    }
    solution
}

/// The world of a gang, or why it waits; what it waits for is kept for it.
fn decide(problem: &Problem, pool: &mut Pool, request: &GangRequest) -> Result<usize, Wait> {
    let capacity = problem.capacity(pool.kind);
    let (min, max) = (request.min as usize, request.max as usize);
    let too_few = Wait::NotEnoughDevices {
        needed: request.min,
        free: pool.free,
        total: capacity.total,
    };
    if min > capacity.total {
        return Err(too_few);
    }
    if let Some(first) = &pool.kept_for {
        return Err(Wait::BehindOtherJobs {
            first: first.clone(),
        });
    }
    let world = max.min(pool.free);
    let wait = if world < max && capacity.soon > 0 {
        Wait::DevicesReleasing {
            soon: capacity.soon,
        }
    } else if world < min {
        too_few
    } else if world < max && problem.settling {
        Wait::WorkersJoining
    } else {
        return Ok(world);
    };
    pool.kept_for = Some(request.job.clone());
    Err(wait)
}

impl Pool {
    /// Whether nobody else can be placed from it.
    fn is_closed(&self) -> bool {
        self.free == 0 || self.kept_for.is_some()
    }

    /// Takes seats on as few workers as can be (links within a machine are the fastest): the smallest shelf that
    /// holds all of it, else the largest first. Ranks follow the order of workers and devices.
    fn take(&mut self, world: usize) -> Vec<Seat> {
        let mut seats = Vec::with_capacity(world);
        while seats.len() < world {
            let wanted = world - seats.len();
            let score = |shelf: &&mut Shelf| {
                let held = shelf.devices.len();
                (Reverse(held.min(wanted)), held, shelf.worker.clone())
            };
            let best = self
                .shelves
                .iter_mut()
                .filter(|shelf| !shelf.devices.is_empty())
                .min_by_key(score);
            let Some(shelf) = best else { break };
            let taken = wanted.min(shelf.devices.len());
            let worker = &shelf.worker;
            seats.extend(shelf.devices.drain(..taken).map(|device| Seat {
                worker: worker.clone(),
                device,
            }));
        }
        self.free -= seats.len();
        seats.sort();
        seats
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::problem::{Capacity, FreeDevice};
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
}
