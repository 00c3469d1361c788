//! Contact sheets: originals beside what becomes of them, as one PNG.

use diptych_common::spec::AugmentSpec;

use crate::augment::{Key, Scratch, ViewParams, render};
use crate::decode::{Image, decode};
use crate::shard::{Index, SampleId};

use super::canvas::{Canvas, LETTER, Picture};
use super::operation::Operation;

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
/// phase's first step makes them for position 0. Unusable images are left gray.
///
/// # Errors
/// When the picture cannot be encoded.
pub async fn contact_sheet(
    index: &Index,
    views: &Views,
    samples: u64,
) -> Result<Picture, png::EncodingError> {
    let chosen = choose(index, samples).await;
    let mut sheet = Sheet::new(views, chosen.len(), chosen.len().div_ceil(ACROSS), 0);
    for (place, (id, image)) in chosen.iter().enumerate() {
        sheet.sample(Operation::All, *id, image.as_ref(), place);
    }
    sheet.canvas.encode()
}

/// Draws what each operation of the augmentation does on its own, a named row each, and all of them together in the last
/// row: evenly chosen samples, each whole beside two views. Operations that are drawn only sometimes are always done
/// here.
///
/// # Errors
/// When the picture cannot be encoded.
pub async fn operations_sheet(index: &Index, views: &Views) -> Result<Picture, png::EncodingError> {
    let chosen = choose(index, ACROSS as u64).await;
    let operations = Operation::of(&views.augment);
    let longest = operations.iter().map(|one| one.name().len()).max();
    let margin = longest.unwrap_or(0) * LETTER + GAP;
    let mut sheet = Sheet::new(views, chosen.len(), operations.len(), margin);
    for (row, operation) in operations.into_iter().enumerate() {
        sheet.label(operation.name(), row);
        for (column, (id, image)) in chosen.iter().enumerate() {
            sheet.sample(operation, *id, image.as_ref(), row * ACROSS + column);
        }
    }
    sheet.canvas.encode()
}

/// Draws planar views of `side × side` pixels in rows, top to bottom.
///
/// # Errors
/// When the picture cannot be encoded.
///
/// # Panics
/// When a view has not `3 · side²` floats.
pub fn grid(rows: &[Vec<&[f32]>], side: usize) -> Result<Picture, png::EncodingError> {
    let scale = LEAST_SIDE.div_ceil(side.max(1));
    let cell = side * scale + GAP;
    let across = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut canvas = Canvas::new(across * cell + GAP, rows.len() * cell + GAP);
    for (y, row) in rows.iter().enumerate() {
        for (x, view) in row.iter().enumerate() {
            canvas.draw(view, side, scale, (GAP + x * cell, GAP + y * cell));
        }
    }
    canvas.encode()
}

/// Evenly chosen samples; `None` for unusable images.
async fn choose(index: &Index, samples: u64) -> Vec<(SampleId, Option<Image>)> {
    let chosen = index.len().min(samples.max(1));
    let ids: Vec<SampleId> = (0..chosen)
        .map(|place| SampleId::new(place * index.len() / chosen))
        .collect();
    let read = index.read(&ids).await;
    let image = |encoded: Result<bytes::Bytes, _>| decode(&encoded.ok()?).ok();
    ids.into_iter().zip(read.into_iter().map(image)).collect()
}

/// Samples in rows of [`ACROSS`], each with its pictures beside each other.
struct Sheet<'a> {
    canvas: Canvas,
    views: &'a Views,
    side: usize,
    scale: usize,
    margin: usize,
    scratch: Scratch,
}

impl<'a> Sheet<'a> {
    fn new(views: &'a Views, samples: usize, rows: usize, margin: usize) -> Self {
        let side = views.augment.image_size as usize;
        let scale = LEAST_SIDE.div_ceil(side);
        let tile = side * scale;
        let width = samples.min(ACROSS) * (PICTURES * (tile + GAP) + GAP) + GAP;
        Self {
            canvas: Canvas::new(margin + width, rows * (tile + GAP) + GAP),
            views,
            side,
            scale,
            margin,
            scratch: Scratch::default(),
        }
    }

    fn top(&self, row: usize) -> usize {
        GAP + row * (self.side * self.scale + GAP)
    }

    /// Names a row.
    fn label(&mut self, text: &str, row: usize) {
        let top = self.top(row) + (self.side * self.scale - LETTER) / 2;
        self.canvas.write(text, (GAP, top));
    }

    /// Draws a sample, whole and as two views, at a place.
    fn sample(&mut self, operation: Operation, id: SampleId, image: Option<&Image>, place: usize) {
        let tile = self.side * self.scale;
        let top = self.top(place / ACROSS);
        let first = self.margin + GAP + place % ACROSS * (PICTURES * (tile + GAP) + GAP);
        let left = |picture: usize| first + picture * (tile + GAP);
        let mut view = vec![0.5; 3 * self.side * self.side];
        match image {
            Some(image) => self.canvas.draw_whole(image, tile, (left(0), top)),
            None => self
                .canvas
                .draw(&view, self.side, self.scale, (left(0), top)),
        }
        for picture in 1..PICTURES {
            if let Some(image) = image {
                let key = Key {
                    seed: self.views.seed,
                    phase: self.views.phase,
                    step: 0,
                    position: 0,
                    sample: id.get(),
                    view: picture as u32 - 1,
                };
                let spec = &self.views.augment;
                let params: ViewParams = operation.alone(spec, &key, image);
                render(image, spec, &params, &mut self.scratch, &mut view);
            }
            let at = (left(picture), top);
            self.canvas.draw(&view, self.side, self.scale, at);
        }
    }
}
