//! Plain columns: no borders, two spaces between, headings in capitals, so that `awk` and eyes both cope.

use std::io::{self, Write};

use tabled::builder::Builder;
use tabled::settings::{Padding, Style};

/// Writes rows under headings.
pub(crate) fn columns(
    out: &mut dyn Write,
    headings: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> io::Result<()> {
    let mut builder = Builder::default();
    builder.push_record(headings.iter().copied());
    for row in rows {
        builder.push_record(row);
    }
    let mut table = builder.build();
    table.with(Style::empty()).with(Padding::new(0, 2, 0, 0));
    for line in table.to_string().lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Writes `name  value` lines; rows without a value are left out.
pub(crate) fn properties(out: &mut dyn Write, rows: &[(&str, Option<String>)]) -> io::Result<()> {
    let width = rows
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    for (name, value) in rows {
        if let Some(value) = value {
            writeln!(out, "{name:<width$}  {value}")?;
        }
    }
    Ok(())
}

/// A text, or `-` where there is none.
pub(crate) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A share in [0, 1] as a percentage with one decimal.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Seconds as `8s`, `3m 05s` or `2h 07m`.
pub(crate) fn seconds(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "-".to_owned();
    }
    let whole = seconds.round() as u64;
    let (hours, minutes, rest) = (whole / 3600, whole / 60 % 60, whole % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m {rest:02}s"),
        _ => format!("{hours}h {minutes:02}m"),
    }
}

/// Seconds of something short, as `4.2 ms`, `520 ms` or `1.25 s`.
pub(crate) fn short_seconds(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "-".to_owned();
    }
    match seconds * 1e3 {
        millis if millis < 9.95 => format!("{millis:.1} ms"),
        millis if millis < 999.5 => format!("{millis:.0} ms"),
        _ => format!("{seconds:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_without_trailing_blanks() {
        let mut out = Vec::new();
        let rows = [
            vec!["a".to_owned(), "running".to_owned()],
            vec!["longer".to_owned(), "-".to_owned()],
        ];
        columns(&mut out, &["JOB", "STATE"], rows).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "JOB     STATE\na       running\nlonger  -\n"
        );
    }

    #[test]
    fn durations_read_well() {
        for (value, text) in [
            (0.2, "0s"),
            (8.4, "8s"),
            (185.0, "3m 05s"),
            (7620.0, "2h 07m"),
            (f64::NAN, "-"),
            (-1.0, "-"),
        ] {
            assert_eq!(seconds(value), text);
        }
    }

    #[test]
    fn short_durations_read_well() {
        for (value, text) in [
            (0.0, "0.0 ms"),
            (0.0042, "4.2 ms"),
            (0.00999, "10 ms"),
            (0.52, "520 ms"),
            (0.9999, "1.00 s"),
            (62.0, "62.00 s"),
            (f64::INFINITY, "-"),
            (-1.0, "-"),
        ] {
            assert_eq!(short_seconds(value), text);
        }
    }
}
