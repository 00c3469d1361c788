//! Sums of elements given as little-endian bytes. Byte slices keep the arithmetic safe and free of alignment; the
//! compiler turns the loops into vector code.

use super::operand::Dtype;

/// `into += from`, element by element; both hold whole elements of `dtype`, the same number.
///
/// bf16 and u8 are not summed in place: bf16 is widened first ([`sum_in_rank_order`]), u8 is refused before.
pub(super) fn add(dtype: Dtype, into: &mut [u8], from: &[u8]) {
    debug_assert_eq!(into.len(), from.len());
    match dtype {
        Dtype::F32 => fold(into, from, |a, b| {
            (f32::from_le_bytes(a) + f32::from_le_bytes(b)).to_le_bytes()
        }),
        Dtype::F64 => fold(into, from, |a, b| {
            (f64::from_le_bytes(a) + f64::from_le_bytes(b)).to_le_bytes()
        }),
        Dtype::I64 => {
            fold(into, from, |a, b| {
                i64::from_le_bytes(a)
                    .wrapping_add(i64::from_le_bytes(b))
                    .to_le_bytes()
            });
        }
        Dtype::Bf16 | Dtype::U8 => unreachable!("widened or refused before"),
    }
}

fn fold<const N: usize>(into: &mut [u8], from: &[u8], add: impl Fn([u8; N], [u8; N]) -> [u8; N]) {
    for (a, b) in into
        .as_chunks_mut::<N>()
        .0
        .iter_mut()
        .zip(from.as_chunks::<N>().0)
    {
        *a = add(*a, *b);
    }
}

/// The sum of all ranks' contributions in rank order, rounded once: into the first one's place. bf16 accumulates in
/// f32.
pub(super) fn add_in_rank_order(dtype: Dtype, contributions: &[&[u8]], into: &mut [u8]) {
    if dtype == Dtype::Bf16 {
        return sum_bf16(contributions, into);
    }
    for (rank, contribution) in contributions.iter().enumerate() {
        if rank == 0 {
            into.copy_from_slice(contribution);
        } else {
            add(dtype, into, contribution);
        }
    }
}

fn sum_bf16(contributions: &[&[u8]], into: &mut [u8]) {
    let wide = |bits: [u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(bits)) << 16);
    for (at, place) in into.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let terms = contributions
            .iter()
            .filter_map(|bytes| bytes.as_chunks::<2>().0.get(at));
        let sum = terms
            .map(|bits| wide(*bits))
            .reduce(|a, b| a + b)
            .unwrap_or(0.0);
        *place = round_to_bf16(sum).to_le_bytes();
    }
}

/// To nearest, ties to even; NaN stays NaN.
fn round_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    let tie = (bits >> 16) & 1;
    ((bits + 0x7fff + tie) >> 16) as u16
}
