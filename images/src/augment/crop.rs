//! Which part of an image becomes the view.

use diptych_common::spec::AugmentSpec;

use crate::draw::Draws;

/// Attempts before the whole image is taken.
const ATTEMPTS: usize = 100;
/// The official code asks the crop to cover this share of the whole image, whatever the smallest area says.
const MIN_COVERED: f64 = 0.1;

/// A part of an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CropBox {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// First row.
    pub top: usize,
    /// First column.
    pub left: usize,
}

/// Draws a crop as TensorFlow's `sample_distorted_bounding_box` does for one box that covers the image: the aspect
/// ratio is uniform, then the height is uniform among those whose area is allowed. The last offset is never drawn.
pub(super) fn sample(
    spec: &AugmentSpec,
    draws: &mut Draws,
    height: usize,
    width: usize,
) -> CropBox {
    (0..ATTEMPTS)
        .find_map(|_| attempt(spec, draws, height, width))
        .unwrap_or(CropBox {
            height,
            width,
            top: 0,
            left: 0,
        })
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

/// The central square that covers `proportion`, at most 1, of the shorter side; sizes round half to even.
pub fn center_crop(height: usize, width: usize, proportion: f64) -> CropBox {
    let side = (proportion.min(1.0) * height.min(width) as f64)
        .round_ties_even()
        .max(1.0) as usize;
    let offset = |length: usize| (length - side).div_ceil(2);
    CropBox {
        height: side,
        width: side,
        top: offset(height),
        left: offset(width),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(crop_area: (f64, f64)) -> AugmentSpec {
        AugmentSpec {
            image_size: 32,
            crop_area,
            crop_aspect: (0.75, 4.0 / 3.0),
            flip: false,
            color: None,
            grayscale_probability: 0.0,
            blur_probability: 0.0,
        }
    }

    #[test]
    fn crops_stay_inside_and_within_the_allowed_areas_and_aspects() {
        let mut draws = Draws::keyed([1, 2, 3, 4], 0);
        let crops: Vec<CropBox> = (0..20_000)
            .map(|_| sample(&spec((0.08, 1.0)), &mut draws, 375, 500))
            .collect();
        let mut areas = [0usize; 10];
        for crop in &crops {
            assert!(crop.top + crop.height <= 375 && crop.left + crop.width <= 500);
            let aspect = crop.width as f64 / crop.height as f64;
            assert!((0.74..1.35).contains(&aspect), "{crop:?}");
            let area = (crop.width * crop.height) as f64 / (375.0 * 500.0);
            assert!((0.1..=1.0).contains(&area), "{crop:?}");
            areas[((area * 10.0) as usize).min(9)] += 1;
        }
        // The height is uniform, so that small areas are more frequent than large ones (trap 7 of the official code).
        assert!(areas[1] > 2 * areas[8], "{areas:?}");
        let mean_aspect = crops
            .iter()
            .map(|crop| crop.width as f64 / crop.height as f64)
            .sum::<f64>()
            / crops.len() as f64;
        assert!(
            (mean_aspect - (0.75 + 4.0 / 3.0) / 2.0).abs() < 0.01,
            "{mean_aspect}"
        );
    }

    #[test]
    fn tiny_and_odd_images_have_crops() {
        let mut draws = Draws::keyed([0; 4], 0);
        for (height, width) in [(1, 1), (1, 40), (40, 1), (8, 8), (2, 3)] {
            for _ in 0..200 {
                let crop = sample(&spec((0.2, 1.0)), &mut draws, height, width);
                assert!(crop.height >= 1 && crop.width >= 1);
                assert!(crop.top + crop.height <= height && crop.left + crop.width <= width);
            }
        }
    }

    #[test]
    fn evaluation_crops_are_the_official_ones() {
        for (height, width, side, top, left) in [
            (375, 500, 328, 24, 86),
            (500, 333, 291, 105, 21),
            (224, 224, 196, 14, 14),
            (263, 299, 230, 17, 35),
            (777, 430, 376, 201, 27),
        ] {
            assert_eq!(
                center_crop(height, width, 0.875),
                CropBox {
                    height: side,
                    width: side,
                    top,
                    left
                }
            );
        }
    }
}
