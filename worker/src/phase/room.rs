//! Whether a rank's share of a phase fits its device: judged before the first step, in words, instead of by the kernel or
//! by CUDA in the middle of one.

use diptych_common::plan::{DataFacts, Facts, Memory, Origin, advice, changes, rank_memory};
use diptych_common::spec::{JobSpec, Labels, PhaseSpec};
use diptych_common::units::Bytes;
use tch::Device;

use super::PhaseError;
use super::data::{Data, rules};
use crate::batch::Source;
use crate::device::device_memory;

/// What a rank may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// The process, on the host.
    Host(Bytes),
    /// Tensors and workspaces, on a GPU.
    Gpu {
        /// What is free, or was this process's before.
        free: Bytes,
        /// All.
        total: Bytes,
    },
}

impl Room {
    /// What `device` has for this process; `host` is what the agent grants. `None` where that is unknown.
    ///
    /// # Errors
    /// libtorch's.
    pub(super) fn of(device: Device, host: Option<Bytes>) -> Result<Option<Self>, PhaseError> {
        Ok(match device {
            Device::Cuda(index) => {
                let memory = device_memory(index)?;
                // What an earlier attempt of this process held, its allocator still keeps.
                Some(Self::Gpu {
                    free: Bytes::new(memory.free + memory.reserved),
                    total: Bytes::new(memory.total),
                })
            }
            _ => host.map(Self::Host),
        })
    }

    /// Of what a rank is predicted to hold, what has to find room here: nothing is refused for images that the host keeps
    /// to be faster, and on a GPU the context is there by now.
    fn needed(memory: &Memory, room: Self) -> Bytes {
        Bytes::new(match room {
            Self::Host(_) => memory.device - memory.images,
            Self::Gpu { .. } => memory.device - memory.program,
        })
    }

    pub(super) fn available(self) -> Bytes {
        match self {
            Self::Host(bytes) | Self::Gpu { free: bytes, .. } => bytes,
        }
    }
}

/// Refuses a phase whose fullest rank is predicted to hold more than there is, with what to change; otherwise says how
/// much is left. `decoded` are the mean bytes of a decoded training image, 0 where none has been looked at.
///
/// # Errors
/// [`PhaseError::Refused`]; [`PhaseError::Unfit`] where the GPU would have room if others did not hold it.
pub(super) fn check(
    spec: &JobSpec,
    phase: &PhaseSpec,
    (data, decoded): (&Data, u64),
    ranks: u32,
    room: Room,
) -> Result<Bytes, PhaseError> {
    let facts = facts(phase, data, decoded);
    let memory = rank_memory(spec, phase, &facts, ranks);
    let (needed, available) = (Room::needed(&memory, room), room.available());
    if needed <= available {
        return Ok(Bytes::new(available.get() - needed.get()));
    }
    if let Room::Gpu { total, .. } = room
        && needed <= total
    {
        return Err(PhaseError::Unfit(format!(
            "phase {} is predicted to need {needed}, and of this GPU's {total} only {available} are free: other processes \
             hold the rest (nvidia-smi names them)",
            phase.name,
        )));
    }
    let fits = |memory: &Memory| Room::needed(memory, room) <= available;
    let changes = changes(spec, phase, &facts, ranks, fits);
    let advice = advice(&changes);
    let place = match room {
        Room::Host(_) => "a CPU slot here has",
        Room::Gpu { .. } => "this GPU has free",
    };
    let resident = match memory.resident {
        0 => String::new(),
        bytes => format!(", {} resident images", Bytes::new(bytes)),
    };
    let ranks = match ranks {
        1 => "one rank".to_owned(),
        ranks => format!("each of {ranks} ranks"),
    };
    Err(PhaseError::Refused(format!(
        "phase {} is predicted to need {needed} on {ranks} ({} of it activations{resident}), and {place} {available}: \
         {advice}",
        phase.name,
        Bytes::new(memory.activations + memory.workspace),
    )))
}

/// What the opened data tells; `decoded` as in [`check`].
fn facts(phase: &PhaseSpec, data: &Data, decoded: u64) -> Facts {
    let facts = |source: &Source, decoded_bytes| {
        let index = source.index();
        DataFacts {
            images: source.len(),
            classes: index.classes().len() as u64,
            origin: Origin::Read,
            class_sizes: Vec::new(),
            decoded_bytes,
            stored_bytes: 0,
            row_groups: false,
        }
    };
    let mut known = Facts::default();
    if let (Some(name), Some(eval)) = (&phase.eval, &data.eval) {
        known.data.insert(name.clone(), facts(eval, 0));
    }
    let train = facts(&data.train, decoded);
    known.data.insert(phase.train.clone(), train);
    let (main, beside) = rules(phase);
    for (rule, chosen) in [(main, Some(&data.used)), (beside, data.labelled.as_ref())] {
        if let (Some(Labels::List { url }), Some(chosen)) = (rule, chosen) {
            known.lists.insert(url.clone(), chosen.len());
        }
    }
    known
}
