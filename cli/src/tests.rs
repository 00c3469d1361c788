//! From what was typed to what was meant, and what is printed.

use std::io::Write as _;

use clap::Parser as _;

use crate::args::Args;
use crate::command::{Command, Remote, Then};
use crate::context::Environment;
use crate::failure::{Code, Failure};
use crate::output::{Format, Output, Printer, failure_text};
use crate::view::PhaseState;
use crate::view::history::{ExplanationView, MetricView, Metrics, ReasonView};
use crate::view::job::JobList;
use crate::view::job::samples::{job, phase};
use crate::view::summary::Summary;
use crate::view::{JobState, JobView};

fn command(arguments: &[&str]) -> Result<Command, Failure> {
    let environment = Environment::from([
        ("DIPTYCH_DATA", "file:///images"),
        ("DIPTYCH_STORAGE", "file:///store"),
    ]);
    let args = Args::try_parse_from([&["diptych"], arguments].concat()).unwrap();
    Command::from_args(args, environment)
}

fn spec_file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn printed(format: Format, value: &impl Output) -> String {
    let mut text = Vec::new();
    Printer::new(format, &mut text).print(value).unwrap();
    String::from_utf8(text).unwrap()
}

fn sample() -> JobView {
    let mut pretrain = phase("pretrain", PhaseState::Done);
    pretrain.step = 360;
    pretrain.total_steps = 360;
    pretrain.seconds = Some(125.0);
    pretrain.results.extend([
        ("knn_top1".to_owned(), 0.801),
        ("probe_top1".to_owned(), 0.9),
    ]);
    let mut linear = phase("linear", PhaseState::Training);
    linear.kind = "linear_eval".to_owned();
    linear.step = 7;
    linear.total_steps = 60;
    linear.metrics.insert("loss".to_owned(), 0.5);
    job(vec![pretrain, linear])
}

#[test]
fn the_example_is_valid_and_settings_change_it() {
    let file = spec_file(include_str!("verb/example.yaml"));
    let path = file.path().to_str().unwrap();
    let Command::Validate(spec) =
        command(&["validate", "-f", path, "--set", "phases.pretrain.batch=512"]).unwrap()
    else {
        panic!("validate")
    };
    assert_eq!(spec.phases().len(), 4);
    assert_eq!(spec.phases()[0].batch, 512);
    assert_eq!(spec.storage(), "file:///store");
}

#[test]
fn a_broken_spec_lists_every_error_with_its_path() {
    let text = include_str!("verb/example.yaml")
        .replace("name: example", "nmae: example")
        .replace("from: pretrain", "from: nothing")
        .replace("kind: lars", "kind: larch")
        .replace("${DIPTYCH_DATA}/test", "${NOWHERE}/test");
    let file = spec_file(&text);
    let failure = command(&["submit", "-f", file.path().to_str().unwrap()]).unwrap_err();
    assert_eq!(failure.code.exit(), 2);
    let paths: Vec<&str> = failure
        .fields
        .iter()
        .map(|field| field.path.as_str())
        .collect();
    for path in [
        "nmae",
        "data.test.url",
        "phases[0].optimizer.kind",
        "phases[1].from",
        "phases[2].from",
    ] {
        assert!(paths.contains(&path), "{path} is not among {paths:?}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&failure_text(Format::Json, &failure)).unwrap();
    assert_eq!(json["error"]["code"], "invalid");
    assert_eq!(
        json["error"]["fields"].as_array().unwrap().len(),
        failure.fields.len()
    );
}

#[test]
fn a_missing_spec_names_the_file() {
    let failure = command(&["validate", "-f", "/nowhere/job.yaml"]).unwrap_err();
    assert_eq!(failure.code, Code::NotFound);
    assert!(failure.message.contains("/nowhere/job.yaml"), "{failure}");
}

#[test]
fn a_submit_always_has_a_request_id() {
    let file = spec_file(include_str!("verb/example.yaml"));
    let path = file.path().to_str().unwrap();
    let submit = |extra: &[&str]| match command(&[&["submit", "-f", path], extra].concat()).unwrap()
    {
        Command::Remote(_, Remote::Submit(submit)) => submit,
        other => panic!("{other:?}"),
    };
    assert!(!submit(&[]).request_id.is_empty());
    assert_ne!(submit(&[]).request_id, submit(&[]).request_id);
    assert_eq!(submit(&["--request-id", "mine"]).request_id, "mine");
    assert_eq!(submit(&["--dry-run"]).then, Then::DryRun);
    assert_eq!(submit(&["--follow"]).then, Then::Follow);
}

#[test]
fn csv_is_for_metrics_only() {
    assert_eq!(
        command(&["list", "-o", "csv"]).unwrap_err().code,
        Code::Usage
    );
    assert!(command(&["metrics", "digits-1", "-o", "csv"]).is_ok());
}

#[test]
fn a_usage_error_keeps_to_the_form_that_was_asked_for() {
    for (line, format) in [
        ("diptych list -o json --bogus", Format::Json),
        ("diptych list --output=yaml --bogus", Format::Yaml),
        ("diptych list -ojson", Format::Json),
        ("diptych list --bogus", Format::Table),
        ("diptych list -o", Format::Table),
    ] {
        let arguments: Vec<std::ffi::OsString> = line.split(' ').map(Into::into).collect();
        assert_eq!(crate::typed_format(&arguments), format, "{line}");
    }
}

#[test]
fn a_list_prints_one_line_a_job() {
    assert_eq!(
        printed(Format::Table, &JobList(vec![sample()])),
        "JOB            STATE    PHASE   STEP  SUBMITTED             ENDED\n\
         digits-3f9a01  running  linear  7/60  2026-01-02T03:04:05Z  -\n"
    );
    assert_eq!(printed(Format::Json, &JobList(Vec::new())), "[]\n");
}

#[test]
fn a_summary_prints_results_in_per_cent() {
    assert_eq!(
        printed(Format::Table, &Summary(sample())),
        "PHASE     KIND         STATE     STEPS  TIME    TOP-1   TOP-5  KNN\n\
         pretrain  pretrain     done      360    2m 05s  90.0 %  -      80.1 %\n\
         linear    linear_eval  training  7      -       -       -      -\n"
    );
}

#[test]
fn the_json_of_a_job_is_stable() {
    let json: serde_json::Value = serde_json::from_str(&printed(Format::Json, &sample())).unwrap();
    let keys = |value: &serde_json::Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(
        keys(&json),
        [
            "ended",
            "job",
            "name",
            "phases",
            "reason",
            "spec_digest",
            "state",
            "submitted"
        ]
    );
    assert_eq!(json["state"], "running");
    assert_eq!(json["phases"][0]["results"]["knn_top1"], 0.801);
    assert_eq!(json["phases"][1]["state"], "training");
}

#[test]
fn metrics_print_as_csv() {
    let point = MetricView {
        phase: "pretrain".into(),
        step: 10,
        name: "loss".into(),
        value: 5.25,
    };
    assert_eq!(
        Metrics(vec![point]).csv(),
        "phase,step,name,value\npretrain,10,loss,5.25\n"
    );
}

#[test]
fn an_explanation_shows_the_failing_rank() {
    let explanation = ExplanationView {
        job: "digits-3f9a01".into(),
        state: JobState::Failed,
        reasons: vec![ReasonView {
            code: "first_failure".into(),
            phase: Some("pretrain".into()),
            message: "rank 1 on worker-1: the data set is empty".into(),
            log: vec!["reading file:///images/train".into()],
        }],
    };
    assert_eq!(
        printed(Format::Table, &explanation),
        "digits-3f9a01 is failed\n  first_failure (pretrain): rank 1 on worker-1: the data set is empty\n    \
         | reading file:///images/train\n"
    );
}

#[test]
fn each_reason_keeps_its_own_lines_under_it() {
    let reason = |code: &str, message: &str, log: &[&str]| ReasonView {
        code: code.into(),
        phase: Some("pretrain".into()),
        message: message.into(),
        log: log.iter().map(|line| (*line).to_owned()).collect(),
    };
    let explanation = ExplanationView {
        job: "digits-3f9a01".into(),
        state: JobState::Running,
        reasons: vec![
            reason("recovering", "1 of 2 ranks holds step 120", &[]),
            reason(
                "first_failure",
                "rank 1 on w2: killed\nby signal 9\n",
                &["step 120", "step 121"],
            ),
            reason("a_code_of_later", "rank 0 is slow", &[]),
        ],
    };
    assert_eq!(
        printed(Format::Table, &explanation),
        "digits-3f9a01 is running\n  \
         recovering (pretrain): 1 of 2 ranks holds step 120\n  \
         first_failure (pretrain): rank 1 on w2: killed\n      \
         by signal 9\n    \
         | step 120\n    \
         | step 121\n  \
         a_code_of_later (pretrain): rank 0 is slow\n"
    );
}

#[test]
fn the_json_of_a_phase_is_stable() {
    let phase = serde_json::to_value(phase("pretrain", PhaseState::Training)).unwrap();
    let mut keys: Vec<_> = phase.as_object().unwrap().keys().cloned().collect();
    keys.sort();
    assert_eq!(
        keys.join(" "),
        "attempt best_step ended eta_s images_per_s kind metrics name ranks ranks_max ranks_min restarts results \
         seconds skipped_steps started state step total_steps unsaved_s workers world"
    );
}

#[test]
fn a_range_of_ranks_must_be_one() {
    let failure = command(&["scale", "digits-1", "--min", "4", "--max", "2"]).unwrap_err();
    assert_eq!((failure.code, failure.code.exit()), (Code::Usage, 2));
    assert_eq!(failure.message, "--min 4 is more than --max 2");
    for line in [
        &["scale", "digits-1", "--min", "2", "--max", "2"][..],
        &["scale", "digits-1", "--min", "4"],
    ] {
        assert!(command(line).is_ok(), "{line:?}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    struct Gone;
    impl std::io::Write for Gone {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let failure = Printer::new(Format::Json, Gone)
        .print(&sample())
        .unwrap_err();
    assert_eq!((failure.code, failure.code.exit()), (Code::PipeClosed, 0));
}

#[test]
fn inspect_looks_at_the_data_of_a_phase() {
    let file = spec_file(include_str!("verb/example.yaml"));
    let path = file.path().to_str().unwrap();
    let inspection = |arguments: &[&str]| match command(
        &[&["dataset", "inspect", "-f", path], arguments].concat(),
    )? {
        Command::Inspect(inspection) => Ok(format!("{inspection:?}")),
        other => panic!("{other:?}"),
    };
    let first = inspection(&["--set", "seed=41"]).unwrap();
    assert!(
        first.contains("file:///images") && first.contains("seed: 41"),
        "{first}"
    );
    let error: Failure = inspection(&["--phase", "nothing"]).unwrap_err();
    assert_eq!(error.code, Code::Usage);
    assert!(error.message.contains("pretrain"), "{}", error.message);
    let Command::Inspect(stated) = command(&[
        "dataset",
        "inspect",
        "file:///d",
        "--image-column",
        "picture",
        "--classes",
        "cat,dog",
    ])
    .unwrap() else {
        panic!("inspect")
    };
    let stated = format!("{stated:?}");
    assert!(
        stated.contains("\"picture\"") && stated.contains("[\"cat\", \"dog\"]"),
        "{stated}"
    );
}

#[test]
fn a_plan_takes_what_is_stated_and_refuses_names_that_the_spec_lacks() {
    let file = spec_file(include_str!("verb/example.yaml"));
    let path = file.path().to_str().unwrap();
    let planning = |arguments: &[&str]| match command(&[&["plan", "-f", path], arguments].concat())?
    {
        Command::Plan(planning) => Ok(format!("{planning:?}")),
        other => panic!("{other:?}"),
    };
    let stated = planning(&[
        "--images",
        "train=1_281_167",
        "--device",
        "a100",
        "--mfu",
        "0.3",
    ])
    .unwrap();
    for part in ["1281167", "a100", "Some(0.3)"] {
        assert!(stated.contains(part), "{part}: {stated}");
    }
    for (arguments, known) in [
        (["--images", "trian=5"], "train"),
        (["--classes", "nothing=5"], "train"),
        (["--phase", "nothing"], "pretrain"),
    ] {
        let failure: Failure = planning(&arguments).unwrap_err();
        assert_eq!(failure.code, Code::Usage);
        assert!(failure.message.contains(known), "{}", failure.message);
    }
    for wrong in [
        ["--mfu", "2"],
        ["--mfu", "0"],
        ["--device-tflops", "-1"],
        ["--images", "train"],
        ["--device", "abacus"],
    ] {
        let line = [&["diptych", "plan", "-f", path][..], &wrong].concat();
        assert!(Args::try_parse_from(line).is_err(), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_plan_says_what_it_assumed_of_data_that_cannot_be_read() {
    let text = include_str!("verb/example.yaml");
    let file = spec_file(text);
    let path = file.path().to_str().unwrap();
    let print = async |arguments: &[&str]| {
        let command = command(&[&["plan", "-f", path], arguments].concat()).unwrap();
        let mut text = Vec::new();
        let printer = Printer::new(Format::Table, &mut text);
        crate::verb::run(command, printer).await.unwrap();
        String::from_utf8(text).unwrap()
    };
    let assumed = print(&[]).await;
    assert!(
        assumed.contains("(assumed)") && assumed.contains("state others with --images train=N"),
        "{assumed}"
    );
    for heading in [
        "EFFICIENCY",
        "MEMORY/RANK",
        "checkpoint",
        "Times are estimates",
    ] {
        assert!(assumed.contains(heading), "{heading}: {assumed}");
    }
    let stated = print(&[
        "--images",
        "train=5000",
        "--images",
        "test=100",
        "--phase",
        "pretrain",
    ])
    .await;
    assert!(
        stated.contains("5000 images") && !stated.contains("note:"),
        "{stated}"
    );
    assert_eq!(stated.matches("RANKS").count(), 1, "{stated}");
}
