//! Backups and debug bundles of a coordinator that runs.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use flate2::read::GzDecoder;

use crate::cluster::Cluster;
use crate::program::Program;

#[tokio::test]
async fn a_backup_is_whole_and_overwrites_nothing() {
    let cluster = Cluster::start().await;
    cluster.submit().await;
    let file = cluster.dir.path().join("backup");
    let to = file.to_str().unwrap();
    let made = cluster.json(&["admin", "backup", "--to", to]).await;
    let bytes = std::fs::read(&file).unwrap();
    assert!(bytes.starts_with(b"SQLite format 3\0"));
    assert_eq!(made["bytes"], bytes.len());
    let digest = diptych_common::digest::Digest::of(&bytes);
    assert_eq!(made["digest"], digest.to_string());
    let (code, words) = cluster.fails(&["admin", "backup", "--to", to]).await;
    assert_eq!(code, 7, "{words}");
    assert!(words.contains("is there already"), "{words}");
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
    let (code, words) = cluster
        .fails(&["admin", "backup", "--to", "/nowhere/backup"])
        .await;
    assert_eq!(code, 3, "{words}");
    let left = std::fs::read_dir(cluster.dir.path()).unwrap();
    let parts = left.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().ends_with(".part")
    });
    assert_eq!(parts.count(), 0, "nothing half-made stays");
}

#[tokio::test]
async fn a_backup_of_nobody_leaves_no_file() {
    let program = Program::new("http://127.0.0.1:1");
    let file = program.dir.path().join("backup");
    let (code, words) = program
        .fails(&["admin", "backup", "--to", file.to_str().unwrap()])
        .await;
    assert_eq!(code, 5, "{words}");
    assert_eq!(std::fs::read_dir(program.dir.path()).unwrap().count(), 0);
}

fn unpack(file: &Path) -> BTreeMap<String, String> {
    let gzip = GzDecoder::new(std::fs::File::open(file).unwrap());
    let mut archive = tar::Archive::new(gzip);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let within: std::path::PathBuf = path.components().skip(1).collect();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        (within.display().to_string(), text)
    });
    entries.collect()
}

#[tokio::test]
async fn a_debug_bundle_says_what_is_in_it() {
    let cluster = Cluster::start().await;
    cluster.worker("w1").await;
    let job = cluster.submit().await;
    let file = cluster.dir.path().join("bug.tar.gz");
    let to = file.to_str().unwrap();
    let made = cluster.json(&["admin", "debug-bundle", "--to", to]).await;
    assert_eq!(made["jobs"], serde_json::json!([job]));
    assert_eq!(made["problems"], serde_json::json!([]));
    let files = unpack(&file);
    let expected = [
        "README.txt".to_owned(),
        "jobs.json".to_owned(),
        format!("jobs/{job}/events.jsonl"),
        format!("jobs/{job}/explain.json"),
        format!("jobs/{job}/job.json"),
        "settings.toml".to_owned(),
        "version.json".to_owned(),
        "workers.json".to_owned(),
    ];
    assert_eq!(files.keys().cloned().collect::<Vec<_>>(), expected);
    assert!(files[&expected[2]].contains("\"kind\":\"submitted\""));
    assert!(
        files[&expected[3]].contains("not_enough_devices"),
        "it needs two workers"
    );
    assert!(
        files[&expected[4]].contains("file:///nowhere"),
        "the spec is in it"
    );
    assert!(files["workers.json"].contains("w1"));
    let (code, words) = cluster.fails(&["admin", "debug-bundle", "--to", to]).await;
    assert_eq!(code, 7, "{words}");
}

#[tokio::test]
async fn a_restore_without_the_coordinator_s_program_says_where_to_put_it() {
    let program = Program::new("http://127.0.0.1:1");
    let missing = program.dir.path().join("none");
    let output = program
        .program()
        .env("DIPTYCH_COORDINATOR", &missing)
        .args(["admin", "restore", "--from", "x", "--data-dir", "y"])
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("DIPTYCH_COORDINATOR names"), "{words}");
}
