//! Encoded bytes to RGB pixels, with limits.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

/// The longest side that is decoded: larger claims are refused before memory is taken.
const LONGEST_SIDE: usize = 16_384;
/// The most pixels that are decoded: 100 megapixels.
const MOST_PIXELS: usize = 100_000_000;

/// An RGB image, 8 bits a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Red, green and blue of each pixel, row by row: `3 · width · height` bytes.
    pub pixels: Vec<u8>,
}

/// Why bytes are no usable image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Neither JPEG nor PNG.
    #[error("is neither JPEG nor PNG (it starts with {start:02x?})")]
    Unknown {
        /// The first bytes.
        start: Vec<u8>,
    },
    /// The image claims to be larger than any real one.
    #[error("claims {width}×{height} pixels, more than is decoded")]
    TooLarge {
        /// Claimed pixels in a row.
        width: usize,
        /// Claimed rows.
        height: usize,
    },
    /// The bytes are broken or cut short.
    #[error("is broken: {reason}")]
    Broken {
        /// What the decoder said.
        reason: String,
    },
}

/// Decodes a JPEG (grayscale, YCbCr, CMYK) or a PNG (any colour type and depth; transparency is dropped).
///
/// # Errors
/// [`DecodeError`] for anything that is not a whole image of a sensible size.
pub fn decode(bytes: &[u8]) -> Result<Image, DecodeError> {
    if bytes.starts_with(&[0xff, 0xd8]) {
        guarded(|| jpeg(bytes))
    } else if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        guarded(|| png(bytes))
    } else {
        Err(DecodeError::Unknown {
            start: bytes.iter().take(4).copied().collect(),
        })
    }
}

/// A decoder's panic is the image's fault: it must not end the thread that decodes.
fn guarded(decoder: impl FnOnce() -> Result<Image, DecodeError>) -> Result<Image, DecodeError> {
    catch_unwind(AssertUnwindSafe(decoder))
        .unwrap_or_else(|_| Err(broken("the decoder gave up on it")))
}

fn check_size(width: usize, height: usize) -> Result<(), DecodeError> {
    let fits = width <= LONGEST_SIDE
        && height <= LONGEST_SIDE
        && width.saturating_mul(height) <= MOST_PIXELS;
    if !fits {
        return Err(DecodeError::TooLarge { width, height });
    }
    if width == 0 || height == 0 {
        return Err(DecodeError::Broken {
            reason: "it has no pixels".to_owned(),
        });
    }
    Ok(())
}

fn broken(error: impl std::fmt::Debug + std::fmt::Display) -> DecodeError {
    DecodeError::Broken {
        reason: error.to_string(),
    }
}

fn jpeg(bytes: &[u8]) -> Result<Image, DecodeError> {
    let options = DecoderOptions::default()
        .jpeg_set_out_colorspace(ColorSpace::RGB)
        .set_max_width(LONGEST_SIDE)
        .set_max_height(LONGEST_SIDE)
        .set_strict_mode(true);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(broken)?;
    let (width, height) = decoder
        .dimensions()
        .ok_or_else(|| broken("it states no size"))?;
    check_size(width, height)?;
    let pixels = decoder.decode().map_err(broken)?;
    if pixels.len() != 3 * width * height {
        return Err(broken("its colours are not understood"));
    }
    Ok(Image {
        width,
        height,
        pixels,
    })
}

fn png(bytes: &[u8]) -> Result<Image, DecodeError> {
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
    let mut reader = decoder.read_info().map_err(broken)?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    check_size(width, height)?;
    let size = reader
        .output_buffer_size()
        .ok_or_else(|| broken("its size overflows"))?;
    let mut raw = vec![0; size];
    let frame = reader.next_frame(&mut raw).map_err(broken)?;
    raw.truncate(frame.buffer_size());
    let pixels = match frame.color_type {
        png::ColorType::Rgb => raw,
        png::ColorType::Rgba => raw
            .chunks_exact(4)
            .flat_map(|pixel| [pixel[0], pixel[1], pixel[2]])
            .collect(),
        png::ColorType::Grayscale => raw.iter().flat_map(|&gray| [gray; 3]).collect(),
        png::ColorType::GrayscaleAlpha => raw
            .chunks_exact(2)
            .flat_map(|pixel| [pixel[0]; 3])
            .collect(),
        png::ColorType::Indexed => return Err(broken("its palette was not expanded")),
    };
    if pixels.len() != 3 * width * height {
        return Err(broken("it is cut short"));
    }
    Ok(Image {
        width,
        height,
        pixels,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoder_that_panics_found_a_broken_image() {
        let found = guarded(|| panic!("index out of bounds"));
        assert!(
            matches!(found, Err(DecodeError::Broken { .. })),
            "{found:?}"
        );
    }
}
