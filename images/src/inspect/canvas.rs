//! A picture that pictures are drawn into.

use crate::decode::Image;

/// An encoded picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// The file.
    pub png: Vec<u8>,
}

/// Interleaved RGB bytes.
pub(super) struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Canvas {
    /// White.
    pub(super) fn new(width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            pixels: vec![255; 3 * width * height],
        }
    }

    /// As a PNG.
    pub(super) fn encode(&self) -> Result<Picture, png::EncodingError> {
        let (width, height) = (self.width, self.height);
        let mut png = Vec::new();
        let mut encoder = png::Encoder::new(&mut png, width as u32, height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.write_header()?.write_image_data(&self.pixels)?;
        Ok(Picture { width, height, png })
    }

    /// Draws a planar view, every pixel `scale` times as large.
    pub(super) fn draw(
        &mut self,
        view: &[f32],
        side: usize,
        scale: usize,
        (left, top): (usize, usize),
    ) {
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
    pub(super) fn draw_whole(&mut self, image: &Image, tile: usize, (left, top): (usize, usize)) {
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

    /// Writes ASCII in black, [`LETTER`] pixels a letter both ways.
    pub(super) fn write(&mut self, text: &str, (left, top): (usize, usize)) {
        for (place, letter) in text.bytes().enumerate() {
            let shape = font8x8::legacy::BASIC_LEGACY.get(usize::from(letter));
            for (y, row) in shape.into_iter().flatten().enumerate() {
                for x in (0..8).filter(|x| row >> x & 1 == 1) {
                    let target = 3 * ((top + y) * self.width + left + place * LETTER + x);
                    self.pixels[target..target + 3].fill(0);
                }
            }
        }
    }
}

/// Side of a letter in pixels.
pub(super) const LETTER: usize = 8;

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
            let mut canvas = Canvas::new(tile, tile);
            canvas.draw_whole(&image, tile, (0, 0));
            let at = |x: usize, y: usize| &canvas.pixels[3 * (y * tile + x)..][..3];
            assert_eq!(at(0, tile / 2), [255, 0, 0]);
            assert_eq!(at(tile - 1, tile / 2), [0, 0, 255]);
            assert_eq!(at(tile / 2, 0), [255, 255, 255], "above it stays white");
        }
    }

    #[test]
    fn letters_stand_upright() {
        let mut canvas = Canvas::new(2 * LETTER, LETTER);
        canvas.write("LT", (0, 0));
        let black = |x: usize, y: usize| canvas.pixels[3 * (y * 2 * LETTER + x)] == 0;
        let row = |from: usize, y: usize| (from..from + LETTER).filter(|&x| black(x, y)).count();
        // The foot of an L is wide, the head of a T is.
        assert!(row(0, 6) > row(0, 2) && row(LETTER, 0) > row(LETTER, 4));
    }
}
