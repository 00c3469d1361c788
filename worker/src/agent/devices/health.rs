use std::time::Duration;

use tokio::sync::mpsc;

use crate::device::nvml::{Fault, FaultKind, Nvml, NvmlError};

/// How long the thread that listens may take to notice that nobody does.
const LOOK_UP: Duration = Duration::from_secs(1);

/// What `nvml` tells of its devices' faults, on a thread of its own; it ends when nobody listens.
pub fn faults(nvml: Nvml) -> mpsc::Receiver<Fault> {
    let (to, faults) = mpsc::channel(64);
    let listen = move || {
        if let Err(error) = listen(&nvml, &to) {
            tracing::warn!(%error, "faults of GPUs are not told any more");
        }
    };
    let thread = std::thread::Builder::new().name("gpu-faults".into());
    if let Err(error) = thread.spawn(listen) {
        tracing::warn!(%error, "faults of GPUs are not told: no thread");
    }
    faults
}

fn listen(nvml: &Nvml, to: &mpsc::Sender<Fault>) -> Result<(), NvmlError> {
    let mut faults = nvml.faults()?;
    while !to.is_closed() {
        match faults.wait(LOOK_UP)? {
            Some(fault) => {
                // Who does not listen any more is asked above.
                let _ = to.blocking_send(fault);
            }
            // Lost devices were told before.
            None if faults.devices() == 0 => {
                tracing::info!("no GPU here tells its faults");
                return Ok(());
            }
            None => {}
        }
    }
    Ok(())
}

/// Why no rank can run on a device after this fault, with what to do. `None` for what is most often a program's own, and
/// for what the driver mends by itself.
pub fn lasting(fault: Fault) -> Option<String> {
    let what = match fault.kind {
        FaultKind::Xid(79) | FaultKind::Lost => {
            "it fell off the bus: restart the machine, and look at power, cooling and seating"
        }
        FaultKind::Xid(48 | 95) | FaultKind::Ecc => {
            "its memory lost contents: drain the worker and reset the GPU (nvidia-smi --gpu-reset); replace it if that \
             comes back"
        }
        FaultKind::Xid(64) => "it ran out of spare memory rows: replace it",
        FaultKind::Xid(74) => {
            "its NVLink failed: drain the worker and reset the GPU (nvidia-smi --gpu-reset)"
        }
        FaultKind::Xid(119 | 120) => "its firmware does not answer: restart the machine",
        FaultKind::Xid(_) => return None,
    };
    Some(format!("{fault}: {what}, then restart the agent"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::fake;

    /// The first two faults that the thread tells of a fake machine.
    async fn two_faults(options: &[&str]) -> [Fault; 2] {
        let library = fake::library("nvml", options);
        let nvml = Nvml::open_one_of(&[&library]).expect("it starts");
        let mut faults = faults(nvml);
        let mut next = async || {
            let next = tokio::time::timeout(Duration::from_secs(20), faults.recv());
            next.await.expect("in time").expect("the thread lives")
        };
        [next().await, next().await]
    }

    #[tokio::test]
    async fn faults_come_as_the_driver_tells_them() {
        let told = two_faults(&[]).await.map(|fault| fault.to_string());
        assert_eq!(
            told,
            ["GPU 1: Xid 79", "GPU 0: uncorrectable memory error (ECC)"]
        );
    }

    #[tokio::test]
    async fn a_gpu_that_falls_off_the_bus_is_told_and_the_others_are_still_heard() {
        for machine in ["-DFALLS=1", "-DLOST=1"] {
            let [lost, other] = two_faults(&[machine]).await;
            let problem = lasting(lost).expect("it lasts");
            assert!(
                problem.starts_with("GPU 1: lost: it fell off the bus"),
                "{machine}: {problem}"
            );
            let ecc = Fault {
                gpu: 0,
                kind: FaultKind::Ecc,
            };
            assert_eq!(other, ecc, "{machine}");
        }
    }

    #[test]
    fn what_programs_do_to_a_gpu_does_not_last() {
        let of = |kind| lasting(Fault { gpu: 3, kind });
        for number in [13, 31, 43, 45, 63, 94] {
            assert_eq!(of(FaultKind::Xid(number)), None, "Xid {number}");
        }
        for number in [48, 64, 74, 79, 95, 119] {
            let problem = of(FaultKind::Xid(number)).expect("it lasts");
            assert!(
                problem.starts_with(&format!("GPU 3: Xid {number}: ")),
                "{problem}"
            );
        }
        assert!(
            of(FaultKind::Ecc)
                .expect("it lasts")
                .contains("--gpu-reset")
        );
    }
}
