#!/usr/bin/env python3
"""Prints what TensorFlow or torchvision make of a small picture, for images/tests/augment.

Operations run alone and with fixed numbers; crops are counted over many draws. The picture is a formula, so that the
test can make it, too.

usage: augment_numbers.py tensorflow > images/tests/augment/tensorflow.json
       augment_numbers.py torchvision > images/tests/augment/torchvision.json
"""
import collections
import json
import os
import sys

import numpy as np

DRAWS = 60_000
CROP_OF = (12, 17)
CROP = (2, 3, 9, 13)  # top, left, height, width
SQUARE = (0, 0, 14, 14)


def picture(height, width):
    numbers = np.arange(height * width * 3, dtype=np.int64)
    return ((numbers * numbers * 13 + numbers * 71) % 256).astype(np.uint8).reshape(height, width, 3)


SMALL, LARGE = picture(14, 20), picture(40, 40)


def part(image, box):
    top, left, height, width = box
    return image[top : top + height, left : left + width].astype(np.float32) / 255


def case(operation, box, side, values, number=None, image="small", every=1):
    """`values` are [height, width, 3], clipped as both pipelines do; every so many of the planar ones are kept."""
    planar = np.clip(np.asarray(values, dtype=np.float64), 0, 1).transpose(2, 0, 1).ravel()[::every]
    return {
        "operation": operation,
        "number": number,
        "image": image,
        "crop": box,
        "side": side,
        "every": every,
        "values": [round(float(value), 6) for value in planar],
    }


def tensorflow_cases(tf):
    for box, side in [(CROP, 8), (CROP, 24), (SQUARE, 5)]:
        yield case("resize", box, side, tf.image.resize(part(SMALL, box), [side, side], method="bicubic"))
    square = part(SMALL, SQUARE)
    for operation, adjust, numbers in [
        ("brightness", lambda x, f: x * f, [0.4, 1.6]),
        ("shift", tf.image.adjust_brightness, [-0.3, 0.45]),
        ("contrast", tf.image.adjust_contrast, [0.4, 1.7]),
        ("saturation", tf.image.adjust_saturation, [0.3, 1.8]),
        ("hue", tf.image.adjust_hue, [-0.17, 0.2]),
    ]:
        for number in numbers:
            yield case(operation, SQUARE, 14, adjust(square, number), number)
    yield case("gray", SQUARE, 14, np.repeat(tf.image.rgb_to_grayscale(square), 3, axis=2))
    # The official blur: two depthwise convolutions with zeros outside, as long as a tenth of the height.
    radius, sigma = int(40 // 10 / 2), 1.3
    places = np.arange(-radius, radius + 1, dtype=np.float32)
    kernel = np.exp(-places**2 / (2 * sigma**2))
    kernel = np.tile((kernel / kernel.sum()).reshape(-1, 1, 1, 1), [1, 1, 3, 1]).astype(np.float32)
    image = (LARGE.astype(np.float32) / 255)[None]
    for turned in [kernel.transpose(1, 0, 2, 3), kernel]:
        image = tf.nn.depthwise_conv2d(image, turned, strides=[1, 1, 1, 1], padding="SAME")
    yield case("blur", (0, 0, 40, 40), 40, image[0], sigma, "large", 7)


def tensorflow_crops(tf):
    tf.random.set_seed(1)

    @tf.function
    def draw(_):
        _, size, _ = tf.image.sample_distorted_bounding_box(
            image_size=[*CROP_OF, 3],
            bounding_boxes=[[[0.0, 0.0, 1.0, 1.0]]],
            min_object_covered=0.1,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            max_attempts=100,
            use_image_if_no_bounding_boxes=True,
        )
        return size[:2]

    sizes = tf.map_fn(draw, tf.range(DRAWS), fn_output_signature=tf.int32).numpy()
    return collections.Counter((int(height), int(width)) for height, width in sizes)


def torchvision_cases(torch):
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as tv

    def tensor(image, box):
        return torch.from_numpy(part(image, box)).permute(2, 0, 1)

    def planes(found):
        return found.permute(1, 2, 0).numpy()

    whole = torch.from_numpy(SMALL).permute(2, 0, 1).float() / 255
    for mode in ["bilinear", "bicubic"]:
        for box, side in [(CROP, 8), (CROP, 24), (SQUARE, 5)]:
            found = tv.resized_crop(whole, *box, [side, side], InterpolationMode(mode), antialias=True)
            yield case(f"resize {mode}", box, side, planes(found))
    square = tensor(SMALL, SQUARE)
    for operation, adjust, numbers in [
        ("brightness", tv.adjust_brightness, [0.4, 1.6]),
        ("gray contrast", tv.adjust_contrast, [0.4, 1.7]),
        ("gray saturation", tv.adjust_saturation, [0.3, 1.8]),
        ("hue", tv.adjust_hue, [-0.17, 0.2]),
    ]:
        for number in numbers:
            yield case(operation, SQUARE, 14, planes(adjust(square, number)), number)
    yield case("gray", SQUARE, 14, planes(tv.rgb_to_grayscale(square, 3)))
    found = tv.gaussian_blur(tensor(LARGE, (0, 0, 40, 40)), [5, 5], [1.3, 1.3])
    yield case("blur", (0, 0, 40, 40), 40, planes(found), 1.3, "large", 7)


def torchvision_crops(torch):
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(1)
    image = torch.zeros(3, *CROP_OF)
    draw = RandomResizedCrop.get_params
    return collections.Counter(draw(image, [0.08, 1.0], [3 / 4, 4 / 3])[2:] for _ in range(DRAWS))


def main():
    if sys.argv[1:] == ["tensorflow"]:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        import tensorflow as tf

        version, cases, crops = tf.__version__, tensorflow_cases(tf), tensorflow_crops(tf)
    elif sys.argv[1:] == ["torchvision"]:
        import torch
        import torchvision

        version, cases, crops = torchvision.__version__, torchvision_cases(torch), torchvision_crops(torch)
    else:
        raise SystemExit(__doc__)
    counts = [[*size, count] for size, count in sorted(crops.items())]
    peer = {"version": version, "cases": list(cases), "crops": {"of": CROP_OF, "counts": counts}}
    print(json.dumps(peer, separators=(",", ":")))


main()
