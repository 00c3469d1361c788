//! The binary itself.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use diptych_proto::v1;
use diptych_proto::v1::job_service_client::JobServiceClient;
use diptych_proto::v1::system_service_client::SystemServiceClient;

use crate::env::spec;

fn start(dir: &std::path::Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_diptych-coordinator"))
        .args(["--listen", "127.0.0.1:0", "--data-dir"])
        .arg(dir.join("data"))
        .arg("--port-file")
        .arg(dir.join("port"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Its log line by line, until one holds the text.
fn read_until(log: &mut impl BufRead, text: &str) -> String {
    let mut all = String::new();
    while !all.contains(text) {
        assert!(
            log.read_line(&mut all).unwrap() > 0,
            "no {text:?} in {all:?}"
        );
    }
    all
}

#[tokio::test]
async fn it_says_where_it_listens_and_ends_on_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = start(dir.path());
    let mut log = BufReader::new(process.stderr.take().unwrap());
    let line = read_until(&mut log, "listening on 127.0.0.1:");
    let port = std::fs::read_to_string(dir.path().join("port")).unwrap();
    let port = port.trim_end();
    assert!(line.contains(&format!("127.0.0.1:{port}")), "{line} {port}");
    let mut client = SystemServiceClient::connect(format!("http://127.0.0.1:{port}"))
        .await
        .unwrap();
    let version = client
        .version(v1::VersionRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(version.version, env!("CARGO_PKG_VERSION"));

    let mut second = start(dir.path());
    let mut words = BufReader::new(second.stderr.take().unwrap());
    read_until(&mut words, "is in use by another coordinator");
    assert!(!second.wait().unwrap().success());

    let killed = Command::new("kill")
        .args(["-TERM", &process.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let ended = tokio::task::spawn_blocking(move || process.wait())
        .await
        .unwrap();
    assert!(ended.unwrap().success(), "a clean end");
}

#[tokio::test]
async fn an_acknowledged_submit_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut jobs = Vec::new();
    for round in 0..3 {
        let mut process = start(dir.path());
        let mut log = BufReader::new(process.stderr.take().unwrap());
        read_until(&mut log, "listening on 127.0.0.1:");
        let port = std::fs::read_to_string(dir.path().join("port")).unwrap();
        let mut client = JobServiceClient::connect(format!("http://127.0.0.1:{}", port.trim_end()))
            .await
            .unwrap();
        let listed = client
            .list(v1::ListJobsRequest::default())
            .await
            .unwrap()
            .into_inner()
            .jobs;
        let listed: Vec<_> = listed.into_iter().rev().map(|job| job.job).collect();
        assert_eq!(listed, jobs, "round {round}");
        let request = v1::SubmitRequest {
            spec: Some(spec()),
            request_id: String::new(),
            dry_run: false,
        };
        jobs.push(client.submit(request).await.unwrap().into_inner().job);
        // SIGKILL, in the moment of the answer.
        process.kill().unwrap();
        process.wait().unwrap();
    }
}
