use serde_json::Value;
use tch::{Device, Kind, Tensor};

/// Relative tolerance.
const TOLERANCE: f64 = 1e-9;
/// Answers smaller than this are compared absolutely.
const SMALLEST: f64 = 1e-3;

/// The numbers of one case.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case<'a> {
    pub(super) value: &'a Value,
    /// Where it is computed.
    pub(super) device: Device,
}

// === impl Case ===

impl Case<'_> {
    /// One field.
    pub(super) fn get(&self, field: &str) -> anyhow::Result<&Value> {
        self.value
            .get(field)
            .ok_or_else(|| anyhow::anyhow!("field {field} is missing"))
    }

    /// A field that is one number.
    pub(super) fn number(&self, field: &str) -> anyhow::Result<f64> {
        self.get(field)?
            .as_f64()
            .ok_or_else(|| anyhow::anyhow!("{field} is no number"))
    }

    /// A field that is a whole number, 0 or more.
    pub(super) fn count(&self, field: &str) -> anyhow::Result<u64> {
        self.get(field)?
            .as_u64()
            .ok_or_else(|| anyhow::anyhow!("{field} is no whole number"))
    }

    /// A field that is true or false.
    pub(super) fn flag(&self, field: &str) -> anyhow::Result<bool> {
        self.get(field)?
            .as_bool()
            .ok_or_else(|| anyhow::anyhow!("{field} is neither true nor false"))
    }

    /// A field that is a number or nested lists of them, row by row.
    pub(super) fn numbers(&self, field: &str) -> anyhow::Result<Vec<f64>> {
        let mut numbers = Vec::new();
        flatten(self.get(field)?, &mut numbers).map_err(|error| error.context(field.to_owned()))?;
        Ok(numbers)
    }

    /// A field that is nested lists of numbers, in f64 on the device.
    pub(super) fn tensor(&self, field: &str) -> anyhow::Result<Tensor> {
        let mut shape = Vec::new();
        let mut value = self.get(field)?;
        while let Value::Array(items) = value {
            shape.push(items.len() as i64);
            match items.first() {
                Some(first) => value = first,
                None => break,
            }
        }
        let numbers = self.numbers(field)?;
        anyhow::ensure!(
            shape.iter().product::<i64>() == numbers.len() as i64,
            "{field} has rows of different lengths"
        );
        let tensor = Tensor::f_from_slice(&numbers)?.f_view(shape.as_slice())?;
        Ok(tensor.f_to_device(self.device)?)
    }

    /// Compares with the answer of that name.
    pub(super) fn expect(&self, field: &str, got: &[f64]) -> anyhow::Result<()> {
        expect(field, got, &self.numbers(field)?)
    }

    /// Compares with the answer of that name.
    pub(super) fn expect_tensor(&self, field: &str, got: &Tensor) -> anyhow::Result<()> {
        self.expect(field, &values(got)?)
    }
}

/// Compares number by number; names the first that differs.
pub(super) fn expect(what: &str, got: &[f64], expected: &[f64]) -> anyhow::Result<()> {
    anyhow::ensure!(
        got.len() == expected.len(),
        "{what}: {} numbers, expected {}",
        got.len(),
        expected.len()
    );
    for (index, (x, y)) in got.iter().zip(expected).enumerate() {
        let near = (x - y).abs() <= TOLERANCE * y.abs().max(SMALLEST);
        anyhow::ensure!(near, "{what}[{index}] is {x:e}, expected {y:e}");
    }
    Ok(())
}

/// A tensor's numbers, row by row.
pub(super) fn values(tensor: &Tensor) -> anyhow::Result<Vec<f64>> {
    Ok(Vec::<f64>::try_from(
        tensor
            .f_detach()?
            .f_to_device(Device::Cpu)?
            .f_to_kind(Kind::Double)?
            .f_flatten(0, -1)?,
    )?)
}

fn flatten(value: &Value, numbers: &mut Vec<f64>) -> anyhow::Result<()> {
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| flatten(item, numbers)),
        other => {
            numbers.push(
                other
                    .as_f64()
                    .ok_or_else(|| anyhow::anyhow!("{other} is no number"))?,
            );
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tolerance_is_relative_above_a_thousandth_and_absolute_below() {
        assert!(expect("x", &[1.0 + 0.9e-9], &[1.0]).is_ok());
        assert!(expect("x", &[1.0 + 1.1e-9], &[1.0]).is_err());
        assert!(expect("x", &[0.9e-12], &[0.0]).is_ok());
        assert!(expect("x", &[1.1e-12], &[0.0]).is_err());
        assert!(expect("x", &[f64::NAN], &[0.0]).is_err());
        assert!(expect("x", &[], &[0.0]).is_err());
    }
}
