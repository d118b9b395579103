#!/usr/bin/env python3
"""Writes encoders.json (outputs of small networks with seeded weights, and names and shapes of the published files), and two
small pickles for the test of tools/convert_c3d.py.

    pip install torch transformers timm open_clip_torch
    python3 tests/reference/encoders.py > tests/reference/encoders.json

Figures of torch 2.15.0, transformers 5.24.0, timm 1.0.31, open_clip_torch 3.3.0. A case is

    tensors    names and shapes of a small network in the layout of the published file; {} in a name is replaced by each of the
               numbers in `layers`; `weight` below gives the values
    input      shape of the pictures, whose values are `uniform("input", shape)`
    output     the first 16 numbers of each picture's output
    norm       the Euclidean norm of each picture's whole output
    published  names and shapes of the full network (the image tower of CLIP and SigLIP)

transformers 5 renames tensors when it reads a file; `rename` restores the published names.
"""
import json
import pathlib
import re
from collections import OrderedDict

import numpy as np
import timm
import torch
import transformers as hf
from torch import nn

from seeded import uniform


def weight(name, shape):
    """Scales near 1, shifts near 0, and matrices that keep a vector's length: uniform times sqrt(3 / inputs)."""
    values = uniform(name, shape)
    if len(shape) <= 1:
        scale = name.endswith((".weight", "lambda1", "running_var"))
        return np.float32(1) + np.float32(0.5) * values if scale else np.float32(0.1) * values
    inputs = int(np.prod(shape[1:]))
    return values * np.float32(np.sqrt(3 / inputs))


def shapes(model, rename, keep):
    """Published names and shapes of the tensors that a network computes with."""
    named = {}
    for name, tensor in model.state_dict().items():
        if keep(name) and not name.endswith(("num_batches_tracked", "position_ids")):
            named[rename(name)] = list(tensor.shape)
    return named


def compact(named):
    """Groups tensors whose names differ only in the number of their layer."""
    groups = {}
    for name, shape in named.items():
        found = re.search(r"(?<=layers\.)\d+|(?<=layer\.)\d+|(?<=blocks\.)\d+", name)
        pattern = name if found is None else name[: found.start()] + "{}" + name[found.end():]
        groups.setdefault((pattern, tuple(shape)), []).append(int(found.group()) if found else None)
    return [
        {"name": pattern, "shape": list(shape), "layers": [] if layers == [None] else layers}
        for (pattern, shape), layers in groups.items()
    ]


@torch.no_grad()
def case(small, forward, full, side, rename=lambda name: name, keep=lambda name: True, skip=lambda name: False):
    small.eval()
    for name, tensor in small.state_dict().items():
        if keep(name) and tensor.dtype == torch.float32:
            tensor.copy_(torch.from_numpy(weight(rename(name), tuple(tensor.shape)).reshape(tensor.shape)))
    shape = [2, 3, side, side]
    output = forward(small, torch.from_numpy(uniform("input", shape))).numpy().astype(np.float64)
    assert output.ndim == 2 and np.isfinite(output).all(), output.shape
    return {
        "tensors": compact({n: s for n, s in shapes(small, rename, keep).items() if not skip(n)}),
        "input": shape,
        "output": [[float(f"{x:.7g}") for x in row[:16]] for row in output],
        "norm": [float(f"{x:.7g}") for x in np.linalg.norm(output, axis=1)],
        "published": compact({n: s for n, s in shapes(full, rename, keep).items() if not skip(n)}),
    }


def on_meta(make):
    with torch.device("meta"):
        return make()


def mobilenet_v2():
    """google/mobilenet_v2_1.0_224: the full network on small pictures, because its code has no smaller version."""
    make = lambda: hf.MobileNetV2ForImageClassification(hf.MobileNetV2Config(num_labels=1001))
    return case(make(), lambda m, x: m.mobilenet_v2(x).pooler_output, on_meta(make), 64,
                keep=lambda name: not name.startswith("classifier"))


def clip():
    """openai/clip-vit-base-patch32."""
    def make(**options):
        return hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(patch_size=32, attn_implementation="eager", **options))

    small = make(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, projection_dim=24, image_size=96)
    return case(small, lambda m, x: m(x).image_embeds, on_meta(lambda: make(projection_dim=512)), 96)


def siglip():
    """google/siglip-base-patch16-224."""
    def make(**options):
        return hf.SiglipVisionModel(hf.SiglipVisionConfig(attn_implementation="eager", **options))

    small = make(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=48)
    return case(small, lambda m, x: m(x).pooler_output, on_meta(make), 48, rename=lambda name: f"vision_model.{name}")


def dinov2():
    """facebook/dinov2-small: positions are interpolated from a grid of 37 x 37 (here 5 x 5) to a grid of 16 x 16 (here 3 x 3)."""
    def make(**options):
        return hf.Dinov2Model(hf.Dinov2Config(patch_size=14, attn_implementation="eager", **options))

    def rename(name):
        name = re.sub(r"attention\.([qkv])_proj", lambda m: "attention.attention." + {"q": "query", "k": "key", "v": "value"}[m[1]], name)
        return name.replace("attention.o_proj", "attention.output.dense")

    small = make(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=70)
    full = on_meta(lambda: make(hidden_size=384, num_attention_heads=6, image_size=518))
    return case(small, lambda m, x: m(x).pooler_output, full, 42, rename=rename, skip=lambda name: "mask_token" in name)


def mobileclip():
    """apple/MobileCLIP-S1-OpenCLIP: open_clip holds timm's fastvit_mci1 as visual.trunk."""
    small = timm.create_model("fastvit_mci1", num_classes=24, layers=(1, 2, 1, 1), embed_dims=(32, 64, 128, 256))
    full = on_meta(lambda: timm.create_model("fastvit_mci1", num_classes=512))
    return case(small, lambda m, x: m(x), full, 64, rename=lambda name: f"visual.trunk.{name}")


class C3D(nn.Module):
    """The structure of the paper with the names of the usual c3d.pickle (DavideA/c3d-pytorch); widths are divided by `share`."""

    def __init__(self, share=1, side=112):
        super().__init__()
        widths = [3] + [w // share for w in (64, 128, 256, 256, 512, 512, 512, 512)]
        names = ["conv1", "conv2", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b"]
        for name, inputs, outputs in zip(names, widths, widths[1:]):
            self.add_module(name, nn.Conv3d(inputs, outputs, 3, padding=1))
        last = (side // 16 + 2) // 2
        self.fc6 = nn.Linear(widths[-1] * last * last, 4096 // share)

    def forward(self, x):
        pool = nn.functional.max_pool3d
        x = pool(self.conv1(x).relu(), (1, 2, 2))
        x = pool(self.conv2(x).relu(), 2)
        x = pool(self.conv3b(self.conv3a(x).relu()).relu(), 2)
        x = pool(self.conv4b(self.conv4a(x).relu()).relu(), 2)
        x = pool(self.conv5b(self.conv5a(x).relu()).relu(), 2, padding=(0, 1, 1))
        return self.fc6(x.flatten(1)).relu()


@torch.no_grad()
def c3d():
    """A clip of 16 frames, (3, 16, 112, 112), through a network of a sixteenth of the width."""
    small, full = C3D(share=16).eval(), on_meta(C3D)
    for name, tensor in small.state_dict().items():
        tensor.copy_(torch.from_numpy(weight(name, tuple(tensor.shape))))
    shape = [1, 3, 16, 112, 112]
    output = small(torch.from_numpy(uniform("input", shape))).numpy().astype(np.float64)
    return {
        "tensors": compact(shapes(small, lambda n: n, lambda n: True)),
        "input": shape,
        "output": [[float(f"{x:.7g}") for x in row[:16]] for row in output],
        "norm": [float(f"{x:.7g}") for x in np.linalg.norm(output, axis=1)],
        "published": compact(shapes(full, lambda n: n, lambda n: True)),
    }


def saved():
    """Two tensors, one of them a view, in today's format of torch.save and in the format before version 1.6."""
    state = {"conv1.weight": torch.arange(6.0).reshape(2, 3), "fc6.bias": torch.arange(10.0)[8:]}
    folder = pathlib.Path(__file__).parent
    torch.save(OrderedDict(state), folder / "saved_2017.pickle", _use_new_zipfile_serialization=False)
    torch.save(OrderedDict(state), folder / "saved_today.pickle")


saved()
cases = {"mobilenet-v2": mobilenet_v2(), "clip": clip(), "siglip": siglip(), "dinov2": dinov2(), "mobileclip": mobileclip(), "c3d": c3d()}
print("{")
for i, (name, case) in enumerate(cases.items()):
    print(f"{json.dumps(name)}: {{")
    print(",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in case.items()))
    print("}" + ("," if i + 1 < len(cases) else ""))
print("}")
