//! Compiles the .proto files with protox: no protoc needed.

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=diptych");
    println!("cargo::rerun-if-changed=tensorboard");
    let files = [
        "diptych/v1/spec.proto",
        "diptych/v1/worker.proto",
        "diptych/v1/job.proto",
        "diptych/v1/admin.proto",
    ];
    let descriptors = protox::compile(files, ["."])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    let events = protox::compile(["tensorboard/event.proto"], ["."])?;
    tonic_prost_build::configure().compile_fds(events)?;
    Ok(())
}
