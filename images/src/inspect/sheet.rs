//! A contact sheet: originals beside their two views, as one PNG.

use diptych_common::spec::AugmentSpec;

use crate::augment::{Key, Scratch, augment, evaluation};
use crate::decode::decode;
use crate::shard::{Index, SampleId};

/// Pictures of one sample: the original and two views.
const PICTURES: usize = 3;
/// Samples beside each other.
const ACROSS: usize = 4;
/// White pixels between pictures.
const GAP: usize = 6;
/// Small views are enlarged by a whole factor to at least this many pixels.
const LEAST_SIDE: usize = 72;

/// Draws up to `samples` evenly chosen samples: each as the network sees it in evaluation, then as two views of the
/// augmentation. Unusable images are left gray. Returns an encoded PNG.
///
/// # Errors
/// When the picture cannot be encoded.
pub async fn contact_sheet(
    index: &Index,
    spec: &AugmentSpec,
    seed: u64,
    samples: u64,
) -> Result<Vec<u8>, png::EncodingError> {
    let chosen = index.len().min(samples.max(1));
    let ids: Vec<SampleId> = (0..chosen)
        .map(|place| SampleId::new(place * index.len() / chosen))
        .collect();
    let side = spec.image_size as usize;
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
        for picture in 0..PICTURES {
            match &image {
                None => view.fill(0.5),
                Some(image) if picture == 0 => evaluation(image, side, &mut scratch, &mut view),
                Some(image) => {
                    let key = Key {
                        seed,
                        phase: 0,
                        step: 0,
                        position: 0,
                        sample: id.get(),
                        view: picture as u32 - 1,
                    };
                    augment(image, spec, &key, &mut scratch, &mut view);
                }
            }
            let left = GAP + place % ACROSS * cell.0 + picture * (tile + GAP);
            canvas.draw(&view, side, scale, (left, GAP + place / ACROSS * cell.1));
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
}
