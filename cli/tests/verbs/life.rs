//! A job from submit to delete.

use crate::cluster::Cluster;

fn words(rows: &serde_json::Value, field: &str) -> Vec<String> {
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| row[field].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_job_waits_is_cancelled_goes_on_and_succeeds() {
    let cluster = Cluster::start().await;
    let job = cluster.submit().await;
    let listed = cluster.json(&["list", "--state", "queued"]).await;
    assert_eq!(words(&listed, "job"), [job.as_str()]);
    let why = cluster.json(&["explain", &job]).await;
    assert_eq!(words(&why["reasons"], "code")[0], "not_enough_devices");
    let (code, _) = cluster.fails(&["wait", &job, "--timeout", "100ms"]).await;
    assert_eq!(code, 6);
    assert_eq!(cluster.fails(&["delete", &job]).await.0, 7, "active");

    let text = cluster.ok(&["cancel", &job, "--reason", "enough"]).await;
    assert!(
        text.contains("cancelled") && text.contains("enough"),
        "{text}"
    );
    let (code, says) = cluster.fails(&["wait", &job]).await;
    assert!(code == 1 && says.contains("enough"), "{code} {says}");
    cluster.ok(&["retry", &job]).await;
    for name in ["w1", "w2"] {
        cluster.worker(name).await;
    }
    let summary = cluster.ok(&["wait", &job]).await;
    assert!(summary.contains("50.0 %"), "{summary}");

    let workers = cluster.json(&["worker", "list"]).await;
    assert_eq!(words(&workers, "worker"), ["w1", "w2"]);
    assert_eq!(words(&workers, "state"), ["ready", "ready"]);
    let yaml = cluster.ok(&["describe", &job, "-o", "yaml"]).await;
    assert!(yaml.contains("state: succeeded"), "{yaml}");
    assert!(
        yaml.contains("apiVersion: diptych/v1"),
        "with its spec: {yaml}"
    );
    let events = cluster.ok(&["events", &job, "-o", "json"]).await;
    for kind in [
        "submitted",
        "cancelled",
        "retried",
        "placed",
        "job_succeeded",
    ] {
        assert!(
            events.contains(&format!("\"kind\":\"{kind}\"")),
            "{kind}: {events}"
        );
    }
    let csv = cluster.ok(&["metrics", &job, "-o", "csv"]).await;
    assert!(csv.starts_with("phase,step,name,value\n"), "{csv}");
    assert!(csv.contains("pretrain,4,loss,1.5\n"), "{csv}");
    assert_eq!(cluster.fails(&["retry", &job]).await.0, 7, "it succeeded");
}

#[tokio::test]
async fn checkpoints_are_listed_verified_and_pinned_and_go_with_their_job() {
    let cluster = Cluster::start().await;
    let job = cluster.submit().await;
    for name in ["w1", "w2"] {
        cluster.worker(name).await;
    }
    cluster.ok(&["wait", &job]).await;
    let listed = cluster.json(&["checkpoint", "list", &job]).await;
    assert_eq!(words(&listed, "phase"), ["linear", "pretrain"]);
    assert_eq!(words(&listed, "state"), ["verified", "verified"]);
    let verified = cluster.json(&["checkpoint", "verify", &job]).await;
    assert_eq!(verified["phase"], "linear");
    for (verb, pinned) in [("pin", true), ("unpin", false)] {
        let which = [
            "checkpoint",
            verb,
            &job,
            "--phase",
            "pretrain",
            "--step",
            "4",
        ];
        assert_eq!(cluster.json(&which).await["pinned"], pinned);
    }
    let deleted = cluster.json(&["delete", &job, "--objects"]).await;
    assert_eq!(deleted["job"], job.as_str());
    let (code, says) = cluster.fails(&["describe", &job]).await;
    assert!(code == 3 && says.contains(&job), "{code} {says}");
    assert_eq!(cluster.json(&["list"]).await, serde_json::json!([]));
}
