//! Where a rank makes its views: training images that are to stay with the device are brought there once a process.

use std::sync::Arc;
use std::time::Instant;

use diptych_common::spec::ViewsOn;
use diptych_common::units::Bytes;

use super::PhaseError;
use super::kept::Setup;
use super::room::{self, Room};
use crate::batch::{LoadError, Originals, Place, Settling, Stop};
use crate::trainer::Assignment;

/// Checks that a rank's share fits its device, resident images included, and brings those there that are not `there` yet.
///
/// # Errors
/// [`PhaseError::Refused`] with what would make it fit; bad data; an abort.
pub(super) fn settle(
    setup: &Setup,
    there: &mut Option<Arc<Originals>>,
    assignment: &Assignment,
    stop: &Stop,
) -> Result<Place, PhaseError> {
    let room = Room::of(setup.compute.device, assignment.place.memory)?;
    // The share of a reserve is not known before it takes a place.
    let judged = room.filter(|_| !assignment.reserve);
    let check = |decoded| {
        judged.map_or(Ok(None), |room| {
            let (spec, data) = (&assignment.spec, (&setup.data, decoded));
            room::check(spec, &setup.phase, data, assignment.world, room).map(Some)
        })
    };
    let images = setup.data.used.len();
    let mean = |originals: &Originals| originals.bytes().get().div_ceil(images.max(1));
    if let Some(there) = there {
        check(mean(there))?;
        return Ok(Place::Resident(Arc::clone(there)));
    }
    let left = check(0)?.or(room.map(Room::available));
    match setup.phase.augment.place {
        ViewsOn::Host => return Ok(Place::Host),
        ViewsOn::Device => return Ok(Place::Device),
        ViewsOn::Resident => {}
    }
    let started = Instant::now();
    let how = Settling {
        device: setup.compute.device,
        most: left.unwrap_or(Bytes::new(u64::MAX)),
        max_bad_images: setup.phase.max_bad_images,
        threads: assignment.place.threads,
    };
    let settled = match Originals::settle(&setup.data.used.under(stop), how) {
        Ok(settled) => Arc::new(settled),
        Err(error @ LoadError::NoRoom { images, bytes, .. }) => {
            // As if the others were as large as these.
            check(bytes.get().div_ceil(images.max(1)))?;
            return Err(error.into());
        }
        Err(error) => return Err(error.into()),
    };
    check(mean(&settled))?;
    tracing::info!(images, bytes = %settled.bytes(), took = ?started.elapsed(), "images settled");
    Ok(Place::Resident(Arc::clone(there.insert(settled))))
}
