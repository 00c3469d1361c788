//! Ranks that come and go: `scale`, `worker cordon` … `top`, and what a follower is told of it.

use diptych_proto::v1;
use serde_json::Value;

use crate::desk::{Desk, Papers};
use crate::program::Program;

const JOB: &str = "digits-3f9a01";

fn rank(worker: &str, rank: u32, slowness: f64) -> v1::RankStatus {
    v1::RankStatus {
        job: JOB.to_owned(),
        phase: "pretrain".to_owned(),
        attempt: 3,
        rank,
        worker: worker.to_owned(),
        device: 0,
        state: "training".to_owned(),
        step: 120,
        step_s: 0.5,
        busy_s: 0.2 * slowness,
        slowness,
    }
}

fn worker(name: &str, ranks: Vec<v1::RankStatus>) -> v1::Worker {
    v1::Worker {
        worker: name.to_owned(),
        state: v1::WorkerState::Ready.into(),
        devices: vec![v1::DeviceInfo {
            kind: "cpu".to_owned(),
            ..v1::DeviceInfo::default()
        }],
        ranks,
        ..v1::Worker::default()
    }
}

fn job(attempt: u64, state: v1::PhaseState, workers: &[&str], step: u64) -> v1::Job {
    let pretrain = v1::PhaseStatus {
        name: "pretrain".to_owned(),
        kind: "pretrain".to_owned(),
        state: state.into(),
        attempt,
        restarts: u32::try_from(attempt).unwrap() - 3,
        step,
        total_steps: 200,
        workers: workers.iter().map(|worker| (*worker).to_owned()).collect(),
        ranks_min: 1,
        ranks_max: 2,
        ..v1::PhaseStatus::default()
    };
    let ended = state == v1::PhaseState::Done;
    let state = match ended {
        true => v1::JobState::Succeeded,
        false => v1::JobState::Running,
    };
    v1::Job {
        job: JOB.to_owned(),
        state: state.into(),
        phases: vec![pretrain],
        ..v1::Job::default()
    }
}

fn two_ranks() -> v1::Job {
    job(3, v1::PhaseState::Training, &["w1", "w2"], 120)
}

#[tokio::test]
async fn scale_sets_what_was_typed_and_says_what_comes_of_it() {
    let desk = Desk::open(Papers {
        watched: vec![two_ranks()],
        ..Papers::default()
    })
    .await;
    let program = Program::new(&desk.url);
    let text = program.ok(&["scale", JOB, "--max", "1"]).await;
    assert!(
        text.contains("shrinks from 2 to 1 after a step that all agree on"),
        "{text}"
    );
    let named = ["scale", JOB, "--phase", "pretrain", "--min", "2"];
    let named = program.json(&[&named[..], &["--max", "4"]].concat()).await;
    assert_eq!(named["phases"][0]["next"], "grow");
    assert_eq!(named["phases"][0]["ranks_min"], 2);
    let asked = desk.papers(|papers| papers.scaled.clone());
    assert_eq!((asked[0].min, asked[0].max), (None, Some(1)));
    assert_eq!(asked[0].phase, "", "every phase");
    assert_eq!((asked[1].min, asked[1].max), (Some(2), Some(4)));
    assert_eq!(asked[1].phase, "pretrain");

    let (code, says) = program
        .fails(&["scale", JOB, "--min", "3", "--max", "2"])
        .await;
    assert!(
        code == 2 && says.contains("--min 3 is more than --max 2"),
        "{code} {says}"
    );
    let (code, says) = program.fails(&["scale", JOB, "--max", "65"]).await;
    assert!(code == 7 && says.contains("64 lanes"), "{code} {says}");
    assert_eq!(desk.papers(|papers| papers.scaled.len()), 2);
}

#[tokio::test]
async fn workers_are_shown_cordoned_and_let_in() {
    let mut bad = worker("w2", vec![rank("w2", 1, 2.3)]);
    bad.blamed = vec!["rank 1 of digits-3f9a01 was killed by signal 9".to_owned()];
    let desk = Desk::open(Papers {
        workers: vec![vec![worker("w1", vec![rank("w1", 0, 1.0)]), bad]],
        ..Papers::default()
    })
    .await;
    let program = Program::new(&desk.url);
    let text = program.ok(&["worker", "describe", "w2"]).await;
    assert!(
        text.contains("slow 2.3×") && text.contains("killed by signal 9"),
        "{text}"
    );
    let cordon = ["worker", "cordon", "w2", "--reason", "bad fan"];
    let cordoned = program.json(&cordon).await;
    assert_eq!(cordoned["cordoned"], true);
    assert_eq!(cordoned["cordon_reason"], "bad fan");
    let let_in = program.json(&["worker", "uncordon", "w2"]).await;
    assert_eq!(let_in["cordoned"], false);
    let asked = desk.papers(|papers| papers.cordons.clone());
    let asked: Vec<_> = asked.iter().map(|asked| asked.cordoned).collect();
    assert_eq!(asked, [true, false]);

    for verb in ["describe", "cordon", "uncordon", "drain"] {
        let (code, says) = program.fails(&["worker", verb, "w3"]).await;
        assert!(
            code == 3 && says.contains("no worker w3 (known: w1, w2)"),
            "{verb}: {code} {says}"
        );
    }
}

#[tokio::test]
async fn a_drain_is_waited_for_until_nothing_runs() {
    let running = || vec![worker("w1", vec![rank("w1", 0, 1.0)])];
    let mut draining = running();
    draining[0].cordoned = true;
    draining[0].draining = true;
    let mut empty = vec![worker("w1", Vec::new())];
    empty[0].cordoned = true;
    let desk = Desk::open(Papers {
        workers: vec![draining.clone(), draining, empty],
        ..Papers::default()
    })
    .await;
    let program = Program::new(&desk.url);
    let drain = ["worker", "drain", "w1", "--deadline", "90s", "--wait"];
    let output = program.run(&[&["-o", "json"], &drain[..]].concat()).await;
    assert!(output.status.success(), "{output:?}");
    let drained: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(drained["ranks"], serde_json::json!([]));
    let says = String::from_utf8(output.stderr).unwrap();
    assert!(says.contains("to be moved within 1m 30s: 1 rank"), "{says}");
    let asked = desk.papers(|papers| papers.drains.clone());
    assert_eq!((asked.len(), asked[0].deadline_ms), (1, 90_000));

    // Somebody lets it in again meanwhile.
    desk.papers(|papers| papers.workers = vec![running()]);
    let (code, says) = program.fails(&["worker", "drain", "w1", "--wait"]).await;
    assert!(code == 7 && says.contains("let in again"), "{code} {says}");
}

#[tokio::test]
async fn top_prints_one_table_where_nobody_watches() {
    let mut cordoned = worker("w3", Vec::new());
    cordoned.cordoned = true;
    cordoned.cordon_reason = "bad fan".to_owned();
    let desk = Desk::open(Papers {
        workers: vec![vec![
            worker("w1", vec![rank("w1", 0, 1.0)]),
            worker("w2", vec![rank("w2", 1, 2.3)]),
            cordoned,
        ]],
        ..Papers::default()
    })
    .await;
    let program = Program::new(&desk.url);
    let text = program.ok(&["worker", "top"]).await;
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[2].contains("slow 2.3×"), "{text}");
    assert!(
        lines[3].contains("idle") && lines[3].contains("cordoned: bad fan"),
        "{text}"
    );
    let json = program.json(&["worker", "top"]).await;
    assert_eq!(json["ranks"][1]["slow"], true);
    assert_eq!(json["workers"][2]["idle"], true);
}

#[tokio::test]
async fn a_follower_is_told_of_a_recovery_in_one_line() {
    use v1::PhaseState::{Done, Starting, Training};
    let failed = v1::Event {
        id: 1,
        kind: "attempt_failed".to_owned(),
        phase: "pretrain".to_owned(),
        attempt: 3,
        message: "rank 1 on w2: crashed: killed by signal 9".to_owned(),
        ..v1::Event::default()
    };
    let desk = Desk::open(Papers {
        watched: vec![
            two_ranks(),
            job(4, Starting, &["w1"], 120),
            job(4, Training, &["w1"], 120),
            job(4, Done, &[], 200),
        ],
        events: vec![failed],
        ..Papers::default()
    })
    .await;
    let output = Program::new(&desk.url).run(&["watch", JOB]).await;
    assert!(output.status.success(), "{output:?}");
    let says = String::from_utf8(output.stderr).unwrap();
    let line = "pretrain: attempt 3 failed: rank 1 on w2: crashed: killed by signal 9; \
                attempt 4 goes on from step 120 with 1 rank (2 → 1)";
    assert_eq!(
        says.lines().filter(|said| *said == line).count(),
        1,
        "{says}"
    );
    assert!(says.contains("2 of 1–2 ranks"), "{says}");
}

#[tokio::test]
async fn a_description_has_every_rank_and_what_a_loss_would_cost() {
    let mut described = two_ranks();
    described.phases[0].ranks = vec![rank("w1", 0, 1.0), rank("w2", 1, 2.3)];
    described.phases[0].unsaved_s = Some(192.0);
    described.phases[0].skipped_steps = vec![57];
    let desk = Desk::open(Papers {
        watched: vec![described],
        ..Papers::default()
    })
    .await;
    let program = Program::new(&desk.url);
    let text = program.ok(&["describe", JOB]).await;
    for part in [
        "2 of 1–2",
        "slow 2.3×",
        "pretrain  a loss of every rank would cost 3m 12s",
        "pretrain  step 57 was skipped",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let json = program.json(&["describe", JOB]).await;
    let phase = &json["phases"][0];
    assert_eq!(phase["world"], 2);
    assert_eq!(phase["unsaved_s"], 192.0);
    assert_eq!(phase["ranks"][1]["worker"], "w2");
    assert_eq!(phase["skipped_steps"], serde_json::json!([57]));
}

#[tokio::test]
async fn an_explanation_has_the_last_lines_under_the_first_cause() {
    let reason = |code: &str, message: &str, log: &[&str]| v1::Reason {
        code: code.to_owned(),
        phase: "pretrain".to_owned(),
        message: message.to_owned(),
        log: log.iter().map(|line| (*line).to_owned()).collect(),
    };
    let desk = Desk::open(Papers {
        explanation: v1::Explanation {
            job: JOB.to_owned(),
            state: v1::JobState::Running.into(),
            reasons: vec![
                reason("recovering", "1 of 2 ranks holds step 120", &[]),
                reason(
                    "first_failure",
                    "rank 1 on w2: killed by signal 9",
                    &["step 121"],
                ),
                reason("straggler", "rank 0 is 2.3 times as slow", &[]),
            ],
        },
        ..Papers::default()
    })
    .await;
    let text = Program::new(&desk.url).ok(&["explain", JOB]).await;
    assert_eq!(
        text,
        "digits-3f9a01 is running\n  \
         recovering (pretrain): 1 of 2 ranks holds step 120\n  \
         first_failure (pretrain): rank 1 on w2: killed by signal 9\n    \
         | step 121\n  \
         straggler (pretrain): rank 0 is 2.3 times as slow\n"
    );
}
