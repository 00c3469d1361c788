#!/usr/bin/env python3
"""Runs an ONNX export in onnxruntime and compares it with what diptych-worker computes from the safetensors export.

onnx.checker must accept the file; its metadata must say what the safetensors file says. On one fixed image, `features`
must agree with `diptych-worker embed`, the log-softmax of `logits` with `diptych-worker predict`, and a batch of three
with three batches of one.
usage: run_in_onnxruntime.py FILE.onnx --safetensors EXPORT --worker PATH_OF_DIPTYCH_WORKER
"""
import argparse
import json
import pathlib
import tempfile

import numpy as np
import onnx
import onnxruntime
import torch
from safetensors import safe_open

from against import compare, embedded, log_probabilities, picture


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("file", type=pathlib.Path)
    arguments.add_argument("--safetensors", type=pathlib.Path, required=True)
    arguments.add_argument("--worker", type=pathlib.Path, required=True)
    given = arguments.parse_args()
    onnx.checker.check_model(str(given.file), full_check=True)
    session = onnxruntime.InferenceSession(str(given.file), providers=["CPUExecutionProvider"])
    said = session.get_modelmeta().custom_metadata_map
    with safe_open(given.safetensors, framework="pt") as file:
        info = json.loads(file.metadata()["diptych"])
    if json.loads(said["diptych"]) != info or json.loads(said["preprocessing"]) != info["preprocessing"]:
        raise SystemExit(f"the two exports describe themselves differently: {said}")
    names = [output.name for output in session.get_outputs()]
    side = info["preprocessing"]["image_size"]
    with tempfile.TemporaryDirectory() as folder:
        image = pathlib.Path(folder) / "fixed.png"
        pixels = picture(info["preprocessing"], image).numpy()
        found = dict(zip(names, session.run(names, {"images": pixels})))
        compare("features", embedded(given.worker, given.safetensors, image, folder), found["features"][0])
        classifier = info["network"]["classifier"]
        if ("logits" in names) != bool(classifier):
            raise SystemExit(f"outputs are {names}, the classifier is {classifier}")
        if classifier:
            if json.loads(said["class_names"]) != classifier["classes"]:
                raise SystemExit(f"class names are {said['class_names']}")
            ours = log_probabilities(given.worker, given.safetensors, image, len(classifier["classes"]))
            compare("log-probabilities", ours, torch.log_softmax(torch.from_numpy(found["logits"]).double(), 1)[0])
    batch = np.random.default_rng(1).random((3, 3, side, side), dtype=np.float32)
    together = session.run(names, {"images": batch})
    for row in range(3):
        alone = session.run(names, {"images": batch[row : row + 1]})
        for name, whole, one in zip(names, together, alone):
            compare(f"{name} of row {row} in a batch", whole[row], one[0])
    print(f"{given.file.name}: onnx {onnx.__version__} and onnxruntime {onnxruntime.__version__} agree")


main()
