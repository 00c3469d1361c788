use diptych_images::augment::{ColorOp, ViewParams};
use tch::{Kind, TchError, Tensor};

use super::tables::{Indices, Lists, Numbers, Tables};

/// Weights of red, green and blue in brightness, as on the host.
const LUMA: [f64; 3] = [0.2989, 0.5870, 0.1140];

/// Views `[n, 3, S, S]` with a number each, `[n, 1, 1, 1]`, to views clipped to [0, 1].
type Operation = fn(&Tensor, &Tensor) -> Result<Tensor, TchError>;

const KINDS: usize = 7;
const OPERATIONS: [Operation; KINDS] = [
    |x, factor| x.f_mul(factor)?.f_clamp(0.0, 1.0),
    |x, difference| x.f_add(difference)?.f_clamp(0.0, 1.0),
    contrast,
    saturation,
    hue,
    gray_contrast,
    gray_saturation,
];

/// What is done to the colours of some views.
#[derive(Debug)]
pub(super) struct Colors {
    /// One after the other.
    turns: Vec<Turn>,
    gray: Indices,
}

/// One operation on those views that have it now, each with its own number.
#[derive(Debug)]
struct Turn {
    operation: Operation,
    rows: Indices,
    numbers: Numbers,
}

impl Colors {
    pub(super) fn of<'a>(
        params: impl Iterator<Item = &'a ViewParams> + Clone,
        lists: &mut Lists,
    ) -> Self {
        let most = params.clone().map(|params| params.color.len()).max();
        let mut turns = Vec::new();
        for turn in 0..most.unwrap_or(0) {
            let mut chosen: [(Vec<i64>, Vec<f32>); KINDS] = Default::default();
            for (row, params) in (0..).zip(params.clone()) {
                if let Some(op) = params.color.get(turn) {
                    let (kind, number) = parts(*op);
                    chosen[kind].0.push(row);
                    chosen[kind].1.push(number);
                }
            }
            let chosen = chosen.into_iter().zip(OPERATIONS);
            turns.extend(chosen.filter(|((rows, _), _)| !rows.is_empty()).map(
                |((rows, numbers), operation)| Turn {
                    operation,
                    rows: lists.indices(rows),
                    numbers: lists.numbers(numbers),
                },
            ));
        }
        let gray = (0..)
            .zip(params)
            .filter_map(|(row, params)| params.gray.then_some(row));
        Self {
            turns,
            gray: lists.indices(gray),
        }
    }

    /// Does to every view its own operations in its own order, then turns gray what is to be gray.
    pub(super) fn apply(&self, views: &mut Tensor, tables: &Tables) -> Result<(), TchError> {
        for turn in &self.turns {
            let numbers = tables.numbers(turn.numbers, &[-1, 1, 1, 1])?;
            on_rows(views, (turn.rows, tables), |x| {
                (turn.operation)(x, &numbers)
            })?;
        }
        on_rows(views, (self.gray, tables), |x| gray(x)?.f_expand_as(x))
    }
}

/// Replaces some of the views.
pub(super) fn on_rows(
    views: &mut Tensor,
    (rows, tables): (Indices, &Tables),
    change: impl FnOnce(&Tensor) -> Result<Tensor, TchError>,
) -> Result<(), TchError> {
    if rows.is_empty() {
        return Ok(());
    }
    let rows = tables.indices(rows, &[-1])?;
    let changed = change(&views.f_index_select(0, &rows)?)?;
    let _ = views.f_index_copy_(0, &rows, &changed)?;
    Ok(())
}

/// The place of an operation in [`OPERATIONS`], and its number.
fn parts(op: ColorOp) -> (usize, f32) {
    match op {
        ColorOp::Brightness(factor) => (0, factor),
        ColorOp::Shift(difference) => (1, difference),
        ColorOp::Contrast(factor) => (2, factor),
        ColorOp::Saturation(factor) => (3, factor),
        ColorOp::Hue(turn) => (4, turn),
        ColorOp::GrayContrast(factor) => (5, factor),
        ColorOp::GraySaturation(factor) => (6, factor),
    }
}

fn contrast(x: &Tensor, factor: &Tensor) -> Result<Tensor, TchError> {
    towards(x, &mean(x)?, factor)
}

fn gray_contrast(x: &Tensor, factor: &Tensor) -> Result<Tensor, TchError> {
    towards(x, &mean(&gray(x)?)?, factor)
}

fn gray_saturation(x: &Tensor, factor: &Tensor) -> Result<Tensor, TchError> {
    towards(x, &gray(x)?, factor)
}

/// `x · factor + base · (1 − factor)`, clipped.
fn towards(x: &Tensor, base: &Tensor, factor: &Tensor) -> Result<Tensor, TchError> {
    let rest = factor.f_neg()?.f_add_scalar(1.0)?;
    let shift = base.f_mul(&rest)?.f_to_kind(x.kind())?;
    x.f_mul(factor)?.f_add(&shift)?.f_clamp(0.0, 1.0)
}

/// Over the pixels of each plane, `[n, planes, 1, 1]` in f64.
fn mean(x: &Tensor) -> Result<Tensor, TchError> {
    x.f_mean_dim([2i64, 3].as_slice(), true, Kind::Double)
}

/// Brightness, `[n, 1, S, S]`.
fn gray(x: &Tensor) -> Result<Tensor, TchError> {
    let planes = x.f_split(1, 1)?;
    let weighed = |plane: usize| planes[plane].f_mul_scalar(LUMA[plane]);
    weighed(0)?.f_add(&weighed(1)?)?.f_add(&weighed(2)?)
}

/// The clipped view, its largest channel, and how far the smallest is below it.
fn value_and_range(x: &Tensor) -> Result<(Tensor, Tensor, Tensor), TchError> {
    let clipped = x.f_clamp(0.0, 1.0)?;
    let value = clipped.f_amax([1i64].as_slice(), true)?;
    let range = value.f_sub(&clipped.f_amin([1i64].as_slice(), true)?)?;
    Ok((clipped, value, range))
}

fn saturation(x: &Tensor, factor: &Tensor) -> Result<Tensor, TchError> {
    let (clipped, value, range) = value_and_range(x)?;
    // S = range / V; S' = min(S · factor, 1).
    let full = range.f_mul(factor)?.f_gt_tensor(&value)?;
    let ratio = value.f_div(&range)?.f_where_self(&full, factor)?;
    let below = value.f_sub(&clipped)?.f_mul(&ratio)?;
    value.f_sub(&below)?.f_clamp(0.0, 1.0)
}

fn hue(x: &Tensor, turn: &Tensor) -> Result<Tensor, TchError> {
    let (clipped, value, range) = value_and_range(x)?;
    let channels = clipped.f_split(1, 1)?;
    let (red, green, blue) = (&channels[0], &channels[1], &channels[2]);
    // A gray pixel has no hue: any finite one gives itself back, since the range is 0.
    let divisor = range.f_clamp_min(f64::from(f32::MIN_POSITIVE))?;
    let sixth = |left: &Tensor, right: &Tensor, start: f64| {
        left.f_sub(right)?.f_div(&divisor)?.f_add_scalar(start)
    };
    let (of_red, of_green, of_blue) = (
        sixth(green, blue, 0.0)?,
        sixth(blue, red, 2.0)?,
        sixth(red, green, 4.0)?,
    );
    let hue = of_red.f_where_self(
        &value.f_eq_tensor(red)?,
        &of_green.f_where_self(&value.f_eq_tensor(green)?, &of_blue)?,
    )?;
    let turned = hue.f_add(&turn.f_mul_scalar(6.0)?)?.f_remainder(6.0)?;
    let channel = |start: f64| {
        let k = turned.f_add_scalar(start)?.f_remainder(6.0)?;
        let slope = k
            .f_minimum(&k.f_neg()?.f_add_scalar(4.0)?)?
            .f_clamp(0.0, 1.0)?;
        value.f_sub(&range.f_mul(&slope)?)
    };
    Tensor::f_cat(&[channel(5.0)?, channel(3.0)?, channel(1.0)?], 1)
}
