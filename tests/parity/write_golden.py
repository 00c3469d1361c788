#!/usr/bin/env python3
"""Writes golden cases whose answers PyTorch and lightly compute, for `diptych-worker verify DIR`.

nt_xent.json: lightly's NTXentLoss on fresh random rows, its gradient by autograd. (Accuracy and entropy are the official
SimCLR code's: that of a against b.)
lars.json: steps of LARS (You et al. 2017, as the SimCLR code has it) written in plain PyTorch over tensors of many shapes.
usage: write_golden.py DIR [--seed N]
"""
import argparse
import json
import pathlib

import torch
from lightly.loss import NTXentLoss


def nt_xent(generator):
    cases = []
    for pairs, width, temperature in [(2, 3, 0.5), (7, 16, 0.1), (32, 128, 0.1), (16, 64, 1.0)]:
        a, b = (
            torch.randn(pairs, width, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(2)
        )
        loss = NTXentLoss(temperature=temperature)(a, b)
        loss.backward()
        with torch.no_grad():
            unit = torch.nn.functional.normalize
            logits = unit(a, dim=1) @ unit(b, dim=1).T / temperature
            right = (logits.argmax(1) == torch.arange(pairs)).double().mean()
            shares = logits.softmax(1)
            entropy = -(shares * (shares + 1e-8).log()).sum(1).mean()
        cases.append(
            {
                "temperature": temperature,
                "normalize": True,
                "a": a.tolist(),
                "b": b.tolist(),
                "loss": loss.item(),
                "grad_a": a.grad.tolist(),
                "grad_b": b.grad.tolist(),
                "contrast_accuracy": right.item(),
                "contrast_entropy": entropy.item(),
            }
        )
    return cases


def lars(generator):
    cases = []
    for shape in [(4,), (3, 5), (8, 3, 3, 3), (16, 8, 1, 1)]:
        for excluded in (False, True):
            decay, momentum, coefficient, rate = 1e-4, 0.9, 0.001, 4.8
            draw = lambda: torch.randn(shape, dtype=torch.float64, generator=generator)
            weight = draw()
            case = {
                "lr": rate,
                "weight_decay": decay,
                "momentum": momentum,
                "trust_coefficient": coefficient,
                "excluded": excluded,
                "weight": weight.tolist(),
                "steps": [],
            }
            velocity = torch.zeros_like(weight)
            for _ in range(3):
                gradient = draw()
                update = gradient if excluded else gradient + decay * weight
                trust = 1.0 if excluded else coefficient * weight.norm().item() / update.norm().item()
                velocity = momentum * velocity + rate * trust * update
                weight = weight - velocity
                case["steps"].append(
                    {
                        "grad": gradient.tolist(),
                        "weight": weight.tolist(),
                        "momentum": velocity.tolist(),
                        "trust_ratio": trust,
                    }
                )
            cases.append(case)
    return cases


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("dir", type=pathlib.Path)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    generator = torch.Generator().manual_seed(given.seed)
    for kind, make in [("nt_xent", nt_xent), ("lars", lars)]:
        cases = make(generator)
        (given.dir / f"{kind}.json").write_text(json.dumps({"kind": kind, "cases": cases}))
        print(f"{kind}: {len(cases)} cases")


main()
