//! Pools as torchvision and as TensorFlow have them.

use diptych_common::spec::MaxPool;
use tch::{TchError, Tensor};

/// 3×3 with stride 2; the output is half of `x`, rounded up.
pub(super) fn max_pool(x: &Tensor, kind: MaxPool) -> Result<Tensor, TchError> {
    match kind {
        MaxPool::Torch => x.f_max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false),
        // `SAME` pads max(3 + 2(out − 1) − in, 0) cells, the smaller half before: 0 and 1 for an even side, 1 and 1 for
        // an odd one. `ceil_mode` gives the last window its missing cell.
        MaxPool::Tensorflow => {
            let padding = odd(x);
            x.f_max_pool2d([3, 3], [2, 2], padding, [1, 1], true)
        }
    }
}

/// 2×2, in front of a ResNet-D shortcut of this stride; the output is `x`'s side over the stride, rounded up.
pub(super) fn average_pool(x: &Tensor, stride: u64) -> Result<Tensor, TchError> {
    if stride == 1 {
        // `SAME` pads after, and leaves what it padded out of the mean. libtorch pads on both sides alike: the windows
        // that start in front of the first cell go.
        let (height, width) = (x.size()[2], x.size()[3]);
        let padded = x.f_avg_pool2d([2, 2], [1, 1], [1, 1], false, false, None::<i64>)?;
        return padded.f_narrow(2, 1, height)?.f_narrow(3, 1, width);
    }
    // Padding with zeros, which count, is read at an odd side only.
    let [height, width] = odd(x);
    let padded = if height + width > 0 {
        x.f_constant_pad_nd([0, width, 0, height])?
    } else {
        x.shallow_clone()
    };
    let stride = stride as i64;
    padded.f_avg_pool2d([2, 2], [stride, stride], [0, 0], false, true, None::<i64>)
}

/// 1 for each odd side of `[N, C, H, W]`.
fn odd(x: &Tensor) -> [i64; 2] {
    [x.size()[2] % 2, x.size()[3] % 2]
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    const SIDES: [i64; 5] = [1, 2, 5, 6, 7];

    fn image(side: i64) -> Tensor {
        let x = Tensor::arange(2 * side * side, (Kind::Double, Device::Cpu));
        (x * 1.7).sin().view([1, 2, side, side])
    }

    /// The windows of an output cell along one side, from a padding in front.
    fn window(cell: i64, (size, stride, before): (i64, i64, i64)) -> std::ops::Range<i64> {
        cell * stride - before..cell * stride - before + size
    }

    /// Folds the cells of every window: `None` is padding.
    fn windows(
        x: &Tensor,
        shape: (i64, i64, i64),
        fold: impl Fn(&[Option<f64>]) -> f64,
    ) -> Vec<f64> {
        let side = x.size()[2];
        let out = (side as u64).div_ceil(shape.1 as u64) as i64;
        let mut found = Vec::new();
        for channel in 0..2 {
            for (row, column) in (0..out).flat_map(|row| (0..out).map(move |column| (row, column)))
            {
                let mut cells = Vec::new();
                for y in window(row, shape) {
                    for x_at in window(column, shape) {
                        let inside = (0..side).contains(&y) && (0..side).contains(&x_at);
                        cells.push(inside.then(|| x.double_value(&[0, channel, y, x_at])));
                    }
                }
                found.push(fold(&cells));
            }
        }
        found
    }

    fn compare(got: &Tensor, expected: &[f64], what: &str) {
        let got = Vec::<f64>::try_from(got.contiguous().view([-1])).expect("numbers");
        assert_eq!(got.len(), expected.len(), "{what}");
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-14, "{what}: {got} {expected}");
        }
    }

    #[test]
    fn max_pools_cover_the_windows_of_their_programs() {
        let most = |cells: &[Option<f64>]| cells.iter().flatten().copied().fold(f64::MIN, f64::max);
        for side in SIDES {
            let x = image(side);
            let torch = max_pool(&x, MaxPool::Torch).expect("a pool");
            compare(
                &torch,
                &windows(&x, (3, 2, 1), most),
                &format!("torch {side}"),
            );
            // TensorFlow's own formula for `SAME`.
            let out = (side + 1) / 2;
            let before = ((out - 1) * 2 + 3 - side).max(0) / 2;
            let tensorflow = max_pool(&x, MaxPool::Tensorflow).expect("a pool");
            let expected = windows(&x, (3, 2, before), most);
            compare(&tensorflow, &expected, &format!("tensorflow {side}"));
        }
        let x = image(6);
        let apart =
            max_pool(&x, MaxPool::Torch).unwrap() - max_pool(&x, MaxPool::Tensorflow).unwrap();
        assert!(apart.abs().max().double_value(&[]) > 0.1, "the two differ");
    }

    #[test]
    fn average_pools_leave_padding_out_at_stride_one_and_count_it_at_two() {
        for side in SIDES {
            let x = image(side);
            let inside = |cells: &[Option<f64>]| {
                let inside: Vec<f64> = cells.iter().flatten().copied().collect();
                inside.iter().sum::<f64>() / inside.len() as f64
            };
            let one = average_pool(&x, 1).expect("a pool");
            compare(
                &one,
                &windows(&x, (2, 1, 0), inside),
                &format!("stride 1, {side}"),
            );
            let all = |cells: &[Option<f64>]| {
                cells.iter().map(|cell| cell.unwrap_or(0.0)).sum::<f64>() / 4.0
            };
            let two = average_pool(&x, 2).expect("a pool");
            compare(
                &two,
                &windows(&x, (2, 2, 0), all),
                &format!("stride 2, {side}"),
            );
        }
    }
}
