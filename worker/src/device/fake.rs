//! Tests: libraries of the vendor's names and types that run without a GPU, compiled from `tests/fake` on the spot.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

/// Compiles `tests/fake/NAME.c` with these options. Each call gives a library of its own, with state of its own.
pub(crate) fn library(name: &str, options: &[&str]) -> String {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let folder = FOLDER.get_or_init(|| tempfile::tempdir().expect("a temporary folder"));
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let out = folder.path().join(format!("lib{name}-{number}.so"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fake/{name}.c"));
    compile(&source, &out, options);
    out.to_string_lossy().into_owned()
}

fn compile(source: &Path, out: &PathBuf, options: &[&str]) {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let done = Command::new(&compiler)
        .args([
            "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-pthread", "-o",
        ])
        .arg(out)
        .args(options)
        .arg(source)
        .output()
        .unwrap_or_else(|error| panic!("{compiler}: {error}"));
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
}
