#!/usr/bin/env python3
"""Writes pictures.json: what Pillow, torchvision and transformers make of seeded pictures.

    pip install pillow torchvision transformers
    python3 tests/reference/pictures.py > tests/reference/pictures.json

Figures of Pillow 13.0.0, torchvision 0.29.2, transformers 5.24.0. Two roads must agree before a case is written: Pillow by hand, with the rounding
of sizes and corners that `src/media/fit.rs` documents, and the image processor (its Pillow version) or torchvision's Resize.
"""
import json

import numpy as np
import torchvision.transforms as tv
from PIL import Image
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.mobilenet_v2.image_processing_pil_mobilenet_v2 import MobileNetV2ImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from seeded import splitmix

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def made(name, width, height):
    """A slope in each direction under noise, as `made` of the Rust test."""
    noise = (splitmix(name, width * height * 3) % np.uint64(65)).astype(np.int64).reshape(height, width, 3)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    slopes = np.stack([x * 190 // width, y * 190 // height, (x + y) * 190 // (width + height)], axis=-1)
    return Image.fromarray((slopes + noise).astype(np.uint8))


def by_hand(image, how, filter, size, crop):
    width, height = image.size
    if how == "cover":
        least = min(width, height)
        size = (size[0] * width // least, size[0] * height // least)
    image = image.resize(size, FILTERS[filter])
    left, top = (size[0] - crop[0]) // 2, (size[1] - crop[1]) // 2
    return np.asarray(image.crop((left, top, left + crop[0], top + crop[1])))


def processor(kind, image):
    """The pixels before they are scaled and normalised, (height, width, 3)."""
    made = kind(do_rescale=False, do_normalize=False)(image, return_tensors="np")["pixel_values"][0]
    return np.asarray(made).transpose(1, 2, 0).astype(np.uint8)


def dinov2(**options):
    return BitImageProcessorPil(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}, **options)


def mobilenet(**options):
    return MobileNetV2ImageProcessorPil(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}, **options)


def mobileclip(image):
    """As open_clip does; only where torchvision's rounding of a half agrees with ours."""
    both = tv.Compose([tv.Resize(256, tv.InterpolationMode.BILINEAR), tv.CenterCrop(256)])
    return np.asarray(both(image))


ROADS = {
    "mobilenet-v2": ("cover", "bilinear", (256, 256), (224, 224), lambda image: processor(mobilenet, image)),
    "clip": ("cover", "bicubic", (224, 224), (224, 224), lambda image: processor(CLIPImageProcessorPil, image)),
    "dinov2": ("cover", "bicubic", (256, 256), (224, 224), lambda image: processor(dinov2, image)),
    "mobileclip": ("cover", "bilinear", (256, 256), (256, 256), mobileclip),
    "siglip": ("squeeze", "bicubic", (224, 224), (224, 224), lambda image: processor(SiglipImageProcessorPil, image)),
    "c3d": ("squeeze", "bilinear", (171, 128), (112, 112), None),
}
SIZES = {
    "mobilenet-v2": [(1280, 720), (333, 251), (120, 97)],
    "clip": [(1280, 720), (223, 479), (50, 91)],
    "dinov2": [(640, 361), (256, 300)],
    "mobileclip": [(655, 360), (101, 87)],
    "siglip": [(641, 359), (100, 200)],
    "c3d": [(320, 240), (99, 77)],
}

cases = []
for encoder, (how, filter, size, crop, road) in ROADS.items():
    for width, height in SIZES[encoder]:
        name = f"{encoder} {width}x{height}"
        image = made(name, width, height)
        pixels = by_hand(image, how, filter, size, crop)
        if road is not None:
            theirs = road(image)
            assert np.array_equal(pixels, theirs), (name, np.abs(pixels.astype(int) - theirs).max())
        step = 2999
        cases.append({
            "name": name, "from": [width, height], "how": how, "filter": filter, "size": list(size), "crop": list(crop),
            "sum": int(pixels.astype(np.int64).sum()), "step": step, "bytes": pixels.reshape(-1)[::step].tolist(),
        })
print("[")
print(",\n".join(json.dumps(case) for case in cases))
print("]")
