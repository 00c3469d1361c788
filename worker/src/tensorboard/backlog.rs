//! Segments from their first event to the store: in order, one at a time, in bounded memory. No thread, no clock.

use std::collections::VecDeque;

use bytes::Bytes;
use diptych_common::checkpoint::EventsKey;
use diptych_proto::tensorboard::Event;
use diptych_proto::tensorboard::event::What;
use prost::Message as _;

use super::record;

/// What every file begins with.
const VERSION: &str = "brain.Event:2";

/// One event file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// Where it goes.
    pub(super) key: EventsKey,
    /// All of it.
    pub(super) bytes: Bytes,
    events: u64,
}

/// Events that are not in the store yet.
#[derive(Debug)]
pub(super) struct Backlog {
    /// The key of the next segment.
    key: EventsKey,
    /// The most bytes that wait.
    most: usize,
    open: Vec<u8>,
    events: u64,
    closed: VecDeque<Segment>,
    hand: Hand,
    dropped: u64,
}

/// Where the oldest closed segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hand {
    /// Here.
    Free,
    /// With the writer.
    Writing,
    /// Here, and refused: it waits for the next segment, so that a dead store is not asked at every step.
    Refused,
}

impl Backlog {
    pub(super) fn new(key: EventsKey, most: usize) -> Self {
        Self {
            key,
            most,
            open: Vec::new(),
            events: 0,
            closed: VecDeque::new(),
            hand: Hand::Free,
            dropped: 0,
        }
    }

    /// Adds an event to the open segment.
    pub(super) fn add(&mut self, event: &Event) {
        if self.open.is_empty() {
            let version = Event {
                wall_time: event.wall_time,
                step: 0,
                what: Some(What::FileVersion(VERSION.to_owned())),
            };
            record::append(&mut self.open, &version.encode_to_vec());
        }
        record::append(&mut self.open, &event.encode_to_vec());
        self.events += 1;
        self.bound();
    }

    /// Ends the open segment, unless it holds nothing.
    pub(super) fn close(&mut self) {
        if self.hand == Hand::Refused {
            self.hand = Hand::Free;
        }
        if self.open.is_empty() {
            return;
        }
        self.closed.push_back(Segment {
            key: self.key.clone(),
            bytes: std::mem::take(&mut self.open).into(),
            events: std::mem::take(&mut self.events),
        });
        self.key.segment += 1;
    }

    /// The segment to write now, if the writer is free: always the oldest, for readers never turn back to an earlier one.
    pub(super) fn next(&mut self) -> Option<Segment> {
        if self.hand != Hand::Free {
            return None;
        }
        let segment = self.closed.front()?.clone();
        self.hand = Hand::Writing;
        Some(segment)
    }

    /// Hears whether the segment that was given away arrived. One that did not is kept.
    pub(super) fn written(&mut self, arrived: bool) {
        if arrived {
            self.closed.pop_front();
            self.hand = Hand::Free;
        } else {
            self.hand = Hand::Refused;
        }
    }

    /// Whether all closed segments have arrived.
    pub(super) fn is_empty(&self) -> bool {
        self.closed.is_empty()
    }

    /// Events that were given up.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Bytes that wait, those that are being written included.
    pub(super) fn bytes(&self) -> usize {
        let closed = self.closed.iter().map(|one| one.bytes.len());
        closed.sum::<usize>() + self.open.len()
    }

    fn bound(&mut self) {
        while self.bytes() > self.most {
            // The one that is with the writer is not here to be dropped.
            let oldest = usize::from(self.hand == Hand::Writing);
            match self.closed.remove(oldest) {
                Some(segment) => self.dropped += segment.events,
                None if self.open.is_empty() => return,
                None => {
                    self.open.clear();
                    self.dropped += std::mem::take(&mut self.events);
                }
            }
        }
    }
}
