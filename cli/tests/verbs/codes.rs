//! Exit codes, contexts, completion, Ctrl-C.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use crate::cluster::Cluster;
use crate::program::within;

#[tokio::test]
async fn each_failure_has_its_exit_code() {
    let cluster = Cluster::start().await;
    assert_eq!(cluster.fails(&["list", "--bogus"]).await.0, 2);
    let broken = cluster.dir.path().join("broken.yaml");
    std::fs::write(&broken, "apiVersion: diptych/v1\nnmae: x\n").unwrap();
    let broken = broken.to_str().unwrap();
    let (code, says) = cluster.fails(&["submit", "-f", broken]).await;
    assert!(code == 2 && says.contains("nmae"), "{code} {says}");
    let (code, says) = cluster
        .fails(&["-o", "json", "describe", "none-000000"])
        .await;
    let says: serde_json::Value = serde_json::from_str(&says).unwrap();
    assert_eq!((code, &says["error"]["code"]), (3, &"not_found".into()));

    let mut away = cluster.program();
    away.args(["--server", "http://127.0.0.1:1", "list"]);
    let away = within(away.output()).await.unwrap();
    assert_eq!(away.status.code(), Some(5));
    let says = String::from_utf8(away.stderr).unwrap();
    assert!(
        says.contains("http://127.0.0.1:1 cannot be reached"),
        "{says}"
    );
}

#[tokio::test]
async fn a_context_names_the_server() {
    let cluster = Cluster::start().await;
    let job = cluster.submit().await;
    cluster.ok(&["context", "set", "lab"]).await;
    let mut list = cluster.program();
    let listed = within(list.args(["list", "-o", "json"]).output())
        .await
        .unwrap();
    assert!(String::from_utf8(listed.stdout).unwrap().contains(&job));
    let mut contexts = cluster.program();
    let contexts = within(contexts.args(["context", "list", "-o", "yaml"]).output());
    let text = String::from_utf8(contexts.await.unwrap().stdout).unwrap();
    assert!(
        text.contains("name: lab") && text.contains("current: true"),
        "{text}"
    );
}

#[tokio::test]
async fn shells_can_complete() {
    let cluster = Cluster::start().await;
    for shell in ["bash", "zsh", "fish"] {
        let script = cluster.ok(&["completion", shell]).await;
        assert!(
            script.contains("diptych") && script.contains("submit"),
            "{shell}"
        );
    }
}

#[tokio::test]
async fn ctrl_c_detaches_and_says_how_to_come_back() {
    let cluster = Cluster::start().await;
    let job = cluster.submit().await;
    let mut program = cluster.program();
    program.args(["--server", &cluster.url, "events", &job, "--follow"]);
    let mut child = program.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = within(lines.next_line()).await.unwrap().unwrap();
    assert!(first.contains("submitted"), "{first}");
    kill(Pid::from_raw(child.id().unwrap() as i32), Signal::SIGINT).unwrap();
    let mut words = String::new();
    let mut errors = child.stderr.take().unwrap();
    within(errors.read_to_string(&mut words)).await.unwrap();
    assert_eq!(within(child.wait()).await.unwrap().code(), Some(130));
    assert!(words.contains("the job goes on"), "{words}");
    assert!(
        words.contains(&format!("diptych events {job} --follow")),
        "{words}"
    );
    let state = cluster.json(&["describe", &job]).await["state"].clone();
    assert_eq!(state, "queued", "nothing happened to it");
}

#[tokio::test]
async fn only_new_lines_are_followed_after_tail_0() {
    use diptych_proto::v1;
    use diptych_proto::v1::agent_service_client::AgentServiceClient;

    let cluster = Cluster::start().await;
    let job = cluster.submit().await;
    let mut uploads = AgentServiceClient::connect(cluster.url.clone())
        .await
        .unwrap();
    let chunk = |first_line, line: &str| v1::LogChunk {
        job: job.clone(),
        attempt: 1,
        lines: vec![line.to_owned()],
        first_line,
        ..Default::default()
    };
    let old = tokio_stream::iter([chunk(0, "old")]);
    uploads.upload_logs(old).await.unwrap();
    let mut program = cluster.program();
    program.args([
        "--server",
        &cluster.url,
        "logs",
        &job,
        "--follow",
        "--tail",
        "0",
    ]);
    let mut child = program.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = 1;
    let first = within(async {
        loop {
            // Lines go on until the follower has begun, however long that takes.
            let new = tokio_stream::iter([chunk(next, &format!("new {next}"))]);
            uploads.upload_logs(new).await.unwrap();
            next += 1;
            let line = tokio::time::timeout(Duration::from_millis(100), lines.next_line());
            if let Ok(line) = line.await {
                return line.unwrap().unwrap();
            }
        }
    });
    let first = first.await;
    assert!(first.contains("new "), "{first}");
    child.kill().await.unwrap();
}
