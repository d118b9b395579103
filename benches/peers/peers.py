"""Measures hnswlib and faiss-cpu on the vectors of the index bench. Prints one JSON line per event, as `ann` does.

    python3 peers.py --base base.npy --queries queries.npy --k 10 --m 16 --ef-construction 200 --ef 16,32 --threads 2
                     [--engines hnswlib,faiss]

Building uses --threads threads, searching uses one. The reference for recall is the exact answer of faiss' flat index.
"""

import argparse
import json
import os
import tempfile
import time

import faiss
import hnswlib
import numpy as np


def say(**event):
    print(json.dumps(event), flush=True)


class Hnswlib:
    def build(self, base, a):
        self.index = hnswlib.Index(space="ip", dim=base.shape[1])
        self.index.init_index(max_elements=len(base), ef_construction=a.ef_construction, M=a.m, random_seed=1)
        self.index.add_items(base, num_threads=a.threads)

    def save(self, path):
        self.index.save_index(path)

    def search(self, queries, k, ef):
        self.index.set_ef(ef)
        return self.index.knn_query(queries, k=k, num_threads=1)[0]


class Faiss:
    def build(self, base, a):
        faiss.omp_set_num_threads(a.threads)
        self.index = faiss.IndexHNSWFlat(base.shape[1], a.m, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = a.ef_construction
        self.index.add(base)

    def save(self, path):
        faiss.write_index(self.index, path)

    def search(self, queries, k, ef):
        faiss.omp_set_num_threads(1)
        self.index.hnsw.efSearch = ef
        return self.index.search(queries, k)[1]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--base", required=True)
    p.add_argument("--queries", required=True)
    p.add_argument("--k", type=int, default=10)
    p.add_argument("--m", type=int, default=16)
    p.add_argument("--ef-construction", type=int, default=200)
    p.add_argument("--ef", default="16,32,64,128,256")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--engines", default="hnswlib,faiss")
    a = p.parse_args()
    base, queries = np.load(a.base), np.load(a.queries)
    flat = faiss.IndexFlatIP(base.shape[1])
    flat.add(base)
    truth = flat.search(queries, a.k)[1]
    del flat
    for name in a.engines.split(","):
        engine = {"hnswlib": Hnswlib, "faiss": Faiss}[name]()
        start = time.perf_counter()
        engine.build(base, a)
        seconds = time.perf_counter() - start
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "index")
            engine.save(path)
            size = os.path.getsize(path)
        rows, dim = base.shape
        say(engine=name, event="build", seconds=seconds, rows=rows, dim=dim, bytes=size, threads=a.threads)
        for ef in map(int, a.ef.split(",")):
            engine.search(queries[:100], a.k, ef)
            best = float("inf")
            for _ in range(3):
                start = time.perf_counter()
                found = engine.search(queries, a.k, ef)
                best = min(best, time.perf_counter() - start)
            hits = sum(len(np.intersect1d(f, t)) for f, t in zip(found, truth))
            say(engine=name, event="search", ef=ef, recall=hits / truth.size, qps=len(queries) / best)


if __name__ == "__main__":
    main()
