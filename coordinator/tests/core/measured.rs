//! What is counted of failures, of changes by plan and of saves, and that it does not pile up.

use std::time::Duration;

use diptych_common::operations::family::text;
use diptych_coordinator::core::{Event, Exit, Mono, RankEvent, Scale};

use crate::env::Env;
use crate::words::*;

impl Env {
    /// What a reader sees of one series.
    fn measured(&mut self, series: &str) -> Option<f64> {
        let page = self.page();
        let value = page.lines().find_map(|line| line.strip_prefix(series));
        value.map(|value| value.trim().parse().expect("a number"))
    }

    fn page(&mut self) -> String {
        let now = self.now().mono;
        text(self.measurements.families(now)).expect("it is written")
    }

    pub(crate) fn pass(&mut self, ms: u64) {
        self.at += Duration::from_millis(ms);
    }
}

/// Three ranks at step 10, with a verified checkpoint of step 4.
fn training(min: u32) -> Env {
    let mut env = Env::with_workers(&["w1", "w2", "w3"]);
    env.submit("job-1", &submission((min, 3), 0, &["a"]));
    env.all_ready("job-1", 0);
    env.save("job-1", 4);
    env.verify_all(None);
    for rank in 0..3 {
        env.say("job-1", rank, progress(10));
    }
    env
}

fn attempts(env: &mut Env, cause: &str) -> Option<f64> {
    env.measured(&format!(
        "diptych_generation_total{{job_id=\"job-1\",cause=\"{cause}\"}}"
    ))
}

fn part(env: &mut Env, part: &str, of: &str) -> Option<f64> {
    env.measured(&format!(
        "diptych_recovery_seconds_{of}{{phase=\"{part}\"}}"
    ))
}

const LOST: &str = "diptych_lost_steps_total{job_id=\"job-1\",phase=\"a\"}";

#[test]
fn a_recovery_is_counted_part_by_part() {
    let mut env = training(1);
    assert_eq!(attempts(&mut env, "start"), Some(1.0));
    assert_eq!(env.measured("diptych_queue_wait_seconds_count"), Some(1.0));
    env.say("job-1", 1, exited(Exit::Signal(9)));
    assert_eq!(attempts(&mut env, "crashed"), Some(1.0));
    assert_eq!(part(&mut env, "place", "count"), Some(1.0));
    env.pass(200);
    env.say_as("w1", "job-1", 1, 0, held(10));
    assert_eq!(
        env.measured("diptych_abort_seconds_count"),
        Some(0.0),
        "one is still in"
    );
    env.pass(100);
    env.say_as("w3", "job-1", 1, 2, held(10));
    assert_eq!(env.measured("diptych_abort_seconds_count"), Some(1.0));
    assert_eq!(
        env.measured("diptych_abort_seconds_bucket{le=\"0.25\"}"),
        Some(0.0)
    );
    assert_eq!(
        env.measured("diptych_abort_seconds_bucket{le=\"0.5\"}"),
        Some(1.0)
    );
    env.pass(700);
    env.all_ready("job-1", 10);
    assert_eq!(part(&mut env, "load", "sum"), Some(1.0));
    env.pass(500);
    for step in [11, 12] {
        env.say("job-1", 0, progress(step));
    }
    assert_eq!(part(&mut env, "first_step", "count"), Some(1.0));
    assert_eq!(part(&mut env, "first_step", "sum"), Some(0.5));
    assert_eq!(env.measured(LOST), Some(0.0), "survivors held the state");
    let steps = "diptych_step_seconds_count{job_id=\"job-1\",phase=\"a\",rank=\"0\"}";
    assert_eq!(env.measured(steps), Some(12.0), "steps, not reports");
}

#[test]
fn steps_that_are_done_again_are_lost_ones() {
    let mut env = training(3);
    env.pass(20_000);
    let before = env.measured("diptych_goodput_ratio{job_id=\"job-1\"}");
    assert_eq!(before, Some(0.5), "10 steps of a second in 20 s");
    for (rank, name) in ["w1", "w2", "w3"].into_iter().enumerate() {
        env.say_as(name, "job-1", 1, rank as u32, exited(Exit::Signal(9)));
    }
    let attempt = env.live("job-1").1;
    env.all_ready("job-1", 4);
    assert_eq!(env.live("job-1").1, attempt);
    assert_eq!(env.measured(LOST), Some(6.0));
    let after = env.measured("diptych_goodput_ratio{job_id=\"job-1\"}");
    assert_eq!(after, Some(0.2));
}

#[test]
fn a_lost_worker_is_noticed_some_time_after_its_last_word() {
    let mut env = training(1);
    env.wait_alive(6_000, &["w1", "w2"]);
    assert_eq!(attempts(&mut env, "worker_lost"), Some(1.0));
    assert_eq!(env.measured("diptych_detect_seconds_count"), Some(1.0));
    let noticed = env.measured("diptych_detect_seconds_sum").unwrap();
    assert!((5.0..5.1).contains(&noticed), "{noticed}");
}

#[test]
fn a_change_by_plan_is_no_recovery() {
    let mut env = training(1);
    let scale = Scale {
        job: id("job-1"),
        phase: None,
        min: None,
        max: Some(2),
    };
    env.do_step(Event::Scale(scale));
    for rank in 0..3 {
        env.say("job-1", rank, held(11));
    }
    assert_eq!(attempts(&mut env, "planned"), Some(1.0));
    env.all_ready("job-1", 11);
    env.say("job-1", 0, progress(12));
    for name in ["detect", "abort", "place", "load", "first_step"] {
        assert_eq!(part(&mut env, name, "count"), Some(0.0), "{name}");
    }
    assert_eq!(env.measured(LOST), Some(0.0));
}

#[test]
fn saves_count_what_they_write_and_how_long_steps_stand_still() {
    let mut env = training(3);
    let RankEvent::PartSaved { step, objects, .. } = env.part("job-1", 0, 8) else {
        unreachable!()
    };
    let stall = Some(Duration::from_millis(20));
    let saved = RankEvent::PartSaved {
        step,
        objects,
        stall,
    };
    env.say("job-1", 0, saved);
    let bytes = "diptych_ckpt_upload_bytes_total{job_id=\"job-1\",phase=\"a\"}";
    assert_eq!(env.measured(bytes), Some(20.0), "four parts of five bytes");
    let stall = "diptych_ckpt_stall_seconds_sum{job_id=\"job-1\"}";
    assert_eq!(env.measured(stall), Some(0.02));
    for rank in [1, 2] {
        let part = env.part("job-1", rank, 8);
        env.say("job-1", rank, part);
    }
    let manifest = env.manifest("job-1", 8);
    env.say("job-1", 0, manifest);
    env.verify_all(Some("shard-00000 is cut off"));
    let damaged = "diptych_ckpt_verify_failures_total{job_id=\"job-1\",phase=\"a\"}";
    assert_eq!(env.measured(damaged), Some(1.0));
}

#[test]
fn an_ended_job_keeps_its_series_for_an_hour_and_a_deleted_one_not_at_all() {
    for delete in [false, true] {
        let mut env = Env::with_workers(&["w1"]);
        env.submit("job-1", &submission((1, 1), 0, &["a"]));
        env.run_phase("job-1", 10);
        assert!(env.has_succeeded("job-1"));
        assert!(env.page().contains("job-1"));
        if delete {
            env.do_step(Event::Delete { job: id("job-1") });
        } else {
            env.pass(3_601_000);
        }
        assert!(!env.page().contains("job-1"), "deleted: {delete}");
    }
}

#[test]
fn after_a_restart_an_attempt_that_lives_is_measured_and_none_is_counted_again() {
    let mut env = training(1);
    env.restart();
    for (rank, name) in ["w1", "w2", "w3"].into_iter().enumerate() {
        env.register(name, "1", 1, &[("job-1", 1, rank as u32, 0)]);
    }
    assert_eq!(attempts(&mut env, "start"), None);
    for step in [11, 12] {
        env.say("job-1", 0, progress(step));
    }
    let steps = "diptych_step_seconds_count{job_id=\"job-1\",phase=\"a\",rank=\"0\"}";
    assert_eq!(env.measured(steps), Some(1.0), "the first says where it is");
    env.say("job-1", 1, exited(Exit::Signal(9)));
    assert_eq!(attempts(&mut env, "crashed"), Some(1.0));
}

#[test]
fn a_page_of_nothing_is_a_page() {
    let mut env = Env::new();
    let page = env.page();
    assert!(page.ends_with("# EOF\n"), "{page}");
    assert_eq!(env.now().mono, Mono::default());
}
