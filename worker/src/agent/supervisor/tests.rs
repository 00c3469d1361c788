//! Real processes: a shell in the trainer's place.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use diptych_common::ids::{Attempt, Rank};
use diptych_proto::v1::rank_event::Event as Reported;
use tempfile::TempDir;

use super::super::devices::{Lent, Roster, Share, samples};
use super::super::output::LAST_LINES;
use super::*;

/// Nothing here takes this long; reaching it is a hang.
const WATCHDOG: Duration = Duration::from_secs(20);

const ID: ProcessId = ProcessId::new(0);

struct Bench {
    dir: TempDir,
    book: LogBook,
    supervisor: Supervisor,
    events: mpsc::Receiver<TrainerEvent>,
}

fn key() -> RankKey {
    RankKey {
        job: "digits-0a1b2c".parse().expect("a name"),
        attempt: Attempt::new(1),
        rank: Rank::new(0),
    }
}

impl Bench {
    /// A supervisor whose trainers are `bash -c script`; `$1 $2` are the first trainer argument, `--control-fd N`.
    async fn start(script: &str) -> Self {
        Self::at(0, Seats::cpu(1), script).await
    }

    /// The same on a device of these.
    async fn at(device: u32, seats: Seats, script: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let launch = Launch {
            program: "/bin/bash".into(),
            arguments: ["-c", script, "trainer"].map(OsString::from).to_vec(),
            data_address: "127.0.0.1".into(),
            seats,
            work_dir: dir.path().join("work"),
            log: "info".into(),
        };
        let book = LogBook::new(dir.path().join("logs"));
        let (mut supervisor, events) = Supervisor::new(launch, book.clone()).expect("a thread");
        let prepare = v1::Prepare {
            device,
            ..v1::Prepare::default()
        };
        supervisor.start(ID, key(), prepare).await.expect("started");
        Self {
            dir,
            book,
            supervisor,
            events,
        }
    }

    async fn exited(&mut self) -> v1::Exited {
        let next = tokio::time::timeout(WATCHDOG, self.events.recv())
            .await
            .expect("in time")
            .expect("open");
        match next {
            TrainerEvent::Exited(_, exited) => exited,
            TrainerEvent::Reported(_, _, event) => panic!("reported {event:?}"),
        }
    }

    fn log(&self) -> String {
        self.log_of(1)
    }

    fn log_of(&self, attempt: u64) -> String {
        let path = self.dir.path().join(format!(
            "logs/digits-0a1b2c/attempt-{attempt:06}/phase-00-rank-00000.log"
        ));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// A line that the script prints, once it is there.
    async fn line(&self, prefix: &str) -> String {
        let found = async {
            loop {
                if let Some(line) = self
                    .log()
                    .lines()
                    .find_map(|line| line.strip_prefix(prefix))
                {
                    return line.to_owned();
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(WATCHDOG, found)
            .await
            .expect("the line in time")
    }
}

#[tokio::test]
async fn the_end_is_noticed_with_its_status_and_last_lines() {
    let mut bench =
        Bench::start("for i in $(seq 30); do echo line $i; done; echo late >&2; exit 7").await;
    let exited = bench.exited().await;
    assert_eq!((exited.code, exited.signal), (Some(7), None));
    assert_eq!(exited.last_lines.len(), LAST_LINES);
    assert!(
        exited.last_lines.contains(&"late".to_owned()),
        "standard error counts, too: {exited:?}"
    );
    assert_eq!(bench.log().lines().count(), 31);
    assert_eq!(bench.book.batches()[0].chunk.lines.len(), 31);
    assert!(!Path::new(&bench.dir.path().join("work/digits-0a1b2c-a1-r0")).exists());
}

/// What a trainer on a device of two GPUs and a CPU slot sees: visible devices, cores, threads and memory.
async fn seen_on(device: u32) -> (Vec<String>, Seats) {
    let lent = Lent {
        gpus: vec![samples::gpu(0, None), samples::gpu(1, None)],
        problem: None,
        slots: Some(1),
        threads: None,
    };
    let share = Share {
        memory: Some(diptych_common::units::Bytes::new(5)),
        ..Share::of_this_machine()
    };
    let seats = Roster::new(&lent, &share).seats;
    let script = "echo \"devices '$CUDA_VISIBLE_DEVICES'\"; grep Cpus_allowed_list /proc/$$/status; echo \"$@\"";
    let mut bench = Bench::at(device, seats.clone(), script).await;
    (bench.exited().await.last_lines, seats)
}

fn kept_on(lines: &[String]) -> Cores {
    let list = lines[1].split_whitespace().last().expect("a list");
    samples::cores_of(list)
}

#[tokio::test]
async fn a_trainer_sees_its_own_gpu_and_runs_on_the_cores_near_it() {
    for device in [0, 1] {
        let (lines, seats) = seen_on(device).await;
        assert_eq!(lines[0], format!("devices 'GPU-{device}'"));
        assert_eq!(Some(kept_on(&lines)), seats.of(device).cores);
        let threads = format!("--threads {} ", seats.of(device).threads);
        assert!(lines[2].contains(&threads), "{lines:?}");
        assert!(!lines[2].contains("--memory"), "{lines:?}");
    }
}

#[tokio::test]
async fn a_trainer_on_a_cpu_slot_sees_no_gpu_and_may_run_anywhere() {
    let (lines, _) = seen_on(2).await;
    assert_eq!(lines[0], "devices ''");
    assert_eq!(kept_on(&lines), Share::of_this_machine().cores);
    assert!(lines[2].ends_with("--memory=5"), "{lines:?}");
}

#[tokio::test]
async fn a_trainer_that_ignores_everything_is_killed() {
    let mut bench =
        Bench::start("trap '' TERM INT HUP; echo deaf; while :; do sleep 60; done").await;
    bench.line("deaf").await;
    bench.supervisor.kill(ID);
    let exited = bench.exited().await;
    assert_eq!((exited.code, exited.signal), (None, Some(9)));
}

#[tokio::test]
async fn trainers_die_with_the_thread_that_started_them() {
    let mut bench = Bench::start("echo pid $$; exec sleep 600").await;
    bench.line("pid ").await;
    let Bench {
        supervisor, events, ..
    } = &mut bench;
    // Without its supervisor the starting thread ends: for the kernel, as if the agent had died.
    let (gone, _) = std::sync::mpsc::channel();
    drop(std::mem::replace(&mut supervisor.spawner, gone));
    let ended = tokio::time::timeout(WATCHDOG, events.recv())
        .await
        .expect("in time");
    assert!(
        matches!(
            ended,
            Some(TrainerEvent::Exited(
                _,
                v1::Exited {
                    signal: Some(9),
                    ..
                }
            ))
        ),
        "{ended:?}"
    );
}

#[tokio::test]
async fn the_assignment_arrives_on_the_inherited_socket() {
    // The frame of an empty assignment to this rank: 4 bytes of length, then the message.
    let sent = key()
        .command(Sent::Prepare(v1::Prepare::default()))
        .encode_to_vec();
    let script = format!(
        "head -c {} <&$2 | tail -c {} | od -An -v -tx1 | tr -d ' \\n'; echo",
        4 + sent.len(),
        sent.len()
    );
    let mut bench = Bench::start(&script).await;
    let exited = bench.exited().await;
    let hex: String = sent.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(exited.last_lines, [hex]);
}

#[tokio::test]
async fn reports_are_passed_on_before_the_end() {
    let report = Reported::Notice(v1::Notice {
        kind: "k".into(),
        message: "m".into(),
    });
    let octal = frame(&key().event(report).encode_to_vec());
    let mut bench = Bench::start(&format!("printf '{octal}' >&$2")).await;
    let first = tokio::time::timeout(WATCHDOG, bench.events.recv())
        .await
        .expect("in time");
    assert!(
        matches!(&first, Some(TrainerEvent::Reported(ID, of, Reported::Notice(_))) if *of == key()),
        "{first:?}"
    );
    assert_eq!(bench.exited().await.code, Some(0));
}

#[tokio::test]
async fn what_a_process_prints_goes_to_the_rank_that_it_is() {
    let next = RankKey {
        attempt: Attempt::new(2),
        rank: Rank::new(0),
        ..key()
    };
    let prepare = || Sent::Prepare(v1::Prepare::default());
    let length = |of: &RankKey| 4 + of.command(prepare()).encode_to_vec().len();
    let script = format!(
        "head -c {} <&$2 >/dev/null; echo one; head -c {} <&$2 | tail -c +5 | od -An -v -tx1 | tr -d ' \\n'; echo; exit 4",
        length(&key()),
        length(&next),
    );
    let mut bench = Bench::start(&script).await;
    bench.line("one").await;
    bench.supervisor.tell(ID, next.clone(), prepare());
    let exited = bench.exited().await;
    let sent = next.command(prepare()).encode_to_vec();
    let hex: String = sent.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        exited.last_lines,
        std::slice::from_ref(&hex),
        "of its last rank only"
    );
    assert_eq!(bench.log_of(1), "one\n");
    assert_eq!(bench.log_of(2), format!("{hex}\n"));
}

#[tokio::test]
async fn an_end_is_told_although_something_else_holds_the_pipes() {
    let dir = tempfile::tempdir().expect("a directory");
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("made");
    let script = format!(
        "(read go < {}; echo late) & echo out; exit 5",
        fifo.display()
    );
    let mut bench = Bench::start(&script).await;
    let exited = bench.exited().await;
    assert_eq!(exited.code, Some(5));
    assert_eq!(exited.last_lines, ["out"]);
    bench.supervisor.forget(ID);
    let go = tokio::task::spawn_blocking(move || std::fs::write(fifo, "go\n"));
    bench.line("late").await;
    go.await.expect("no panic").expect("written");
}

#[tokio::test]
async fn everything_that_was_said_comes_before_the_end_however_slowly_it_is_heard() {
    let report = Reported::Notice(v1::Notice::default());
    let octal = frame(&key().event(report).encode_to_vec());
    // More than the events that may wait.
    let mut bench = Bench::start(&format!(
        "for i in $(seq 600); do printf '{octal}' >&$2; done; sleep 600 & exit 6"
    ))
    .await;
    while bench.events.len() < 256 {
        tokio::task::yield_now().await;
    }
    for _ in 0..600 {
        let next = tokio::time::timeout(WATCHDOG, bench.events.recv()).await;
        let next = next.expect("in time").expect("open");
        assert!(matches!(next, TrainerEvent::Reported(..)), "{next:?}");
    }
    assert_eq!(bench.exited().await.code, Some(6));
    bench.supervisor.kill(ID);
}

/// A frame as `printf` writes it.
fn frame(body: &[u8]) -> String {
    let length = u32::try_from(body.len()).expect("short").to_le_bytes();
    let bytes = length.iter().chain(body);
    bytes.map(|byte| format!("\\{byte:03o}")).collect()
}
