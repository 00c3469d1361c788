//! What every rank of every worker does at the moment.

use std::io::{self, Write};

use diptych_proto::v1;
use serde::Serialize;

use super::rank::{PACE, RankView};
use super::worker::WorkerView;
use crate::output::Output;
use crate::output::table::{columns, or_dash};

/// All ranks, and the workers that they are on.
#[derive(Debug, Serialize)]
pub(crate) struct Top {
    /// By worker and device.
    ranks: Vec<RankView>,
    workers: Vec<Seat>,
}

/// A worker, as far as it matters to ranks.
#[derive(Debug, Serialize)]
struct Seat {
    worker: String,
    state: super::worker::WorkerState,
    cordoned: bool,
    cordon_reason: Option<String>,
    draining: bool,
    /// How many it offers.
    devices: usize,
    /// It runs nothing.
    idle: bool,
    #[serde(skip)]
    note: Option<String>,
}

impl From<v1::ListWorkersResponse> for Top {
    fn from(answer: v1::ListWorkersResponse) -> Self {
        let mut ranks = Vec::new();
        let mut workers = Vec::new();
        for worker in answer.workers.into_iter().map(WorkerView::from) {
            workers.push(Seat {
                note: worker.note(),
                worker: worker.worker,
                state: worker.state,
                cordoned: worker.cordoned,
                cordon_reason: worker.cordon_reason,
                draining: worker.draining,
                devices: worker.devices.len(),
                idle: worker.ranks.is_empty(),
            });
            // A worker answers for all that is listed under it.
            let name = workers.last().map(|seat| seat.worker.clone());
            ranks.extend(worker.ranks.into_iter().map(|rank| RankView {
                worker: name.clone().unwrap_or_default(),
                ..rank
            }));
        }
        Self { ranks, workers }
    }
}

impl Top {
    /// E.g. `3 workers, 1 of them idle; 2 ranks, 1 of them slow`.
    pub(crate) fn headline(&self) -> String {
        let of_them = |count: usize, what: &str| match count {
            0 => String::new(),
            count => format!(", {count} of them {what}"),
        };
        let workers = self.workers.len();
        let ranks = self.ranks.len();
        let idle = self.workers.iter().filter(|worker| worker.idle).count();
        let slow = self.ranks.iter().filter(|rank| rank.slow).count();
        format!(
            "{workers} workers{}; {ranks} ranks{}",
            of_them(idle, "idle"),
            of_them(slow, "slow")
        )
    }
}

impl Output for Top {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut rows = Vec::new();
        for seat in &self.workers {
            let note = or_dash(seat.note.as_ref());
            if seat.idle {
                let dash = || "-".to_owned();
                let mut row = vec![seat.worker.clone(), format!("{} free", seat.devices)];
                row.extend([dash(), dash(), dash(), "idle".to_owned(), dash()]);
                row.extend([dash(), dash(), dash(), note.clone()]);
                rows.push(row);
            }
            for rank in self.ranks.iter().filter(|rank| rank.worker == seat.worker) {
                let mut row = vec![
                    seat.worker.clone(),
                    rank.device.to_string(),
                    rank.job.clone(),
                    or_dash(rank.phase.as_ref()),
                    rank.rank.to_string(),
                    rank.state.clone(),
                    rank.step.to_string(),
                ];
                row.extend(rank.pace());
                row.push(note.clone());
                rows.push(row);
            }
        }
        let headings = ["WORKER", "DEVICE", "JOB", "PHASE", "RANK", "STATE", "STEP"];
        columns(out, &[&headings[..], &PACE, &["NOTE"]].concat(), rows)
    }
}

#[cfg(test)]
mod tests {
    use super::super::worker::samples::{rank, worker};
    use super::*;

    fn cluster() -> Top {
        let mut away = worker("w2", vec![rank("w2", 1, 1.2, 2.31)]);
        away.state = v1::WorkerState::Suspect.into();
        let mut draining = worker("w3", vec![rank("w3", 2, 0.004, 0.96)]);
        draining.cordoned = true;
        draining.draining = true;
        draining.cordon_reason = "kernel update".to_owned();
        let mut cordoned = worker("w4", Vec::new());
        cordoned.cordoned = true;
        cordoned.cordon_reason = "5 failures within an hour".to_owned();
        let workers = vec![
            worker("w1", vec![rank("w1", 0, 0.52, 1.0)]),
            away,
            draining,
            cordoned,
            worker("w5", Vec::new()),
        ];
        Top::from(v1::ListWorkersResponse { workers })
    }

    #[test]
    fn a_row_a_rank_and_one_for_each_idle_worker() {
        let mut out = Vec::new();
        cluster().table(&mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "WORKER  DEVICE  JOB            PHASE     RANK  STATE     STEP  STEP-TIME  BUSY    SLOWNESS   NOTE\n\
             w1      0       digits-3f9a01  pretrain  0     training  120   1.25 s     520 ms  1.0×       -\n\
             w2      0       digits-3f9a01  pretrain  1     training  120   1.25 s     1.20 s  slow 2.3×  suspect\n\
             w3      0       digits-3f9a01  pretrain  2     training  120   1.25 s     4.0 ms  1.0×       draining: kernel update\n\
             w4      1 free  -              -         -     idle      -     -          -       -          cordoned: 5 failures within an hour\n\
             w5      1 free  -              -         -     idle      -     -          -       -          -\n"
        );
        assert_eq!(
            cluster().headline(),
            "5 workers, 2 of them idle; 3 ranks, 1 of them slow"
        );
    }

    #[test]
    fn one_document_names_every_rank_and_every_worker() {
        let json = serde_json::to_value(cluster()).unwrap();
        assert_eq!(json["ranks"][1]["worker"], "w2");
        assert_eq!(json["ranks"][1]["slow"], true);
        assert_eq!(json["ranks"][2]["slow"], false);
        assert_eq!(json["workers"][1]["state"], "suspect");
        assert_eq!(json["workers"][2]["draining"], true);
        assert_eq!(
            json["workers"][3]["cordon_reason"],
            "5 failures within an hour"
        );
        assert_eq!(json["workers"][4]["idle"], true);
        assert!(json["workers"][4].get("note").is_none());
    }
}
