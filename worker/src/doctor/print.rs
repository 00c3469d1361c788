use std::io::{self, Write};

use serde_json::{Value, json};

use super::{Diagnosis, Facts, Figure, GpuFacts, Problem, SilentGpu, Wanted};

/// Widest line of a remedy or reason.
const WIDTH: usize = 110;

/// The report as lines for people.
pub(super) fn table(facts: &Facts, diagnosis: &Diagnosis, out: &mut impl Write) -> io::Result<()> {
    let known = |text: Option<String>| text.unwrap_or_else(|| "unknown".to_owned());
    let mut row = |name: &str, value: &str| writeln!(out, "{name:<18} {value}");
    row(
        "machine",
        &format!(
            "{}: {} cores, {} memory, {} shared memory",
            facts.host,
            facts.cores,
            known(facts.memory.map(|bytes| bytes.to_string())),
            known(facts.shared_memory.map(|bytes| bytes.to_string())),
        ),
    )?;
    let (version, path) = &facts.libtorch;
    row("libtorch", &format!("{version}, {}", known(path.clone())))?;
    let cuda = facts.cuda.as_ref();
    row(
        "libtorch's CUDA",
        &cuda.map_or("cannot be used".to_owned(), |cuda| {
            format!("{}, {} devices", cuda.library, cuda.devices)
        }),
    )?;
    let driver = match (&facts.management, &facts.driver) {
        (Ok(management), Ok(cuda)) => format!("{}, for CUDA up to {cuda}", management.driver),
        (Ok(management), Err(_)) => format!("{}, CUDA does not start", management.driver),
        (Err(_), Ok(cuda)) => format!("for CUDA up to {cuda}"),
        (Err(_), Err(_)) => "none".to_owned(),
    };
    row("NVIDIA driver", &driver)?;
    let nccl = facts.nccl.as_ref();
    row(
        "NCCL",
        &nccl.map_or("none".to_owned(), |nccl| {
            format!("{}, {}", nccl.version, nccl.library)
        }),
    )?;
    if let Some(visible) = &facts.visible {
        row(
            "visible devices",
            &format!("CUDA_VISIBLE_DEVICES={visible}"),
        )?;
    }
    for gpu in facts.management.iter().flat_map(|facts| &facts.gpus) {
        row(&format!("GPU {}", gpu.gpu.index), &device(gpu))?;
    }
    for gpu in facts.management.iter().flat_map(|facts| &facts.silent) {
        row(
            &format!("GPU {}", gpu.index),
            &format!("does not answer: {}", gpu.error),
        )?;
    }
    row("CPU ranks talk by", &diagnosis.cpu_collectives)?;
    row("CUDA ranks talk by", &diagnosis.cuda_collectives)?;
    for figure in &facts.figures {
        row(&format!("speed of {}", figure.device), &speed(figure))?;
    }
    for problem in &diagnosis.problems {
        writeln!(out, "\n{}: ", problem.weight.name()).and_then(|()| {
            wrapped(out, "  ", &problem.what)?;
            wrapped(out, "  → ", &problem.remedy)
        })?;
    }
    let (kind, runs) = (kind(diagnosis.wanted), diagnosis.runs);
    let word = if runs { "can" } else { "cannot" };
    writeln!(out, "\n{kind} ranks {word} run here")
}

/// The report as one JSON document.
pub(super) fn json(facts: &Facts, diagnosis: &Diagnosis, out: &mut impl Write) -> io::Result<()> {
    let or_error = |value: Result<Value, &String>| match value {
        Ok(value) => value,
        Err(error) => json!({ "error": error }),
    };
    let management = facts.management.as_ref().map(|management| {
        let gpus: Vec<Value> = management.gpus.iter().map(device_json).collect();
        let silent: Vec<Value> = management.silent.iter().map(silent_json).collect();
        json!({ "driver": management.driver, "gpus": gpus, "silent": silent })
    });
    let document = json!({
        "runs": diagnosis.runs,
        "device": kind(diagnosis.wanted).to_lowercase(),
        "machine": {
            "host": facts.host,
            "cores": facts.cores,
            "memory_bytes": facts.memory.map(|bytes| bytes.get()),
            "shared_memory_bytes": facts.shared_memory.map(|bytes| bytes.get()),
            "open_files": facts.open_files,
        },
        "libtorch": { "version": facts.libtorch.0, "path": facts.libtorch.1 },
        "cuda": or_error(facts.cuda.as_ref().map(|cuda| json!({
            "library": cuda.library, "devices": cuda.devices, "visible": facts.visible,
        }))),
        "driver": or_error(facts.driver.as_ref().map(|cuda| json!({ "cuda": cuda }))),
        "management": or_error(management),
        "nccl": or_error(facts.nccl.as_ref().map(|nccl| json!({
            "version": nccl.version, "library": nccl.library,
        }))),
        "collectives": { "cpu": diagnosis.cpu_collectives, "cuda": diagnosis.cuda_collectives },
        "figures": facts.figures.iter().map(figure_json).collect::<Vec<_>>(),
        "problems": diagnosis.problems.iter().map(problem_json).collect::<Vec<_>>(),
    });
    writeln!(out, "{document:#}")
}

fn device(facts: &GpuFacts) -> String {
    let GpuFacts { gpu, load, place } = facts;
    let mut text = format!(
        "{}, {} of {} free, capability {}.{}, {}",
        gpu.name, load.free, gpu.memory, gpu.capability.0, gpu.capability.1, gpu.bus_id
    );
    if gpu.mig {
        text += ", in MIG mode";
    }
    if let Some(busy) = load.busy_percent {
        text += &format!(", {busy} % busy");
    }
    if let Some(errors) = load.ecc_uncorrected {
        text += &format!(", {errors} ECC errors");
    }
    for (label, value) in &place.labels {
        text += &format!(", {label} {value}");
    }
    text
}

fn speed(figure: &Figure) -> String {
    let Figure {
        copy_gb_per_s,
        matmul_tflops,
        matmul_kind,
        upload_gb_per_s,
        ..
    } = figure;
    let mut text =
        format!("copy {copy_gb_per_s:.1} GB/s, {matmul_kind} matmul {matmul_tflops:.3} TFLOP/s");
    if let Some(upload) = upload_gb_per_s {
        text += &format!(", upload {upload:.1} GB/s");
    }
    text
}

fn device_json(facts: &GpuFacts) -> Value {
    let GpuFacts { gpu, load, place } = facts;
    json!({
        "index": gpu.index,
        "name": gpu.name,
        "uuid": gpu.uuid,
        "bus_id": gpu.bus_id,
        "memory_bytes": gpu.memory.get(),
        "free_bytes": load.free.get(),
        "busy_percent": load.busy_percent,
        "ecc_uncorrected": load.ecc_uncorrected,
        "mig": gpu.mig,
        "capability": format!("{}.{}", gpu.capability.0, gpu.capability.1),
        "numa_node": gpu.numa_node,
        "cores": gpu.cores,
        "labels": place.labels,
    })
}

fn silent_json(gpu: &SilentGpu) -> Value {
    json!({ "index": gpu.index, "error": gpu.error })
}

fn figure_json(figure: &Figure) -> Value {
    json!({
        "device": figure.device,
        "copy_gb_per_s": figure.copy_gb_per_s,
        "matmul_tflops": figure.matmul_tflops,
        "matmul_kind": figure.matmul_kind,
        "upload_gb_per_s": figure.upload_gb_per_s,
    })
}

fn problem_json(problem: &Problem) -> Value {
    json!({
        "weight": problem.weight.name(),
        "what": problem.what,
        "remedy": problem.remedy,
    })
}

fn kind(wanted: Wanted) -> &'static str {
    match wanted {
        Wanted::Cpu => "CPU",
        Wanted::Cuda => "CUDA",
    }
}

/// Breaks a text at spaces; later lines are indented as the first one.
fn wrapped(out: &mut impl Write, indent: &str, text: &str) -> io::Result<()> {
    let mut line = indent.to_owned();
    let blank = " ".repeat(indent.chars().count());
    for word in text.split_whitespace() {
        if line.chars().count() + word.chars().count() > WIDTH && line.trim() != indent.trim() {
            writeln!(out, "{}", line.trim_end())?;
            line.clone_from(&blank);
        }
        line += word;
        line.push(' ');
    }
    writeln!(out, "{}", line.trim_end())
}
