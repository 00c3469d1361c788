//! The table of faults in docs/faults.md: complete, and every test that it names exists.

use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Faults of the table, F01 to this.
const FAULTS: usize = 53;

#[test]
fn every_test_that_the_table_of_faults_names_exists() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let table = std::fs::read_to_string(root.join("docs/faults.md")).context("read the table")?;
    let rows = table.lines().filter(|line| line.starts_with("| "));
    let mut named = 0;
    for row in rows {
        let mut file = "";
        // Every second piece stands between backticks.
        for word in row.split('`').skip(1).step_by(2) {
            let Some((place, test)) = word.rsplit_once("::") else {
                continue;
            };
            file = if place == "…" { file } else { place };
            let source = std::fs::read_to_string(root.join(file))
                .with_context(|| format!("{word}: read {file}"))?;
            ensure!(
                source.contains(&format!("fn {test}(")),
                "{file} has no test {test}"
            );
            named += 1;
        }
    }
    ensure!(named > FAULTS, "the table names {named} tests");
    for fault in 1..=FAULTS {
        ensure!(
            table.contains(&format!("| F{fault:02} |")),
            "F{fault:02} is missing"
        );
    }
    Ok(())
}
