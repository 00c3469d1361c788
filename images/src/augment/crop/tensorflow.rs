//! TensorFlow's `sample_distorted_bounding_box` for one box that covers the image.

use diptych_common::spec::AugmentSpec;

use crate::draw::Draws;

use super::CropBox;

/// Attempts before the whole image is taken.
const ATTEMPTS: usize = 100;
/// The official code asks the crop to cover this share of the whole image, whatever the smallest area says.
const MIN_COVERED: f64 = 0.1;

/// The aspect ratio is uniform, then the height is uniform among those whose area is allowed. The last offset is never
/// drawn.
pub(super) fn sample(
    spec: &AugmentSpec,
    draws: &mut Draws,
    height: usize,
    width: usize,
) -> CropBox {
    (0..ATTEMPTS)
        .find_map(|_| attempt(spec, draws, height, width))
        .unwrap_or(CropBox::whole(height, width))
}

fn attempt(spec: &AugmentSpec, draws: &mut Draws, height: usize, width: usize) -> Option<CropBox> {
    let (rows, columns) = (height as f64, width as f64);
    let image_area = rows * columns;
    let (smallest, largest) = (spec.crop_area.0 * image_area, spec.crop_area.1 * image_area);
    let aspect = draws.uniform(spec.crop_aspect.0, spec.crop_aspect.1);
    let mut low = (smallest / aspect).sqrt().round_ties_even();
    let mut high = (largest / aspect).sqrt().round_ties_even();
    if (high * aspect).round_ties_even() > columns {
        high = ((columns + 0.5 - 1e-7) / aspect).floor();
        if (high * aspect).round_ties_even() > columns {
            high -= 1.0;
        }
    }
    high = high.min(rows);
    low = low.min(high);
    let mut crop_rows = low + draws.below((high - low) as u64 + 1) as f64;
    let mut crop_columns = (crop_rows * aspect).round_ties_even();
    if crop_rows * crop_columns < smallest {
        crop_rows += 1.0;
        crop_columns = (crop_rows * aspect).round_ties_even();
    }
    if crop_rows * crop_columns > largest {
        crop_rows -= 1.0;
        crop_columns = (crop_rows * aspect).round_ties_even();
    }
    let area = crop_rows * crop_columns;
    let (y, x) = (draws.unit(), draws.unit());
    let inside =
        crop_rows >= 1.0 && crop_columns >= 1.0 && crop_rows <= rows && crop_columns <= columns;
    if !inside || area < smallest || area > largest || area < MIN_COVERED * image_area {
        return None;
    }
    let (crop_height, crop_width) = (crop_rows as usize, crop_columns as usize);
    let offset =
        |unit: f64, room: usize| ((unit * room as f64) as usize).min(room.saturating_sub(1));
    Some(CropBox {
        height: crop_height,
        width: crop_width,
        top: offset(y, height - crop_height),
        left: offset(x, width - crop_width),
    })
}
