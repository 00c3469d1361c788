//! What a collector of traces is told of a job while a trainer and the coordinator die.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use diptych_tests::cluster::{Cluster, Setting, stepped};
use diptych_tests::collector::{Collector, Span, StatusCode, attribute};
use diptych_tests::process::kill_now;
use diptych_tests::specs::{self, Small};

/// The one span with this name and, of an attempt, this number.
fn one<'a>(spans: &'a [Span], name: &str, attempt: Option<&str>) -> Result<&'a Span> {
    let is = |span: &&Span| {
        span.name == name
            && (attempt.is_none() || attribute(span, "diptych.attempt").as_deref() == attempt)
    };
    let mut found = spans.iter().filter(is);
    let span = found.next();
    ensure!(
        found.next().is_none(),
        "{name} {attempt:?} twice: {spans:#?}"
    );
    span.with_context(|| format!("no {name} {attempt:?}: {spans:#?}"))
}

fn within(span: &Span, parent: &Span) -> Result<()> {
    ensure!(
        span.parent_span_id == parent.span_id
            && parent.start_time_unix_nano <= span.start_time_unix_nano
            && span.start_time_unix_nano <= span.end_time_unix_nano
            && span.end_time_unix_nano <= parent.end_time_unix_nano,
        "{span:#?} is no part of {parent:#?}"
    );
    Ok(())
}

fn told(span: &Span, events: &[&str]) -> Result<()> {
    let names: Vec<_> = span
        .events
        .iter()
        .map(|event| event.name.as_str())
        .collect();
    let mut rest = names.iter();
    for event in events {
        ensure!(
            rest.any(|name| name == event),
            "no {event} in order: {names:?}"
        );
    }
    for event in &span.events {
        let meanwhile = span.start_time_unix_nano..=span.end_time_unix_nano;
        ensure!(
            meanwhile.contains(&event.time_unix_nano),
            "{event:?} of {span:#?}"
        );
    }
    Ok(())
}

fn is(span: &Span, name: &str, value: &str) -> Result<()> {
    let found = attribute(span, name);
    ensure!(
        found.as_deref() == Some(value),
        "{name} is {found:?}: {span:#?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_job_is_one_trace_over_the_deaths_of_a_trainer_and_of_the_coordinator() -> Result<()> {
    let folder = tempfile::Builder::new().prefix("diptych-test-").tempdir()?;
    let collector = Collector::start().await?;
    let setting = Setting {
        coordinator: vec!["--otlp-endpoint".to_owned(), collector.url()],
        ..Setting::default()
    };
    let mut cluster = Cluster::start_in(folder, &[1, 1], setting).await?;
    specs::images(cluster.dir())?;
    let job = cluster.submit(&Small::LONG.pretraining(cluster.dir()))?;
    cluster
        .wait(&job, |now| stepped(now, "pretrain", 15))
        .await?;
    kill_now(cluster.trainer(1)?)?;
    let first = |spans: &[Span]| spans.iter().any(|span| span.name == "attempt");
    collector.wait(first).await?;
    cluster
        .wait(&job, |now| {
            now.phases[0].attempt == 2 && stepped(now, "pretrain", 30)
        })
        .await?;
    cluster.kill_coordinator()?;
    cluster.revive_coordinator().await?;
    cluster.succeed(&job).await?;

    let all = |spans: &[Span]| spans.iter().any(|span| span.name == "job");
    let spans = collector.wait(all).await?;
    let names: BTreeSet<&[u8]> = spans.iter().map(|span| span.span_id.as_slice()).collect();
    ensure!(names.len() == spans.len(), "one is told twice: {spans:#?}");
    let root = one(&spans, "job", None)?;
    ensure!(root.trace_id.len() == 16 && root.parent_span_id.is_empty());
    ensure!(spans.iter().all(|span| span.trace_id == root.trace_id));
    is(root, "diptych.job", &job)?;
    is(root, "diptych.outcome", "succeeded")?;
    is(root, "diptych.attempts", "2")?;
    told(root, &["submitted", "job_succeeded"])?;

    let phase = one(&spans, "phase pretrain", None)?;
    within(phase, root)?;
    is(phase, "diptych.step.reached", "120")?;
    // Sent by the first coordinator; what it was a part of, by the second.
    let failed = one(&spans, "attempt", Some("1"))?;
    within(failed, phase)?;
    is(failed, "diptych.outcome", "failed")?;
    is(failed, "diptych.failure", "crashed")?;
    is(failed, "diptych.world", "2")?;
    is(failed, "diptych.step.from", "0")?;
    let status = failed.status.as_ref().context("it says why")?;
    ensure!(status.code() == StatusCode::Error, "{status:?}");
    ensure!(
        status.message.contains("was killed by signal 9"),
        "{status:?}"
    );
    let events = [
        "placed",
        "begun",
        "first_step",
        "checkpoint_committed",
        "attempt_failed",
    ];
    told(failed, &events)?;

    let recovered = one(&spans, "attempt", Some("2"))?;
    within(recovered, phase)?;
    ensure!(failed.end_time_unix_nano <= recovered.start_time_unix_nano);
    is(recovered, "diptych.outcome", "done")?;
    is(recovered, "diptych.step.reached", "120")?;
    ensure!(recovered.status.is_none(), "{recovered:#?}");
    told(
        recovered,
        &["placed", "begun", "reattached", "finished", "phase_done"],
    )?;
    cluster.passed()
}
