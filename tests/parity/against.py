"""What the parity scripts share: programs run to their end, one fixed picture, and what counts as equal."""
import json
import pathlib
import subprocess

import numpy as np
import torch
from PIL import Image

# Of a tensor, in norm: ‖ours − theirs‖ ≤ TOLERANCE · ‖theirs‖, in float32.
TOLERANCE = 1e-5


def run(*command):
    """Runs a program and returns what it printed; its failure ends the script."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def compare(what, ours, theirs):
    """Prints the difference in norm and ends the script where it is too large."""
    ours, theirs = (torch.as_tensor(values, dtype=torch.float64).flatten() for values in (ours, theirs))
    if ours.shape != theirs.shape:
        raise SystemExit(f"{what}: {len(ours)} numbers, expected {len(theirs)}")
    gap = ((ours - theirs).norm() / theirs.norm()).item()
    print(f"{what}: differ by {gap:.1e} in norm")
    if not gap <= TOLERANCE:
        raise SystemExit(f"{what} differ by {gap:.1e} in norm, more than {TOLERANCE}")


def picture(preprocessing, path):
    """A fixed picture whose central crop has the network's own size, so that no resizing is compared; the crop as a batch
    of one in [0, 1]."""
    side = preprocessing["image_size"]
    whole = round(side / preprocessing["crop_proportion"])
    pixels = np.random.default_rng(0).integers(0, 256, (whole, whole, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    at = (whole - side + 1) // 2
    crop = torch.from_numpy(pixels[at : at + side, at : at + side])
    return crop.permute(2, 0, 1).unsqueeze(0).float() / 255


def embedded(worker, model, image, folder):
    """The features that diptych-worker computes of one image."""
    out = pathlib.Path(folder) / "features.json"
    run(worker, "embed", "--model", model, "--out", out, image)
    return torch.tensor(json.loads(out.read_text())[0]["features"], dtype=torch.float64)


def log_probabilities(worker, model, image, classes):
    """The log-probabilities that diptych-worker computes of one image: logits up to a constant."""
    answer = run(worker, "predict", "--model", model, "--top", classes, "-o", "json", image)
    ours = torch.empty(classes, dtype=torch.float64)
    for found in json.loads(answer)[0]["classes"]:
        ours[found["label"]] = np.log(found["probability"])
    return ours
