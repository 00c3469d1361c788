//! Small images made here: coloured shapes, one class per shape, never two alike.

use std::path::Path;

use anyhow::{Context, Result};

/// Side of every picture in pixels.
pub const SIDE: u32 = 16;

/// Writes `per_class` PNG files for each of `classes` shapes into `dir/{class}/`.
///
/// # Errors
/// When a file cannot be written.
pub fn write(dir: &Path, classes: u32, per_class: u32, seed: u32) -> Result<()> {
    for class in 0..classes {
        let folder = dir.join(format!("shape-{class}"));
        std::fs::create_dir_all(&folder).context("make class folder")?;
        for number in 0..per_class {
            let pixels = shape(class, number.wrapping_mul(2_654_435_761).wrapping_add(seed));
            write_png(&folder.join(format!("{number:03}.png")), &pixels)?;
        }
    }
    Ok(())
}

/// A square, a cross, a diagonal or a frame, moved and coloured by `noise`.
fn shape(class: u32, noise: u32) -> Vec<u8> {
    let (dx, dy) = ((noise >> 3) % 4, (noise >> 7) % 4);
    let ink = [
        120 + (noise >> 11) % 120,
        120 + (noise >> 17) % 120,
        120 + (noise >> 23) % 120,
    ];
    let mut pixels = Vec::with_capacity((SIDE * SIDE * 3) as usize);
    for y in 0..SIDE {
        for x in 0..SIDE {
            let (u, v) = (x.wrapping_sub(2 + dx), y.wrapping_sub(2 + dy));
            let inside = u < 9 && v < 9;
            let drawn = inside
                && match class % 4 {
                    0 => true,
                    1 => u == 4 || v == 4,
                    2 => u == v || u + 1 == v,
                    _ => u == 0 || v == 0 || u == 8 || v == 8,
                };
            for channel in ink {
                let grain = (x * 7 + y * 13 + noise) % 24;
                let value = if drawn { channel } else { grain };
                pixels.push(u8::try_from(value).expect("inks and grains are below 256"));
            }
        }
    }
    pixels
}

fn write_png(path: &Path, pixels: &[u8]) -> Result<()> {
    let file = std::fs::File::create(path).with_context(|| format!("create {}", path.display()))?;
    let mut encoder = png::Encoder::new(std::io::BufWriter::new(file), SIDE, SIDE);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(pixels)?;
    Ok(())
}
