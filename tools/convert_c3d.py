#!/usr/bin/env python3
"""Converts C3D weights in the pickle format of PyTorch (c3d.pickle, from any version of torch.save) to .npz.

    python3 tools/convert_c3d.py c3d.pickle c3d.npz        (needs numpy, but not PyTorch)

Only tensors are rebuilt; the pickle cannot call anything else.
"""
import collections
import pickle
import sys
import zipfile

import numpy as np

DTYPES = {"HalfStorage": "<f2", "FloatStorage": "<f4", "DoubleStorage": "<f8", "LongStorage": "<i8"}
CALLABLES = {
    "OrderedDict": collections.OrderedDict,
    "_rebuild_parameter": lambda tensor, *_: tensor,
    "_rebuild_from_type_v2": lambda function, _type, arguments, _state: function(*arguments),
    "_rebuild_tensor": lambda *arguments: arguments,
    "_rebuild_tensor_v2": lambda *arguments: arguments[:4],
}


class StateDict(pickle.Unpickler):
    def find_class(self, module, name):
        if name in DTYPES or name in CALLABLES:
            return DTYPES.get(name) or CALLABLES[name]
        return f"{module}.{name}"  # A name that is not used: text cannot be called.

    def persistent_load(self, storage):
        return storage[2], storage[1]  # Key and dtype.


def tensors(path):
    """Yields name, array, offset and shape, where the array is the whole storage."""
    if zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(path)
        [data] = [name for name in archive.namelist() if name.endswith("data.pkl")]
        state = StateDict(archive.open(data)).load()
        read = lambda key, dtype: np.frombuffer(archive.read(data[: -len("data.pkl")] + "data/" + key), dtype)
    else:
        with open(path, "rb") as file:
            _magic, _protocol, _system, state, keys = (StateDict(file).load() for _ in range(5))
            dtypes = {key: dtype for (key, dtype), *_ in state.values()}
            storages = {}
            for key in keys:
                dtype = np.dtype(dtypes.get(key, "<f4"))
                storages[key] = np.frombuffer(file.read(int.from_bytes(file.read(8), "little") * dtype.itemsize), dtype)
        read = lambda key, dtype: storages[key]
    for name, ((key, dtype), offset, shape, strides) in state.items():
        if strides != tuple(int(np.prod(shape[i + 1:])) for i in range(len(shape))):
            sys.exit(f"{path}: {name} is not contiguous")
        yield name, read(key, dtype), offset, shape


if len(sys.argv) != 3:
    sys.exit(__doc__)
np.savez(sys.argv[2], **{
    name: storage[offset : offset + int(np.prod(shape))].reshape(shape)
    for name, storage, offset, shape in tensors(sys.argv[1])
})
