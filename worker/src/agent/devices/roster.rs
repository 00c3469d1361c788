use std::collections::BTreeMap;

use diptych_common::units::Bytes;
use diptych_proto::v1;

use super::cores::{self, Cores};
use super::{CudaView, Found, GpuWish, UnknownOrder};
use crate::agent::identity::memory_per_slot;
use crate::device::nvml::NvmlError;

/// What a worker lends, and how a trainer is started on each device.
#[derive(Debug, Clone, PartialEq)]
pub struct Roster {
    /// For the registration, by index: GPUs with their numbers on this machine, and behind them CPU slots.
    pub devices: Vec<v1::DeviceInfo>,
    /// For the supervisor.
    pub seats: Seats,
}

/// How trainers are started, by device.
#[derive(Debug, Clone, PartialEq)]
pub struct Seats {
    gpus: BTreeMap<u32, Seat>,
    /// All others.
    cpu: Seat,
}

/// How a trainer is started on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// `CUDA_VISIBLE_DEVICES`: the UUID of its GPU, which is then the only one that it sees; empty on a CPU slot.
    pub visible: String,
    /// Threads of libtorch and of the data loader.
    pub threads: usize,
    /// The cores that it is kept on; `None` for all.
    pub cores: Option<Cores>,
    /// What it may use of the host's memory; `None` where that is unknown, or the device has memory of its own.
    pub memory: Option<Bytes>,
}

/// What is to be lent.
#[derive(Debug, Clone)]
pub struct Lent {
    /// These GPUs.
    pub gpus: Vec<Found>,
    /// Why no CUDA rank can run on any of them.
    pub problem: Option<String>,
    /// So many CPU slots; unless given, one where there are no GPUs.
    pub slots: Option<u32>,
    /// Threads of each device; unless given, its share of the machine's.
    pub threads: Option<usize>,
}

/// What is shared out.
#[derive(Debug, Clone)]
pub struct Share {
    /// Cores that the agent may use; empty where that is unknown.
    pub cores: Cores,
    /// Threads that these are good for: a container's quota may be less than its cores.
    pub threads: usize,
    /// Memory that the agent may use.
    pub memory: Option<Bytes>,
}

/// Why GPUs that were asked for cannot be lent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoSuchGpus {
    /// Nothing is known of this machine's GPUs.
    #[error("gpus: this machine's GPUs cannot be listed: {0}")]
    Unlisted(NvmlError),
    /// There are fewer.
    #[error("gpus: there is no GPU {asked}; this machine has {there}, counted from 0")]
    Missing {
        /// A number that none has.
        asked: u32,
        /// How many there are.
        there: usize,
    },
    /// The agent's own `CUDA_VISIBLE_DEVICES` may mean any of them.
    #[error("gpus: {0}, or list the GPUs in --gpus")]
    Unordered(#[from] UnknownOrder),
}

/// The GPUs to lend, of those that were found; `view` is the agent's own.
///
/// # Errors
/// [`NoSuchGpus`] where some were asked for by number and are not there, or it is not known which are.
pub(super) fn choose(
    wish: &GpuWish,
    view: &CudaView,
    found: Result<Vec<Found>, NvmlError>,
) -> Result<Vec<Found>, NoSuchGpus> {
    let (found, chosen) = match (wish, found) {
        (GpuWish::None, _) => return Ok(Vec::new()),
        (GpuWish::Auto, Err(NvmlError::Library(missing))) => {
            tracing::debug!(%missing, "no GPUs are looked for");
            return Ok(Vec::new());
        }
        (GpuWish::Auto, Err(error)) => {
            tracing::warn!(%error, "this machine's GPUs cannot be listed: none is lent");
            return Ok(Vec::new());
        }
        (GpuWish::These(_), Err(error)) => return Err(NoSuchGpus::Unlisted(error)),
        (GpuWish::Auto, Ok(found)) => {
            let chosen = view.shown(&found)?;
            (found, chosen)
        }
        (GpuWish::These(asked), Ok(found)) => {
            let there = |asked: &&u32| found.iter().any(|found| found.index == **asked);
            if let Some(&asked) = asked.iter().find(|asked| !there(asked)) {
                let there = found.len();
                return Err(NoSuchGpus::Missing { asked, there });
            }
            (found, asked.clone())
        }
    };
    let lent = found
        .into_iter()
        .filter(|found| chosen.contains(&found.index));
    Ok(lent.collect())
}

// === impl Roster ===

impl Roster {
    /// Shares a machine out.
    pub fn new(lent: &Lent, share: &Share) -> Self {
        let gpus = lent.gpus.len();
        let slots = lent.slots.unwrap_or(u32::from(gpus == 0));
        let near: Vec<Option<Cores>> = lent.gpus.iter().map(near).collect();
        let shares = cores::shares(&share.cores, &near);
        let threads = |own: usize| lent.threads.unwrap_or(own).max(1);
        let mut roster = Self {
            devices: Vec::new(),
            seats: Seats::cpu(threads(share.threads / slots.max(1) as usize)),
        };
        for (found, cores) in lent.gpus.iter().zip(shares) {
            roster
                .devices
                .push(described(found, lent.problem.as_deref()));
            let Ok(gpu) = &found.gpu else {
                continue;
            };
            let own = cores.len().min(share.threads / gpus);
            let seat = Seat {
                visible: gpu.uuid.clone(),
                threads: threads(own),
                cores: Some(cores).filter(|cores| !cores.is_empty()),
                memory: None,
            };
            roster.seats.gpus.insert(found.index, seat);
        }
        let memory = share
            .memory
            .map(|memory| Bytes::new(memory.get() / u64::from(slots.max(1))));
        roster.seats.cpu.memory = memory;
        let first = lent.gpus.last().map_or(0, |last| last.index + 1);
        let slot = |index| v1::DeviceInfo {
            index,
            kind: "cpu".to_owned(),
            name: format!("cpu slot {}", index - first),
            memory: memory.map_or(0, Bytes::get),
            ..v1::DeviceInfo::default()
        };
        roster.devices.extend((first..first + slots).map(slot));
        roster
    }
}

fn near(found: &Found) -> Option<Cores> {
    cores::parse(found.gpu.as_ref().ok()?.cores.as_deref()?)
}

fn described(found: &Found, problem: Option<&str>) -> v1::DeviceInfo {
    let labels = found.labels.iter();
    let labels = labels.map(|(word, value)| ((*word).to_owned(), value.clone()));
    let problem = found.problem().or_else(|| problem.map(str::to_owned));
    let gpu = found.gpu.as_ref().ok();
    v1::DeviceInfo {
        index: found.index,
        kind: "cuda".to_owned(),
        name: gpu.map_or_else(|| format!("GPU {}", found.index), |gpu| gpu.name.clone()),
        memory: gpu.map_or(0, |gpu| gpu.memory.get()),
        problem: problem.unwrap_or_default(),
        labels: labels.collect(),
    }
}

// === impl Seats ===

impl Seats {
    /// CPU slots of so many threads each.
    pub fn cpu(threads: usize) -> Self {
        Self {
            gpus: BTreeMap::new(),
            cpu: Seat {
                visible: String::new(),
                threads,
                cores: None,
                memory: None,
            },
        }
    }

    /// The seat at a device.
    pub fn of(&self, device: u32) -> &Seat {
        self.gpus.get(&device).unwrap_or(&self.cpu)
    }
}

// === impl Share ===

impl Share {
    /// All that this process may use.
    pub fn of_this_machine() -> Self {
        Self {
            cores: cores::allowed(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            memory: memory_per_slot(1),
        }
    }
}

#[cfg(test)]
pub(in crate::agent) mod samples {
    //! GPUs as NVML describes them.

    use super::*;
    use crate::device::nvml::Gpu;

    /// What a GPU that fell off the bus answers.
    pub(in crate::agent) const LOST: NvmlError = NvmlError::Call {
        call: "nvmlDeviceGetHandleByIndex",
        code: 15,
        text: String::new(),
    };

    /// Cores of a list as Linux writes it.
    pub(in crate::agent) fn cores_of(list: &str) -> Cores {
        cores::parse(list).expect("a list")
    }

    pub(in crate::agent) fn gpu(index: u32, cores: Option<&str>) -> Found {
        Found {
            index,
            gpu: Ok(Gpu {
                index,
                name: "NVIDIA H200".to_owned(),
                uuid: format!("GPU-{index}"),
                bus_id: format!("00000000:{index:02x}:00.0"),
                memory: Bytes::new(140 << 30),
                capability: (9, 0),
                mig: false,
                numa_node: None,
                cores: cores.map(str::to_owned),
            }),
            labels: BTreeMap::from([("nvlink", "0".to_owned())]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::{LOST, gpu};
    use super::*;

    fn machine() -> Share {
        Share {
            cores: (0..8).collect(),
            threads: 8,
            memory: Some(Bytes::new(64 << 30)),
        }
    }

    fn lent(gpus: Vec<Found>) -> Lent {
        Lent {
            gpus,
            problem: None,
            slots: None,
            threads: None,
        }
    }

    fn kinds(roster: &Roster) -> Vec<(u32, &str)> {
        let devices = roster.devices.iter();
        devices
            .map(|device| (device.index, device.kind.as_str()))
            .collect()
    }

    #[test]
    fn a_machine_without_gpus_has_cpu_slots_and_one_with_gpus_has_these() {
        let four = || (0..4).map(|index| gpu(index, None)).collect::<Vec<_>>();
        let devices = |gpus, slots| {
            let roster = Roster::new(
                &Lent {
                    slots,
                    ..lent(gpus)
                },
                &machine(),
            );
            kinds(&roster)
                .into_iter()
                .map(|(index, kind)| format!("{index} {kind}"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        assert_eq!(devices(vec![], None), "0 cpu");
        assert_eq!(devices(vec![], Some(3)), "0 cpu, 1 cpu, 2 cpu");
        assert_eq!(devices(four(), None), "0 cuda, 1 cuda, 2 cuda, 3 cuda");
        let some = vec![gpu(1, None), gpu(3, None)];
        assert_eq!(devices(some, Some(2)), "1 cuda, 3 cuda, 4 cpu, 5 cpu");
    }

    #[test]
    fn a_trainer_sees_its_own_gpu_or_none() {
        let gpus = vec![gpu(0, Some("0-3")), gpu(1, Some("4-7"))];
        let roster = Roster::new(
            &Lent {
                slots: Some(2),
                ..lent(gpus)
            },
            &machine(),
        );
        let seat = roster.seats.of(1);
        assert_eq!((seat.visible.as_str(), seat.threads), ("GPU-1", 4));
        assert_eq!(seat.cores, Some((4..8).collect()));
        assert_eq!(seat.memory, None, "its memory is the device's");
        let slot = roster.seats.of(2);
        assert_eq!((slot.visible.as_str(), slot.threads), ("", 4));
        assert_eq!(slot.cores, None);
        assert_eq!(slot.memory, Some(Bytes::new(32 << 30)));
        assert_eq!(roster.devices[2].memory, 32 << 30);
    }

    #[test]
    fn threads_are_as_many_as_given_or_as_a_quota_allows() {
        let gpus = || vec![gpu(0, Some("0-3")), gpu(1, Some("4-7"))];
        let quota = Share {
            threads: 2,
            ..machine()
        };
        assert_eq!(Roster::new(&lent(gpus()), &quota).seats.of(0).threads, 1);
        let given = Lent {
            threads: Some(6),
            ..lent(gpus())
        };
        assert_eq!(Roster::new(&given, &quota).seats.of(0).threads, 6);
    }

    #[test]
    fn what_is_wrong_is_told_for_each_device() {
        let mut gpus = vec![gpu(0, None), gpu(1, None), gpu(2, None)];
        gpus[1].gpu = Err(LOST);
        gpus[2].gpu.as_mut().expect("it answers").mig = true;
        let lent = Lent {
            problem: Some("NCCL cannot be loaded: install it".to_owned()),
            ..lent(gpus)
        };
        let devices = Roster::new(&lent, &machine()).devices;
        assert_eq!(devices[0].problem, "NCCL cannot be loaded: install it");
        assert_eq!(
            (devices[0].name.as_str(), devices[0].memory),
            ("NVIDIA H200", 140 << 30)
        );
        assert_eq!(devices[0].labels["nvlink"], "0");
        assert!(
            devices[1].problem.starts_with("it does not answer"),
            "{:?}",
            devices[1]
        );
        assert_eq!((devices[1].name.as_str(), devices[1].memory), ("GPU 1", 0));
        assert!(
            devices[2].problem.starts_with("it is in MIG mode"),
            "{:?}",
            devices[2]
        );
    }

    #[test]
    fn gpus_are_chosen_by_wish() {
        let found = || Ok((0..3).map(|index| gpu(index, None)).collect::<Vec<_>>());
        let indices = |wish: &str, visible: Option<&str>, found| {
            let wish = wish.parse().expect("a wish");
            let view = CudaView {
                visible: visible.map(str::to_owned),
                order: None,
            };
            let chosen = choose(&wish, &view, found)?;
            Ok(chosen
                .into_iter()
                .map(|found| found.index)
                .collect::<Vec<_>>())
        };
        assert_eq!(indices("auto", None, found()), Ok(vec![0, 1, 2]));
        assert_eq!(indices("auto", Some("2"), found()), Ok(vec![2]));
        assert_eq!(indices("none", None, found()), Ok(vec![]));
        assert_eq!(
            indices("2,0", Some("1"), found()),
            Ok(vec![0, 2]),
            "a list is the last word"
        );
        assert_eq!(
            indices("0,7", None, found()),
            Err(NoSuchGpus::Missing { asked: 7, there: 3 })
        );
        assert_eq!(indices("auto", None, Err(LOST)), Ok(vec![]));
        assert_eq!(
            indices("0", None, Err(LOST)),
            Err(NoSuchGpus::Unlisted(LOST))
        );
    }

    #[test]
    fn a_number_that_may_mean_another_gpu_is_refused_with_what_would_be_clear() {
        let mut found = vec![gpu(0, None), gpu(1, None)];
        found[0].gpu.as_mut().expect("it answers").name = "NVIDIA A2".to_owned();
        let view = CudaView {
            visible: Some("1".to_owned()),
            order: None,
        };
        let error = choose(&GpuWish::Auto, &view, Ok(found.clone())).expect_err("not known");
        let text = error.to_string();
        for word in ["UUID", "CUDA_DEVICE_ORDER=PCI_BUS_ID", "--gpus"] {
            assert!(text.contains(word), "{word}: {text}");
        }
        // A list of nvidia-smi's numbers is clear.
        let these = GpuWish::These([1].into());
        let chosen = choose(&these, &view, Ok(found)).expect("it is there");
        assert_eq!(chosen[0].index, 1);
    }
}
