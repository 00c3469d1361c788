use std::sync::Arc;

use diptych_common::spec::{AugmentSpec, Implementation};
use diptych_images::augment::ViewParams;
use diptych_images::decode::Image;
use tch::{Device, Kind, TchError, Tensor};

use super::blur::{Blur, Border};
use super::color::Colors;
use super::tables::{Indices, Lists, Tables};
use super::taps::Taps;
use crate::batch::originals::{Frame, Originals};

/// Bytes of the crops that are worked on together; on the device they take some ten times as much for a moment.
const TOGETHER: usize = 64 << 20;

/// The parts of images that become the views of a batch, and what they bring along of their pixels.
#[derive(Debug, Default)]
pub struct Cuts {
    crops: Vec<Crop>,
    /// Interleaved bytes.
    pixels: Vec<u8>,
}

/// The part of an image that becomes one view.
#[derive(Debug)]
struct Crop {
    /// The view's row in the batch.
    row: usize,
    params: ViewParams,
    /// Where it starts, in pixels.
    first: usize,
    /// From one of its rows to the next, in pixels.
    stride: usize,
}

/// The crops of a batch, ready to become views on a device.
#[derive(Debug)]
pub struct Crops {
    pub(super) spec: AugmentSpec,
    pub(super) rows: usize,
    pub(super) pool: Pool,
    pub(super) tables: Tables,
    pub(super) chunks: Vec<Chunk>,
}

/// What crops are cut out of, `[pixels, 3]` of u8.
#[derive(Debug)]
pub(super) enum Pool {
    /// What the cuts brought along, on the host.
    Own(Tensor),
    /// The originals, on the device.
    Resident(Arc<Originals>),
}

/// Crops of similar size, read as if they were all as large as the largest.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) height: i64,
    pub(super) width: i64,
    /// The row of the batch that each crop becomes, `[n]`; where it starts in the pool, and from row to row.
    pub(super) rows: Indices,
    pub(super) first: Indices,
    pub(super) stride: Indices,
    pub(super) vertical: Taps,
    pub(super) horizontal: Taps,
    pub(super) colors: Colors,
    pub(super) blur: Blur,
}

// === impl Cuts ===

impl Cuts {
    /// Cuts out of an image what these parameters name, for a row of the batch.
    pub fn cut(&mut self, row: usize, image: &Image, params: ViewParams) {
        let cut = params.crop;
        self.crops.push(Crop {
            row,
            first: self.pixels.len() / 3,
            stride: cut.width,
            params,
        });
        let rows = image.pixels.chunks_exact(3 * image.width).skip(cut.top);
        for row in rows.take(cut.height) {
            let part = 3 * cut.left..3 * (cut.left + cut.width);
            self.pixels.extend_from_slice(&row[part]);
        }
    }

    /// Points at what these parameters name of a resident image.
    pub fn point(&mut self, row: usize, frame: Frame, params: ViewParams) {
        let cut = params.crop;
        self.crops.push(Crop {
            row,
            first: frame.first + cut.top * frame.width + cut.left,
            stride: frame.width,
            params,
        });
    }

    /// Takes others in, behind its own.
    pub fn append(&mut self, others: Self) {
        let before = self.pixels.len() / 3;
        self.pixels.extend(others.pixels);
        self.crops.extend(others.crops.into_iter().map(|crop| Crop {
            first: before + crop.first,
            ..crop
        }));
    }
}

// === impl Crops ===

impl Crops {
    /// Packs crops that bring their pixels along, one for each row of a batch.
    ///
    /// # Errors
    /// Out of memory.
    pub fn pack(spec: &AugmentSpec, mut cuts: Cuts) -> Result<Self, TchError> {
        let pixels = std::mem::take(&mut cuts.pixels);
        let pool = Tensor::f_from_slice(&pixels)?.f_view([-1, 3])?;
        Self::of(spec, cuts.crops, Pool::Own(pool))
    }

    /// Packs crops of resident images, one for each row of a batch: what goes up does not depend on their size.
    ///
    /// # Errors
    /// Out of memory.
    pub fn resident(
        spec: &AugmentSpec,
        cuts: Cuts,
        originals: &Arc<Originals>,
    ) -> Result<Self, TchError> {
        let pool = Pool::Resident(Arc::clone(originals));
        Self::of(spec, cuts.crops, pool)
    }

    fn of(spec: &AugmentSpec, mut crops: Vec<Crop>, pool: Pool) -> Result<Self, TchError> {
        let rows = crops.len();
        // Neighbours are of like size, so that little is read in vain.
        crops.sort_by_key(|crop| (crop.params.crop.height, crop.params.crop.width, crop.row));
        let (mut lists, mut chunks) = (Lists::default(), Vec::new());
        let mut rest = crops.as_slice();
        while !rest.is_empty() {
            let (chunk, others) = rest.split_at(together(rest));
            chunks.push(Chunk::of(spec, chunk, &mut lists));
            rest = others;
        }
        Ok(Self {
            spec: spec.clone(),
            rows,
            pool,
            tables: lists.into_tables()?,
            chunks,
        })
    }

    /// What goes up to the device, moved.
    ///
    /// # Errors
    /// Those of `moved`.
    pub fn moved(
        self,
        moved: &impl Fn(&Tensor) -> Result<Tensor, TchError>,
    ) -> Result<Self, TchError> {
        Ok(Self {
            pool: match self.pool {
                Pool::Own(pixels) => Pool::Own(moved(&pixels)?),
                resident @ Pool::Resident(_) => resident,
            },
            tables: self.tables.moved(moved)?,
            ..self
        })
    }
}

// === impl Pool ===

impl Pool {
    pub(super) fn on(&self, device: Device) -> Result<Tensor, TchError> {
        match self {
            Self::Own(pixels) => pixels.f_to_device_(device, Kind::Uint8, true, false),
            Self::Resident(originals) => Ok(originals.pixels()),
        }
    }
}

// === impl Chunk ===

impl Chunk {
    fn of(spec: &AugmentSpec, crops: &[Crop], lists: &mut Lists) -> Self {
        let (height, width) = size(crops);
        let params = || crops.iter().map(|crop| &crop.params);
        let heights = params().map(|params| (params.crop.height, false));
        let widths = params().map(|params| (params.crop.width, params.flip));
        let border = match spec.implementation {
            Implementation::Official { .. } => Border::Zeros,
            Implementation::Torchvision { .. } => Border::Mirror,
        };
        let sigmas = params().map(|params| params.blur);
        Self {
            height: height as i64,
            width: width as i64,
            rows: lists.indices(crops.iter().map(|crop| crop.row as i64)),
            first: lists.indices(crops.iter().map(|crop| crop.first as i64)),
            stride: lists.indices(crops.iter().map(|crop| crop.stride as i64)),
            vertical: Taps::of(spec, height, heights, lists),
            horizontal: Taps::of(spec, width, widths, lists),
            colors: Colors::of(params(), lists),
            blur: Blur::of(spec.image_size as usize, sigmas, border, lists),
        }
    }
}

/// How many of the first crops are worked on together: at least one.
fn together(crops: &[Crop]) -> usize {
    let (mut count, mut height, mut width) = (0, 0, 0);
    for crop in crops {
        let cut = crop.params.crop;
        (height, width) = (height.max(cut.height), width.max(cut.width));
        if count > 0 && 3 * (count + 1) * height * width > TOGETHER {
            break;
        }
        count += 1;
    }
    count
}

/// Height and width that hold all of them.
fn size(crops: &[Crop]) -> (usize, usize) {
    crops.iter().fold((0, 0), |(height, width), crop| {
        let cut = crop.params.crop;
        (height.max(cut.height), width.max(cut.width))
    })
}
