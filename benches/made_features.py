"""Writes synthetic features for the videos of an ActivityNet annotation file, to test the evaluation at full size
without videos.

Each video has a latent vector of length 48: the centre of its class plus an offset. Image features (length 128) and
video features (length 4096) map it through a random matrix, and add noise and strong structure that does not depend
on the class. Arrays are named by video. Each video has 4 image vectors, evenly spaced over its time, and 2 video
vectors.

    python3 benches/made_features.py ANNOTATIONS OUT     writes OUT/images.npz and OUT/videos.npz (needs numpy only)
"""

import json
import pathlib
import sys

import numpy as np

LATENT, OWN = 48, 32


def main():
    annotations, out = json.load(open(sys.argv[1])), pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    videos = {id: v for id, v in sorted(annotations["database"].items()) if v["annotations"]}
    labels = sorted({a["label"] for v in videos.values() for a in v["annotations"]})
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((len(labels), LATENT))
    latents = {}
    for id, v in videos.items():
        latents[id] = centres[labels.index(v["annotations"][0]["label"])] + 1.2 * rng.standard_normal(LATENT)
    for name, length, vectors, own, noise in (("images", 128, 4, 2.0, 1.5), ("videos", 4096, 2, 3.0, 3.0)):
        see = rng.standard_normal((LATENT, length)) / LATENT**0.5
        disturb = rng.standard_normal((OWN, length)) / OWN**0.5
        bias = rng.standard_normal(length)
        arrays = {}
        for id, latent in latents.items():
            shared = (latent + 0.3 * rng.standard_normal((vectors, LATENT))) @ see
            private = own * rng.standard_normal((vectors, OWN)) @ disturb
            arrays[id] = (shared + private + bias + noise * rng.standard_normal((vectors, length))).astype(np.float16)
        np.savez(out / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main()
