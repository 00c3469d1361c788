//! The binary's settings, and its port for those who watch.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use diptych_proto::v1;
use diptych_proto::v1::job_service_client::JobServiceClient;

use crate::env::spec;

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_diptych-coordinator"));
    command.env_clear();
    command
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_setting_that_does_not_work_is_said_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("coordinator.yaml");
    std::fs::write(&file, "lisen: 1\nstall: soon\n").unwrap();
    for check in [&["--check-config"][..], &[]] {
        let output = program()
            .env("DIPTYCH_CONFIG", &file)
            .env("DIPTYCH_RECONNECT", "0s")
            .args(["--listen", "nowhere"])
            .args(check)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let words = words(&output);
        for wanted in [
            "4 settings do not work",
            "lisen: is no setting",
            "stall: \"soon\" is not a duration",
            "listen: \"nowhere\" is not an address",
            "reconnect: must be longer than nothing (from DIPTYCH_RECONNECT)",
        ] {
            assert!(words.contains(wanted), "{wanted}\n{words}");
        }
    }
}

#[test]
fn looking_at_settings_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let look = |what: &str| {
        let mut program = program();
        program.arg("--data-dir").arg(&data).arg(what);
        program.output().unwrap()
    };
    for what in ["--check-config", "--dump-config", "--config-schema"] {
        let output = look(what);
        assert!(output.status.success(), "{output:?}");
        assert!(!data.exists(), "{what}");
    }
    let dump = String::from_utf8(look("--dump-config").stdout).unwrap();
    let given = format!("data-dir = \"{}\" # command line\n", data.display());
    assert!(dump.contains(&given), "{dump}");
    assert!(dump.contains("heartbeat = \"1s\" # default\n"), "{dump}");
    let file = dir.path().join("coordinator.toml");
    std::fs::write(&file, &dump).unwrap();
    let again = program()
        .arg("--config")
        .arg(&file)
        .arg("--dump-config")
        .output()
        .unwrap();
    let values = |dump: &str| -> Vec<String> {
        let lines = dump.lines().map(|line| line.split(" # ").next());
        lines
            .map(|line| line.unwrap_or_default().to_owned())
            .collect()
    };
    let again = String::from_utf8(again.stdout).unwrap();
    assert_eq!(
        values(&again),
        values(&dump),
        "a dump is a file that gives the same"
    );
    let schema = look("--config-schema").stdout;
    let schema: serde_json::Value = serde_json::from_slice(&schema).unwrap();
    assert!(
        schema["properties"]["reattach-grace"].is_object(),
        "{schema}"
    );
}

/// A coordinator that serves both of its ports, and ends with the test.
struct Watched {
    process: Child,
    metrics: String,
}

impl Watched {
    fn start(dir: &Path) -> Self {
        let mut process = program()
            .args(["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"])
            // Nobody collects there: what is counted of spans is served all the same.
            .args(["--otlp-endpoint", "http://127.0.0.1:9"])
            .arg("--data-dir")
            .arg(dir)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut all = String::new();
        let metrics = loop {
            assert!(log.read_line(&mut all).unwrap() > 0, "{all}");
            let after = all.split("health and metrics on ").nth(1);
            if let Some(address) = after.and_then(|after| after.split_whitespace().next()) {
                break address.to_owned();
            }
        };
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { process, metrics }
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.metrics).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
fn those_who_watch_a_coordinator_are_told_all_that_the_documents_promise() {
    let dir = tempfile::tempdir().unwrap();
    let watched = Watched::start(&dir.path().join("data"));
    for path in ["/healthz", "/readyz"] {
        let answer = watched.get(path);
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
    let page = watched.get("/metrics");
    let documents = include_str!("../../../docs/operations.md");
    let promised: Vec<&str> = documents
        .lines()
        .filter(|line| line.starts_with("| `diptych_"))
        .flat_map(|line| line.split('|').nth(1).unwrap_or_default().split('`'))
        .filter(|name| name.starts_with("diptych_"))
        .filter(|name| !name.starts_with("diptych_worker_"))
        .collect();
    assert!(promised.len() > 15, "{promised:?}");
    for name in promised {
        let family = name.strip_suffix("_total").unwrap_or(name);
        let typed = format!("# TYPE {family} ");
        assert!(page.contains(&typed), "{name} is not served:\n{page}");
    }
}

#[tokio::test]
async fn the_log_tells_a_job_s_history_in_fields() {
    let dir = tempfile::tempdir().unwrap();
    let port = dir.path().join("port");
    let mut process = program()
        .args(["--listen", "127.0.0.1:0", "--log-format", "json"])
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .arg("--port-file")
        .arg(&port)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = BufReader::new(process.stderr.take().unwrap());
    let mut lines = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap());
    let listening = lines.find(|line| {
        let message = line["fields"]["message"].as_str();
        message.is_some_and(|message| message.starts_with("listening on "))
    });
    assert!(listening.is_some());
    let port = std::fs::read_to_string(&port).unwrap();
    let url = format!("http://127.0.0.1:{}", port.trim_end());
    let mut client = JobServiceClient::connect(url).await.unwrap();
    let request = v1::SubmitRequest {
        spec: Some(spec()),
        request_id: String::new(),
        dry_run: false,
    };
    let job = client.submit(request).await.unwrap().into_inner().job;
    let told = lines.find(|line| line["fields"]["kind"] == "submitted");
    let fields = &told.unwrap()["fields"];
    assert_eq!(fields["job"], job);
    for field in ["phase", "attempt", "message"] {
        assert!(!fields[field].is_null(), "{field} is not in {fields}");
    }
    process.kill().unwrap();
    process.wait().unwrap();
}
