"""Makes the vectors of the index bench: seeded, float32, 128 dimensions, unit norm.

clustered   a Gaussian mixture: one centre for each 1,000 rows, centres N(0, I), rows centre + 0.5 N(0, I)
lowcontrast uniform on the sphere of 24 dimensions, mapped to 128 dimensions by one random matrix, so that the
            distances of near and far neighbours differ little

    python3 data.py KIND ROWS QUERIES DIR     writes DIR/base.npy and DIR/queries.npy
"""

import pathlib
import sys

import numpy as np

DIM = 128


def clustered(rng, rows, queries):
    centres = rng.standard_normal((max(rows // 1000, 1), DIM), dtype=np.float32)

    def draw(n):
        of = rng.integers(0, len(centres), n)
        return centres[of] + 0.5 * rng.standard_normal((n, DIM), dtype=np.float32)

    return draw(rows), draw(queries)


def lowcontrast(rng, rows, queries):
    carry = rng.standard_normal((24, DIM), dtype=np.float32)

    def draw(n):
        x = rng.standard_normal((n, 24), dtype=np.float32)
        return (x / np.linalg.norm(x, axis=1, keepdims=True)) @ carry

    return draw(rows), draw(queries)


def main():
    kind, rows, queries, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), pathlib.Path(sys.argv[4])
    make = {"clustered": clustered, "lowcontrast": lowcontrast}[kind]
    folder.mkdir(parents=True, exist_ok=True)
    for name, x in zip(("base", "queries"), make(np.random.default_rng(1), rows, queries)):
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        np.save(folder / f"{name}.npy", x.astype(np.float32))


if __name__ == "__main__":
    main()
