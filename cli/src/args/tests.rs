//! What may be typed, and what may not.

use std::ffi::OsString;

use clap::{CommandFactory as _, Parser as _};

use super::checkpoint::CheckpointVerb;
use super::worker::WorkerVerb;
use super::{Args, Verb};
use crate::output::Format;

fn parse(line: &str) -> Result<Args, clap::Error> {
    Args::try_parse_from(line.split_whitespace())
}

#[test]
fn the_definition_is_sound() {
    Args::command().debug_assert();
}

#[test]
fn lines_that_people_type_parse() {
    for line in [
        "diptych submit -f job.yaml",
        "diptych submit -f - --set seed=7 --set phases[0].batch=64 --request-id r1 --follow",
        "diptych submit --file job.yaml --dry-run -o json",
        "diptych -o json submit -f job.yaml --wait",
        "diptych validate -f job.yaml",
        "diptych list --state running --state queued",
        "diptych describe digits-3f9a01 -o yaml",
        "diptych watch digits-3f9a01 --server http://h:1",
        "diptych logs digits-3f9a01 --follow --phase pretrain --attempt 2 --rank 0 --tail 100",
        "diptych events digits-3f9a01 --follow",
        "diptych cancel digits-3f9a01 --reason because",
        "diptych wait digits-3f9a01 --timeout 1h30m",
        "diptych delete digits-3f9a01 --objects",
        "diptych metrics digits-3f9a01 -o csv",
        "diptych checkpoint export digits-3f9a01 --phase student --step 10 --out s.safetensors",
        "diptych checkpoint unpin digits-3f9a01",
        "diptych scale digits-3f9a01 --min 2 --max 4",
        "diptych scale digits-3f9a01 --phase pretrain --max 1 -o json",
        "diptych worker list",
        "diptych worker describe worker-1",
        "diptych worker cordon worker-1 --reason because",
        "diptych worker uncordon worker-1",
        "diptych worker drain worker-1 --deadline 90s --reason reboot --wait",
        "diptych worker top --once",
        "diptych worker top -o json",
        "diptych dataset inspect file:///data --limit 5 --contact-sheet s.png --augment-size 64",
        "diptych dataset inspect file:///data --operations-sheet s.png --augment-size 64",
        "diptych local -f job.yaml --workers 2 --dir d --devices-per-worker 2 --keep --set seed=1",
        "diptych spec example",
        "diptych completion bash",
        "diptych context set lab --server http://h:1",
        "diptych version --client --context lab",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn lines_that_make_no_sense_do_not() {
    for line in [
        "diptych",
        "diptych submit",
        "diptych submit -f a --wait --follow",
        "diptych submit -f a --dry-run --wait",
        "diptych describe",
        "diptych describe ../etc/passwd",
        "diptych list --state unknown",
        "diptych logs job --rank minus",
        "diptych wait job --timeout soon",
        "diptych local -f a --workers 0",
        "diptych checkpoint export job",
        "diptych dataset inspect file:///d --augment-size 64",
        "diptych dataset inspect file:///d --format zip",
        "diptych dataset inspect",
        "diptych dataset inspect file:///d -f job.yaml",
        "diptych dataset inspect file:///d --phase pretrain",
        "diptych dataset inspect -f job.yaml --label-column label",
        "diptych metrics job -o xml",
        "diptych scale job",
        "diptych scale job --phase pretrain",
        "diptych scale job --min 0",
        "diptych scale job --max many",
        "diptych worker describe",
        "diptych worker cordon Worker_1",
        "diptych worker drain worker-1 --deadline 0s",
        "diptych worker drain worker-1 --deadline soon",
        "diptych worker uncordon worker-1 --reason because",
        "diptych completion cmd",
    ] {
        let error = parse(line).expect_err(line);
        assert!(error.use_stderr() || line == "diptych", "{line}");
    }
}

#[test]
fn arguments_of_the_worker_pass_through() {
    let args = parse("diptych predict -o json --model m.safetensors a.png --device cpu").unwrap();
    assert_eq!(args.globals.output, Format::Json);
    let Verb::Predict(predict) = args.verb else {
        panic!("predict")
    };
    let wanted: Vec<OsString> = ["--model", "m.safetensors", "a.png", "--device", "cpu"]
        .map(OsString::from)
        .to_vec();
    assert_eq!(predict.args, wanted);
}

#[test]
fn a_checkpoint_is_named_by_job_phase_and_step() {
    let args = parse("diptych checkpoint verify digits-1 --phase pretrain --step 12").unwrap();
    let Verb::Checkpoint(checkpoint) = args.verb else {
        panic!("checkpoint")
    };
    let CheckpointVerb::Verify(verify) = checkpoint.verb else {
        panic!("verify")
    };
    assert_eq!(verify.which.job.as_str(), "digits-1");
    assert_eq!(
        verify.which.phase.map(|phase| phase.to_string()).as_deref(),
        Some("pretrain")
    );
    assert_eq!(verify.which.step, Some(12));
}

#[test]
fn every_verb_teaches_by_example() {
    fn visit(command: &clap::Command, path: &str) {
        for verb in command.get_subcommands() {
            let path = format!("{path} {}", verb.get_name());
            assert!(verb.get_about().is_some(), "{path} says what it does");
            let leaf = verb.get_subcommands().next().is_none();
            let obvious = path.ends_with("context list");
            assert!(
                !leaf || obvious || verb.get_after_help().is_some(),
                "{path} has an example"
            );
            visit(verb, &path);
        }
    }
    visit(&Args::command(), "diptych");
}

#[test]
fn a_drain_has_two_minutes_unless_told_otherwise() {
    let deadline = |line| {
        let Verb::Worker(worker) = parse(line).unwrap().verb else {
            panic!("worker")
        };
        let WorkerVerb::Drain(drain) = worker.verb else {
            panic!("drain")
        };
        drain.deadline.as_secs()
    };
    assert_eq!(deadline("diptych worker drain worker-1"), 120);
    assert_eq!(
        deadline("diptych worker drain worker-1 --deadline 1h"),
        3600
    );
}
