use std::sync::mpsc;
use std::time::Duration;

use diptych_common::spec::JobDraft;
use diptych_proto::v1;
use diptych_proto::v1::rank_command::Command as Sent;
use diptych_proto::v1::rank_event::Event;
use prost::Message as _;

use super::*;

const SPEC: &str = "apiVersion: diptych/v1\nname: x\nstorage: file:///x\ndata: {train: {url: file:///x}}\n\
    encoder: {depth: 18}\nphases:\n- {name: x, kind: pretrain, batch: 20, steps: 3, \
    optimizer: {kind: sgd, learning_rate: 1.0}, augment: {image_size: 32}}\n";

/// Work that hears nothing until the test lets it go on.
struct Deaf {
    begun: mpsc::Sender<u64>,
    go_on: mpsc::Receiver<Result<Ended, PhaseError>>,
    forgotten: bool,
}

impl Work for Deaf {
    fn attempt(&mut self, assignment: Assignment, _control: &Control) -> Result<Ended, PhaseError> {
        self.begun.send(assignment.attempt.get()).expect("begun");
        self.go_on.recv().expect("the test says how")
    }

    fn forget(&mut self) {
        self.forgotten = true;
    }

    fn holds(&self) -> Option<Step> {
        Some(Step::new(7))
    }

    fn outlives(&self, error: &PhaseError) -> bool {
        matches!(error, PhaseError::NonFinite { .. })
    }
}

/// The agent's end of a trainer that runs as a thread.
struct Agent {
    socket: UnixStream,
    begun: mpsc::Receiver<u64>,
    go_on: mpsc::Sender<Result<Ended, PhaseError>>,
    trainer: std::thread::JoinHandle<u8>,
}

impl Agent {
    fn new() -> Self {
        let (socket, commands) = UnixStream::pair().expect("a socket pair");
        let patience = Some(Duration::from_secs(60));
        socket.set_read_timeout(patience).expect("a timeout");
        let reports = commands.try_clone().expect("a clone");
        let (begin, begun) = mpsc::channel();
        let (go_on, go) = mpsc::channel();
        let place = Place {
            device: 0,
            data_address: "127.0.0.1".into(),
            threads: 1,
            memory: None,
            work_dir: "/nowhere".into(),
        };
        let trainer = std::thread::spawn(move || {
            let mut work = Deaf {
                begun: begin,
                go_on: go,
                forgotten: false,
            };
            serve(commands, reports, place, &mut work).expect("it was assigned")
        });
        Self {
            socket,
            begun,
            go_on,
            trainer,
        }
    }

    fn say(&mut self, attempt: u64, command: Sent) {
        use std::io::Write as _;
        let sent = v1::RankCommand {
            job: "digits-00aa11".into(),
            attempt,
            rank: 0,
            command: Some(command),
        };
        let body = sent.encode_to_vec();
        let length = u32::try_from(body.len()).expect("short").to_le_bytes();
        self.socket
            .write_all(&[&length, body.as_slice()].concat())
            .expect("the trainer reads");
    }

    fn prepare(&mut self, attempt: u64) {
        let draft = JobDraft::from_yaml(SPEC).expect("a draft");
        let prepare = v1::Prepare {
            spec: Some(draft.into()),
            world: 1,
            secret: vec![1; 32],
            ..v1::Prepare::default()
        };
        self.say(attempt, Sent::Prepare(prepare));
    }

    fn abort(&mut self, attempt: u64, keep: bool) {
        let reason = "the test wants it".to_owned();
        self.say(attempt, Sent::Abort(v1::AbortRank { reason, keep }));
    }

    fn hear(&mut self) -> (u64, Event) {
        use std::io::Read as _;
        let mut length = [0; 4];
        self.socket.read_exact(&mut length).expect("a report");
        let mut body = vec![0; u32::from_le_bytes(length) as usize];
        self.socket.read_exact(&mut body).expect("a report");
        let event = v1::RankEvent::decode(body.as_slice()).expect("a RankEvent");
        (event.attempt, event.event.expect("a report"))
    }

    /// The exit status. The socket stays open: a trainer whose agent has gone ends its whole process.
    fn status(self) -> u8 {
        let status = self.trainer.join().expect("no panic");
        std::mem::forget(self.socket);
        status
    }
}

fn left() -> Result<Ended, PhaseError> {
    Err(PhaseError::Aborted("it was told to".into()))
}

#[test]
fn a_ping_is_answered_whatever_the_main_thread_does() {
    let mut agent = Agent::new();
    agent.prepare(3);
    assert_eq!(agent.begun.recv(), Ok(3));
    for _ in 0..3 {
        agent.say(3, Sent::Ping(v1::Ping {}));
        assert_eq!(agent.hear(), (3, Event::Pong(v1::Pong {})));
    }
    agent.abort(3, false);
    agent.go_on.send(left()).expect("it waits");
    assert_eq!(agent.status(), ABORTED);
}

#[test]
fn one_process_serves_attempt_after_attempt() {
    let mut agent = Agent::new();
    agent.prepare(3);
    assert_eq!(agent.begun.recv(), Ok(3));
    agent.abort(3, true);
    // The answer says that the abort before it was heard, too.
    agent.say(3, Sent::Ping(v1::Ping {}));
    assert_eq!(agent.hear(), (3, Event::Pong(v1::Pong {})));
    agent.go_on.send(left()).expect("it waits");
    let (attempt, Event::Held(held)) = agent.hear() else {
        panic!("not held")
    };
    assert_eq!((attempt, held.step), (3, 7));
    assert_eq!(held.reason, "the test wants it");
    // The next one ends the one before it; commands of others are dropped, whoever waits says nothing about the past.
    agent.prepare(5);
    assert_eq!(agent.begun.recv(), Ok(5));
    agent.abort(3, false);
    agent.prepare(4);
    agent.prepare(6);
    agent.say(6, Sent::Ping(v1::Ping {}));
    assert_eq!(agent.hear(), (6, Event::Pong(v1::Pong {})));
    agent.go_on.send(left()).expect("it waits");
    assert_eq!(agent.begun.recv(), Ok(6));
    // A number that is not finite is told, and the process waits.
    let not_finite = PhaseError::NonFinite {
        tensor: "loss".into(),
        step: Step::new(7),
    };
    agent.go_on.send(Err(not_finite)).expect("it waits");
    let (6, Event::Failed(failed)) = agent.hear() else {
        panic!("not failed")
    };
    assert_eq!(failed.step, Some(7));
    assert!(matches!(agent.hear(), (6, Event::Held(_))));
    agent.prepare(7);
    assert_eq!(agent.begun.recv(), Ok(7));
    let lost = PhaseError::PeerLost {
        reason: "lost rank 2".into(),
        peers: vec![Rank::new(2)],
    };
    agent.go_on.send(Err(lost)).expect("it waits");
    let (7, Event::Held(held)) = agent.hear() else {
        panic!("not held")
    };
    assert_eq!(held.lost_peers, [2]);
    agent.prepare(8);
    assert_eq!(agent.begun.recv(), Ok(8));
    agent.go_on.send(Ok(Ended::Done)).expect("it waits");
    assert_eq!(agent.status(), DONE);
}

#[test]
fn a_failure_of_its_own_ends_the_process() {
    let mut agent = Agent::new();
    agent.prepare(3);
    assert_eq!(agent.begun.recv(), Ok(3));
    let failure = PhaseError::Storage("the store is gone".into());
    agent.go_on.send(Err(failure)).expect("it waits");
    assert!(matches!(agent.hear(), (3, Event::Failed(_))));
    assert_eq!(agent.status(), FAILED);
}
