"""The random numbers of src/seeded.rs: SplitMix64, seeded with the FNV-1a hash of a name."""
import numpy as np


def splitmix(name, count):
    """The first `count` numbers, as uint64."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = ((state ^ byte) * 0x100000001B3) % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(state) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def uniform(name, shape):
    """Uniform in [-1, 1), float32."""
    unit = (splitmix(name, int(np.prod(shape, dtype=np.int64))) >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)
    return (np.float32(-1) + unit * np.float32(2)).reshape(shape)
