//! The agent against a real gRPC server, with shells as trainers.

use std::net::SocketAddr;
use std::pin::Pin;

use diptych_common::ids::Attempt;
use diptych_common::store::ByUrl;
use diptych_proto::v1::agent_service_server::{AgentService, AgentServiceServer};
use diptych_proto::v1::rank_command::Command;
use diptych_proto::v1::rank_event::Event as Reported;
use futures::Stream;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::transport::Endpoint;
use tonic::{Request, Response, Status, Streaming};

use super::super::devices::Seats;
use super::super::peers::Tcp;
use super::super::supervisor::{Launch, Supervisor};
use super::*;
use crate::device::nvml::FaultKind;

/// Nothing here takes this long; reaching it is a hang.
const WATCHDOG: Duration = Duration::from_secs(20);

/// Nothing is waited for.
const HASTY: Patience = Patience {
    abort_grace: Duration::from_millis(50),
    hold_grace: Duration::from_millis(50),
    orphan_limit: Duration::from_secs(600),
    unresponsive: WATCHDOG,
    leave_grace: Duration::ZERO,
};

mod kept; // trainers that speak the protocol

/// A coordinator that welcomes everybody and hands the streams to the test.
#[derive(Clone)]
struct Hub {
    sessions: mpsc::UnboundedSender<Session>,
    logs: mpsc::UnboundedSender<v1::LogChunk>,
}

struct Session {
    register: v1::Register,
    down: mpsc::UnboundedSender<Result<v1::CoordinatorMessage, Status>>,
    up: Streaming<v1::AgentMessage>,
}

#[tonic::async_trait]
impl AgentService for Hub {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<v1::CoordinatorMessage, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut up = request.into_inner();
        let Some(Up::Register(register)) = up.message().await?.and_then(|first| first.message)
        else {
            return Err(Status::invalid_argument("no registration"));
        };
        let (down, stream) = mpsc::unbounded_channel();
        drop(down.send(Ok(message(Down::Welcome(v1::Welcome {
            heartbeat_ms: 10,
            ..v1::Welcome::default()
        })))));
        drop(self.sessions.send(Session { register, down, up }));
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(
            stream,
        ))))
    }

    async fn upload_logs(
        &self,
        request: Request<Streaming<v1::LogChunk>>,
    ) -> Result<Response<v1::LogReceipt>, Status> {
        let mut chunks = request.into_inner();
        let mut lines = 0;
        while let Some(chunk) = chunks.message().await? {
            lines = chunk.first_line + chunk.lines.len() as u64;
            drop(self.logs.send(chunk));
        }
        Ok(Response::new(v1::LogReceipt { lines }))
    }
}

fn message(message: Down) -> v1::CoordinatorMessage {
    v1::CoordinatorMessage {
        message: Some(message),
    }
}

fn key() -> RankKey {
    RankKey {
        job: "digits-0a1b2c".parse().expect("a name"),
        attempt: Attempt::new(1),
        rank: Rank::new(0),
    }
}

struct Bench {
    dir: TempDir,
    sessions: mpsc::UnboundedReceiver<Session>,
    logs: mpsc::UnboundedReceiver<v1::LogChunk>,
    stop: mpsc::UnboundedSender<String>,
    faults: mpsc::Sender<Fault>,
    agent: tokio::task::JoinHandle<Result<(), AgentError>>,
}

impl Bench {
    /// A server on a free port, and an agent whose trainers are `bash -c script`.
    async fn start(script: &str) -> Self {
        Self::of_worker(0, script, HASTY).await
    }

    async fn of_worker(number: u32, script: &str, patience: Patience) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address: SocketAddr = listener.local_addr().expect("bound");
        let (session, sessions) = mpsc::unbounded_channel();
        let (log, logs) = mpsc::unbounded_channel();
        let service = AgentServiceServer::new(Hub {
            sessions: session,
            logs: log,
        });
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let dir = tempfile::tempdir().expect("a directory");
        let book = LogBook::new(dir.path().join("logs"));
        let launch = Launch {
            program: "/bin/bash".into(),
            arguments: ["-c", script, "trainer"].map(Into::into).to_vec(),
            data_address: "127.0.0.1".into(),
            seats: Seats::cpu(1),
            work_dir: dir.path().join("work"),
            log: "info".into(),
        };
        let name = format!("worker-{number}");
        let peers = Peers::new(name.parse().expect("a name"), Tcp);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let peer_endpoint = listener.local_addr().expect("bound").to_string();
        peers.0.serve(listener);
        let (faults, broken) = mpsc::channel(8);
        let options = AgentOptions {
            coordinator: Endpoint::from_shared(format!("http://{address}")).expect("a URL"),
            register: v1::Register {
                worker_id: name,
                peer_endpoint,
                devices: vec![v1::DeviceInfo {
                    kind: "cuda".into(),
                    ..v1::DeviceInfo::default()
                }],
                ..v1::Register::default()
            },
            trainers: Supervisor::new(launch, book.clone()).expect("a thread"),
            faults: broken,
            peers,
            stores: Arc::new(ByUrl),
            book,
            patience,
            watch: Watch::default(),
            seed: 0,
        };
        let (stop, stops) = mpsc::unbounded_channel();
        let agent = tokio::spawn(run(options, UnboundedReceiverStream::new(stops)));
        Self {
            dir,
            sessions,
            logs,
            stop,
            faults,
            agent,
        }
    }

    async fn session(&mut self) -> Session {
        tokio::time::timeout(WATCHDOG, self.sessions.recv())
            .await
            .expect("in time")
            .expect("a session")
    }

    async fn leave(self) -> Result<(), AgentError> {
        self.stop
            .send("the test is over".into())
            .expect("the agent listens");
        let ended = tokio::time::timeout(WATCHDOG, self.agent)
            .await
            .expect("in time")
            .expect("no panic");
        drop(self.dir);
        ended
    }
}

impl Session {
    fn ask(&self, asked: Down) {
        self.down
            .send(Ok(message(asked)))
            .expect("the agent listens");
    }

    fn prepare(&self) {
        self.ask(Down::Rank(key().command(Command::Prepare(v1::Prepare {
            world: 1,
            ..v1::Prepare::default()
        }))));
    }

    /// The next message that is no heartbeat.
    async fn next(&mut self) -> Up {
        let told = async {
            loop {
                match self
                    .up
                    .message()
                    .await
                    .expect("open")
                    .expect("open")
                    .message
                    .expect("a message")
                {
                    Up::Heartbeat(_) => {}
                    other => return other,
                }
            }
        };
        tokio::time::timeout(WATCHDOG, told).await.expect("in time")
    }

    async fn exit(&mut self) -> v1::Exited {
        match self.next().await {
            Up::Rank(v1::RankEvent {
                event: Some(Reported::Exited(exited)),
                ..
            }) => exited,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn trainers_outlive_a_broken_stream_and_are_listed_again() {
    let mut bench = Bench::start("read line <&$2; exec sleep 600").await;
    let first = bench.session().await;
    assert_eq!(first.register.running, []);
    first.prepare();
    // The order and the end of the stream arrive in this order.
    drop(first.down);
    let mut second = bench.session().await;
    let listed = &second.register.running;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(
        (listed[0].job.as_str(), listed[0].attempt),
        ("digits-0a1b2c", 1)
    );
    second.ask(Down::Abort(v1::Abort {
        keep: false,
        end: Vec::new(),
        job: key().job.to_string(),
        attempt: 1,
        reason: "over".into(),
    }));
    assert_eq!(
        second.exit().await.signal,
        Some(9),
        "it did not let go within the grace"
    );
    bench.leave().await.expect("clean");
}

#[tokio::test]
async fn a_gpu_that_breaks_is_told_at_once_and_at_every_registration() {
    let mut bench = Bench::start("exit 0").await;
    let mut first = bench.session().await;
    assert_eq!(first.register.devices[0].problem, "");
    let fault = |gpu, number| Fault {
        gpu,
        kind: FaultKind::Xid(number),
    };
    // A program's own fault, and one of a GPU that is not lent, are nothing to tell.
    for fault in [fault(0, 31), fault(7, 79), fault(0, 79)] {
        bench.faults.send(fault).await.expect("the agent listens");
    }
    let told = first.next().await;
    let Up::DeviceTrouble(v1::DeviceTrouble { device: 0, problem }) = told else {
        panic!("{told:?}")
    };
    assert!(
        problem.starts_with("GPU 0: Xid 79: it fell off the bus"),
        "{problem}"
    );
    drop(first);
    let second = bench.session().await;
    assert_eq!(second.register.devices[0].problem, problem);
    bench.leave().await.expect("clean");
}

#[tokio::test]
async fn an_exit_is_told_again_after_a_reconnect() {
    let mut bench = Bench::start("echo out; exit 3").await;
    let mut first = bench.session().await;
    first.prepare();
    assert_eq!(first.exit().await.code, Some(3));
    drop(first);
    let mut second = bench.session().await;
    assert_eq!(second.register.running, []);
    assert_eq!(second.exit().await.last_lines, ["out"]);
    bench.leave().await.expect("clean");
}

#[tokio::test]
async fn output_reaches_the_coordinator_by_attempt_and_rank() {
    let mut bench = Bench::start("echo one; echo two >&2").await;
    bench.session().await.prepare();
    let mut lines = Vec::new();
    while lines.len() < 2 {
        let next = tokio::time::timeout(WATCHDOG, bench.logs.recv())
            .await
            .expect("in time");
        let chunk = next.expect("open");
        assert_eq!(
            (chunk.attempt, chunk.rank, chunk.first_line),
            (1, 0, lines.len() as u64)
        );
        lines.extend(chunk.lines);
    }
    lines.sort();
    assert_eq!(lines, ["one", "two"]);
    bench.leave().await.expect("clean");
}

#[tokio::test]
async fn a_leaving_agent_says_so_and_ends_its_trainers() {
    let mut bench = Bench::start("exec sleep 600").await;
    let mut session = bench.session().await;
    session.prepare();
    let started = async {
        while !bench.dir.path().join("work/digits-0a1b2c-a1-r0").exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(WATCHDOG, started)
        .await
        .expect("in time");
    let (ended, told) = tokio::join!(bench.leave(), async {
        (session.next().await, session.exit().await)
    });
    ended.expect("clean");
    assert!(matches!(told.0, Up::Leaving(_)), "{told:?}");
    assert_eq!(told.1.signal, Some(9));
}

#[tokio::test]
async fn a_final_refusal_ends_the_agent_with_its_reason() {
    let mut bench = Bench::start("exit 0").await;
    let session = bench.session().await;
    session.ask(Down::Refused(v1::Refused {
        reason: "protocol 0 is too old".into(),
        retry: false,
    }));
    let ended = tokio::time::timeout(WATCHDOG, bench.agent)
        .await
        .expect("in time")
        .expect("no panic");
    match ended {
        Err(AgentError::Refused(reason)) => assert_eq!(reason, "protocol 0 is too old"),
        other => panic!("{other:?}"),
    }
}
