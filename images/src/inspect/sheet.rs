//! A contact sheet: originals beside their two views, as one PNG.

use diptych_common::spec::AugmentSpec;

use crate::augment::{Key, Scratch, augment};
use crate::decode::{Image, decode};
use crate::shard::{Index, SampleId};

/// Pictures of one sample: the original and two views.
const PICTURES: usize = 3;
/// Samples beside each other.
const ACROSS: usize = 4;
/// White pixels between pictures.
const GAP: usize = 6;
/// Small views are enlarged by a whole factor to at least this many pixels.
const LEAST_SIDE: usize = 72;

/// Which views are drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Views {
    /// How they are made.
    pub augment: AugmentSpec,
    /// The job's seed.
    pub seed: u64,
    /// Index of the phase.
    pub phase: u32,
}

/// Draws up to `samples` evenly chosen samples: each whole, scaled to fit, then as two views of the augmentation, as the
/// phase's first step makes them for position 0. Unusable images are left gray. Returns an encoded PNG.
///
/// # Errors
/// When the picture cannot be encoded.
pub async fn contact_sheet(
    index: &Index,
    views: &Views,
    samples: u64,
) -> Result<Vec<u8>, png::EncodingError> {
    let chosen = index.len().min(samples.max(1));
    let ids: Vec<SampleId> = (0..chosen)
        .map(|place| SampleId::new(place * index.len() / chosen))
        .collect();
    let side = views.augment.image_size as usize;
    let scale = LEAST_SIDE.div_ceil(side);
    let tile = side * scale;
    let across = ACROSS.min(ids.len());
    let cell = (PICTURES * (tile + GAP) + GAP, tile + GAP);
    let (width, height) = (
        across * cell.0 + GAP,
        ids.len().div_ceil(ACROSS) * cell.1 + GAP,
    );
    let mut canvas = Canvas {
        width,
        pixels: vec![255; 3 * width * height],
    };
    let mut scratch = Scratch::default();
    let mut view = vec![0.0; 3 * side * side];
    for (place, (id, encoded)) in ids.iter().zip(index.read(&ids).await).enumerate() {
        let image = encoded.ok().and_then(|bytes| decode(&bytes).ok());
        let top = GAP + place / ACROSS * cell.1;
        let left = |picture: usize| GAP + place % ACROSS * cell.0 + picture * (tile + GAP);
        match &image {
            Some(image) => canvas.draw_whole(image, tile, (left(0), top)),
            None => {
                view.fill(0.5);
                canvas.draw(&view, side, scale, (left(0), top));
            }
        }
        for picture in 1..PICTURES {
            if let Some(image) = &image {
                let key = Key {
                    seed: views.seed,
                    phase: views.phase,
                    step: 0,
                    position: 0,
                    sample: id.get(),
                    view: picture as u32 - 1,
                };
                augment(image, &views.augment, &key, &mut scratch, &mut view);
            }
            canvas.draw(&view, side, scale, (left(picture), top));
        }
    }
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(&canvas.pixels)?;
    Ok(file)
}

/// Interleaved RGB bytes.
struct Canvas {
    width: usize,
    pixels: Vec<u8>,
}

impl Canvas {
    /// Draws a planar view, every pixel `scale` times as large.
    fn draw(&mut self, view: &[f32], side: usize, scale: usize, (left, top): (usize, usize)) {
        for y in 0..side * scale {
            for x in 0..side * scale {
                let source = y / scale * side + x / scale;
                let target = 3 * ((top + y) * self.width + left + x);
                for channel in 0..3 {
                    let value = view[channel * side * side + source];
                    self.pixels[target + channel] = (value * 255.0).round().clamp(0.0, 255.0) as u8;
                }
            }
        }
    }

    /// Draws all of an image, scaled to fit a square tile, in its middle. Pixels are means of what they cover.
    fn draw_whole(&mut self, image: &Image, tile: usize, (left, top): (usize, usize)) {
        let longer = image.width.max(image.height);
        let fit = |length: usize| (length * tile / longer).max(1);
        let (width, height) = (fit(image.width), fit(image.height));
        let (left, top) = (left + (tile - width) / 2, top + (tile - height) / 2);
        let covered = |place: usize, length: usize, whole: usize| {
            let start = place * whole / length;
            start..((place + 1) * whole / length).max(start + 1)
        };
        for y in 0..height {
            for x in 0..width {
                let (rows, columns) = (
                    covered(y, height, image.height),
                    covered(x, width, image.width),
                );
                let mut sums = [0usize; 3];
                for row in rows.clone() {
                    for pixel in image.pixels[3 * (row * image.width + columns.start)..]
                        .chunks_exact(3)
                        .take(columns.len())
                    {
                        for (sum, &value) in sums.iter_mut().zip(pixel) {
                            *sum += usize::from(value);
                        }
                    }
                }
                let target = 3 * ((top + y) * self.width + left + x);
                for (channel, sum) in sums.into_iter().enumerate() {
                    self.pixels[target + channel] = (sum / (rows.len() * columns.len())) as u8;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_original_is_drawn_whole() {
        // Twice as wide as high, red at its left end and blue at its right one: a central square would show neither.
        let mut image = Image {
            width: 40,
            height: 20,
            pixels: vec![0; 3 * 40 * 20],
        };
        for row in image.pixels.chunks_exact_mut(3 * 40) {
            row[0..30].copy_from_slice(&[255, 0, 0].repeat(10));
            row[90..120].copy_from_slice(&[0, 0, 255].repeat(10));
        }
        for tile in [20, 80] {
            let mut canvas = Canvas {
                width: tile,
                pixels: vec![255; 3 * tile * tile],
            };
            canvas.draw_whole(&image, tile, (0, 0));
            let at = |x: usize, y: usize| &canvas.pixels[3 * (y * tile + x)..][..3];
            assert_eq!(at(0, tile / 2), [255, 0, 0]);
            assert_eq!(at(tile - 1, tile / 2), [0, 0, 255]);
            assert_eq!(at(tile / 2, 0), [255, 255, 255], "above it stays white");
        }
    }
}
