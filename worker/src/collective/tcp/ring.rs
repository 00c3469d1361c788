//! Large payloads: which bytes a rank sends and receives, as a pure plan, and the one loop that runs every plan.
//!
//! In every plan what a rank sends after its first `head` bytes is what it received, in the same order: so a byte may
//! be passed on as soon as it has arrived (and been added), and all links of the ring work at the same time.

use std::ops::Range;

use super::channel::Channel;
use crate::collective::sum;
use crate::collective::{CollectiveError, Dtype};

/// Most bytes moved by one system call; also the size of the buffer in which received terms of a sum are held. On
/// loopback 2 MiB was faster than every smaller power of two.
const CHUNK_BYTES: usize = 2 << 20;

/// One rank's part in moving a buffer round the ring. Ranges are bytes of that buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    to: usize,
    from: usize,
    outgoing: Vec<Range<usize>>,
    incoming: Vec<Range<usize>>,
    /// So many of the incoming ranges are added to the buffer; the rest replace it.
    added: usize,
    /// Bytes that may be sent before any has been received.
    head: usize,
}

/// A position in a list of ranges.
#[derive(Debug)]
struct Cursor<'a> {
    ranges: &'a [Range<usize>],
    index: usize,
    within: usize,
    passed: usize,
}

/// Cuts `elements` into `world` consecutive segments whose sizes differ by one element at most, as byte ranges.
fn segments(elements: usize, element_bytes: usize, world: usize) -> Vec<Range<usize>> {
    let (each, longer) = (elements / world, elements % world);
    let start = |segment: usize| (segment * each + segment.min(longer)) * element_bytes;
    (0..world)
        .map(|segment| start(segment)..start(segment + 1))
        .collect()
}

// === impl Plan ===

impl Plan {
    /// Reduce-scatter, then all-gather: segment s is summed in the order of ranks s, s+1, … round the ring, so every
    /// element's sum is taken once, in one order, and then copied.
    pub(super) fn all_reduce(
        elements: usize,
        element_bytes: usize,
        rank: usize,
        world: usize,
    ) -> Self {
        Self::around(
            &segments(elements, element_bytes, world),
            rank,
            2 * (world - 1),
            world - 1,
        )
    }

    /// Every rank's part travels once round the ring; `parts` are consecutive and in rank order.
    pub(super) fn all_gather(parts: &[Range<usize>], rank: usize) -> Self {
        Self::around(parts, rank, parts.len() - 1, 0)
    }

    /// The root's bytes travel along the ring until the rank before the root.
    pub(super) fn broadcast(bytes: usize, rank: usize, root: usize, world: usize) -> Self {
        let whole = |wanted: bool| wanted.then_some(0..bytes).into_iter().collect();
        let (to, from) = neighbours(rank, world);
        Self {
            to,
            from,
            outgoing: whole(to != root),
            incoming: whole(rank != root),
            added: 0,
            head: if rank == root { bytes } else { 0 },
        }
    }

    fn around(parts: &[Range<usize>], rank: usize, steps: usize, added: usize) -> Self {
        let world = parts.len();
        let part = |back: usize| parts[(rank + 2 * world - back) % world].clone();
        let (to, from) = neighbours(rank, world);
        Self {
            to,
            from,
            outgoing: (0..steps).map(part).collect(),
            incoming: (1..=steps).map(part).collect(),
            added,
            head: part(0).len(),
        }
    }

    /// Moves the bytes; returns when this rank has sent and received all of its own.
    pub(super) fn run(
        &self,
        channel: &Channel,
        dtype: Dtype,
        data: &mut [u8],
    ) -> Result<(), CollectiveError> {
        let mut outgoing = Cursor::new(&self.outgoing);
        let mut incoming = Cursor::new(&self.incoming);
        let mut terms = vec![0; if self.added > 0 { CHUNK_BYTES } else { 0 }];
        let mut held = 0;
        loop {
            let mut moved = 0;
            let ready = (self.head + incoming.passed).saturating_sub(outgoing.passed);
            let send = outgoing.window(ready.min(CHUNK_BYTES));
            if !send.is_empty() {
                let sent = channel.try_send(self.to, &data[send.clone()])?;
                outgoing.pass(sent);
                moved += sent;
            }
            let receive = incoming.window(CHUNK_BYTES);
            if !receive.is_empty() && incoming.index < self.added {
                let received = channel.try_receive(self.from, &mut terms[held..receive.len()])?;
                held += received;
                let whole = held - held % dtype.bytes();
                sum::add(
                    dtype,
                    &mut data[receive.start..receive.start + whole],
                    &terms[..whole],
                );
                terms.copy_within(whole..held, 0);
                held -= whole;
                incoming.pass(whole);
                moved += received;
            } else if !receive.is_empty() {
                let received = channel.try_receive(self.from, &mut data[receive.clone()])?;
                incoming.pass(received);
                moved += received;
            }
            if outgoing.at_end() && incoming.at_end() {
                return Ok(());
            }
            if moved == 0 {
                let to = (!send.is_empty()).then_some(self.to);
                let from = (!receive.is_empty()).then_some(self.from);
                channel.wait(to.into_iter(), from.into_iter())?;
            }
        }
    }
}

fn neighbours(rank: usize, world: usize) -> (usize, usize) {
    ((rank + 1) % world, (rank + world - 1) % world)
}

// === impl Cursor ===

impl<'a> Cursor<'a> {
    fn new(ranges: &'a [Range<usize>]) -> Self {
        let mut cursor = Self {
            ranges,
            index: 0,
            within: 0,
            passed: 0,
        };
        cursor.pass(0);
        cursor
    }

    /// The next bytes, at most `most` of them and all of one range; empty at the end.
    fn window(&self, most: usize) -> Range<usize> {
        self.ranges.get(self.index).map_or(0..0, |range| {
            let start = range.start + self.within;
            start..range.end.min(start + most)
        })
    }

    /// Moves on by so many bytes of the current window, past ranges that are done or empty.
    fn pass(&mut self, bytes: usize) {
        self.within += bytes;
        self.passed += bytes;
        while self
            .ranges
            .get(self.index)
            .is_some_and(|range| self.within >= range.len())
        {
            self.index += 1;
            self.within = 0;
        }
    }

    fn at_end(&self) -> bool {
        self.index == self.ranges.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs all ranks' plans against queues instead of sockets, `step` bytes at a time, in the order of `turns`.
    fn simulate(plans: &[Plan], buffers: &mut [Vec<u8>], turns: &[usize], step: usize) {
        let world = plans.len();
        let mut queues = vec![std::collections::VecDeque::new(); world];
        let mut sent: Vec<Cursor<'_>> = plans
            .iter()
            .map(|plan| Cursor::new(&plan.outgoing))
            .collect();
        let mut got: Vec<Cursor<'_>> = plans
            .iter()
            .map(|plan| Cursor::new(&plan.incoming))
            .collect();
        let mut turns = turns.iter().cycle();
        let mut idle = 0;
        while !(sent.iter().chain(&got).all(Cursor::at_end)) {
            let rank = *turns.next().expect("turns are not empty") % world;
            idle += 1;
            let plan = &plans[rank];
            let ready = plan.head + got[rank].passed - sent[rank].passed;
            for at in sent[rank].window(ready.min(step)) {
                queues[plan.to].push_back(buffers[rank][at]);
                sent[rank].pass(1);
                idle = 0;
            }
            for at in got[rank].window(step) {
                let Some(byte) = queues[rank].pop_front() else {
                    break;
                };
                let added = got[rank].index < plan.added;
                buffers[rank][at] = if added {
                    buffers[rank][at].wrapping_add(byte)
                } else {
                    byte
                };
                got[rank].pass(1);
                idle = 0;
            }
            assert!(idle < 1000, "the ring stands still");
        }
    }

    fn filled(world: usize, len: usize) -> Vec<Vec<u8>> {
        (0..world)
            .map(|rank| (0..len).map(|i| (i * 7 + rank * 31 + 1) as u8).collect())
            .collect()
    }

    proptest! {
        #[test]
        fn segments_tile_the_buffer_evenly(elements in 0_usize..1000, size in 1_usize..9, world in 1_usize..9) {
            let cut = segments(elements, size, world);
            prop_assert_eq!(cut.len(), world);
            prop_assert_eq!((cut[0].start, cut[world - 1].end), (0, elements * size));
            prop_assert!(cut.windows(2).all(|pair| pair[0].end == pair[1].start));
            let lens = || cut.iter().map(|range| range.len());
            prop_assert!(lens().all(|len| len % size == 0));
            prop_assert!(lens().max() <= lens().min().map(|least| least + size));
        }

        #[test]
        fn every_rank_ends_with_the_sum(
            world in 2_usize..6, len in 0_usize..40, step in 1_usize..9, mut turns in proptest::collection::vec(0_usize..6, 0..20),
        ) {
            turns.extend(0..world);
            let mut buffers = filled(world, len);
            let sum: Vec<u8> = (0..len)
                .map(|i| buffers.iter().fold(0, |sum: u8, buffer| sum.wrapping_add(buffer[i])))
                .collect();
            let plans: Vec<Plan> = (0..world).map(|rank| Plan::all_reduce(len, 1, rank, world)).collect();
            simulate(&plans, &mut buffers, &turns, step);
            prop_assert!(buffers.iter().all(|buffer| *buffer == sum));
        }

        #[test]
        fn every_rank_ends_with_all_parts(
            lens in proptest::collection::vec(0_usize..12, 2..6), step in 1_usize..9,
        ) {
            let world = lens.len();
            let mut end = 0;
            let parts: Vec<Range<usize>> = lens.iter().map(|len| { end += len; end - len..end }).collect();
            let source = filled(world, end);
            let expected: Vec<u8> =
                parts.iter().enumerate().flat_map(|(rank, part)| source[rank][part.clone()].to_vec()).collect();
            let mut buffers = source;
            let plans: Vec<Plan> = (0..world).map(|rank| Plan::all_gather(&parts, rank)).collect();
            simulate(&plans, &mut buffers, &(0..world).collect::<Vec<_>>(), step);
            prop_assert!(buffers.iter().all(|buffer| *buffer == expected));
        }

        #[test]
        fn every_rank_ends_with_the_roots_bytes(
            world in 2_usize..6, root in 0_usize..6, len in 0_usize..40, step in 1_usize..9,
        ) {
            let root = root % world;
            let mut buffers = filled(world, len);
            let expected = buffers[root].clone();
            let plans: Vec<Plan> = (0..world).map(|rank| Plan::broadcast(len, rank, root, world)).collect();
            simulate(&plans, &mut buffers, &(0..world).collect::<Vec<_>>(), step);
            prop_assert!(buffers.iter().all(|buffer| *buffer == expected));
        }
    }
}
