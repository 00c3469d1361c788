//! Compiles the shim over libtorch and lets every binary, test and doc test find its libraries.

use std::path::{Path, PathBuf};

/// The one libtorch that tch and the shim are written for.
const VERSION: &str = "2.11.0";

fn main() {
    // torch-sys found libtorch; it says where only to crates that depend on it directly.
    let Some(lib) = std::env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from) else {
        stop(
            "torch-sys did not say where libtorch is: set LIBTORCH to its folder, or run `make`, which unpacks one",
        );
    };
    let Some(root) = lib.parent() else {
        stop(&format!(
            "{} has no parent folder: LIBTORCH must name the folder that holds lib/ and include/",
            lib.display()
        ));
    };
    check_version(&root.join("build-version"));
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
    // Simulations stand before this one; libraries find theirs only where it is exported.
    println!("cargo::rustc-link-arg-tests=-Wl,--export-dynamic-symbol=getrandom");
    compile_shim(root);
}

fn check_version(file: &Path) {
    println!("cargo::rerun-if-changed={}", file.display());
    match std::fs::read_to_string(file) {
        // "2.11.0", "2.11.0+cpu", "2.11.0+cu130"
        Ok(text) if text.trim().split('+').next() == Some(VERSION) => {}
        Ok(text) => stop(&format!(
            "{} says {:?}, but libtorch {VERSION} is needed",
            file.display(),
            text.trim()
        )),
        Err(error) => stop(&format!(
            "{}: {error}; LIBTORCH must name a libtorch {VERSION}",
            file.display()
        )),
    }
}

fn compile_shim(root: &Path) {
    let sources = [
        "src/device/shim.cc",
        "src/device/norm.cc",
        "src/device/update.cc",
        "src/device/cuda.cc",
    ];
    for file in sources.iter().chain(&["src/device/shim.h"]) {
        println!("cargo::rerun-if-changed={file}");
    }
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(3)
        .debug(false)
        .flag_if_supported("-Wno-unused-parameter")
        .flag_if_supported("-fopenmp-simd")
        .flag(format!("-isystem{}", root.join("include").display()))
        .flag(format!(
            "-isystem{}",
            root.join("include/torch/csrc/api/include").display()
        ))
        .files(sources)
        .compile("diptych_shim");
}

fn stop(message: &str) -> ! {
    println!("cargo::error={message}");
    std::process::exit(1);
}
