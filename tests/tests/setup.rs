//! What the two `make` commands do on a machine that lacks something.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};

/// `make setup` in a copy of the Makefile and `setup/`, with nothing fetched before and no package index in reach.
fn make_setup(libtorch: Option<&Path>) -> Result<Output> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("no workspace")?;
    let clone = tempfile::tempdir()?;
    let copied = Command::new("cp")
        .args(["-a", "Makefile", "setup", "rust-toolchain.toml"])
        .arg(clone.path())
        .current_dir(root)
        .status()?;
    ensure!(copied.success(), "{copied}");
    let mut make = Command::new("make");
    make.arg("setup")
        .current_dir(clone.path())
        .env_remove("LIBTORCH")
        .env("PIP_NO_INDEX", "1");
    for outer in ["MAKEFLAGS", "MAKELEVEL", "MFLAGS", "LIBTORCH_GIVEN"] {
        make.env_remove(outer);
    }
    if let Some(directory) = libtorch {
        make.env("LIBTORCH", directory);
    }
    Ok(make.output()?)
}

#[test]
fn a_fresh_clone_fetches_libtorch_by_itself() -> Result<()> {
    let output = make_setup(None)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success()
            && said.contains("fetching libtorch")
            && said.contains("pip could not download"),
        "without an index the download is what fails: {said}"
    );
    Ok(())
}

#[test]
fn a_given_libtorch_wins_and_its_version_is_checked() -> Result<()> {
    let given = tempfile::tempdir()?;
    std::fs::write(given.path().join("build-version"), "2.10.0+cpu\n")?;
    let output = make_setup(Some(given.path()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && said.contains("is libtorch 2.10.0, Diptych needs 2.11.0"),
        "{said}"
    );

    std::fs::write(given.path().join("build-version"), "2.11.0+cpu\n")?;
    let output = make_setup(Some(given.path()))?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
