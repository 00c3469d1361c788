//! Reports of batches that could not be committed: applied again, in their order, until the database can be written.
//! However long that takes, they are bounded.

use std::collections::BTreeMap;

use diptych_common::ids::{Attempt, JobId, Rank};

use crate::core::{Event, RankEvent, RankReport, SessionId};

/// Reports that are kept, heartbeats and progress aside.
const LIMIT: usize = 50_000;
/// Measurements that are kept of one rank; the oldest give way.
const METRICS: usize = 4096;

/// Reports to apply again.
#[derive(Debug)]
pub(super) struct Again {
    next: u64,
    limit: usize,
    events: BTreeMap<u64, Event>,
    /// Where the newest of those is of which only the newest counts.
    newest: BTreeMap<Newest, u64>,
}

/// Of what only the newest counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Newest {
    Heartbeat(SessionId),
    Progress(JobId, Attempt, Rank),
}

impl Default for Again {
    fn default() -> Self {
        Self {
            next: 0,
            limit: LIMIT,
            events: BTreeMap::new(),
            newest: BTreeMap::new(),
        }
    }
}

impl Again {
    /// What is kept, in the order in which it came.
    pub(super) fn events(&self) -> impl Iterator<Item = &Event> {
        self.events.values()
    }

    /// Keeps a report. Where there is no room, the answer is the stream whose agent has to come back and say again
    /// what matters.
    pub(super) fn keep(&mut self, mut event: Event) -> Option<SessionId> {
        let newest = newest(&event);
        if let Some(key) = &newest {
            let former = self.newest.get(key).and_then(|at| self.events.remove(at));
            if let Some(former) = former {
                merge(former, &mut event);
            }
        } else if self.events.len() - self.newest.len() >= self.limit {
            return session(&event);
        }
        if let Some(key) = newest {
            self.newest.insert(key, self.next);
        }
        self.events.insert(self.next, event);
        self.next += 1;
        None
    }
}

fn newest(event: &Event) -> Option<Newest> {
    match event {
        Event::Heartbeat { session, .. } => Some(Newest::Heartbeat(*session)),
        Event::Rank(RankReport {
            job,
            attempt,
            rank,
            event: RankEvent::Progress { .. },
            ..
        }) => Some(Newest::Progress(job.clone(), *attempt, *rank)),
        _ => None,
    }
}

/// Takes the measurements of a former report into the newer one.
fn merge(former: Event, newer: &mut Event) {
    let (Event::Rank(former), Event::Rank(newer)) = (former, newer) else {
        return;
    };
    if let (
        RankEvent::Progress { metrics: older, .. },
        RankEvent::Progress { metrics: newer, .. },
    ) = (former.event, &mut newer.event)
    {
        newer.splice(0..0, older);
        let excess = newer.len().saturating_sub(METRICS);
        newer.drain(..excess);
    }
}

fn session(event: &Event) -> Option<SessionId> {
    match event {
        Event::Registered(registration) => Some(registration.session),
        Event::Heartbeat { session, .. }
        | Event::Reset { session, .. }
        | Event::Leaving { session, .. }
        | Event::LinkLost { session, .. }
        | Event::DeviceTrouble { session, .. } => Some(*session),
        Event::Rank(report) => Some(report.session),
        Event::Verified(report) => Some(report.session),
        Event::Submit(_)
        | Event::Cancel { .. }
        | Event::Retry { .. }
        | Event::Delete { .. }
        | Event::Scale(_)
        | Event::Cordon { .. }
        | Event::Drain { .. }
        | Event::Pin { .. }
        | Event::Check { .. }
        | Event::Tick
        | Event::Place => None,
    }
}

#[cfg(test)]
mod tests {
    use diptych_common::ids::Step;

    use super::*;
    use crate::core::Metric;

    fn heartbeat(session: u64) -> Event {
        Event::Heartbeat {
            session: SessionId(session),
            worker: "w1".parse().unwrap(),
        }
    }

    fn rank(event: RankEvent) -> Event {
        Event::Rank(RankReport {
            session: SessionId(1),
            worker: "w1".parse().unwrap(),
            job: "job-1".parse().unwrap(),
            attempt: Attempt::new(1),
            rank: Rank::new(0),
            event,
        })
    }

    fn progress(step: u64) -> Event {
        let step = Step::new(step);
        let metric = Metric {
            step,
            name: "loss".to_owned(),
            value: 1.0,
        };
        rank(RankEvent::Progress {
            step,
            total: 10,
            images_per_s: 1.0,
            step_s: 1.0,
            waited_s: 0.0,
            metrics: vec![metric],
        })
    }

    fn part(step: u64) -> Event {
        rank(RankEvent::PartSaved {
            step: Step::new(step),
            objects: Vec::new(),
            stall: None,
        })
    }

    #[test]
    fn a_long_outage_costs_one_heartbeat_a_stream_and_one_progress_a_rank() {
        let mut again = Again::default();
        again.keep(part(0));
        for step in 1..=10_000 {
            assert_eq!(again.keep(heartbeat(1)), None);
            assert_eq!(again.keep(heartbeat(2)), None);
            assert_eq!(again.keep(progress(step)), None);
        }
        let kept: Vec<_> = again.events().collect();
        assert_eq!(kept.len(), 4);
        let Event::Rank(RankReport {
            event: RankEvent::Progress { step, metrics, .. },
            ..
        }) = kept[3]
        else {
            panic!("{:?}", kept[3])
        };
        assert_eq!((step.get(), metrics.len()), (10_000, METRICS));
        assert_eq!(metrics[METRICS - 1].step, *step);
    }

    #[test]
    fn what_finds_no_room_costs_its_agent_the_stream() {
        let mut again = Again {
            limit: 2,
            ..Again::default()
        };
        assert_eq!(again.keep(part(1)), None);
        assert_eq!(again.keep(part(2)), None);
        assert_eq!(again.keep(part(3)), Some(SessionId(1)));
        assert_eq!(again.keep(progress(3)), None, "bounded by itself");
        assert_eq!(again.events().count(), 3);
    }
}
