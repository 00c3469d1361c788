#!/usr/bin/env python3
"""Opens an export in torchvision and compares it with what diptych-worker computes from the same file.

The network is torchvision's own, its state loaded with strict=True; where the export has no classifier, `fc` is set to
Identity. On one fixed image, features must agree with `diptych-worker embed` and log-probabilities with
`diptych-worker predict` to 1e-4. (Log-probabilities are logits up to a constant of the image.)

The script is not named after torchvision, which it would shadow.
usage: load_in_torchvision.py EXPORT --worker PATH_OF_DIPTYCH_WORKER
"""
import argparse
import json
import pathlib
import subprocess
import tempfile

import numpy as np
import torch
import torchvision
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

TOLERANCE = 1e-4


def network(info, state):
    encoder, classifier = info["network"]["encoder"], info["network"]["classifier"]
    builder = getattr(torchvision.models, f"resnet{encoder['depth']}")
    model = builder(weights=None, num_classes=len(classifier["classes"]) if classifier else 1000)
    if not classifier:
        model.fc = torch.nn.Identity()
    model.load_state_dict(state, strict=True)
    return model.eval(), classifier


def picture(side, path):
    """A fixed picture of the network's own size, so that no resizing is compared."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0).float() / 255


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def compare(what, ours, theirs):
    gap = (torch.as_tensor(ours, dtype=torch.float64) - theirs.double()).abs().max().item()
    print(f"{what}: largest difference {gap:.2e}")
    if not gap <= TOLERANCE:
        raise SystemExit(f"{what} differ by {gap:.2e}, more than {TOLERANCE}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("export", type=pathlib.Path)
    arguments.add_argument("--worker", type=pathlib.Path, required=True)
    given = arguments.parse_args()
    with safe_open(given.export, framework="pt") as file:
        info = json.loads(file.metadata()["diptych"])
    model, classifier = network(info, load_file(given.export))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        image, out = pathlib.Path(folder) / "fixed.png", pathlib.Path(folder) / "features.json"
        pixels = picture(info["preprocessing"]["image_size"], image)
        run(given.worker, "embed", "--model", given.export, "--out", out, image)
        fc, model.fc = model.fc, torch.nn.Identity()
        features = model(pixels)
        compare("features", json.loads(out.read_text())[0]["features"], features[0])
        if classifier:
            classes = len(classifier["classes"])
            answer = run(given.worker, "predict", "--model", given.export, "--top", classes, "-o", "json", image)
            ours = torch.empty(classes, dtype=torch.float64)
            for found in json.loads(answer)[0]["classes"]:
                ours[found["label"]] = np.log(found["probability"])
            compare("log-probabilities", ours, torch.log_softmax(fc(features), 1)[0])
    print(f"{given.export.name}: torchvision {torchvision.__version__} agrees")


main()
