//! Real processes: a shell in the trainer's place.

use std::path::Path;

use diptych_common::ids::{Attempt, Rank};
use tempfile::TempDir;

use super::*;

/// Nothing here takes this long; reaching it is a hang.
const WATCHDOG: Duration = Duration::from_secs(20);

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
        let dir = tempfile::tempdir().expect("a directory");
        let launch = Launch {
            program: "/bin/bash".into(),
            arguments: ["-c", script, "trainer"].map(OsString::from).to_vec(),
            data_address: "127.0.0.1".into(),
            threads: 1,
            work_dir: dir.path().join("work"),
        };
        let book = LogBook::new(dir.path().join("logs"));
        let (mut supervisor, events) = Supervisor::new(launch).expect("a thread");
        supervisor
            .start(key(), v1::Prepare::default(), &book)
            .await
            .expect("started");
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
            TrainerEvent::Reported(_, event) => panic!("reported {event:?}"),
        }
    }

    fn log(&self) -> String {
        let path = self
            .dir
            .path()
            .join("logs/digits-0a1b2c/attempt-000001/phase-00-rank-00000.log");
        std::fs::read_to_string(path).expect("a log")
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

#[tokio::test]
async fn a_trainer_that_ignores_everything_is_killed() {
    let mut bench =
        Bench::start("trap '' TERM INT HUP; echo deaf; while :; do sleep 60; done").await;
    bench.line("deaf").await;
    bench.supervisor.kill(&key());
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
    let event = key().event(Reported::Notice(v1::Notice {
        kind: "k".into(),
        message: "m".into(),
    }));
    let body = event.encode_to_vec();
    let frame = [
        &u32::try_from(body.len()).expect("short").to_le_bytes(),
        body.as_slice(),
    ]
    .concat();
    let octal: String = frame.iter().map(|byte| format!("\\{byte:03o}")).collect();
    let mut bench = Bench::start(&format!("printf '{octal}' >&$2")).await;
    let first = tokio::time::timeout(WATCHDOG, bench.events.recv())
        .await
        .expect("in time");
    assert!(
        matches!(first, Some(TrainerEvent::Reported(_, Reported::Notice(_)))),
        "{first:?}"
    );
    assert_eq!(bench.exited().await.code, Some(0));
}
