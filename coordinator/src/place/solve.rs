//! The decision.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use diptych_common::ids::JobId;
use diptych_common::spec::Device;

use super::problem::{GangRequest, Problem, Shelf, Solution, Wait};
use crate::core::{Apart, Brings, Pair, Seat};

/// The devices of one kind, while a solution is made.
#[derive(Debug)]
struct Pool<'a> {
    kind: Device,
    shelves: Vec<Shelf>,
    /// On which trainers of jobs that are still to be decided wait.
    kept: BTreeMap<Seat, JobId>,
    apart: &'a Apart,
    /// The first job that waits for what is left, which nobody behind it may take.
    kept_for: Option<JobId>,
}

/// Places gangs, given in the order of their claims.
///
/// All or nothing, on one kind of device, the largest world that fits. A gang whose own trainers wait with the state, in
/// sufficient number, goes on with exactly these, before anything else is decided: it was running. A gang that the cluster
/// could hold but that does not fit now keeps what is free for itself, so that small gangs behind it never starve it; one
/// that the cluster cannot hold at all keeps nothing. Where trainers of a gang wait that is too small to go on, the gangs
/// before it may take their devices, so that no two halves wait for each other; those behind it never do. Workers that
/// could not reach each other are not placed together. Deterministic, and stable: solved again with its placements made,
/// nothing moves.
pub fn solve(problem: &Problem, requests: impl IntoIterator<Item = GangRequest>) -> Solution {
    let mut pools = [Device::Cpu, Device::Cuda].map(|kind| Pool::of(problem, kind));
    let mut solution = Solution::default();
    let mut rest = Vec::new();
    for request in requests {
        let pool = pool_of(&mut pools, request.kind);
        match pool.go_on(&request) {
            Some(seats) => {
                pool.take(&request.job, &seats);
                solution.placed.push((request.job, seats));
            }
            None => rest.push(request),
        }
    }
    for request in rest {
        if pools.iter().all(Pool::is_closed) && !solution.waiting.is_empty() {
            break;
        }
        let pool = pool_of(&mut pools, request.kind);
        match decide(problem, pool, &request) {
            Ok(seats) => {
                pool.take(&request.job, &seats);
                solution.placed.push((request.job, seats));
            }
            Err(wait) => {
                // Nobody behind it takes what waits for it.
                pool.kept.retain(|_, job| *job != request.job);
                solution.waiting.push((request.job, wait));
            }
        }
    }
    solution
}

fn pool_of<'a, 'p>(pools: &'a mut [Pool<'p>; 2], kind: Device) -> &'a mut Pool<'p> {
    let [cpu, cuda] = pools;
    match kind {
        Device::Cpu => cpu,
        Device::Cuda => cuda,
    }
}

/// The seats of a gang, or why it waits; what it waits for is kept for it.
fn decide(
    problem: &Problem,
    pool: &mut Pool<'_>,
    request: &GangRequest,
) -> Result<Vec<Seat>, Wait> {
    let capacity = problem.capacity(pool.kind);
    let (min, max) = (request.min as usize, request.max as usize);
    let own = pool.own(request);
    let too_few = Wait::NotEnoughDevices {
        needed: request.min,
        free: pool.free() + own.len(),
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
    let mut seats = pool.choose(own.clone(), max);
    if seats.len() < min {
        seats = pool.choose(
            own.into_iter().chain(pool.others(&request.job)).collect(),
            min,
        );
    }
    let was_running = request.kept.values().any(|brings| *brings == Brings::State);
    let world = seats.len();
    let wait = if world < max && capacity.soon > 0 && !(was_running && world >= min) {
        Wait::DevicesReleasing {
            soon: capacity.soon,
        }
    } else if world < min {
        match pool.obstacle(&seats) {
            Some((one, other)) => Wait::KeptApart { one, other },
            None => too_few,
        }
    } else if world < max && problem.settling && !was_running {
        Wait::WorkersJoining
    } else {
        return Ok(seats);
    };
    pool.kept_for = Some(request.job.clone());
    Err(wait)
}

impl<'a> Pool<'a> {
    fn of(problem: &'a Problem, kind: Device) -> Self {
        let kept = problem.kept.iter().filter(|kept| kept.kind == kind);
        Self {
            kind,
            shelves: problem.shelves(kind),
            kept: kept
                .map(|kept| (kept.seat.clone(), kept.job.clone()))
                .collect(),
            apart: &problem.apart,
            kept_for: None,
        }
    }

    /// Whether nobody else can be placed from it.
    fn is_closed(&self) -> bool {
        self.kept_for.is_some() || (self.kept.is_empty() && self.free() == 0)
    }

    fn free(&self) -> usize {
        self.shelves.iter().map(|shelf| shelf.devices.len()).sum()
    }

    /// The gang's own trainers that wait on devices which it may use, those that bring most first.
    fn own(&self, request: &GangRequest) -> Vec<Seat> {
        let mut own: Vec<_> = request
            .kept
            .iter()
            .filter(|(seat, _)| self.kept.get(*seat) == Some(&request.job))
            .map(|(seat, brings)| (rank_of(*brings), seat.clone()))
            .collect();
        own.sort();
        own.into_iter().map(|(_, seat)| seat).collect()
    }

    /// Devices on which trainers of other jobs wait that are still to be decided.
    fn others(&self, job: &JobId) -> Vec<Seat> {
        let others = self.kept.iter().filter(|(_, other)| *other != job);
        others.map(|(seat, _)| seat.clone()).collect()
    }

    /// The seats of a gang that was running and can go on with its own trainers.
    fn go_on(&self, request: &GangRequest) -> Option<Vec<Seat>> {
        let brings = |seat: &Seat| request.kept.get(seat).copied();
        let mut own = self.own(request);
        own.retain(|seat| brings(seat) != Some(Brings::Process));
        if own.iter().all(|seat| brings(seat) != Some(Brings::State)) {
            return None;
        }
        let seats = self.together(own, request.max as usize);
        (seats.len() >= request.min as usize).then_some(seats)
    }

    /// The first seats of a list that may be together, in rank order.
    fn together(&self, wanted: Vec<Seat>, most: usize) -> Vec<Seat> {
        let mut seats: Vec<Seat> = Vec::new();
        for seat in wanted {
            if seats.len() < most && self.apart.agrees(&seats, &seat.worker) {
                seats.push(seat);
            }
        }
        seats.sort();
        seats
    }

    /// The pair of workers that keeps a gang from being larger, if one does.
    fn obstacle(&self, seats: &[Seat]) -> Option<Pair> {
        let shelves = self
            .shelves
            .iter()
            .filter(|shelf| !shelf.devices.is_empty());
        shelves
            .into_iter()
            .find_map(|shelf| self.apart.conflict(seats, &shelf.worker))
    }

    /// Seats for a gang: of the list given first, then free ones on as few workers as can be (links within a machine are
    /// the fastest): the smallest shelf that holds all of the rest, else the largest first. Ranks follow the order of
    /// workers and devices.
    fn choose(&self, first: Vec<Seat>, world: usize) -> Vec<Seat> {
        let mut seats = self.together(first, world);
        let mut shelves = self.shelves.clone();
        while seats.len() < world {
            let wanted = world - seats.len();
            let score = |shelf: &&mut Shelf| {
                let held = shelf.devices.len();
                (Reverse(held.min(wanted)), held, shelf.worker.clone())
            };
            let best = shelves
                .iter_mut()
                .filter(|shelf| {
                    !shelf.devices.is_empty() && self.apart.agrees(&seats, &shelf.worker)
                })
                .min_by_key(score);
            let Some(shelf) = best else { break };
            let taken = wanted.min(shelf.devices.len());
            let worker = &shelf.worker;
            seats.extend(shelf.devices.drain(..taken).map(|device| Seat {
                worker: worker.clone(),
                device,
            }));
        }
        seats.sort();
        seats
    }

    /// These seats are a job's now; what else waited for it is given up.
    fn take(&mut self, job: &JobId, seats: &[Seat]) {
        self.kept
            .retain(|seat, kept| kept != job && !seats.contains(seat));
        for shelf in &mut self.shelves {
            let taken = |device: &u32| {
                seats
                    .iter()
                    .any(|seat| seat.worker == shelf.worker && seat.device == *device)
            };
            shelf.devices.retain(|device| !taken(device));
        }
    }
}

/// Those that bring most come first.
fn rank_of(brings: Brings) -> u8 {
    match brings {
        Brings::State => 0,
        Brings::Readiness => 1,
        Brings::Process => 2,
    }
}

#[cfg(test)]
mod tests;
