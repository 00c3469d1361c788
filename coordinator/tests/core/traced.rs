//! What a collector of traces is told: each span once, whoever restarts, and all of them one tree.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use diptych_common::ids::JobId;
use diptych_coordinator::core::{
    Change, Event, Exit, FailureKind, Happening, Outcome, Scale, State, UnixMs,
};
use diptych_coordinator::traces::{Span, SpanId, TraceId, Traces, Value};

use crate::env::Env;
use crate::words::*;

/// What was told, and the histories from which a coordinator that starts again takes up the rest.
#[derive(Default)]
pub(crate) struct Traced {
    traces: Traces,
    lines: Vec<Happening>,
    pub(crate) spans: Vec<Span>,
    told: BTreeSet<SpanId>,
}

impl Traced {
    pub(crate) fn take(
        &mut self,
        state: &State,
        outcome: &Outcome,
        changes: &[Change],
        now: UnixMs,
    ) {
        let (outcomes, happened) = (std::slice::from_ref(outcome), &outcome.happened);
        let ended = self.traces.take(state, outcomes, happened, now);
        for span in &ended {
            assert!(self.told.insert(span.id), "told twice: {span:?}");
        }
        self.spans.extend(ended);
        self.lines.extend_from_slice(happened);
        for change in changes {
            if let Change::DropJob { job } = change {
                let (told, trace) = (&mut self.told, TraceId::of(job));
                self.lines.retain(|line| line.job != *job);
                self.spans
                    .retain(|span| span.trace != trace || !told.remove(&span.id));
            }
        }
    }

    pub(crate) fn restart(&mut self, state: &State) {
        self.traces = Traces::new();
        for job in state.jobs().values().filter(|job| job.is_active()) {
            let lines = self.lines.iter().filter(|line| line.job == *job.id());
            let history: Vec<Happening> = lines.cloned().collect();
            self.traces.recall(state, &history);
        }
    }

    /// The trace of a job that has ended is one tree, and each span lies within what it is a part of.
    pub(crate) fn check(&self, job: &JobId) {
        let spans = self.of(job);
        let roots = spans.iter().filter(|span| span.parent.is_none());
        assert_eq!(roots.count(), 1, "{spans:#?}");
        for span in &spans {
            let Some(parent) = span.parent else { continue };
            let parent = spans.iter().find(|other| other.id == parent);
            let parent = parent.unwrap_or_else(|| panic!("no parent of {span:?}"));
            let within = parent.start <= span.start && span.end <= parent.end;
            assert!(within || span.name == "retry", "{span:?} in {parent:?}");
        }
    }

    fn of(&self, job: &JobId) -> Vec<&Span> {
        let trace = TraceId::of(job);
        let of_job = |span: &&Span| span.trace == trace;
        self.spans.iter().filter(of_job).collect()
    }

    /// In words, a span a line, as an outline. Times are since the first event; what is the same for all spans is left out.
    fn tree(&self, job: &str) -> String {
        self.check(&id(job));
        let mut spans = self.of(&id(job));
        spans.sort_by_key(|span| (span.start, span.name == "retry"));
        let mut out = String::from("\n");
        below(&spans, None, 0, &mut out);
        out
    }
}

fn below(spans: &[&Span], parent: Option<SpanId>, depth: usize, out: &mut String) {
    for span in spans.iter().filter(|span| span.parent == parent) {
        let at = |at: UnixMs| at.get() - 1_000_000;
        let (start, end) = (at(span.start), at(span.end));
        let indent = "  ".repeat(depth);
        write!(out, "{indent}{} {start}..{end}", span.name).unwrap();
        let same = ["diptych.job", "diptych.job.name", "diptych.phase"];
        for (name, value) in span
            .attributes
            .iter()
            .filter(|(name, _)| !same.contains(name))
        {
            let name = name.trim_start_matches("diptych.");
            match value {
                Value::Text(text) => write!(out, " {name}={text}"),
                Value::Number(number) => write!(out, " {name}={number}"),
                Value::Texts(texts) => write!(out, " {name}={}", texts.join(",")),
            }
            .unwrap();
        }
        if let Some(error) = &span.error {
            write!(out, " ({error})").unwrap();
        }
        for event in &span.events {
            write!(out, "\n{indent}  - {} {}", at(event.at), event.kind).unwrap();
        }
        out.push('\n');
        below(spans, Some(span.id), depth + 1, out);
    }
}

/// Two ranks that step, with a checkpoint of step 4.
fn training() -> Env {
    let mut env = Env::with_workers(&["w1", "w2"]);
    env.submit("job-1", &submission((1, 2), 0, &["a"]));
    env.pass(100);
    env.all_ready("job-1", 0);
    env.pass(100);
    env.say("job-1", 0, progress(1));
    env.pass(100);
    env.save("job-1", 4);
    env.verify_all(None);
    env.say("job-1", 0, progress(7));
    env.pass(100);
    env
}

fn end(env: &mut Env, from: u64) {
    env.pass(100);
    env.all_ready("job-1", from);
    env.pass(100);
    env.say("job-1", 0, progress(from + 1));
    env.pass(100);
    env.save("job-1", 10);
    env.finish("job-1", 10);
    env.verify_all(None);
    assert!(env.has_succeeded("job-1"), "{:?}", env.history);
}

#[test]
fn a_recovery_is_two_attempts_of_one_phase() {
    let mut env = training();
    env.say("job-1", 1, exited(Exit::Signal(9)));
    end(&mut env, 7);
    assert_eq!(env.traced.tree("job-1"), "
job 0..700 attempts=2 outcome=succeeded
  - 0 submitted
  - 700 job_succeeded
  phase a 0..700 phase.kind=pretrain step.reached=10 attempts=2 outcome=done
    - 400 retrying
    attempt 0..400 attempt=1 world=2 workers=w1,w2 start=beginning step.from=0 step.reached=7 failure=crashed outcome=failed (attempt 1, rank 1 on w2: its trainer was killed by signal 9 (SIGKILL: the kernel's out-of-memory killer, or a person) (crashed))
      - 0 placed
      - 100 begun
      - 200 first_step
      - 300 checkpoint_committed
      - 300 checkpoint_verified
      - 400 attempt_failed
    attempt 400..700 attempt=2 world=1 workers=w1 start=memory step.from=7 step.reached=10 outcome=done
      - 400 placed
      - 500 begun
      - 600 first_step
      - 700 checkpoint_committed
      - 700 finished
      - 700 checkpoint_verified
      - 700 phase_done
");
}

#[test]
fn waits_for_devices_are_told() {
    let mut env = Env::new();
    env.submit("job-1", &submission((1, 1), 0, &["a", "b<a"]));
    env.pass(5_000);
    env.register("w1", "1", 1, &[]);
    env.pass(100);
    env.run_phase("job-1", 10);
    env.pass(100);
    env.run_phase("job-1", 10);
    assert_eq!(env.traced.tree("job-1"), "
job 0..5200 attempts=2 outcome=succeeded
  - 0 submitted
  - 5200 job_succeeded
  queued 0..5000
  phase a 5000..5100 phase.kind=pretrain step.reached=10 attempts=1 outcome=done
    attempt 5000..5100 attempt=1 world=1 workers=w1 start=beginning step.from=0 step.reached=10 outcome=done
      - 5000 placed
      - 5100 begun
      - 5100 checkpoint_committed
      - 5100 finished
      - 5100 checkpoint_verified
      - 5100 phase_done
  phase b 5100..5200 phase.kind=linear_eval step.reached=10 attempts=1 outcome=done
    attempt 5100..5200 attempt=2 world=1 workers=w1 start=beginning step.from=0 step.reached=10 outcome=done
      - 5100 placed
      - 5200 begun
      - 5200 checkpoint_committed
      - 5200 finished
      - 5200 checkpoint_verified
      - 5200 phase_done
");
}

#[test]
fn who_cancels_ends_all_of_it_and_who_retries_goes_on_in_the_same_trace() {
    let mut env = training();
    let cancel = || Event::Cancel {
        job: id("job-1"),
        reason: "enough".to_owned(),
    };
    env.do_step(cancel());
    env.pass(1_000);
    env.do_step(Event::Retry { job: id("job-1") });
    env.pass(200);
    env.do_step(cancel());
    assert_eq!(env.traced.tree("job-1"), "
job 0..400 attempts=1 outcome=cancelled
  - 0 submitted
  - 400 cancelled
  phase a 0..400 phase.kind=pretrain attempts=1 outcome=cancelled
    attempt 0..400 attempt=1 world=2 workers=w1,w2 start=beginning step.from=0 step.reached=7 outcome=cancelled
      - 0 placed
      - 100 begun
      - 200 first_step
      - 300 checkpoint_committed
      - 300 checkpoint_verified
      - 400 attempt_ended
  retry 1401..1601 attempts=0 outcome=cancelled
    - 1401 retried
    - 1601 cancelled
    queued 1401..1601
");
}

#[test]
fn the_first_cause_is_the_jobs() {
    let mut env = Env::with_workers(&["w1"]);
    env.submit("job-1", &submission((1, 1), 0, &["a"]));
    for _ in 0..3 {
        env.pass(100);
        env.say("job-1", 0, failed(FailureKind::Storage));
        env.pass(100);
        let attempt = env.job("job-1").record.last_attempt.get();
        env.say_as("w1", "job-1", attempt, 0, exited(Exit::Code(1)));
    }
    assert_eq!(env.traced.tree("job-1"), "
job 0..500 attempts=3 outcome=failed (3 failures in a row without progress; attempt 1, rank 0 on w1: it broke (storage))
  - 0 submitted
  phase a 0..500 phase.kind=pretrain attempts=3 outcome=failed (3 failures in a row without progress; attempt 1, rank 0 on w1: it broke (storage))
    - 100 retrying
    - 300 retrying
    - 500 job_failed
    attempt 0..100 attempt=1 world=1 workers=w1 start=beginning step.reached=0 failure=storage outcome=failed (attempt 1, rank 0 on w1: it broke (storage))
      - 0 placed
      - 100 attempt_failed
    attempt 200..300 attempt=2 world=1 workers=w1 start=beginning step.reached=0 failure=storage outcome=failed (attempt 2, rank 0 on w1: it broke (storage))
      - 200 placed
      - 300 attempt_failed
    attempt 400..500 attempt=3 world=1 workers=w1 start=beginning step.reached=0 failure=storage outcome=failed (attempt 3, rank 0 on w1: it broke (storage))
      - 400 placed
      - 500 attempt_failed
  queued 100..200
  queued 300..400
");
}

#[test]
fn a_change_by_plan_is_no_failure() {
    let mut env = training();
    let scale = Scale {
        job: id("job-1"),
        phase: None,
        min: None,
        max: Some(1),
    };
    env.do_step(Event::Scale(scale));
    env.pass(100);
    for rank in 0..2 {
        env.say("job-1", rank, held(8));
    }
    end(&mut env, 8);
    assert_eq!(env.traced.tree("job-1"), "
job 0..800 attempts=2 outcome=succeeded
  - 0 submitted
  - 800 job_succeeded
  phase a 0..800 phase.kind=pretrain step.reached=10 attempts=2 outcome=done
    attempt 0..500 attempt=1 world=2 workers=w1,w2 start=beginning step.from=0 step.reached=8 outcome=planned
      - 0 placed
      - 100 begun
      - 200 first_step
      - 300 checkpoint_committed
      - 300 checkpoint_verified
      - 400 scaled
      - 400 leaving
      - 500 attempt_ended
    attempt 500..800 attempt=2 world=1 workers=w1 start=memory step.from=8 step.reached=10 outcome=done
      - 500 placed
      - 600 begun
      - 700 first_step
      - 800 checkpoint_committed
      - 800 finished
      - 800 checkpoint_verified
      - 800 phase_done
");
}

#[test]
fn a_batch_that_is_skipped_stands_with_its_phase() {
    let mut env = Env::with_workers(&["w1"]);
    env.submit("job-1", &rewinding((1, 1)));
    env.pass(100);
    env.all_ready("job-1", 0);
    env.pass(100);
    env.say("job-1", 0, not_finite(3));
    end(&mut env, 0);
    assert_eq!(env.traced.tree("job-1"), "
job 0..500 attempts=2 outcome=succeeded
  - 0 submitted
  - 500 job_succeeded
  phase a 0..500 phase.kind=pretrain step.reached=10 attempts=2 outcome=done
    - 200 batch_skipped
    - 200 retrying
    attempt 0..200 attempt=1 world=1 workers=w1 start=beginning step.from=0 step.reached=0 failure=non_finite outcome=failed (attempt 1, rank 0 on w1: loss is not finite (non_finite))
      - 0 placed
      - 100 begun
      - 200 attempt_failed
    attempt 200..500 attempt=2 world=1 workers=w1 start=beginning step.from=0 step.reached=10 outcome=done
      - 200 placed
      - 300 begun
      - 400 first_step
      - 500 checkpoint_committed
      - 500 finished
      - 500 checkpoint_verified
      - 500 phase_done
");
}

#[test]
fn a_coordinator_that_starts_again_goes_on_with_the_trace() {
    let told = |restarts: bool| {
        let mut env = training();
        env.say("job-1", 1, exited(Exit::Signal(9)));
        let before = env.traced.spans.clone();
        if restarts {
            env.restart();
            env.register("w1", "1", 1, &[("job-1", 2, 0, 0)]);
            env.register("w2", "1", 1, &[("job-1", 2, 1, 0)]);
        }
        end(&mut env, 7);
        let names: BTreeSet<_> = env.traced.spans.iter().map(|span| span.id).collect();
        let tree = env.traced.tree("job-1");
        (before, names, tree)
    };
    let (once, again) = (told(false), told(true));
    assert_eq!(once.0, again.0);
    assert_eq!(once.1, again.1, "the same names");
    let came_back = |line: &&str| !line.ends_with(" reattached");
    let told: Vec<&str> = again.2.lines().filter(came_back).collect();
    assert_eq!(once.2.lines().collect::<Vec<_>>(), told);
}

#[test]
fn steps_before_a_restart_are_not_told_as_the_first() {
    let mut env = training();
    env.restart();
    env.register("w1", "1", 1, &[("job-1", 1, 0, 0)]);
    env.register("w2", "1", 1, &[("job-1", 1, 1, 0)]);
    env.say("job-1", 0, progress(8));
    env.pass(100);
    env.save("job-1", 10);
    env.finish("job-1", 10);
    env.verify_all(None);
    assert_eq!(
        env.traced.tree("job-1"),
        "
job 0..500 attempts=1 outcome=succeeded
  - 0 submitted
  - 500 job_succeeded
  phase a 0..500 phase.kind=pretrain step.reached=10 attempts=1 outcome=done
    attempt 0..500 attempt=1 world=2 workers=w1,w2 start=beginning step.reached=10 outcome=done
      - 0 placed
      - 100 begun
      - 300 checkpoint_committed
      - 300 checkpoint_verified
      - 400 reattached
      - 500 checkpoint_committed
      - 500 finished
      - 500 checkpoint_verified
      - 500 phase_done
"
    );
}
