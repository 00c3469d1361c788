#!/usr/bin/env python3
"""Reads a phase's event files in TensorBoard itself and compares them with what the coordinator was told.

Every measurement of `diptych metrics -o json` must be a scalar at the same step, and the other way round but for
`images_per_s`; `views` must be one picture that decodes. The folder is read as TensorBoard's own server reads it: all
files as one run, by its event accumulator.

usage: read_in_tensorboard.py FOLDER --measured METRICS.json
"""
import argparse
import io
import json
import pathlib

import tensorboard.version
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import IMAGES, SCALARS, EventAccumulator


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=pathlib.Path)
    arguments.add_argument("--measured", type=pathlib.Path, required=True)
    given = arguments.parse_args()
    run = EventAccumulator(str(given.folder), size_guidance={SCALARS: 0, IMAGES: 0})
    run.Reload()
    tags = run.Tags()
    read = {(tag, event.step): event.value for tag in tags["scalars"] for event in run.Scalars(tag)}
    measured = {(point["name"], point["step"]): point["value"] for point in json.loads(given.measured.read_text())}
    missing = measured.keys() - read.keys()
    strange = {key for key in read.keys() - measured.keys() if key[0] != "images_per_s"}
    if not measured or missing or strange:
        raise SystemExit(f"{len(measured)} measured, missing {sorted(missing)}, not measured {sorted(strange)}")
    for key, value in measured.items():
        if abs(read[key] - value) > 1e-6 * max(1.0, abs(value)):
            raise SystemExit(f"{key} is {read[key]}, measured {value}")
    if tags["images"] != ["views"] or len(run.Images("views")) != 1:
        raise SystemExit(f"pictures: {tags['images']}")
    image = run.Images("views")[0]
    picture = Image.open(io.BytesIO(image.encoded_image_string))
    picture.load()
    if picture.size != (image.width, image.height):
        raise SystemExit(f"the picture is {picture.size}, said to be {image.width}×{image.height}")
    files = len(list(given.folder.iterdir()))
    print(
        f"tensorboard {tensorboard.version.VERSION} reads {files} files as one run: {len(read)} points of "
        f"{len(tags['scalars'])} scalars, a picture of {picture.size[0]}×{picture.size[1]}"
    )


main()
