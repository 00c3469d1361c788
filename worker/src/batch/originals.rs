//! Decoded images that stay in the memory of a device, so that a step takes up none.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use diptych_common::units::Bytes;
use diptych_images::decode::Image;
use diptych_images::shard::SampleId;
use rayon::prelude::*;
use tch::{Device, Kind, TchError, Tensor};

use super::ahead::{Ahead, Stop};
use super::loader::{LoadError, pool};
use super::source::{BadImages, Fetched, Source};

/// Images that are decoded between two looks at their size.
const BLOCK: usize = 256;
/// Bytes that go to the device at once; whole pixels.
const PART: usize = 3 << 24;

/// The images of a data set, at their own sizes, in the memory of one device.
#[derive(Debug)]
pub struct Originals {
    /// `[pixels, 3]` of u8, image after image, row by row. Nothing writes to it: the lock is there because tensors cannot
    /// be lent to several threads.
    pixels: Mutex<Tensor>,
    bytes: Bytes,
    /// Of every sample, the bad ones with what is wrong with them.
    frames: HashMap<SampleId, Result<Frame, String>>,
}

/// Where an image is among the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Its first pixel.
    pub first: usize,
    /// Rows.
    pub height: usize,
    /// Pixels in a row.
    pub width: usize,
}

/// How images become resident.
#[derive(Debug, Clone, Copy)]
pub struct Settling {
    /// Where they are to stay.
    pub device: Device,
    /// Bytes that they may take there.
    pub most: Bytes,
    /// Share of them that may be unreadable, in [0, 1].
    pub max_bad_images: f64,
    /// Threads that decode.
    pub threads: usize,
}

/// Originals on the host, on their way to a device.
#[derive(Debug, Default)]
pub struct Gathered {
    pixels: Vec<u8>,
    frames: HashMap<SampleId, Result<Frame, String>>,
}

// === impl Originals ===

impl Originals {
    /// Decodes every image of a source and brings them to a device. They are gathered on the host first, which holds as
    /// much for that long.
    ///
    /// # Errors
    /// [`LoadError::NoRoom`] as soon as they take more than they may; [`LoadError::TooManyBad`]; what the store, the system
    /// or libtorch says; [`LoadError::Aborted`] once the source was stopped.
    pub fn settle(source: &Source, how: Settling) -> Result<Self, LoadError> {
        let reader = source.clone();
        let read = move |places: Range<u64>| {
            let samples: Vec<SampleId> = places.map(|place| reader.sample(place)).collect();
            let fetched = reader.fetch(&samples)?;
            Ok(samples.into_iter().zip(fetched).collect::<Vec<_>>())
        };
        let threads = pool(how.threads)?;
        let decode = move |samples: Vec<(SampleId, Fetched)>, stop: &Stop| {
            let decode = |(sample, fetched): (SampleId, Fetched)| match stop.is_stopped() {
                true => Err(LoadError::Aborted),
                false => Ok((sample, fetched.decode())),
            };
            threads.install(|| samples.into_par_iter().map(decode).collect())
        };
        let all = source.len();
        let blocks = (0..all)
            .step_by(BLOCK)
            .map(move |start| start..(start + BLOCK as u64).min(all));
        let name = ("originals", source.stop());
        let ahead: Ahead<Vec<_>> = Ahead::start(name, 1, blocks, read, decode)?;
        let bad = BadImages::new(source.len(), how.max_bad_images);
        let mut gathered = Gathered::default();
        while let Some(block) = ahead.next()? {
            for (sample, image) in block {
                match image {
                    Ok(image) => gathered.add(sample, &image),
                    Err(reason) => {
                        bad.note(source, sample, reason.clone())?;
                        gathered.frames.insert(sample, Err(reason));
                    }
                }
            }
            let bytes = Bytes::new(gathered.pixels.len() as u64);
            if bytes > how.most {
                return Err(LoadError::NoRoom {
                    images: gathered.frames.len() as u64,
                    bytes,
                    most: how.most,
                });
            }
        }
        gathered
            .settle(how.device)
            .map_err(|error| LoadError::Memory {
                reason: error.to_string(),
            })
    }

    /// What they take.
    pub fn bytes(&self) -> Bytes {
        self.bytes
    }

    /// `[pixels, 3]` of u8.
    pub(super) fn pixels(&self) -> Tensor {
        let pixels = self.pixels.lock().unwrap_or_else(PoisonError::into_inner);
        pixels.shallow_clone()
    }

    /// An image.
    ///
    /// # Errors
    /// The reason why it is none.
    pub fn frame(&self, sample: SampleId) -> Result<Frame, String> {
        let known = self.frames.get(&sample).cloned();
        known.unwrap_or_else(|| Err("was not brought to the device".to_owned()))
    }
}

// === impl Gathered ===

impl Gathered {
    /// Puts an image behind the others.
    pub fn add(&mut self, sample: SampleId, image: &Image) {
        let frame = Frame {
            first: self.pixels.len() / 3,
            height: image.height,
            width: image.width,
        };
        self.pixels.extend_from_slice(&image.pixels);
        self.frames.insert(sample, Ok(frame));
    }

    /// Brings all of them to a device.
    ///
    /// # Errors
    /// Out of memory.
    pub fn settle(self, device: Device) -> Result<Originals, TchError> {
        let size = [self.pixels.len() as i64 / 3, 3];
        let pixels = Tensor::f_empty(size, (Kind::Uint8, device))?;
        let mut first = 0;
        for part in self.pixels.chunks(PART) {
            let part = Tensor::f_from_slice(part)?.f_view([-1, 3])?;
            let count = part.size()[0];
            pixels.f_narrow(0, first, count)?.f_copy_(&part)?;
            first += count;
        }
        Ok(Originals {
            pixels: Mutex::new(pixels),
            bytes: Bytes::new(self.pixels.len() as u64),
            frames: self.frames,
        })
    }
}
