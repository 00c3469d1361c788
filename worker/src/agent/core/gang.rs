//! What the agents of one attempt's workers tell each other: a collective whose peer is gone is freed even where no
//! coordinator is there to say so.

use std::collections::{BTreeMap, BTreeSet};

use diptych_common::ids::{Rank, WorkerId};
use diptych_proto::v1;
use tokio::time::Instant;

use super::{AgentState, AttemptKey, Effect, Life, Link, LinkOrder, RankKey, Stage};

/// An attempt that has begun here.
#[derive(Debug, Default)]
pub(super) struct Gang {
    /// Whether it has agents to talk to.
    linked: bool,
    /// Those whose link was lost and is not back.
    lost: BTreeSet<WorkerId>,
    /// A rank has left it, here or elsewhere: nobody of it trains here any more.
    pub(super) broken: bool,
}

impl AgentState {
    pub(super) fn join_gang(
        &mut self,
        key: &RankKey,
        begin: &v1::Begin,
        secret: Vec<u8>,
        effects: &mut Vec<Effect>,
    ) {
        let attempt = key.of();
        if self.gangs.contains_key(&attempt) {
            return;
        }
        let mut peers = BTreeMap::new();
        for peer in &begin.peers {
            // A worker without a valid name, or without this service, has no agent to talk to.
            if let Ok(worker) = peer.worker.parse::<WorkerId>()
                && worker != self.me
                && !peer.agent.is_empty()
            {
                peers.insert(worker, peer.agent.clone());
            }
        }
        let linked = !peers.is_empty();
        if linked {
            effects.push(Effect::Link(attempt.clone(), LinkOrder { secret, peers }));
        }
        self.gangs.insert(
            attempt,
            Gang {
                linked,
                ..Gang::default()
            },
        );
    }

    /// A rank of an attempt has left it, or cannot be reached: those here leave their collectives and keep their
    /// state, and the other agents are told. `rank` is one of this worker's, if one of them was the first.
    pub(super) fn break_gang(
        &mut self,
        attempt: &AttemptKey,
        rank: Option<Rank>,
        reason: &str,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let Some(gang) = self.gangs.get_mut(attempt).filter(|gang| !gang.broken) else {
            return;
        };
        gang.broken = true;
        let linked = gang.linked;
        let kill_at = now + self.patience.hold_grace;
        let mut first = rank;
        for process in self.processes_mut() {
            if process.trains() && process.key.of() == *attempt {
                first = first.or(Some(process.key.rank));
                process.hold(reason, kill_at, effects);
            }
        }
        if let Some(rank) = first
            && linked
        {
            effects.push(Effect::Gone(attempt.clone(), rank, reason.to_owned()));
        }
    }

    pub(super) fn link_up(&mut self, attempt: &AttemptKey, worker: &WorkerId) {
        if let Some(gang) = self.gangs.get_mut(attempt) {
            gang.lost.remove(worker);
        }
    }

    /// While there is a coordinator it decides what a lost link means.
    pub(super) fn link_lost(
        &mut self,
        attempt: &AttemptKey,
        worker: WorkerId,
        reason: &str,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let Some(gang) = self.gangs.get_mut(attempt).filter(|gang| !gang.broken) else {
            return;
        };
        match self.link {
            Link::Up => effects.push(lost(attempt, &worker, reason)),
            Link::Down { .. } => {}
        }
        gang.lost.insert(worker);
        if matches!(self.link, Link::Down { .. }) {
            self.leave_unreachable(now, effects);
        }
    }

    /// Without a coordinator, a gang with a lost link is given up here: its collectives may never end by themselves.
    pub(super) fn leave_unreachable(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let given_up: Vec<_> = self
            .gangs
            .iter()
            .filter(|(_, gang)| !gang.broken)
            .filter_map(|(attempt, gang)| Some((attempt.clone(), gang.lost.first()?.clone())))
            .collect();
        for (attempt, worker) in given_up {
            let reason =
                format!("no coordinator, and the link to the agent of worker {worker} is lost");
            self.break_gang(&attempt, None, &reason, now, effects);
        }
    }

    /// The stream may have swallowed what was said of links before.
    pub(super) fn say_lost_links(&self, effects: &mut Vec<Effect>) {
        for (attempt, gang) in self.gangs.iter().filter(|(_, gang)| !gang.broken) {
            for worker in &gang.lost {
                effects.push(lost(attempt, worker, "it is not back"));
            }
        }
    }

    /// Links live as long as a rank of the attempt is in it here, or on its way out of it.
    pub(super) fn unlink_ended(&mut self, effects: &mut Vec<Effect>) {
        let alive: BTreeSet<_> = self
            .processes()
            .filter(|process| match &process.life {
                Life::Running(Stage::Asked { .. }) | Life::Held { .. } => false,
                Life::Running(_) | Life::Leaving { .. } | Life::Killed => true,
            })
            .map(|process| process.key.of())
            .collect();
        self.gangs.retain(|attempt, gang| {
            let lives = alive.contains(attempt);
            if !lives && gang.linked {
                effects.push(Effect::Unlink(attempt.clone()));
            }
            lives
        });
    }
}

fn lost(attempt: &AttemptKey, worker: &WorkerId, reason: &str) -> Effect {
    Effect::LinkLost(v1::LinkLost {
        worker: worker.to_string(),
        job: attempt.job.to_string(),
        attempt: attempt.attempt.get(),
        reason: reason.to_owned(),
    })
}
