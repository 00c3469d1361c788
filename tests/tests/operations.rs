//! What those who watch a cluster are told while a trainer dies and the job goes on.

use anyhow::{Context, Result, ensure};
use diptych_tests::cluster::{Cluster, Setting, stepped};
use diptych_tests::process::{Process, kill_now};
use diptych_tests::specs::{self, Small};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Status and text of one request to a process's operations port.
async fn get(process: &Process, path: &str) -> Result<(u16, String)> {
    let log = process.printed()?;
    let address = log
        .split("health and metrics on ")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next())
        .context("the process says where its port is")?;
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer")?;
    let status = head.split(' ').nth(1).context("a status")?.parse()?;
    Ok((status, body.to_owned()))
}

/// The value of a series, which is written as Prometheus has it.
fn value(page: &str, series: &str) -> Result<f64> {
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let line = line.with_context(|| format!("{series} is not in\n{page}"))?;
    Ok(line.parse()?)
}

#[tokio::test]
async fn a_recovery_is_measured_from_the_death_to_the_next_step() -> Result<()> {
    let folder = tempfile::Builder::new().prefix("diptych-test-").tempdir()?;
    let port = ["--metrics-listen", "127.0.0.1:0"].map(str::to_owned);
    let setting = Setting {
        coordinator: port.to_vec(),
        agents: port.to_vec(),
        ..Setting::default()
    };
    let mut cluster = Cluster::start_in(folder, &[1, 1], setting).await?;
    specs::images(cluster.dir())?;
    let job = cluster.submit(&Small::LONG.pretraining(cluster.dir()))?;
    cluster
        .wait(&job, |now| stepped(now, "pretrain", 25))
        .await?;
    for process in [cluster.coordinator()?, cluster.agent(0), cluster.agent(1)] {
        for path in ["/healthz", "/readyz"] {
            let (status, text) = get(process, path).await?;
            ensure!(status == 200, "{path}: {status} {text}");
        }
    }
    let (_, page) = get(cluster.agent(1), "/metrics").await?;
    ensure!(value(&page, "diptych_worker_registered")? == 1.0);
    ensure!(value(&page, "diptych_worker_trainers")? == 1.0);

    kill_now(cluster.trainer(1)?)?;
    cluster.succeed(&job).await?;
    let (_, page) = get(cluster.coordinator()?, "/metrics").await?;
    let of_job = format!("job_id=\"{job}\"");
    let of_phase = format!("{of_job},phase=\"pretrain\"");
    let is = |series: &str, wanted: f64| -> Result<()> {
        let found = value(&page, series)?;
        ensure!(
            found == wanted,
            "{series} is {found}, not {wanted}:\n{page}"
        );
        Ok(())
    };
    is(
        &format!("diptych_job_state{{{of_job},state=\"succeeded\"}}"),
        1.0,
    )?;
    is(
        &format!("diptych_generation_total{{{of_job},cause=\"start\"}}"),
        1.0,
    )?;
    is(
        &format!("diptych_generation_total{{{of_job},cause=\"crashed\"}}"),
        1.0,
    )?;
    is("diptych_abort_seconds_count", 1.0)?;
    for part in ["abort", "place", "load", "first_step"] {
        is(
            &format!("diptych_recovery_seconds_count{{phase=\"{part}\"}}"),
            1.0,
        )?;
    }
    is(&format!("diptych_lost_steps_total{{{of_phase}}}"), 0.0)?;
    is(
        &format!("diptych_ckpt_verify_failures_total{{{of_phase}}}"),
        0.0,
    )?;
    let steps = value(
        &page,
        &format!("diptych_step_seconds_count{{{of_phase},rank=\"0\"}}"),
    )?;
    ensure!(
        steps > 0.8 * Small::LONG.steps as f64,
        "{steps} steps of {}",
        Small::LONG.steps
    );
    ensure!(
        value(
            &page,
            &format!("diptych_ckpt_upload_bytes_total{{{of_phase}}}")
        )? > 1e4
    );
    ensure!(
        value(
            &page,
            &format!("diptych_ckpt_stall_seconds_count{{{of_job}}}")
        )? >= 4.0
    );
    ensure!(value(&page, "diptych_journal_fsync_seconds_count")? > 1.0);
    let submits = "diptych_rpc_seconds_count{method=\"JobService/Submit\"}";
    ensure!(value(&page, submits)? == 1.0);

    cluster.kill_coordinator()?;
    let unready = async {
        loop {
            let (status, why) = get(cluster.agent(0), "/readyz").await?;
            if status == 503 {
                return anyhow::Ok(why);
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let why = tokio::time::timeout(std::time::Duration::from_secs(30), unready).await??;
    ensure!(why.contains("not registered with the coordinator"), "{why}");
    let (status, _) = get(cluster.agent(0), "/healthz").await?;
    ensure!(status == 200, "it stays, as its ranks would go on");
    cluster.passed()
}
