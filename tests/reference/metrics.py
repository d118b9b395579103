"""Writes metrics.json: seeded rankings with metrics by independent tools. The tests of src/research/eval/metrics.rs must agree within 1e-9.

    python3 -m pip install pytrec_eval-terrier==0.5.11 ranx==0.3.21 scikit-learn==1.9.1 torch torchmetrics==1.9.0 pandas
    python3 -m pip install --no-deps recommenders==1.2.1
    python3 tests/reference/metrics.py > tests/reference/metrics.json

Two tools compute every number, and the script compares them first. AP with the normaliser `all`: pytrec_eval (map_cut) and ranx
(map). `min`: recommenders (map_at_k), and pytrec_eval's value times R / min(k, R). `hits`: scikit-learn (average_precision_score of
the top k) and torchmetrics (retrieval_average_precision). Precision, recall, nDCG, reciprocal rank, and the median of the first
relevant ranks derived from it: pytrec_eval and ranx. ann_recall: the recall of both tools with the exact top k as relevant items.
"""

import json
import statistics

import numpy as np
import pandas
import pytrec_eval
import ranx
import torch
from recommenders.evaluation.python_evaluation import map_at_k
from sklearn.metrics import average_precision_score
from torchmetrics.functional.retrieval import retrieval_average_precision

KS = (1, 2, 5, 10, 20, 50, 100)
TOLERANCE = 1e-9


def cases():
    """Hand cases, then seeded ones: name, scores by item in gallery order (with ties), relevant items."""
    yield "first", [3.0, 2.0, 1.0], [0]
    yield "last", [3.0, 2.0, 1.0], [2]
    yield "all", [3.0, 2.0, 1.0], [0, 1, 2]
    yield "none found", [3.0, 2.0], [7]
    yield "all tied", [1.0] * 8, [1, 6]
    yield "nothing relevant", [3.0, 2.0, 1.0], []
    rng = np.random.default_rng(1)
    for i in range(60):
        n = int(rng.integers(1, 150))
        scores = rng.integers(0, max(2, n // 3), n).astype(float)  # many ties
        share = rng.choice([0.0, 0.02, 0.1, 0.5, 0.95])
        relevant = [j for j in range(n) if rng.random() < share]
        if rng.random() < 0.3:
            relevant += [n + 3, n + 5]  # relevant, and not in the list
        yield f"seeded {i}", scores.tolist(), relevant


def close(a, b, *what):
    assert abs(a - b) < TOLERANCE, (*what, a, b)
    return a


def recommenders_map(ranked, relevant, k):
    truth = pandas.DataFrame({"userID": 0, "itemID": relevant, "rating": 1.0})
    scores = [float(len(ranked) - r) for r in range(len(ranked))]
    return float(map_at_k(truth, pandas.DataFrame({"userID": 0, "itemID": ranked, "prediction": scores}), k=k))


def torch_map(flags, k):
    scores = torch.arange(len(flags), 0, -1, dtype=torch.float64)
    # top_k beyond the list is taken as the list's length.
    return float(retrieval_average_precision(scores, torch.tensor(flags), top_k=min(k, len(flags))))


def approximate(out):
    """Lists as an approximate index finds them, against the exact ones."""
    rng = np.random.default_rng(2)
    for _ in range(20):
        n = int(rng.integers(5, 120))
        exact = rng.permutation(n)
        found = exact[rng.random(n) < rng.choice([0.3, 0.9, 1.0])]
        case = {"exact": exact.tolist(), "found": found.tolist(), "recall": {}}
        for k in KS:
            truth = {"q": {f"d{j}": 1 for j in exact[:k]}}
            run = {"q": {f"d{j}": float(n - r) for r, j in enumerate(found)}}
            if not run["q"]:
                case["recall"][k] = 0.0
                continue
            trec = pytrec_eval.RelevanceEvaluator(truth, {f"recall.{k}"}).evaluate(run)["q"][f"recall_{k}"]
            case["recall"][k] = close(trec, float(ranx.evaluate(ranx.Qrels(truth), ranx.Run(run), f"recall@{k}")), "ann", k)
        out.append(case)
    return out


def main():
    out = []
    firsts = ([], [])
    for name, scores, relevant in cases():
        ranked = sorted(range(len(scores)), key=lambda j: (-scores[j], j))
        case = {"name": name, "scores": scores, "ranked": ranked, "relevant": relevant}
        if name.endswith("7"):
            # Items that stand again further down: the tools, which take a score an item, see the first only.
            again = []
            for r, j in enumerate(ranked):
                again += [j] + ranked[r // 2 : r // 2 + 1] * (r % 2)
            case["ranked"] = again
        if relevant:
            # Ties are settled by rank before a tool sees them: the tools break them each in its own way.
            run = {"q": {f"d{j}": float(len(ranked) - r) for r, j in enumerate(ranked)}}
            qrels = {"q": {f"d{j}": 1 for j in relevant}}
            ks = ",".join(map(str, KS))
            wanted = {f"map_cut.{ks}", f"P.{ks}", f"recall.{ks}", f"ndcg_cut.{ks}", "recip_rank"}
            trec = pytrec_eval.RelevanceEvaluator(qrels, wanted).evaluate(run)["q"]
            other = ranx.evaluate(
                ranx.Qrels(qrels),
                ranx.Run(run),
                [f"{m}@{k}" for m in ("map", "precision", "recall", "ndcg") for k in KS] + ["mrr"],
            )
            flags = [j in set(relevant) for j in ranked]
            case["reciprocal_rank"] = trec["recip_rank"]
            close(trec["recip_rank"], other["mrr"], name)
            for ranks, reciprocal in zip(firsts, (trec["recip_rank"], other["mrr"])):
                ranks.append(1 / reciprocal if reciprocal else float("inf"))
            for theirs, ours, key in [("map", "map_cut", "ap_all"), ("precision", "P", "precision"), ("recall", "recall", "recall"), ("ndcg", "ndcg_cut", "ndcg")]:
                case[key] = {k: trec[f"{ours}_{k}"] for k in KS}
                for k in KS:
                    close(case[key][k], other[f"{theirs}@{k}"], name, key, k)
            case["ap_min"], case["ap_hits"] = {}, {}
            for k in KS:
                trec_min = case["ap_all"][k] * len(relevant) / min(k, len(relevant))
                case["ap_min"][k] = close(trec_min, recommenders_map(ranked, relevant, k), name, "min", k)
                top = flags[:k]
                hits = float(average_precision_score(top, range(len(top), 0, -1))) if any(top) else 0.0
                # torchmetrics counts in float32.
                assert abs(hits - torch_map(flags, k)) < 1e-6, (name, "hits", k, hits, torch_map(flags, k))
                case["ap_hits"][k] = hits
        out.append(case)
    median = close(*(statistics.median(ranks) for ranks in firsts), "median")
    print(json.dumps({"cases": out, "median_rank": median, "approximate": approximate([])}, separators=(",", ":")))


if __name__ == "__main__":
    main()
