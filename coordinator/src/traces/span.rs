//! What has ended, as a collector wants to know it.

use std::collections::VecDeque;

use super::ids::{SpanId, TraceId};
use crate::core::UnixMs;

/// Events of a span; of more, the oldest about checkpoints give way, then the oldest.
const EVENTS: usize = 128;
/// Bytes of a text; of longer ones the end is cut off.
const TEXT: usize = 512;

/// Something that took its time, and has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Of this job's trace.
    pub trace: TraceId,
    /// Its name among all.
    pub id: SpanId,
    /// What it was a part of; `None` for the job.
    pub parent: Option<SpanId>,
    /// What it is, for people: few different ones.
    pub name: String,
    /// When it began.
    pub start: UnixMs,
    /// When it ended; not before it began.
    pub end: UnixMs,
    /// What is known of it.
    pub attributes: Vec<(&'static str, Value)>,
    /// What happened meanwhile, oldest first.
    pub events: Vec<SpanEvent>,
    /// Events that gave way.
    pub left_out: u32,
    /// The first cause, where it failed.
    pub error: Option<String>,
}

/// What is known of a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// In words.
    Text(String),
    /// As a number.
    Number(u64),
    /// In several words.
    Texts(Vec<String>),
}

/// Something that happened within a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanEvent {
    /// When.
    pub at: UnixMs,
    /// What, as a job's history has it.
    pub kind: String,
    /// For people.
    pub message: String,
}

/// Events of a span that is open: a bounded number.
#[derive(Debug, Default)]
pub(super) struct Events {
    kept: VecDeque<SpanEvent>,
    left_out: u32,
}

impl Span {
    /// What is known under a name.
    pub fn attribute(&self, name: &str) -> Option<&Value> {
        let mut known = self.attributes.iter();
        known.find_map(|(key, value)| (*key == name).then_some(value))
    }
}

impl Events {
    pub(super) fn push(&mut self, at: UnixMs, kind: &str, message: &str) {
        if self.kept.len() == EVENTS {
            let usual = |event: &SpanEvent| event.kind.starts_with("checkpoint_");
            let oldest = self.kept.iter().position(usual).unwrap_or(0);
            self.kept.remove(oldest);
            self.left_out += 1;
        }
        self.kept.push_back(SpanEvent {
            at,
            kind: short(kind),
            message: short(message),
        });
    }

    /// Moves them into a span.
    pub(super) fn fill(self, span: &mut Span) {
        span.events = self.kept.into();
        span.left_out = self.left_out;
    }
}

/// A text whose end is cut off where it is too long.
pub(super) fn short(text: &str) -> String {
    if text.len() <= TEXT {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(TEXT)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saves_give_way_to_what_happens_seldom() {
        let mut events = Events::default();
        events.push(UnixMs::new(0), "placed", "");
        for at in 0..1000 {
            events.push(UnixMs::new(at), "checkpoint_committed", "");
        }
        events.push(UnixMs::new(1000), "attempt_failed", &"é".repeat(TEXT));
        assert_eq!(events.kept.len(), EVENTS);
        assert_eq!(events.left_out, 1002 - EVENTS as u32);
        assert_eq!(events.kept[0].kind, "placed");
        assert_eq!(events.kept[1].at, UnixMs::new(1002 - EVENTS as u64));
        let last = events.kept.back().unwrap();
        assert_eq!(last.kind, "attempt_failed");
        assert!(last.message.len() <= TEXT + '…'.len_utf8(), "{last:?}");
    }

    #[test]
    fn without_saves_the_oldest_gives_way() {
        let mut events = Events::default();
        for at in 0..=EVENTS as u64 {
            events.push(UnixMs::new(at), "straggler", "");
        }
        assert_eq!(events.kept[0].at, UnixMs::new(1));
        assert_eq!(events.left_out, 1);
    }
}
