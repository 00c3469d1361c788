use super::*;

fn noise(height: usize, width: usize) -> Image {
    Image {
        width,
        height,
        pixels: (0..3 * width * height)
            .map(|i| (i * i * 31 + i * 7919) as u8)
            .collect(),
    }
}

fn ramp(width: usize, height: usize) -> Image {
    let pixels = (0..height)
        .flat_map(|y| (0..width).flat_map(move |x| [(10 * x) as u8, (10 * y) as u8, 90]))
        .collect();
    Image {
        width,
        height,
        pixels,
    }
}

fn resized(image: &Image, cut: Cut, resampling: Resampling) -> Vec<f32> {
    let mut out = vec![0.0; 3 * cut.side * cut.side];
    resize(image, cut, resampling, &mut Buffers::default(), &mut out);
    out
}

const ALL: [Resampling; 3] = [
    Resampling::Bicubic,
    Resampling::AntialiasedBilinear,
    Resampling::AntialiasedBicubic,
];

/// The weights of one output pixel over a whole axis, from the definition of the kernel.
fn weights(resampling: Resampling, place: usize, length: usize, side: usize) -> Vec<f64> {
    let cubic = |x: f64| match x.abs() {
        x if x <= 1.0 => 1.5 * x.powi(3) - 2.5 * x.powi(2) + 1.0,
        x if x < 2.0 => -0.5 * x.powi(3) + 2.5 * x.powi(2) - 4.0 * x + 2.0,
        _ => 0.0,
    };
    let scale = length as f64 / side as f64;
    let centre = (place as f64 + 0.5) * scale - 0.5;
    let raw: Vec<f64> = (0..length)
        .map(|index| {
            let distance = index as f64 - centre;
            match resampling {
                Resampling::Bicubic => {
                    // TensorFlow looks weights up in a table of 1024 steps between two pixels.
                    let quantised =
                        centre.floor() + ((centre - centre.floor()) * 1024.0).round() / 1024.0;
                    cubic(index as f64 - quantised)
                }
                Resampling::AntialiasedBilinear => {
                    (1.0 - (distance / scale.max(1.0)).abs()).max(0.0)
                }
                Resampling::AntialiasedBicubic => cubic(distance / scale.max(1.0)),
            }
        })
        .collect();
    let sum: f64 = raw.iter().sum();
    raw.into_iter().map(|weight| weight / sum).collect()
}

#[test]
fn every_kernel_is_its_definition_summed_over_the_whole_crop() {
    let image = noise(37, 41);
    for crop in [
        CropBox::whole(37, 41),
        CropBox {
            height: 9,
            width: 5,
            top: 11,
            left: 30,
        },
        CropBox {
            height: 1,
            width: 30,
            top: 36,
            left: 0,
        },
    ] {
        for (resampling, side) in ALL.into_iter().flat_map(|how| [(how, 8), (how, 23)]) {
            let cut = Cut {
                crop,
                flip: false,
                side,
            };
            let found = resized(&image, cut, resampling);
            for y in 0..side {
                let rows = weights(resampling, y, crop.height, side);
                for x in 0..side {
                    let columns = weights(resampling, x, crop.width, side);
                    for channel in 0..3 {
                        let mut sum = 0.0;
                        for (row, wr) in rows.iter().enumerate() {
                            for (column, wc) in columns.iter().enumerate() {
                                let place = (crop.top + row) * 41 + crop.left + column;
                                sum += wr * wc * f64::from(image.pixels[3 * place + channel]);
                            }
                        }
                        let found = f64::from(found[(channel * side + y) * side + x]);
                        assert!(
                            (found - sum / 255.0).abs() < 2e-5,
                            "{resampling:?} {crop:?} at {y}, {x}: {found} should be {}",
                            sum / 255.0
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn the_same_size_copies_and_flip_mirrors() {
    let image = ramp(9, 9);
    let crop = CropBox {
        height: 6,
        width: 6,
        top: 2,
        left: 1,
    };
    for resampling in ALL {
        let [plain, mirrored] = [false, true].map(|flip| {
            resized(
                &image,
                Cut {
                    crop,
                    flip,
                    side: 6,
                },
                resampling,
            )
        });
        for y in 0..6 {
            for x in 0..6 {
                assert!((plain[y * 6 + x] - 10.0 * (x + 1) as f32 / 255.0).abs() < 1e-6);
                assert!((plain[36 + y * 6 + x] - 10.0 * (y + 2) as f32 / 255.0).abs() < 1e-6);
                assert!((plain[y * 6 + x] - mirrored[y * 6 + 5 - x]).abs() < 1e-6);
            }
        }
    }
}

#[test]
fn a_ramp_stays_a_ramp_inside_and_a_constant_stays_constant_everywhere() {
    let image = ramp(16, 16);
    let crop = CropBox::whole(16, 16);
    for resampling in ALL {
        let cut = Cut {
            crop,
            flip: false,
            side: 32,
        };
        let out = resized(&image, cut, resampling);
        for x in 4..28 {
            let centre = (x as f32 + 0.5) * 0.5 - 0.5;
            let found = out[16 * 32 + x];
            assert!(
                (found - 10.0 * centre / 255.0).abs() < 1e-4,
                "{resampling:?} {x}"
            );
        }
        for value in &out[2 * 32 * 32..] {
            assert!((value - 90.0 / 255.0).abs() < 1e-6);
        }
    }
}

#[test]
fn buffers_remember_nothing() {
    let image = noise(40, 30);
    let mut used = Buffers::default();
    for (height, width, side) in [(40, 30, 16), (3, 4, 16), (40, 1, 33), (25, 30, 8)] {
        for resampling in ALL {
            let crop = CropBox::whole(height, width);
            let cut = Cut {
                crop,
                flip: true,
                side,
            };
            let mut out = vec![f32::NAN; 3 * side * side];
            resize(&image, cut, resampling, &mut used, &mut out);
            assert_eq!(out, resized(&image, cut, resampling));
        }
    }
}
