"""Images/s of JPEG decode + SimCLR two-view augmentation on ONE thread, as torchvision/lightly do it.
usage: augment.py [--images DIR] [--seconds 8]        DIR is filled with 32 photo-sized JPEGs when it is empty"""
import argparse, time
import torch
from lightly.transforms import SimCLRTransform
import common

a = argparse.ArgumentParser(); a.add_argument("--images", default="/tmp/diptych-photos"); a.add_argument("--seconds", type=float, default=8)
a = a.parse_args()
torch.set_num_threads(1)
blobs = [open(p, "rb").read() for p in common.photos(a.images)]
t = SimCLRTransform(input_size=224)
for b in blobs[:8]:
    t(common.decode(b))
n, start = 0, time.perf_counter()
while time.perf_counter() - start < a.seconds:
    v = t(common.decode(blobs[n % len(blobs)])); n += 1
    assert len(v) == 2
dt = time.perf_counter() - start
common.report(peer="lightly+torchvision(PIL)", bench="augment", size=224, threads=1, images_per_s=n / dt)
