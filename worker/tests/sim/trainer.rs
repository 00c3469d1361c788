//! Trainers as their agent sees them: processes that hold a state, take steps together over the simulated network, save,
//! and obey. They check at every turn that no step was lost or taken twice.

mod serve; // one attempt

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use diptych_proto::v1;
use diptych_proto::v1::rank_command::Command;
use diptych_proto::v1::rank_event::Event as Reported;
use diptych_worker::agent::core::{ProcessId, RankKey};
use diptych_worker::agent::trainers::{TrainerEvent, Trainers};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::gang::{Frame, Gang, LostPeer};
use crate::save::State;
use crate::world::{Fate, Running, World};

pub(crate) use serve::STEPS;

/// Exit codes, as real trainers have them.
const DONE: i32 = 0;
const FAILED: i32 = 1;
const ENDED: i32 = 4;

/// The trainers of one host.
pub(crate) struct Simulated {
    world: Arc<World>,
    host: &'static str,
    events: mpsc::Sender<TrainerEvent>,
    inboxes: BTreeMap<ProcessId, mpsc::UnboundedSender<(RankKey, Command)>>,
}

impl Simulated {
    pub(crate) fn new(
        world: &Arc<World>,
        host: &'static str,
    ) -> (Self, mpsc::Receiver<TrainerEvent>) {
        let (events, received) = mpsc::channel(1 << 16);
        let trainers = Self {
            world: Arc::clone(world),
            host,
            events,
            inboxes: BTreeMap::new(),
        };
        (trainers, received)
    }
}

impl Trainers for Simulated {
    async fn start(&mut self, id: ProcessId, key: RankKey, prepare: v1::Prepare) -> io::Result<()> {
        let (inbox, received) = mpsc::unbounded_channel();
        let (fate, told) = watch::channel(Fate::Alive);
        let process = Process {
            world: Arc::clone(&self.world),
            host: self.host,
            id,
            events: self.events.clone(),
            inbox: received,
            fate: told,
            state: None,
        };
        let task = tokio::spawn(process.run(key, Box::new(prepare)));
        self.inboxes.insert(id, inbox);
        let running = Running {
            fate,
            task: task.abort_handle(),
            events: self.events.clone(),
        };
        self.world.started(self.host, id, running);
        Ok(())
    }

    fn tell(&mut self, id: ProcessId, key: RankKey, command: Command) {
        if let Some(inbox) = self.inboxes.get(&id) {
            // One that has ended misses it.
            drop(inbox.send((key, command)));
        }
    }

    fn kill(&mut self, id: ProcessId) {
        self.world.kill(self.host, id);
    }

    fn forget(&mut self, id: ProcessId) {
        self.inboxes.remove(&id);
    }
}

struct Process {
    world: Arc<World>,
    host: &'static str,
    id: ProcessId,
    events: mpsc::Sender<TrainerEvent>,
    inbox: mpsc::UnboundedReceiver<(RankKey, Command)>,
    fate: watch::Receiver<Fate>,
    state: Option<State>,
}

/// One attempt of a process.
struct Turn {
    key: RankKey,
    prepare: Box<v1::Prepare>,
    begin: Option<v1::Begin>,
    leave: Option<v1::Leave>,
    committed: u64,
    /// What is being written.
    writes: JoinSet<Reported>,
}

/// Why an attempt is over here.
enum Left {
    /// It keeps its state and waits.
    Held(v1::Held),
    /// The next one.
    Next(RankKey, Box<v1::Prepare>),
    /// The process ends.
    Exit(i32),
}

impl Process {
    async fn run(mut self, key: RankKey, prepare: Box<v1::Prepare>) {
        let mut next = Some((key, prepare));
        let mut code = ENDED;
        while let Some((key, prepare)) = next.take() {
            let mut turn = Turn {
                key,
                prepare,
                begin: None,
                leave: None,
                committed: 0,
                writes: JoinSet::new(),
            };
            let mut left = match self.serve(&mut turn).await {
                Ok(()) => Left::Exit(DONE),
                Err(left) => left,
            };
            if let Left::Held(held) = left {
                self.report(&turn.key, Reported::Held(held));
                left = self.wait(&mut turn).await;
            }
            match left {
                Left::Next(key, prepare) => next = Some((key, prepare)),
                Left::Exit(with) => code = with,
                Left::Held(_) => {}
            }
        }
        self.world.ended(self.host, self.id);
        let exited = v1::Exited {
            code: Some(code),
            ..v1::Exited::default()
        };
        drop(self.events.try_send(TrainerEvent::Exited(self.id, exited)));
    }

    /// Held: until the next assignment, or the end.
    async fn wait(&mut self, turn: &mut Turn) -> Left {
        loop {
            match self.hear(turn).await {
                Ok(()) | Err(Left::Held(_)) => {}
                Err(left) => return left,
            }
        }
    }

    async fn exchange(
        &mut self,
        turn: &mut Turn,
        gang: &mut Gang,
        frame: Frame,
    ) -> Result<BTreeMap<u32, Frame>, Left> {
        match self.until(turn, gang.exchange(frame)).await? {
            Ok(heard) => Ok(heard),
            Err(LostPeer(rank)) => Err(self.held(format!("rank {rank} is lost"), vec![rank])),
        }
    }

    /// Does `work`, and hears what is said meanwhile.
    async fn until<T>(
        &mut self,
        turn: &mut Turn,
        work: impl Future<Output = T>,
    ) -> Result<T, Left> {
        let mut work = std::pin::pin!(work);
        loop {
            let frozen = *self.fate.borrow() == Fate::Frozen;
            tokio::select! {
                biased;
                heard = self.hear(turn) => heard?,
                done = &mut work, if !frozen => return Ok(done),
            }
        }
    }

    /// Takes one thing that happens to it: an order, something that is written, a stop or a going on.
    async fn hear(&mut self, turn: &mut Turn) -> Result<(), Left> {
        if *self.fate.borrow_and_update() == Fate::Frozen {
            // Its sender is dropped with the process only.
            drop(self.fate.changed().await);
            return Ok(());
        }
        let heard = tokio::select! {
            biased;
            _ = self.fate.changed() => return Ok(()),
            Some(written) = turn.writes.join_next() => {
                let Ok(reported) = written else { return Ok(()) };
                let over = matches!(reported, Reported::Failed(_));
                self.report(&turn.key, reported);
                return if over { Err(Left::Exit(FAILED)) } else { Ok(()) };
            }
            heard = self.inbox.recv() => heard,
        };
        let Some((key, command)) = heard else {
            return Err(Left::Exit(ENDED));
        };
        match command {
            Command::Ping(_) => self.report(&turn.key, Reported::Pong(v1::Pong {})),
            Command::Prepare(prepare) if key.attempt > turn.key.attempt => {
                return Err(Left::Next(key, Box::new(prepare)));
            }
            _ if key != turn.key => {}
            Command::Prepare(_) => {}
            Command::Begin(begin) => turn.begin = Some(begin),
            Command::Leave(leave) => {
                let save = leave.save || turn.leave.as_ref().is_some_and(|before| before.save);
                turn.leave = Some(v1::Leave { save, ..leave });
            }
            Command::WriteManifest(order) => self.write_manifest(turn, order),
            Command::Committed(committed) => {
                let step = committed.checkpoint.map_or(0, |checkpoint| checkpoint.step);
                turn.committed = turn.committed.max(step);
            }
            Command::Abort(abort) if abort.keep => return Err(self.held(abort.reason, Vec::new())),
            Command::Abort(_) => return Err(Left::Exit(ENDED)),
        }
        Ok(())
    }

    fn held(&self, reason: String, lost_peers: Vec<u32>) -> Left {
        Left::Held(v1::Held {
            step: self.state.map_or(0, |state| state.step),
            reason,
            lost_peers,
        })
    }

    fn fail(&self, turn: &Turn, kind: v1::FailureKind, object: String) -> Left {
        let failed = v1::Failed {
            object,
            ..serve::failed(kind, String::new())
        };
        self.report(&turn.key, Reported::Failed(failed));
        Left::Exit(FAILED)
    }

    /// Says something; now and then twice.
    fn report(&self, key: &RankKey, event: Reported) {
        let times = if self.world.dice(0..50) == 0 { 2 } else { 1 };
        for _ in 0..times {
            let event = TrainerEvent::Reported(self.id, key.clone(), event.clone());
            drop(self.events.try_send(event));
        }
    }
}
