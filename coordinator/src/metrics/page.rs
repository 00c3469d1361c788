//! What was counted, as families of series.

use diptych_common::ids::JobId;
use diptych_common::operations::{Family, Histogram, Labels};

use super::Measurements;
use super::job::{PhaseCounts, of_job, of_phase, of_rank};
use crate::core::Mono;

impl Measurements {
    /// All of it, for a reader.
    pub fn families(&mut self, now: Mono) -> Vec<Family> {
        self.forget(now);
        let mut families = self.of_cluster();
        families.extend(self.of_jobs(now));
        families
    }

    fn of_cluster(&self) -> Vec<Family> {
        let one = |histogram: &Histogram| [(Labels::new(), histogram.clone())];
        let named = |label, name: &'static str| vec![(label, name.to_owned())];
        let blocked = self.blocked.iter();
        let recovery = self.recovery.iter();
        vec![
            Family::histograms(
                "diptych_detect_seconds",
                "From the last sign of life of a lost worker or a stuck gang to the notice of it",
                one(&self.detect),
            ),
            Family::histograms(
                "diptych_abort_seconds",
                "From the notice of a failure until every survivor has left its collectives",
                one(&self.abort),
            ),
            Family::histograms(
                "diptych_recovery_seconds",
                "Parts of recoveries",
                recovery.map(|(part, histogram)| (named("phase", part), histogram.clone())),
            ),
            Family::histograms(
                "diptych_queue_wait_seconds",
                "How long jobs waited for devices before an attempt was placed",
                one(&self.queue_wait),
            ),
            Family::counters(
                "diptych_gang_blocked",
                "Gangs that could not be placed, looked at every 10 s",
                blocked.map(|(reason, times)| (named("reason", reason), *times)),
            ),
            Family::histograms(
                "diptych_journal_fsync_seconds",
                "Commits of the database, until they are on disk",
                one(&self.commits),
            ),
        ]
    }

    fn of_jobs(&self, now: Mono) -> Vec<Family> {
        let attempts = self.jobs.iter().flat_map(|(id, counts)| {
            counts.attempts.iter().map(|(cause, times)| {
                let mut labels = of_job(id);
                labels.push(("cause", (*cause).to_owned()));
                (labels, *times)
            })
        });
        let open = self.jobs.iter().filter(|(_, counts)| counts.over.is_none());
        let goodput = open.map(|(id, counts)| (of_job(id), counts.goodput(now)));
        let stalls = self
            .jobs
            .iter()
            .filter(|(_, counts)| counts.stalls.count() > 0);
        let steps = self.phases().flat_map(|(id, phase)| {
            let ranks = phase.steps.iter();
            ranks.map(|(rank, steps)| (of_rank(id, &phase.name, *rank), steps.clone()))
        });
        let counted = |count: fn(&PhaseCounts) -> u64| {
            self.phases()
                .map(move |(id, phase)| (of_phase(id, &phase.name), count(phase)))
        };
        vec![
            Family::counters(
                "diptych_generation",
                "Attempts, by what made them necessary",
                attempts,
            ),
            Family::counters(
                "diptych_lost_steps",
                "Steps that were done again",
                counted(|phase| phase.lost_steps),
            ),
            Family::gauges(
                "diptych_goodput_ratio",
                "Time in steps that were kept, over all time since the job's start",
                goodput,
            ),
            Family::histograms(
                "diptych_ckpt_stall_seconds",
                "How long a rank's steps stood still for a save",
                stalls.map(|(id, counts)| (of_job(id), counts.stalls.clone())),
            ),
            Family::counters(
                "diptych_ckpt_upload_bytes",
                "Bytes of checkpoints that reached the store",
                counted(|phase| phase.uploaded),
            ),
            Family::counters(
                "diptych_ckpt_verify_failures",
                "Checkpoints whose objects do not fit their manifest, or could not be loaded",
                counted(|phase| phase.damaged),
            ),
            Family::histograms("diptych_step_seconds", "Time of a step, by rank", steps),
        ]
    }

    fn phases(&self) -> impl Iterator<Item = (&JobId, &PhaseCounts)> {
        let jobs = self.jobs.iter();
        jobs.flat_map(|(id, counts)| counts.phases.values().map(move |phase| (id, phase)))
    }
}
