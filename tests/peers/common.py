"""What the peer scripts share: photo-sized JPEGs, timing and the one-line JSON report."""
import glob, io, json, os, resource

import numpy as np
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))


def photos(directory):
    """Write 32 photo JPEGs of ImageNet's usual size (500x375, quality 90) once; return their paths."""
    os.makedirs(directory, exist_ok=True)
    paths = sorted(glob.glob(os.path.join(directory, "*.jpg")))
    if len(paths) == 32:
        return paths
    from sklearn.datasets import load_sample_images
    rng = np.random.default_rng(0)
    for i in range(32):
        base = Image.fromarray(load_sample_images().images[i % 2])
        w, h = base.size
        s = rng.uniform(0.7, 1.0)
        cw, ch = int(w * s), int(w * s * 0.75)
        if ch > h:
            ch, cw = h, int(h / 0.75)
        x, y = rng.integers(0, w - cw + 1), rng.integers(0, h - ch + 1)
        img = base.crop((x, y, x + cw, y + ch)).resize((500, 375), Image.BICUBIC)
        img.save(os.path.join(directory, f"{i:02d}.jpg"), quality=90)
    return sorted(glob.glob(os.path.join(directory, "*.jpg")))


def decode(b):
    return Image.open(io.BytesIO(b)).convert("RGB")


def peak_rss_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report(**figures):
    print(json.dumps(figures), flush=True)
