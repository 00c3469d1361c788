//! Trainers that outlive their attempts: shells that answer each command that they know, byte for byte.

use prost::Message as _;

use super::*;

/// Everything is waited for.
const PATIENT: Patience = Patience {
    abort_grace: WATCHDOG,
    hold_grace: WATCHDOG,
    orphan_limit: Duration::from_secs(600),
    unresponsive: WATCHDOG,
    leave_grace: WATCHDOG,
};

fn attempt(number: u64) -> RankKey {
    RankKey {
        attempt: Attempt::new(number),
        ..key()
    }
}

fn prepare() -> v1::Prepare {
    v1::Prepare {
        world: 2,
        secret: vec![7; 32],
        ..v1::Prepare::default()
    }
}

fn abort_rank(reason: &str, keep: bool) -> Command {
    Command::Abort(v1::AbortRank {
        reason: reason.into(),
        keep,
    })
}

fn abort(number: u64, keep: bool) -> Down {
    Down::Abort(v1::Abort {
        job: key().job.to_string(),
        attempt: number,
        reason: "so it is".into(),
        keep,
        end: Vec::new(),
    })
}

fn ready() -> Reported {
    Reported::Ready(v1::Ready {
        endpoint: "127.0.0.1:1".into(),
        ..v1::Ready::default()
    })
}

fn held(step: u64) -> Reported {
    Reported::Held(v1::Held {
        step,
        ..v1::Held::default()
    })
}

fn says(key: &RankKey, event: Reported) -> String {
    let body = key.event(event).encode_to_vec();
    let length = u32::try_from(body.len()).expect("short").to_le_bytes();
    let bytes = length.iter().chain(&body);
    let octal: String = bytes.map(|byte| format!("\\{byte:03o}")).collect();
    format!("printf '{octal}' >&$2")
}

/// A trainer that does for each command what stands beside it, and answers pings.
fn trainer(answers: &[(v1::RankCommand, String)]) -> String {
    let hex = |command: &v1::RankCommand| -> String {
        let bytes = command.encode_to_vec();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let pings = [1, 2].map(|number| {
        let (key, ping) = (attempt(number), Command::Ping(v1::Ping {}));
        let pong = says(&key, Reported::Pong(v1::Pong {}));
        (key.command(ping), pong)
    });
    let cases = answers.iter().chain(&pings);
    let cases: String = cases
        .map(|(command, answer)| format!("{}) {answer} ;;\n", hex(command)))
        .collect();
    format!(
        "while :; do
           length=$(head -c 4 <&$2 | od -An -tu4 | tr -d ' ')
           [ -n \"$length\" ] || exit 3
           case $(head -c $length <&$2 | od -An -v -tx1 | tr -d ' \\n') in
           {cases} esac
         done"
    )
}

impl Session {
    fn command(&self, key: &RankKey, command: Command) {
        self.ask(Down::Rank(key.command(command)));
    }

    /// The next thing that a rank says.
    async fn said(&mut self) -> (u64, Reported) {
        match self.next().await {
            Up::Rank(event) => (event.attempt, event.event.expect("an event")),
            other => panic!("{other:?}"),
        }
    }
}

/// Ready and held in two attempts, and ended by order.
fn obedient() -> String {
    let [first, second] = [attempt(1), attempt(2)];
    let hold = abort_rank("so it is", true);
    trainer(&[
        (
            first.command(Command::Prepare(prepare())),
            says(&first, ready()),
        ),
        (first.command(hold), says(&first, held(7))),
        (
            second.command(Command::Prepare(prepare())),
            says(&second, ready()),
        ),
        (
            first.command(abort_rank("so it is", false)),
            "exit 4".into(),
        ),
        (
            second.command(abort_rank("so it is", false)),
            "exit 4".into(),
        ),
    ])
}

#[tokio::test]
async fn one_process_serves_attempt_after_attempt() {
    let mut bench = Bench::of_worker(0, &obedient(), PATIENT).await;
    let mut first = bench.session().await;
    first.command(&attempt(1), Command::Prepare(prepare()));
    assert_eq!(first.said().await, (1, ready()));
    first.ask(abort(1, true));
    assert_eq!(first.said().await, (1, held(7)));
    drop(first);

    let mut second = bench.session().await;
    let listed = &second.register.running;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!((listed[0].held, listed[0].step), (true, 7));
    assert_eq!(second.said().await, (1, held(7)), "said again");
    second.command(&attempt(2), Command::Prepare(prepare()));
    assert_eq!(second.said().await, (2, ready()));
    second.ask(abort(2, false));
    let (of, end) = second.said().await;
    assert!(
        matches!(&end, Reported::Exited(exited) if of == 2 && exited.code == Some(4)),
        "it was the same process all along: {of} {end:?}"
    );
    bench.leave().await.expect("clean");
}

#[tokio::test]
async fn a_leaving_agent_follows_its_coordinator_until_nothing_is_left() {
    let mut bench = Bench::of_worker(0, &obedient(), PATIENT).await;
    let mut session = bench.session().await;
    session.command(&attempt(1), Command::Prepare(prepare()));
    assert_eq!(session.said().await, (1, ready()));
    bench
        .stop
        .send("SIGTERM".into())
        .expect("the agent listens");
    let leaving = session.next().await;
    assert!(
        matches!(&leaving, Up::Leaving(leaving) if leaving.grace_ms > 10_000),
        "{leaving:?}"
    );
    session.ask(abort(1, true));
    assert_eq!(session.said().await, (1, held(7)), "it still follows");
    session.ask(abort(1, false));
    assert!(matches!(session.said().await, (1, Reported::Exited(_))));
    let ended = tokio::time::timeout(WATCHDOG, bench.agent).await;
    ended.expect("in time").expect("no panic").expect("clean");
}

#[tokio::test]
async fn a_second_signal_ends_what_does_not_listen() {
    let patience = Patience {
        abort_grace: HASTY.abort_grace,
        hold_grace: HASTY.hold_grace,
        ..PATIENT
    };
    let script = format!("{}; sleep 600", says(&attempt(1), ready()));
    let mut bench = Bench::of_worker(0, &script, patience).await;
    let mut session = bench.session().await;
    session.command(&attempt(1), Command::Prepare(prepare()));
    assert_eq!(session.said().await, (1, ready()));
    bench
        .stop
        .send("SIGTERM".into())
        .expect("the agent listens");
    let (ended, told) = tokio::join!(bench.leave(), async {
        loop {
            if let Up::Rank(event) = session.next().await {
                return event;
            }
        }
    });
    ended.expect("clean");
    assert!(matches!(told.event, Some(Reported::Exited(_))), "{told:?}");
}

#[tokio::test]
async fn a_stopped_process_is_found_out_and_killed() {
    let patience = Patience {
        unresponsive: Duration::from_millis(300),
        ..PATIENT
    };
    let script = format!("{}; kill -STOP $$", says(&attempt(1), ready()));
    let mut bench = Bench::of_worker(0, &script, patience).await;
    let mut session = bench.session().await;
    session.command(&attempt(1), Command::Prepare(prepare()));
    assert_eq!(session.said().await, (1, ready()));
    let (_, failed) = session.said().await;
    assert!(
        matches!(&failed, Reported::Failed(failed) if failed.kind() == v1::FailureKind::Stalled),
        "{failed:?}"
    );
    assert_eq!(session.exit().await.signal, Some(9));
    bench.leave().await.expect("clean");
}

#[tokio::test]
async fn a_death_frees_the_gang_on_other_workers_without_a_coordinators_word() {
    let [here, there] = [0, 1].map(|rank| RankKey {
        rank: Rank::new(rank),
        ..attempt(1)
    });
    let reason = "rank 0 on worker worker-0 has left: its process ended with status 9";
    let survivor = trainer(&[
        (
            there.command(Command::Prepare(prepare())),
            says(&there, ready()),
        ),
        (
            there.command(abort_rank(reason, true)),
            says(&there, held(7)),
        ),
    ]);
    let die = std::env::temp_dir().join(format!("diptych-{:032x}", rand::random::<u128>()));
    nix::unistd::mkfifo(&die, nix::sys::stat::Mode::S_IRWXU).expect("made");
    let victim = format!(
        "{}; read go < {}; exit 9",
        says(&here, ready()),
        die.display()
    );
    let mut benches = [
        Bench::of_worker(0, &victim, PATIENT).await,
        Bench::of_worker(1, &survivor, PATIENT).await,
    ];
    let mut sessions = [benches[0].session().await, benches[1].session().await];
    let keys = [&here, &there];
    for (session, key) in sessions.iter_mut().zip(keys) {
        session.command(key, Command::Prepare(prepare()));
        assert_eq!(session.said().await, (1, ready()));
    }
    let peer = |(rank, session): (u32, &Session)| v1::Peer {
        rank,
        worker: session.register.worker_id.clone(),
        agent: session.register.peer_endpoint.clone(),
        ..v1::Peer::default()
    };
    let begin = v1::Begin {
        peers: (0..).zip(&sessions).map(peer).collect(),
        ..v1::Begin::default()
    };
    for (session, key) in sessions.iter().zip(keys) {
        session.command(key, Command::Begin(begin.clone()));
    }
    let going = die.clone();
    let go = tokio::task::spawn_blocking(move || std::fs::write(going, "go\n"));
    assert_eq!(sessions[1].said().await, (1, held(7)));
    go.await.expect("no panic").expect("written");
    std::fs::remove_file(die).expect("there");
    assert_eq!(sessions[0].exit().await.code, Some(9));
    for bench in benches {
        bench.agent.abort();
    }
}
