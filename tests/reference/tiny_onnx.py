"""Writes tiny.onnx, an image encoder of a few hundred bytes, and prints the features that onnxruntime computes for one picture.

    python3 tests/reference/tiny_onnx.py     (needs onnx, onnxruntime, numpy)

`src/encode/onnx.rs` and `tests/integration/cli/onnx.rs` use the file; a test in the former expects the printed numbers.
"""

import pathlib

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

generator = np.random.default_rng(7)


def weights(name, *shape):
    values = generator.normal(0, 0.5, shape).astype(np.float32)
    return numpy_helper.from_array(values, name)


graph = helper.make_graph(
    [
        helper.make_node("Conv", ["pixels", "k", "kb"], ["conv"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["features"]),
    ],
    "tiny",
    [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, 8, 12])],
    [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 5])],
    [weights("k", 6, 3, 3, 3), weights("kb", 6), weights("w", 6, 5), weights("b", 5)],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
onnx.checker.check_model(model)
path = pathlib.Path(__file__).with_name("tiny.onnx")
path.write_bytes(model.SerializeToString())

# Row y, column x, channel c of a picture of 12 x 8.
picture = np.array([[[(y * 31 + x * 17 + c * 57) % 256 for c in range(3)] for x in range(12)] for y in range(8)])
mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
pixels = ((picture / 255 - mean) / deviation).transpose(2, 0, 1)[None].astype(np.float32)
features = onnxruntime.InferenceSession(str(path)).run(None, {"pixels": pixels})[0][0]
print(path.stat().st_size, "bytes;", features, "scaled to length 1:", (features / np.linalg.norm(features)).tolist())
