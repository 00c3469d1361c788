//! Events of a rank that a broken stream may have swallowed: they are sent again after the next registration, and the
//! coordinator takes a repeated one for what it is.

use std::collections::BTreeMap;

use diptych_proto::v1;
use diptych_proto::v1::rank_command::Command;
use diptych_proto::v1::rank_event::Event;

/// The events of one rank that matter after they were sent.
#[derive(Debug, Default)]
pub struct Kept {
    ready: Option<v1::Ready>,
    progress: Option<v1::Progress>,
    activity: Option<v1::Activity>,
    /// By step, until the save is committed.
    parts: BTreeMap<u64, v1::PartSaved>,
    /// By step, until the save is committed.
    manifests: BTreeMap<u64, v1::ManifestWritten>,
    /// Finished, failed, exited: at most one each, in the order in which they came.
    end: Vec<Event>,
}

/// Measurements that wait for a coordinator; the oldest go first.
const MOST_MEASUREMENTS: usize = 16_384;

impl Kept {
    /// Remembers an event that went onto the stream. Only the newest progress counts.
    pub fn sent(&mut self, event: &Event) {
        match event {
            Event::Progress(progress) => self.progress = Some(progress.clone()),
            other => self.keep(other),
        }
    }

    /// Remembers an event for which there was no stream. Progress is merged, so that no measurement is lost.
    pub fn missed(&mut self, event: &Event) {
        match event {
            Event::Progress(newer) => {
                let mut metrics = self
                    .progress
                    .take()
                    .map(|older| older.metrics)
                    .unwrap_or_default();
                metrics.extend(newer.metrics.iter().cloned());
                let excess = metrics.len().saturating_sub(MOST_MEASUREMENTS);
                metrics.drain(..excess);
                self.progress = Some(v1::Progress {
                    metrics,
                    ..newer.clone()
                });
            }
            other => self.keep(other),
        }
    }

    /// Forgets what a command of the coordinator proves to have arrived.
    pub fn commanded(&mut self, command: &Command) {
        if let Command::Committed(v1::Committed {
            checkpoint: Some(checkpoint),
        }) = command
        {
            self.parts.retain(|step, _| *step > checkpoint.step);
            self.manifests.retain(|step, _| *step > checkpoint.step);
        }
    }

    /// Everything, in an order that makes sense to the coordinator.
    pub fn again(&self) -> impl Iterator<Item = Event> {
        let ready = self.ready.iter().cloned().map(Event::Ready);
        let progress = self.progress.iter().cloned().map(Event::Progress);
        let activity = self.activity.iter().cloned().map(Event::Activity);
        let parts = self.parts.values().cloned().map(Event::PartSaved);
        let manifests = self.manifests.values().cloned().map(Event::ManifestWritten);
        ready
            .chain(progress)
            .chain(activity)
            .chain(parts)
            .chain(manifests)
            .chain(self.end.iter().cloned())
    }

    fn keep(&mut self, event: &Event) {
        match event {
            Event::Ready(ready) => self.ready = Some(ready.clone()),
            Event::Activity(activity) => self.activity = Some(*activity),
            Event::PartSaved(part) => {
                self.parts.insert(part.step, part.clone());
            }
            Event::ManifestWritten(written) => {
                let step = written
                    .checkpoint
                    .as_ref()
                    .map_or(0, |checkpoint| checkpoint.step);
                self.manifests.insert(step, written.clone());
            }
            Event::Finished(_) | Event::Failed(_) | Event::Exited(_) => {
                let same =
                    |held: &Event| std::mem::discriminant(held) == std::mem::discriminant(event);
                if !self.end.iter().any(same) {
                    self.end.push(event.clone());
                }
            }
            Event::Progress(_) | Event::Notice(_) | Event::Held(_) | Event::Pong(_) => {}
        }
    }
}
