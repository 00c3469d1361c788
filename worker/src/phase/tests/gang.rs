use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use diptych_common::checkpoint::{CheckpointRef, StoredObject};
use diptych_common::ids::{Attempt, PhaseIndex, PhaseName, Rank, Step, WorkerId};
use diptych_common::spec::{JobDraft, JobSpec};
use diptych_common::units::Bytes;
use tch::Tensor;

use crate::checkpoint::{Storage, load};
use crate::phase::{PhaseError, Seat};
use crate::trainer::{
    Activity, Assignment, Begin, Command, Control, Fence, Measurement, Peer, Place, Report, Secret,
    StartFrom, Work as _,
};

/// A job over generated images, and the checkpoints that its phases left.
pub(super) struct Job {
    directory: tempfile::TempDir,
    pub(super) spec: JobSpec,
    pub(super) inputs: BTreeMap<PhaseName, CheckpointRef>,
    attempt: u64,
}

/// How an attempt of a phase ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) errors: Vec<PhaseError>,
    pub(super) results: BTreeMap<String, f64>,
    pub(super) losses: Vec<f64>,
    pub(super) commits: Vec<CheckpointRef>,
    /// Steps of those that were the best so far.
    pub(super) bests: Vec<Step>,
    /// What ranks told people, sorted.
    pub(super) notices: Vec<(&'static str, String)>,
    /// Every measurement, by name, with its step.
    pub(super) history: Vec<(String, u64)>,
    /// The same, with their values.
    pub(super) measured: Vec<Measurement>,
    /// How often rank 0 began to evaluate.
    pub(super) evaluations: usize,
}

/// What a test changes of an attempt.
#[derive(Clone, Default)]
pub(super) struct Attempted {
    pub(super) world: u32,
    pub(super) resume: Option<CheckpointRef>,
    /// Age of the last commit of an earlier attempt.
    pub(super) unsaved: Duration,
    /// What each rank may use of the host's memory.
    pub(super) memory: Option<Bytes>,
    /// Abort every rank once a save of at least this step is committed.
    pub(super) stop_after: Option<Step>,
}

const CLASSES: [&str; 3] = ["bars", "dots", "edge"];
const SIDE: usize = 12;

/// One small image of a class; `number` moves and tints it.
fn picture(class: usize, number: usize) -> Vec<u8> {
    let mut pixels = Vec::new();
    for y in 0..SIDE {
        for x in 0..SIDE {
            let lit = match class {
                0 => (x + number) % 4 < 2,
                1 => (x + number).is_multiple_of(3) && y.is_multiple_of(3),
                _ => y > 3 + number % 5,
            };
            let noise = ((x * 31 + y * 17 + number * 97) % 41) as u8;
            let level = if lit { 190 } else { 20 };
            pixels.extend([
                level + noise,
                level + noise / 2,
                level + ((number * 13) % 40) as u8,
            ]);
        }
    }
    pixels
}

fn write_images(directory: &Path, numbers: std::ops::Range<usize>) {
    for (class, name) in CLASSES.iter().enumerate() {
        std::fs::create_dir_all(directory.join(name)).unwrap();
        for number in numbers.clone() {
            let file = std::fs::File::create(directory.join(name).join(format!("{number:03}.png")))
                .unwrap();
            let mut encoder = png::Encoder::new(file, SIDE as u32, SIDE as u32);
            encoder.set_color(png::ColorType::Rgb);
            encoder
                .write_header()
                .unwrap()
                .write_image_data(&picture(class, number))
                .unwrap();
        }
    }
}

/// The network of most tests.
const NETWORK: &str =
    "encoder: {depth: 18, width: 0.0625, stem: cifar}\nhead: {layers: 2, dim: 8}\n";

fn spec(root: &Path, precision: &str, network: &str, phases: &str) -> JobSpec {
    let yaml = format!(
        "apiVersion: diptych/v1\nname: tiny\nseed: 3\nstorage: file://{0}/checkpoints\n\
         resources: {{ranks: {{min: 1, max: 4}}, precision: {precision}}}\n\
         data:\n  train: {{url: \"file://{0}/train\"}}\n  test: {{url: \"file://{0}/test\"}}\n\
         {network}phases:\n{phases}",
        root.display()
    );
    JobSpec::try_from(JobDraft::from_yaml(&yaml).unwrap()).unwrap()
}

impl Job {
    /// A job with these phases (YAML) over 60 training and 31 evaluation images of three classes.
    pub(super) fn new(precision: &str, phases: &str) -> Self {
        Self::with_network(precision, NETWORK, phases)
    }

    /// The same with another `encoder:` and `head:` (YAML).
    pub(super) fn with_network(precision: &str, network: &str, phases: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write_images(&root.join("train"), 0..20);
        write_images(&root.join("test"), 20..30);
        std::fs::write(root.join("test/bars/broken.png"), b"not an image").unwrap();
        Self {
            spec: spec(root, precision, network, phases),
            directory,
            inputs: BTreeMap::new(),
            attempt: 0,
        }
    }

    /// Other phases over the same images.
    pub(super) fn replan(&mut self, phases: &str) {
        self.spec = spec(self.path(), "fp32", NETWORK, phases);
    }

    /// Takes the labels from a data set: all its images now lie in one folder.
    pub(super) fn unlabel(&self, set: &str) {
        let root = self.path().join(set);
        for class in CLASSES {
            for file in std::fs::read_dir(root.join(class)).unwrap() {
                let file = file.unwrap();
                let name = format!("{class}-{}", file.file_name().to_str().unwrap());
                std::fs::rename(file.path(), root.join(name)).unwrap();
            }
            std::fs::remove_dir(root.join(class)).unwrap();
        }
    }

    /// Where the images are.
    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Runs a phase to its end with `world` ranks; its last checkpoint becomes an input of later phases.
    pub(super) fn run(&mut self, phase: u32, world: u32) -> Ended {
        let ended = self.attempt(
            phase,
            Attempted {
                world,
                ..Attempted::default()
            },
        );
        assert!(ended.errors.is_empty(), "{:?}", ended.errors);
        let last = ended.commits.last().unwrap().clone();
        self.inputs.insert(last.phase.clone(), last);
        ended
    }

    /// Every tensor of a checkpoint, verified.
    pub(super) fn tensors(&self, checkpoint: &CheckpointRef) -> BTreeMap<String, Tensor> {
        let storage = Storage::open(self.spec.storage()).unwrap();
        load::load(&storage, checkpoint, |_| true).unwrap().tensors
    }

    /// Runs one attempt, playing the coordinator.
    pub(super) fn attempt(&mut self, phase: u32, how: Attempted) -> Ended {
        self.attempt += 1;
        let controls: Vec<Control> = (0..how.world)
            .map(|rank| Control::new(self.fence(rank)))
            .collect();
        let (send, reports) = mpsc::channel();
        let mut ended = Ended {
            errors: Vec::new(),
            results: BTreeMap::new(),
            losses: Vec::new(),
            commits: Vec::new(),
            bests: Vec::new(),
            notices: Vec::new(),
            history: Vec::new(),
            measured: Vec::new(),
            evaluations: 0,
        };
        std::thread::scope(|scope| {
            for (rank, control) in controls.iter().enumerate() {
                let assignment = self.assignment(phase, rank as u32, &how);
                let send = send.clone();
                let listener = send.clone();
                scope.spawn(move || {
                    while let Some((_, report)) = control.next_report() {
                        drop(listener.send((rank, Ok(report))));
                    }
                });
                scope.spawn(move || {
                    let result = Seat::default().attempt(assignment, control);
                    control.flush(Duration::from_secs(5));
                    control.close();
                    drop(send.send((rank, Err(result.err()))));
                });
            }
            drop(send);
            coordinate(&how, &controls, &reports, &mut ended);
        });
        ended.notices.sort();
        ended
    }

    /// A rank of the newest attempt.
    pub(super) fn fence(&self, rank: u32) -> Fence {
        Fence {
            job: "tiny-0a1b2c".parse().unwrap(),
            attempt: Attempt::new(self.attempt),
            rank: Rank::new(rank),
        }
    }

    pub(super) fn assignment(&self, phase: u32, rank: u32, how: &Attempted) -> Assignment {
        Assignment {
            job: "tiny-0a1b2c".parse().unwrap(),
            attempt: Attempt::new(self.attempt),
            rank: Rank::new(rank),
            world: how.world,
            reserve: false,
            start: StartFrom::Checkpoint,
            skip: BTreeSet::new(),
            spec: self.spec.clone(),
            phase: PhaseIndex::new(phase),
            secret: Secret::new([7; 32]),
            resume: how.resume.clone(),
            inputs: self.inputs.clone(),
            unsaved: how.unsaved,
            place: Place {
                device: rank,
                data_address: "127.0.0.1".to_owned(),
                threads: 1,
                memory: how.memory,
                work_dir: self.path().join("work"),
            },
        }
    }
}

type Heard = (usize, Result<Report, Option<PhaseError>>);

fn coordinate(
    how: &Attempted,
    controls: &[Control],
    reports: &mpsc::Receiver<Heard>,
    ended: &mut Ended,
) {
    let mut endpoints = BTreeMap::new();
    let mut digests = Vec::new();
    let mut data = Vec::new();
    let mut parts: BTreeMap<Step, BTreeMap<usize, Vec<StoredObject>>> = BTreeMap::new();
    for (rank, heard) in reports {
        match heard {
            Ok(Report::Ready(ready)) => {
                endpoints.insert(rank, ready.endpoint);
                digests.push(ready.state.map(|state| state.digest));
                data.push(ready.data_digest);
                if endpoints.len() == controls.len() {
                    assert!(
                        digests.iter().all(|digest| *digest == digests[0]),
                        "ranks start from different states"
                    );
                    assert!(
                        data.iter().all(|digest| *digest == data[0]),
                        "ranks see different data"
                    );
                    let peer = |(rank, endpoint): (&usize, &String)| Peer {
                        rank: Rank::new(*rank as u32),
                        endpoint: endpoint.clone(),
                        worker: "worker-0".parse::<WorkerId>().unwrap(),
                    };
                    let begin = Begin {
                        peers: endpoints.iter().map(peer).collect(),
                        nccl_id: Vec::new(),
                        source: None,
                        state: None,
                    };
                    controls
                        .iter()
                        .for_each(|control| control.give_begin(begin.clone()));
                }
            }
            Ok(Report::PartSaved { step, objects, .. }) => {
                let saved = parts.entry(step).or_default();
                saved.insert(rank, objects);
                if saved.len() == controls.len() {
                    let objects = saved.values().flatten().cloned().collect();
                    controls[0].give_command(Command::WriteManifest { step, objects });
                }
            }
            Ok(Report::ManifestWritten { checkpoint, best }) => {
                if best.is_some() {
                    ended.bests.push(checkpoint.step);
                }
                let stop = how.stop_after.is_some_and(|step| checkpoint.step >= step);
                ended.commits.push(checkpoint.clone());
                for control in controls {
                    control.give_command(Command::Committed(checkpoint.clone()));
                    if stop {
                        control.abort("the test stops here");
                    }
                }
            }
            Ok(Report::Progress(progress)) => {
                let taken = progress.measurements.iter();
                ended
                    .history
                    .extend(taken.map(|found| (found.name.clone(), found.step.get())));
                ended.measured.extend(progress.measurements.clone());
                let losses = progress
                    .measurements
                    .iter()
                    .filter(|found| found.name == "loss");
                ended.losses.extend(losses.map(|found| found.value));
            }
            Ok(Report::Finished { results, .. }) => {
                ended.results.extend(
                    results
                        .into_iter()
                        .map(|Measurement { name, value, .. }| (name, value)),
                );
            }
            Ok(Report::Notice { kind, message }) => ended.notices.push((kind, message)),
            Ok(Report::Activity(Activity::Evaluating)) if rank == 0 => ended.evaluations += 1,
            Ok(Report::Activity(_) | Report::Failed { .. } | Report::Held(_) | Report::Pong) => {}
            Err(error) => {
                if let Some(error) = error {
                    ended.errors.push(error);
                    controls
                        .iter()
                        .for_each(|control| control.abort("another rank failed"));
                }
            }
        }
    }
}
