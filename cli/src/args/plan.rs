//! `plan`.

use clap::Args;
use clap::builder::PossibleValuesParser;
use diptych_common::ids::{DataName, PhaseName};
use diptych_common::plan::SHEETS;

use super::job::SpecFile;

/// What a job takes, without a coordinator and before anything runs: steps, work, memory, traffic and time of each
/// phase.
///
/// Data that can be read is counted; of other data `--images` and `--classes` state the size, or the papers' data set
/// is assumed, and the result says so. Times are estimates: a device's rate times the share of it that training reaches.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  diptych plan -f job.yaml
  diptych plan -f job.yaml --images train=1281167 --classes train=1000 --device h100
  diptych plan -f job.yaml --phase pretrain --device-tflops 400 --mfu 0.3 --wire-gbit 100
  diptych plan -f job.yaml -o json | jq '.phases[].worlds[] | {ranks, efficiency, step_s}'")]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) spec: SpecFile,
    /// Only this phase.
    #[arg(long, value_name = "NAME")]
    pub(crate) phase: Option<PhaseName>,
    /// Number of images of a data set, which is not looked at then. May be repeated.
    #[arg(long, value_name = "DATA=N", value_parser = count)]
    pub(crate) images: Vec<(DataName, u64)>,
    /// Number of classes of a data set that is not looked at; 0 for one without labels. May be repeated.
    #[arg(long, value_name = "DATA=N", value_parser = count)]
    pub(crate) classes: Vec<(DataName, u64)>,
    /// Device by its data sheet. Default: h100 for `device: cuda`, cpu (one AVX2 core) for `device: cpu`.
    #[arg(long, value_parser = PossibleValuesParser::new(SHEETS.map(|sheet| sheet.name)))]
    pub(crate) device: Option<String>,
    /// Peak of the device in 10¹² operations per second, instead of a data sheet's.
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) device_tflops: Option<f64>,
    /// Share of the peak that training reaches, in (0, 1]. Default: what was published of ResNet-50 on the device.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub(crate) mfu: Option<f64>,
    /// What one device sends, in 10⁹ bits per second.
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) wire_gbit: Option<f64>,
    /// How long a small collective takes, in microseconds.
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) latency_us: Option<f64>,
}

fn count(text: &str) -> Result<(DataName, u64), String> {
    let (name, number) = text
        .split_once('=')
        .ok_or("expected DATA=N, e.g. train=1281167")?;
    let name = name
        .parse::<DataName>()
        .map_err(|error| error.to_string())?;
    let number = number
        .replace('_', "")
        .parse::<u64>()
        .map_err(|error| format!("{number:?}: {error}"))?;
    Ok((name, number))
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().map_err(|error| error.to_string())?;
    if number.is_finite() && number > 0.0 {
        Ok(number)
    } else {
        Err("must be above 0".to_owned())
    }
}

fn share(text: &str) -> Result<f64, String> {
    positive(text).and_then(|share| match share <= 1.0 {
        true => Ok(share),
        false => Err("is a share: at most 1".to_owned()),
    })
}
