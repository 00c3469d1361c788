"""The compose cluster under faults: the pipeline twice, once left alone; both must end in the same student.

Faults on a machine that is busy with something else are taken for more: run it on a quiet one.

usage: tests/compose/check.py DIPTYCH IMAGES        the command line, and the folder that holds digits/
"""
import json
import os
import pathlib
import struct
import sys
import tempfile
import time

import bucket
import cluster

PIPELINE = cluster.ROOT / "tests" / "compose" / "pipeline.yaml"
OVERLAYS = ["docker-compose.gpu.yaml", "docker-compose.telemetry.yaml"]
WAIT = 1200
# Of a tensor's norm. What a phase leaves is within 1e-8 for another number of ranks, and so are the two that follow it.
TOLERANCE = 1e-8

passed = failed = 0


def check(what, right, found=""):
    global passed, failed
    passed, failed = passed + bool(right), failed + (not right)
    print(f"{'ok    ' if right else 'FAILED'} {what}{'' if right else f': {found}'}", flush=True)


def tensors(path):
    """Name → numbers, of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__")
    letters = {"F64": "d", "F32": "f", "I64": "q"}
    return {name: memoryview(data[8 + length:][slice(*entry["data_offsets"])]).cast(letters[entry["dtype"]])
            for name, entry in header.items()}


def difference(left, right):
    """The largest difference of a tensor, relative to its norm, and that tensor's name."""
    worst = (0.0, "")
    for name, numbers in left.items():
        norm = sum(x * x for x in numbers) ** 0.5
        gap = sum((x - y) ** 2 for x, y in zip(numbers, right[name], strict=True)) ** 0.5
        worst = max(worst, (gap / norm if norm else gap, name))
    return worst


class Run:
    """One submitted pipeline."""

    def __init__(self, host):
        self.host = host
        self.job = host.ask("submit", "-f", str(PIPELINE))["job"]

    def now(self):
        return self.host.ask("describe", self.job)

    def phase(self, name):
        now = self.now()
        return now and next(phase for phase in now["phases"] if phase["name"] == name)

    def at_step(self, name, step, more=lambda phase: True):
        """Waits until a phase trains and has come so far; refuses to wait for one that is over."""
        def come():
            phase = self.phase(name)
            if phase and phase["state"] in ("done", "failed"):
                told = "\n".join(f"{event['at']} {event['message']}" for event in self.host.lines("events", self.job))
                raise SystemExit(f"compose-test: {name} is {phase['state']}, and should still train:\n{told}")
            return phase and phase["step"] >= step and phase["state"] == "training" and more(phase) and phase
        return self.host.until(f"{name} at step {step}", WAIT, come)

    def end(self):
        ended = self.host.until("the job ends", WAIT, lambda: (now := self.now()) and now["ended"] and now)
        if ended["state"] != "succeeded":
            print("\n".join(f"{event['at']} {event['message']}" for event in self.host.lines("events", self.job)))
        return ended

    def student(self, folder):
        out = folder / f"{self.job}.safetensors"
        self.host.ask("checkpoint", "export", self.job, "--phase", "student", "--out", str(out))
        return tensors(out)


def faults(run, host):
    """A worker killed, another cut off, the coordinator killed, each while the pipeline trains."""
    before = run.at_step("pretrain", 10)
    host.docker("kill", host.container("worker-1"))
    after = run.at_step("pretrain", before["step"] + 5, lambda phase: phase["attempt"] > before["attempt"])
    check("a killed worker container: the other goes on", after["world"] == 1, after["world"])
    host.docker("start", host.container("worker-1"))
    grown = run.at_step("pretrain", after["step"] + 5, lambda phase: phase["world"] == 2)
    check("it comes back, and the gang grows", grown["attempt"] > after["attempt"], grown["attempt"])

    host.cut("worker-1")
    alone = run.at_step("pretrain", grown["step"] + 5, lambda phase: phase["attempt"] > grown["attempt"])
    check("a worker cut off the data network: one of the two goes on", alone["world"] == 1, alone["world"])
    host.mend("worker-1")

    host.docker("kill", host.container("coordinator"))
    time.sleep(3)
    host.docker("start", host.container("coordinator"))
    run.at_step("pretrain", alone["step"] + 5)
    kinds = [event["kind"] for event in host.lines("events", run.job)]
    check("a killed coordinator container: its ranks come back to it", "reattached" in kinds, kinds)
    failures = kinds.count("attempt_failed")
    check("no attempt failed but for the worker and the cut", failures == 2, kinds)


def lineage(run, ended, store):
    """What is in the bucket fits what the coordinator says, object by object and parent by parent."""
    kept = {c["digest"]: c for c in run.host.ask("checkpoint", "list", run.job)}
    final = {c["phase"]: c for c in kept.values() if c["final"]}
    check("a final checkpoint of each phase", set(final) == {"pretrain", "tuned", "student"}, sorted(final))
    manifests = {name: json.loads(store.get(c["manifest"])) for name, c in final.items()}
    check("manifests in the bucket are of this job and spec",
          all(m["job"] == run.job and m["spec"] == ended["spec_digest"] for m in manifests.values()))
    sizes = [(entry["key"], len(store.get(entry["key"])), entry["size"]) for m in manifests.values() for entry in m["objects"]]
    check("every object of theirs is in the bucket, whole", all(found == stated for _, found, stated in sizes), sizes)
    parent = manifests["tuned"]["parent"]
    check("the fine-tuned network descends from the pretrained one", parent == final["pretrain"]["digest"], parent)
    for name in final:
        verified = run.host.ask("checkpoint", "verify", run.job, "--phase", name)
        check(f"a worker read {name}'s checkpoint again: sizes and hashes hold", verified["state"] == "verified", verified)


def main(diptych, images):
    name = f"diptych-test-{os.getpid()}"
    host = cluster.Cluster(images, diptych, name)
    for overlay in OVERLAYS:
        host.compose("config", "--quiet", files=["docker-compose.yaml", overlay])
        check(f"{overlay} is valid (its configuration only: it was not started)", True)
    begun = time.monotonic()
    with host, tempfile.TemporaryDirectory() as scratch:
        host.ready(2)
        took = time.monotonic() - begun
        check(f"a running cluster in {took:.0f} s, within 60", took < 60, took)
        store = bucket.Bucket(host.endpoint, "diptych", cluster.KEY, cluster.SECRET)

        quiet = Run(host)
        ended = quiet.end()
        check("the pipeline, left alone, succeeds", ended["state"] == "succeeded", ended)
        folder = pathlib.Path(scratch)
        wanted = quiet.student(folder)

        run = Run(host)
        faults(run, host)
        ended = run.end()
        check("the pipeline under faults succeeds", ended["state"] == "succeeded", ended)
        gap, tensor = difference(wanted, run.student(folder))
        check(f"both students are the same: {gap:.1e} of a tensor's norm apart, within {TOLERANCE:g}", gap <= TOLERANCE, tensor)
        results = [[phase["results"] for phase in one.now()["phases"]][-1] for one in (quiet, run)]
        check(f"and answer alike: {results[0]}", results[0] == results[1], results)
        lineage(run, ended, store)
    print(f"{passed} passed, {failed} failed; {time.monotonic() - begun:.0f} s")
    return bool(failed)


if len(sys.argv) != 3:
    sys.exit(__doc__.strip().splitlines()[-1])
sys.exit(main(sys.argv[1], pathlib.Path(sys.argv[2]).resolve()))
