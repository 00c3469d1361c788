//! Workers.

use std::io::{self, Write};

use diptych_proto::v1;
use serde::Serialize;

use super::device::{self, DeviceView};
use super::rank::{PACE, RankView};
use super::{some_text, time};
use crate::output::Output;
use crate::output::table::{columns, or_dash, properties};

/// Where a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WorkerState {
    /// Its agent is there.
    Ready,
    /// Its stream was reset.
    Suspect,
    /// It did not come back in time.
    Lost,
    /// A state that this version does not know.
    Unknown,
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct WorkerView {
    pub(crate) worker: String,
    pub(crate) state: WorkerState,
    /// No new ranks are placed on it.
    pub(crate) cordoned: bool,
    /// Who or what wanted that.
    pub(crate) cordon_reason: Option<String>,
    /// What it runs is on its way elsewhere.
    pub(crate) draining: bool,
    pub(crate) host: String,
    pub(crate) version: String,
    pub(crate) since: Option<String>,
    pub(crate) devices: Vec<DeviceView>,
    pub(crate) running: Vec<RunningView>,
    /// What it runs, by device.
    pub(crate) ranks: Vec<RankView>,
    /// Failures of late that were its own, newest first.
    pub(crate) blamed: Vec<String>,
}

/// A rank that runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RunningView {
    pub(crate) job: String,
    pub(crate) attempt: u64,
    pub(crate) rank: u32,
    pub(crate) device: u32,
}

/// Many workers.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct WorkerList(pub(crate) Vec<WorkerView>);

impl WorkerState {
    fn word(self) -> &'static str {
        match self {
            WorkerState::Ready => "ready",
            WorkerState::Suspect => "suspect",
            WorkerState::Lost => "lost",
            WorkerState::Unknown => "unknown",
        }
    }
}

impl From<v1::Worker> for WorkerView {
    fn from(worker: v1::Worker) -> Self {
        let state = match worker.state() {
            v1::WorkerState::Unspecified => WorkerState::Unknown,
            v1::WorkerState::Ready => WorkerState::Ready,
            v1::WorkerState::Suspect => WorkerState::Suspect,
            v1::WorkerState::Lost => WorkerState::Lost,
        };
        let mut ranks: Vec<RankView> = worker.ranks.into_iter().map(RankView::from).collect();
        for running in &worker.running {
            let same = |rank: &RankView| {
                (&rank.job, rank.attempt, rank.rank)
                    == (&running.job, running.attempt, running.rank)
            };
            if !ranks.iter().any(same) {
                ranks.push(RankView::of_running(&worker.worker, running));
            }
        }
        ranks.sort_by_key(|rank| rank.device);
        Self {
            worker: worker.worker,
            state,
            cordoned: worker.cordoned,
            cordon_reason: some_text(worker.cordon_reason),
            draining: worker.draining,
            host: worker.host,
            version: worker.version,
            since: time(worker.since),
            devices: worker.devices.into_iter().map(DeviceView::from).collect(),
            running: worker.running.into_iter().map(RunningView::from).collect(),
            ranks,
            blamed: worker.blamed,
        }
    }
}

impl From<v1::RunningRank> for RunningView {
    fn from(rank: v1::RunningRank) -> Self {
        Self {
            job: rank.job,
            attempt: rank.attempt,
            rank: rank.rank,
            device: rank.device,
        }
    }
}

impl WorkerView {
    /// Its state and what keeps new ranks off it, e.g. `ready,draining`.
    fn standing(&self) -> String {
        let kept_off = match (self.draining, self.cordoned) {
            (true, _) => ",draining",
            (false, true) => ",cordoned",
            (false, false) => "",
        };
        format!("{}{kept_off}", self.state.word())
    }

    /// Why it takes no new ranks, or not on all of its devices.
    fn reason(&self) -> Option<String> {
        let reasons = self.cordon_reason.iter().cloned();
        let reasons: Vec<_> = reasons.chain(device::problems(&self.devices)).collect();
        some_text(reasons.join("; "))
    }

    /// What a reader of its ranks should know of it, e.g. `draining: kernel update`; nothing of one that is well.
    pub(crate) fn note(&self) -> Option<String> {
        if self.state == WorkerState::Ready && !self.cordoned && !self.draining {
            return None;
        }
        let standing = self.standing();
        let words = standing.strip_prefix("ready,").unwrap_or(&standing);
        Some(match &self.cordon_reason {
            Some(reason) => format!("{words}: {reason}"),
            None => words.to_owned(),
        })
    }
}

impl Output for WorkerList {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let rows = self.0.iter().map(|worker| {
            let running: Vec<_> = worker
                .running
                .iter()
                .map(|rank| format!("{}/{}", rank.job, rank.rank))
                .collect();
            vec![
                worker.worker.clone(),
                worker.standing(),
                worker.host.clone(),
                device::counts(&worker.devices),
                or_dash(some_text(running.join(","))),
                worker.version.clone(),
                or_dash(worker.since.as_ref()),
                or_dash(worker.reason()),
            ]
        });
        let headings = [
            "WORKER", "STATE", "HOST", "DEVICES", "RUNNING", "VERSION", "SINCE", "REASON",
        ];
        columns(out, &headings, rows)
    }
}

impl Output for WorkerView {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        properties(
            out,
            &[
                ("worker", Some(self.worker.clone())),
                ("state", Some(self.standing())),
                ("reason", self.cordon_reason.clone()),
                ("host", Some(self.host.clone())),
                ("version", Some(self.version.clone())),
                ("since", self.since.clone()),
            ],
        )?;
        device::table(&self.devices, out)?;
        writeln!(out)?;
        if self.ranks.is_empty() {
            writeln!(out, "runs nothing")?;
        } else {
            let headings = ["DEVICE", "JOB", "PHASE", "ATTEMPT", "RANK", "STATE", "STEP"];
            let rows = self.ranks.iter().map(|rank| {
                let mut row = vec![
                    rank.device.to_string(),
                    rank.job.clone(),
                    or_dash(rank.phase.as_ref()),
                    rank.attempt.to_string(),
                    rank.rank.to_string(),
                    rank.state.clone(),
                    rank.step.to_string(),
                ];
                row.extend(rank.pace());
                row
            });
            columns(out, &[&headings[..], &PACE].concat(), rows)?;
        }
        if !self.blamed.is_empty() {
            writeln!(out, "\nfailures of its own, newest first:")?;
            for failure in &self.blamed {
                writeln!(out, "  {failure}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod samples {
    //! Workers as a coordinator describes them.

    use super::*;

    pub(crate) fn rank(worker: &str, rank: u32, busy_s: f64, slowness: f64) -> v1::RankStatus {
        v1::RankStatus {
            job: "digits-3f9a01".to_owned(),
            phase: "pretrain".to_owned(),
            attempt: 3,
            rank,
            worker: worker.to_owned(),
            device: 0,
            state: "training".to_owned(),
            step: 120,
            step_s: 1.25,
            busy_s,
            slowness,
        }
    }

    pub(crate) fn worker(name: &str, ranks: Vec<v1::RankStatus>) -> v1::Worker {
        v1::Worker {
            worker: name.to_owned(),
            state: v1::WorkerState::Ready.into(),
            host: "host".to_owned(),
            version: "0.1.0".to_owned(),
            devices: vec![v1::DeviceInfo {
                index: 0,
                kind: "cpu".to_owned(),
                name: "a CPU".to_owned(),
                memory: 1 << 30,
                ..v1::DeviceInfo::default()
            }],
            running: Vec::new(),
            since: None,
            cordoned: false,
            cordon_reason: String::new(),
            draining: false,
            blamed: Vec::new(),
            ranks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::{rank, worker};
    use super::*;

    fn table(value: &impl Output) -> String {
        let mut out = Vec::new();
        value.table(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_list_says_what_keeps_ranks_off_a_worker_and_why() {
        let mut cordoned = worker("w2", Vec::new());
        cordoned.cordoned = true;
        cordoned.cordon_reason = "bad fan".to_owned();
        let mut draining = worker("w3", Vec::new());
        draining.cordoned = true;
        draining.draining = true;
        let workers = [worker("w1", Vec::new()), cordoned, draining];
        let list = WorkerList(workers.map(WorkerView::from).to_vec());
        assert_eq!(
            table(&list),
            "WORKER  STATE           HOST  DEVICES               RUNNING  VERSION  SINCE  REASON\n\
             w1      ready           host  1 cpu (1.0 GiB each)  -        0.1.0    -      -\n\
             w2      ready,cordoned  host  1 cpu (1.0 GiB each)  -        0.1.0    -      bad fan\n\
             w3      ready,draining  host  1 cpu (1.0 GiB each)  -        0.1.0    -      -\n"
        );
    }

    #[test]
    fn a_description_has_devices_ranks_and_blame() {
        let mut described = worker("w1", vec![rank("w1", 1, 1.2, 2.34)]);
        described.cordoned = true;
        described.cordon_reason = "5 failures within an hour".to_owned();
        described.blamed = vec!["rank 1 of digits-3f9a01: killed by signal 9".to_owned()];
        assert_eq!(
            table(&WorkerView::from(described)),
            "worker   w1\n\
             state    ready,cordoned\n\
             reason   5 failures within an hour\n\
             host     host\n\
             version  0.1.0\n\
             \n\
             DEVICE  KIND  NAME   MEMORY\n\
             0       cpu   a CPU  1.0 GiB\n\
             \n\
             DEVICE  JOB            PHASE     ATTEMPT  RANK  STATE     STEP  STEP-TIME  BUSY    SLOWNESS\n\
             0       digits-3f9a01  pretrain  3        1     training  120   1.25 s     1.20 s  slow 2.3×\n\
             \n\
             failures of its own, newest first:\n\
             \x20 rank 1 of digits-3f9a01: killed by signal 9\n"
        );
        let idle = table(&WorkerView::from(worker("w1", Vec::new())));
        assert!(idle.ends_with("\nruns nothing\n"), "{idle}");
    }

    #[test]
    fn a_rank_of_which_only_the_trainer_is_known_is_there_once() {
        let mut described = worker("w1", vec![rank("w1", 0, 0.0, 0.0)]);
        let running = |rank, held| v1::RunningRank {
            job: "digits-3f9a01".to_owned(),
            attempt: 3,
            rank,
            device: rank,
            held,
            ..v1::RunningRank::default()
        };
        described.running = vec![running(2, false), running(1, true), running(0, false)];
        let view = WorkerView::from(described);
        let states: Vec<_> = view.ranks.iter().map(|rank| rank.state.as_str()).collect();
        assert_eq!(states, ["training", "held", "running"]);
        assert_eq!(view.ranks[0].busy_s, None, "0 stands for unknown");
    }

    #[test]
    fn the_json_of_a_worker_is_stable() {
        let json = serde_json::to_value(WorkerView::from(worker(
            "w1",
            vec![rank("w1", 1, 1.0, 1.6)],
        )));
        let json = json.unwrap();
        let keys = |value: &serde_json::Value| {
            let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
            keys.sort();
            keys.join(" ")
        };
        assert_eq!(
            keys(&json),
            "blamed cordon_reason cordoned devices draining host ranks running since state version worker"
        );
        assert_eq!(
            keys(&json["ranks"][0]),
            "attempt busy_s device job phase rank slow slowness state step step_s worker"
        );
        assert_eq!(json["ranks"][0]["slow"], true);
        assert_eq!(json["cordon_reason"], serde_json::Value::Null);
    }
}
