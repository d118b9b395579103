"""Reads the output of ann, peers.py and peer-usearch (LABEL.jsonl files), prints a table and draws recall against
queries per second.

    python3 table.py OUT.svg LABEL.jsonl...
"""

import json
import math
import pathlib
import sys

RECALLS = (0.95, 0.99, 0.999)


def read(path):
    engines = {}
    for line in path.read_text().splitlines():
        event = json.loads(line)
        engine = engines.setdefault(event.get("engine", "reelseek"), {"curve": []})
        if event["event"] == "search":
            engine["curve"].append((event["recall"], event["qps"]))
        else:
            engine[event["event"]] = event
    return engines


def at(curve, recall):
    """Queries per second at a recall. Interpolates the logarithm of the speed linearly between two measured points."""
    curve = sorted(curve)
    for (r0, q0), (r1, q1) in zip(curve, curve[1:]):
        if r0 <= recall <= r1:
            t = (recall - r0) / (r1 - r0) if r1 > r0 else 1
            return math.exp(math.log(q0) * (1 - t) + math.log(q1) * t)
    return None


def table(label, engines):
    print(f"{label}\n{'engine':<10}{'build s':>9}{'B/row':>8}" + "".join(f"{'qps@' + str(r):>12}" for r in RECALLS))
    for name, engine in engines.items():
        build = engine["build"]
        speeds = [at(engine["curve"], r) for r in RECALLS]
        shown = "".join(f"{q:>12.0f}" if q else f"{'-':>12}" for q in speeds)
        print(f"{name:<10}{build['seconds']:>9.1f}{build['bytes'] / build['rows']:>8.1f}{shown}")
    ours, others = engines["reelseek"], [e for name, e in engines.items() if name != "reelseek"]
    ratios = ""
    for recall in RECALLS:
        mine, best = at(ours["curve"], recall), [at(e["curve"], recall) for e in others]
        known = [q for q in best if q]
        ratios += f"{mine / max(known):>12.2f}" if mine and known else f"{'-':>12}"
    build = ours["build"]["seconds"] / engines["hnswlib"]["build"]["seconds"]
    size = ours["build"]["bytes"] / engines["hnswlib"]["build"]["bytes"]
    print(f"{'ratio':<10}{build:>9.2f}{size:>8.3f}{ratios}")
    print("ratio: build and bytes to hnswlib, queries a second to the best of the others\n")


def draw(out, sets):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "reelseek"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(sets), figsize=(5.2 * len(sets), 4), squeeze=False)
    for axis, (label, engines) in zip(axes[0], sets):
        for name, engine in engines.items():
            curve = sorted(p for p in engine["curve"] if p[0] >= 0.7)
            axis.plot(*zip(*curve), marker="o", label=name, linewidth=2.5 if name == "reelseek" else 1.2)
        axis.set(title=label, xlabel="recall@10", ylabel="queries a second, one thread", yscale="log")
        axis.grid(alpha=0.3, which="both")
        axis.legend()
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})


def main():
    out, paths = sys.argv[1], [pathlib.Path(p) for p in sys.argv[2:]]
    sets = [(path.stem, read(path)) for path in paths]
    for label, engines in sets:
        table(label, engines)
    draw(out, sets)


if __name__ == "__main__":
    main()
