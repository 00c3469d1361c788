#!/usr/bin/env python3
"""Opens an export in torchvision and compares it with what diptych-worker computes from the same file.

The network is torchvision's own, its state loaded with strict=True; where the export has no classifier, `fc` is set to
Identity. On one fixed image, features must agree with `diptych-worker embed` and log-probabilities with
`diptych-worker predict`. With --golden, the same network in float64, forward and backward, is written as a golden case of
kind `network` for `diptych-worker verify`: its loss is the mean cross-entropy of eight fixed images.

The script is not named after torchvision, which it would shadow.
usage: load_in_torchvision.py EXPORT --worker PATH_OF_DIPTYCH_WORKER [--golden DIR]
"""
import argparse
import json
import pathlib
import tempfile

import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from against import compare, embedded, log_probabilities, picture

IMAGES = 8


def network(info, state):
    encoder, classifier = info["network"]["encoder"], info["network"]["classifier"]
    builder = getattr(torchvision.models, f"resnet{encoder['depth']}")
    model = builder(weights=None, num_classes=len(classifier["classes"]) if classifier else 1000)
    if not classifier:
        model.fc = torch.nn.Identity()
    model.load_state_dict(state, strict=True)
    return model.eval(), classifier


def golden(model, info, folder):
    """One case: every number is torchvision's and autograd's."""
    model = model.double()
    classes, side = model.fc.out_features, info["preprocessing"]["image_size"]
    images = torch.rand(IMAGES, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(IMAGES) % classes
    file = {f"state.{name}": tensor.clone() for name, tensor in model.state_dict().items() if "num_batches" not in name}
    file["images"] = images
    kept = []
    hook = model.avgpool.register_forward_hook(lambda _module, _input, output: kept.append(output.flatten(1)))
    with torch.no_grad():
        file["evaluation.logits"] = model.eval()(images)
    file["evaluation.features"] = kept[0]
    hook.remove()
    logits = model.train()(images)
    loss = torch.nn.functional.cross_entropy(logits, labels)
    loss.backward()
    file["training.logits"] = logits.detach()
    file |= {f"gradient.{name}": parameter.grad for name, parameter in model.named_parameters()}
    depth = info["network"]["encoder"]["depth"]
    save_file({name: tensor.contiguous() for name, tensor in file.items()}, folder / f"resnet{depth}.safetensors")
    case = {
        "encoder": info["network"]["encoder"],
        "file": f"resnet{depth}.safetensors",
        "labels": labels.tolist(),
        "loss": loss.item(),
    }
    text = json.dumps({"kind": "network", "cases": [case]})
    (folder / f"network-resnet{depth}.json").write_text(text)
    print(f"golden case of ResNet-{depth}: {len(list(model.parameters()))} gradients, loss {loss.item():.6f}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("export", type=pathlib.Path)
    arguments.add_argument("--worker", type=pathlib.Path, required=True)
    arguments.add_argument("--golden", type=pathlib.Path)
    given = arguments.parse_args()
    with safe_open(given.export, framework="pt") as file:
        info = json.loads(file.metadata()["diptych"])
    model, classifier = network(info, load_file(given.export))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        image = pathlib.Path(folder) / "fixed.png"
        pixels = picture(info["preprocessing"], image)
        fc, model.fc = model.fc, torch.nn.Identity()
        features = model(pixels)
        model.fc = fc
        compare("features", embedded(given.worker, given.export, image, folder), features[0])
        if classifier:
            ours = log_probabilities(given.worker, given.export, image, len(classifier["classes"]))
            compare("log-probabilities", ours, torch.log_softmax(fc(features), 1)[0])
    if given.golden:
        golden(model, info, given.golden)
    print(f"{given.export.name}: torchvision {torchvision.__version__} agrees")


main()
