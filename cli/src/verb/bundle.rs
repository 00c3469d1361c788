//! `admin debug-bundle`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use diptych_common::clock;
use diptych_common::ids::JobId;
use diptych_common::settings::without_password;
use diptych_common::spec::JobDraft;
use diptych_proto::{PROTOCOL, v1};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use serde_json::Value;

use super::admin::NewFile;
use super::{job, worker};
use crate::args::admin::DebugBundle;
use crate::client::Client;
use crate::client::follow::AtEnd;
use crate::failure::Failure;
use crate::output::Printer;
use crate::view::admin::Bundle;
use crate::view::cluster::{ClientVersion, ServerVersion, Versions};
use crate::view::history::EventView;
use crate::view::job::Description;
use crate::view::{JobState, JobView};

/// Jobs that have ended and are in it all the same.
const ENDED: usize = 10;

const README: &str = "\
What `diptych admin debug-bundle` found, for a bug report.

  version.json            of the command line and of the coordinator
  settings.toml           of the coordinator, with who gave each
  workers.json            what `diptych worker list` shows
  jobs.json               what `diptych list` shows: every job
  jobs/JOB/job.json       phases, ranks, and the spec
  jobs/JOB/events.jsonl   what happened, oldest first
  jobs/JOB/explain.json   why it waits, runs, or failed
  jobs/JOB/PHASE-aATTEMPT-rRANK.log   the last lines that a rank printed
  problems.txt            what could not be had, and why; absent where all could

Passwords in URLs are left out. Specs, names of machines and of data, and what trainers printed are as they are.
";

pub(super) async fn bundle<W: Write>(
    client: &Client,
    args: DebugBundle,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let now = humantime::format_rfc3339_seconds(clock::now()).to_string();
    let name = format!("diptych-debug-{}", now.replace(['-', ':'], ""));
    let to = args
        .to
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    let file = NewFile::beside(&to)?;
    let mut archive = Archive::new(&file, &name);
    archive.text("README.txt", README)?;
    let jobs = client.all_jobs(&[]).await?;
    let views: Vec<JobView> = jobs.iter().cloned().map(JobView::from).collect();
    archive.document("jobs.json", &views)?;
    archive.part("version.json", versions(client).await)?;
    archive.part("workers.json", worker::all(client).await)?;
    let settings = client.retry(|| async { client.admin().settings(v1::SettingsRequest {}).await });
    match settings.await {
        Ok(settings) => archive.text("settings.toml", &settings.toml)?,
        Err(failure) => archive.problem("settings.toml", &failure),
    }
    let chosen = choose(&views, &args.jobs);
    for id in &chosen {
        of_job(client, id, args.tail, &mut archive).await?;
    }
    let problems = archive.finish()?;
    let bytes = file.file().metadata()?.len();
    file.keep(&to)?;
    out.print(&Bundle {
        file: to.display().to_string(),
        bytes,
        jobs: chosen.iter().map(JobId::to_string).collect(),
        problems,
    })
}

/// The jobs that are wanted; else those that have not ended, and some that ended last. `views` has the newest first.
fn choose(views: &[JobView], wanted: &[JobId]) -> Vec<JobId> {
    if !wanted.is_empty() {
        return wanted.to_vec();
    }
    let open = |view: &&JobView| matches!(view.state, JobState::Queued | JobState::Running);
    let mut ended: Vec<&JobView> = views.iter().filter(|view| !open(view)).collect();
    ended.sort_by(|one, other| other.ended.cmp(&one.ended));
    let chosen = views
        .iter()
        .filter(open)
        .chain(ended.into_iter().take(ENDED));
    chosen.filter_map(|view| view.job.parse().ok()).collect()
}

async fn versions(client: &Client) -> Result<Versions, Failure> {
    let answer = client
        .retry(|| async { client.system().version(v1::VersionRequest {}).await })
        .await?;
    Ok(Versions {
        client: ClientVersion {
            version: env!("CARGO_PKG_VERSION"),
            protocol: PROTOCOL,
        },
        server: Some(ServerVersion {
            url: without_password(&client.server().to_string()),
            version: answer.version,
            protocol: answer.protocol,
            oldest_protocol: answer.oldest_protocol,
        }),
    })
}

async fn of_job(
    client: &Client,
    id: &JobId,
    tail: u64,
    archive: &mut Archive<'_>,
) -> Result<(), Failure> {
    let folder = format!("jobs/{id}");
    archive.part(&format!("{folder}/job.json"), description(client, id).await)?;
    archive.part(
        &format!("{folder}/explain.json"),
        job::explanation(client, id).await,
    )?;
    let events = events(client, id).await;
    let name = format!("{folder}/events.jsonl");
    match events {
        Ok(lines) => archive.text(&name, &lines)?,
        Err(failure) => archive.problem(&name, &failure),
    }
    match logs(client, id, tail).await {
        Ok(logs) => {
            for ((phase, attempt, rank), lines) in logs {
                let name = format!("{folder}/{phase}-a{attempt:06}-r{rank}.log");
                archive.text(&name, &lines)?;
            }
        }
        Err(failure) => archive.problem(&format!("{folder}/*.log"), &failure),
    }
    Ok(())
}

async fn description(client: &Client, id: &JobId) -> Result<Value, Failure> {
    let request = || v1::JobRequest {
        job: id.to_string(),
    };
    let answer = client
        .retry(|| async { client.jobs().get(request()).await })
        .await?;
    let spec = JobDraft::from(answer.spec.clone().unwrap_or_default());
    let described = Description {
        job: JobView::from(answer),
        spec,
    };
    let mut value = serde_json::to_value(described).map_err(anyhow::Error::new)?;
    hide_passwords(&mut value);
    Ok(value)
}

fn hide_passwords(value: &mut Value) {
    match value {
        Value::String(text) => *text = without_password(text),
        Value::Array(values) => values.iter_mut().for_each(hide_passwords),
        Value::Object(values) => values.values_mut().for_each(hide_passwords),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

async fn events(client: &Client, id: &JobId) -> Result<String, Failure> {
    let lines = RefCell::new(String::new());
    let open = || {
        // A stream that is opened again begins anew.
        lines.borrow_mut().clear();
        let request = v1::EventsRequest {
            job: id.to_string(),
            follow: false,
        };
        async move { client.jobs().events(request).await }
    };
    let take = |event: v1::Event| {
        if let Ok(line) = serde_json::to_string(&EventView::from(event)) {
            let mut lines = lines.borrow_mut();
            lines.push_str(&line);
            lines.push('\n');
        }
        Ok(ControlFlow::Continue(()))
    };
    client.stream(id, AtEnd::Stop, open, take).await?;
    Ok(lines.into_inner())
}

/// The last lines of each rank of each attempt.
async fn logs(
    client: &Client,
    id: &JobId,
    tail: u64,
) -> Result<BTreeMap<(String, u64, u32), String>, Failure> {
    let logs: RefCell<BTreeMap<(String, u64, u32), String>> = RefCell::default();
    let open = || {
        logs.borrow_mut().clear();
        let request = v1::LogsRequest {
            job: id.to_string(),
            tail,
            ..v1::LogsRequest::default()
        };
        async move { client.jobs().logs(request).await }
    };
    let take = |line: v1::LogLine| {
        let mut logs = logs.borrow_mut();
        let lines = logs
            .entry((line.phase, line.attempt, line.rank))
            .or_default();
        lines.push_str(&line.line);
        lines.push('\n');
        Ok(ControlFlow::Continue(()))
    };
    client.stream(id, AtEnd::Stop, open, take).await?;
    Ok(logs.into_inner())
}

/// A .tar.gz with one folder, and what could not be put into it.
struct Archive<'a> {
    tar: tar::Builder<GzEncoder<&'a std::fs::File>>,
    folder: &'a str,
    problems: Vec<String>,
}

impl<'a> Archive<'a> {
    fn new(file: &'a NewFile, folder: &'a str) -> Self {
        let gzip = GzEncoder::new(file.file(), Compression::default());
        Self {
            tar: tar::Builder::new(gzip),
            folder,
            problems: Vec::new(),
        }
    }

    fn text(&mut self, name: &str, text: &str) -> Result<(), Failure> {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(clock::unix_millis(clock::now()) / 1000);
        let path = Path::new(self.folder).join(name);
        Ok(self.tar.append_data(&mut header, path, text.as_bytes())?)
    }

    fn document(&mut self, name: &str, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(anyhow::Error::new)?;
        self.text(name, &(text + "\n"))
    }

    /// What was asked for or, in its place, why it could not be had.
    fn part(&mut self, name: &str, asked: Result<impl Serialize, Failure>) -> Result<(), Failure> {
        match asked {
            Ok(value) => self.document(name, &value),
            Err(failure) => {
                self.problem(name, &failure);
                Ok(())
            }
        }
    }

    fn problem(&mut self, name: &str, failure: &Failure) {
        self.problems.push(format!("{name}: {}", failure.message));
    }

    /// Writes what is left; what could not be had.
    fn finish(mut self) -> Result<Vec<String>, Failure> {
        if !self.problems.is_empty() {
            let text = self.problems.join("\n") + "\n";
            self.text("problems.txt", &text)?;
        }
        self.tar.into_inner()?.finish()?;
        Ok(self.problems)
    }
}
