#!/usr/bin/env python3
"""Saves networks as other programs do, and has diptych read them: what `diptych checkpoint inspect` says must be what they
are, and the features of `diptych-worker embed` must be those that PyTorch computes.

torchvision's ResNet-18 and ResNet-50, bare, wrapped by a training script, in the legacy format and as safetensors; a
conversion of SimCLR v1; conversions of SimCLR v2 without and with selective kernels. Weights are random, convolutions of
the conversions are transposed views as in the published files, and pools are TensorFlow's there.
usage: import_conversions.py --worker PATH_OF_DIPTYCH_WORKER --cli PATH_OF_DIPTYCH
"""
import argparse
import json
import pathlib
import tempfile

import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from against import compare, embedded, picture, run

# What diptych does for networks with this stem that do not say theirs.
PREPROCESSING = {"image_size": 224, "crop_proportion": 0.875}


class SamePool(nn.Module):
    """TensorFlow's 3×3 max-pool of stride 2, padding SAME, of an even side."""

    def forward(self, x):
        return functional.max_pool2d(functional.pad(x, (0, 1, 0, 1), value=float("-inf")), 3, 2)


class AveragePool(nn.Module):
    """TensorFlow's 2×2 average pool, padding SAME: padded cells are left out of the mean."""

    def __init__(self, stride):
        super().__init__()
        self.stride = stride

    def forward(self, x):
        if self.stride == 2:
            return functional.avg_pool2d(x, 2, 2)
        total, count = (functional.avg_pool2d(functional.pad(part, (0, 1, 0, 1)), 2, 1) for part in (x, torch.ones_like(x)))
        return total / count


def conv(inputs, outputs, size=1, stride=1):
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


def norm(channels, relu=True):
    return nn.Sequential(nn.BatchNorm2d(channels), *([nn.ReLU()] if relu else []))


class SelectiveKernel(nn.Module):
    def __init__(self, inner, stride):
        super().__init__()
        squeezed = max(inner // 16, 32)
        self.main_conv = nn.Sequential(conv(inner, 2 * inner, 3, stride), norm(2 * inner))
        self.mixing_conv = nn.Sequential(conv(inner, squeezed), norm(squeezed), conv(squeezed, 2 * inner))

    def forward(self, x):
        streams = torch.stack(self.main_conv(x).chunk(2, dim=1))
        shares = self.mixing_conv(streams.sum(0).mean((2, 3), keepdim=True))
        return (streams * torch.stack(shares.chunk(2, dim=1)).softmax(0)).sum(0)


class Projection(nn.Module):
    def __init__(self, inputs, outputs, stride, selective):
        super().__init__()
        self.shortcut = (
            nn.Sequential(nn.Identity(), AveragePool(stride), conv(inputs, outputs))
            if selective
            else conv(inputs, outputs, 1, stride)
        )
        self.bn = norm(outputs, relu=False)

    def forward(self, x):
        return self.bn(self.shortcut(x))


class Block(nn.Module):
    def __init__(self, inputs, inner, stride, project, selective):
        super().__init__()
        outputs = 4 * inner
        if project:
            self.projection = Projection(inputs, outputs, stride, selective)
        middle = [SelectiveKernel(inner, stride)] if selective else [conv(inner, inner, 3, stride), norm(inner)]
        self.net = nn.Sequential(conv(inputs, inner), norm(inner), *middle, conv(inner, outputs), norm(outputs, relu=False))

    def forward(self, x):
        beside = self.projection(x) if hasattr(self, "projection") else x
        return functional.relu(self.net(x) + beside)


class Group(nn.Module):
    def __init__(self, count, inputs, inner, stride, selective):
        super().__init__()
        rest = (Block(4 * inner, inner, 1, False, selective) for _ in range(count - 1))
        self.blocks = nn.Sequential(Block(inputs, inner, stride, True, selective), *rest)

    def forward(self, x):
        return self.blocks(x)


class SimclrV2(nn.Module):
    """ResNet-50 with the modules, and so the names, of the PyTorch conversions."""

    def __init__(self, width, selective, classes=1000):
        super().__init__()
        base = 64 * width
        if selective:
            half = base // 2
            stem = [conv(3, half, 3, 2), norm(half), conv(half, half, 3), norm(half), conv(half, base, 3), norm(base)]
        else:
            stem = [conv(3, base, 7, 2), norm(base)]
        groups, inputs = [], base
        for index, count in enumerate([3, 4, 6, 3]):
            inner = base << index
            groups.append(Group(count, inputs, inner, 1 if index == 0 else 2, selective))
            inputs = 4 * inner
        self.net = nn.Sequential(nn.Sequential(*stem, SamePool()), *groups)
        self.fc = nn.Linear(inputs, classes)

    def features(self, x):
        return self.net(x).mean((2, 3))


class ContrastiveHead(nn.Module):
    def __init__(self, width):
        super().__init__()
        layers = []
        for outputs in (width, width, 128):
            layers += [nn.Linear(width, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
        self.layers = nn.ModuleList(layers[:-1])


def randomise(model, transposed):
    """Statistics and scales that are not the initial ones; convolutions as views of TensorFlow's layout."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for tensor, low, high in [
                (module.weight.data, 0.5, 1.0),
                (module.bias.data, -0.2, 0.2),
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
            ]:
                tensor.uniform_(low, high)
        if transposed and isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)


def torchvision_network(depth, pool=None):
    model = getattr(torchvision.models, f"resnet{depth}")(weights=None)
    randomise(model, transposed=pool is not None)
    if pool:
        model.maxpool = pool
    return model


def features_of(model, pixels):
    with torch.no_grad():
        if isinstance(model, SimclrV2):
            return model.eval().features(pixels)[0]
        fc, model.fc = model.fc, nn.Identity()
        found = model.eval()(pixels)[0]
        model.fc = fc
        return found


def networks(folder):
    """(name, file, model, what inspect must say of scheme, depth, width, selective kernels, head layers)"""
    small, large = torchvision_network(18), torchvision_network(50)
    v1 = torchvision_network(50, SamePool())
    torch.save(small.state_dict(), folder / "resnet18.pth")
    yield "torchvision resnet18", folder / "resnet18.pth", small, ("torchvision", 18, 1, False, None)
    wrapped = {"epoch": 3, "arch": "resnet50", "state_dict": nn.DataParallel(large).state_dict(), "best": 0.5}
    torch.save(wrapped, folder / "checkpoint.pth.tar")
    yield "wrapped resnet50", folder / "checkpoint.pth.tar", large, ("torchvision", 50, 1, False, None)
    torch.save(small.state_dict(), folder / "legacy.pth", _use_new_zipfile_serialization=False)
    yield "legacy resnet18", folder / "legacy.pth", small, ("torchvision", 18, 1, False, None)
    save_file(large.state_dict(), folder / "timm.safetensors", metadata={"format": "pt"})
    yield "safetensors resnet50", folder / "timm.safetensors", large, ("torchvision", 50, 1, False, None)
    torch.save({"state_dict": v1.state_dict()}, folder / "resnet50-1x.pth")
    yield "SimCLR v1", folder / "resnet50-1x.pth", v1, ("simclr_v1", 50, 1, False, None)
    for width, selective in [(1, False), (1, True), (2, True)]:
        model, head = SimclrV2(width, selective), ContrastiveHead(2048 * width)
        for part in (model, head):
            randomise(part, transposed=True)
        head.layers[-1].bias.data.zero_()
        path = folder / f"r50_{width}x_sk{int(selective)}.pth"
        torch.save({"resnet": model.state_dict(), "head": head.state_dict()}, path)
        yield f"SimCLR v2 {path.stem}", path, model, ("simclr_v2", 50, width, selective, 3)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--worker", type=pathlib.Path, required=True)
    arguments.add_argument("--cli", type=pathlib.Path, required=True)
    given = arguments.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        image = folder / "fixed.png"
        pixels = picture(PREPROCESSING, image)
        for name, path, model, expected in networks(folder):
            said = json.loads(run(given.cli, "-o", "json", "checkpoint", "inspect", path))
            encoder, head = said["network"]["encoder"], said["network"]["head"]
            selective = encoder.get("selective_kernel", False)
            found = (said["scheme"], encoder["depth"], encoder["width"], selective, head and head["layers"])
            if found != expected or len(said["network"]["classifier"]["classes"]) != 1000:
                raise SystemExit(f"{name}: inspect says {said}, expected {expected}")
            compare(f"features of {name}", embedded(given.worker, path, image, folder), features_of(model, pixels))
            path.unlink()
    print(f"imports from torch {torch.__version__} and torchvision {torchvision.__version__} agree")


main()
