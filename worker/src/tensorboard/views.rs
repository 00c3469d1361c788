//! The first images as the network sees them: a row of first views, under it the second views of the same images.

use diptych_images::inspect::grid;
use diptych_proto::tensorboard::summary::Image;
use tch::{Device, Kind};

use crate::backward::MicroBatch;

/// Images beside each other.
const ACROSS: i64 = 8;

/// A picture of the first images of a rank's step; `None` where it has none.
pub(super) fn picture(batches: &[MicroBatch], views: u32) -> anyhow::Result<Option<Image>> {
    let Some((batch, rows)) = batches
        .first()
        .and_then(|batch| Some((batch, *batch.group_rows.first()?)))
    else {
        return Ok(None);
    };
    // A group's rows are `[view][lane, j]`.
    let images = rows / i64::from(views.max(1));
    let side = batch.images.size()[3];
    let mut pixels = Vec::new();
    for view in 0..i64::from(views) {
        let shown = batch
            .images
            .f_narrow(0, view * images, images.min(ACROSS))?
            .f_to_device(Device::Cpu)?
            .f_to_kind(Kind::Float)?
            .f_contiguous()?;
        pixels.push(Vec::<f32>::try_from(shown.f_view([-1])?)?);
    }
    let size = 3 * side as usize * side as usize;
    let rows: Vec<Vec<&[f32]>> = pixels
        .iter()
        .map(|row| row.chunks_exact(size.max(1)).collect())
        .collect();
    let picture = grid(&rows, side as usize)?;
    Ok(Some(Image {
        height: picture.height as i32,
        width: picture.width as i32,
        colorspace: 3,
        encoded_image_string: picture.png,
    }))
}
