//! Where views are made, and so what a loader takes up to the device.

use std::sync::Arc;

use diptych_images::decode::Image;
use diptych_images::shard::SampleId;

use super::loader::LoadError;
use super::originals::{Frame, Originals};
use super::source::{Fetched, Source};

/// Where a loader's views are made, and of what.
#[derive(Debug, Clone)]
pub enum Place {
    /// By the threads that decode.
    Host,
    /// On the device, of crops that these threads cut out.
    Device,
    /// On the device that holds these images, of them.
    Resident(Arc<Originals>),
}

/// What is known of a sample before a worker takes it.
#[derive(Debug)]
pub(super) enum Known {
    /// What the source knows.
    Stored(Fetched),
    /// Where it is on the device, or why it is not there.
    Resident(Result<Frame, String>),
}

/// What a view is made of.
#[derive(Debug)]
pub(super) enum Original {
    Decoded(Arc<Image>),
    Resident(Frame),
}

impl Place {
    /// What is known of some samples; reads those that are neither decoded nor resident.
    pub(super) fn know(
        &self,
        source: &Source,
        samples: &[SampleId],
    ) -> Result<Vec<Known>, LoadError> {
        match self {
            Self::Host | Self::Device => {
                let fetched = source.fetch(samples)?;
                Ok(fetched.into_iter().map(Known::Stored).collect())
            }
            Self::Resident(originals) => {
                let frame = |&sample| Known::Resident(originals.frame(sample));
                Ok(samples.iter().map(frame).collect())
            }
        }
    }
}

impl Known {
    /// The image of a sample.
    ///
    /// # Errors
    /// The reason why it is none.
    pub(super) fn original(self, source: &Source, sample: SampleId) -> Result<Original, String> {
        match self {
            Self::Stored(fetched) => source.image(sample, &fetched).map(Original::Decoded),
            Self::Resident(frame) => frame.map(Original::Resident),
        }
    }
}

impl Original {
    /// Rows, and pixels in a row.
    pub(super) fn size(&self) -> (usize, usize) {
        match self {
            Self::Decoded(image) => (image.height, image.width),
            Self::Resident(frame) => (frame.height, frame.width),
        }
    }
}
