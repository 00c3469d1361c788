//! The fold, its way back from the history, and where its spans go.

use diptych_common::ids::{Attempt, JobId};

use super::exporter::{Counts, Outlet};
use super::fold::Traces;
use crate::core::{Happening, Outcome, State, UnixMs};
use crate::store::{History, StoreError, StoredEvent};

/// What an owner tells of its jobs.
#[derive(Debug)]
pub struct Tracer {
    traces: Traces,
    outlet: Outlet,
}

impl Tracer {
    /// Takes up the jobs of a state that is rebuilt.
    ///
    /// # Errors
    /// Their histories cannot be read.
    pub async fn recalled(
        outlet: Outlet,
        state: &State,
        history: &dyn History,
    ) -> Result<Self, StoreError> {
        let mut traces = Traces::new();
        for job in state.jobs().values().filter(|job| job.is_active()) {
            let mut after = 0;
            loop {
                let page = history.events(job.id(), after).await?;
                let Some(last) = page.last() else { break };
                after = last.id;
                let lines: Vec<Happening> = page
                    .into_iter()
                    .map(|event| happening(job.id(), event))
                    .collect();
                traces.recall(state, &lines);
            }
        }
        Ok(Self { traces, outlet })
    }

    /// Takes a batch that is durable, and sends what ended with it on its way. Never waits.
    pub fn take(
        &mut self,
        state: &State,
        outcomes: &[Outcome],
        happened: &[Happening],
        now: UnixMs,
    ) {
        let ended = self.traces.take(state, outcomes, happened, now);
        self.outlet.send(ended);
    }

    /// What became of its spans.
    pub fn counts(&self) -> &Counts {
        self.outlet.counts()
    }
}

fn happening(job: &JobId, event: StoredEvent) -> Happening {
    Happening {
        job: job.clone(),
        at: event.at,
        kind: event.kind,
        // Empty where it concerns the whole job.
        phase: event.phase.parse().ok(),
        attempt: Attempt::new(event.attempt),
        message: event.message,
    }
}
