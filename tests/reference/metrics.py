"""Makes metrics.json: seeded rankings, judged by independent tools. The tests of src/eval/metrics.rs must give the same to 1e-9.

    python3 -m pip install pytrec_eval-terrier==0.5.11 ranx==0.3.21 scikit-learn==1.9.1
    python3 tests/reference/metrics.py > tests/reference/metrics.json

AP with the normaliser `all`: pytrec_eval (map_cut) and ranx (map); `min`: the same, times R / min(k, R); `hits`: scikit-learn
(average_precision_score of the top k). Precision, recall, reciprocal rank: pytrec_eval and ranx. nDCG: pytrec_eval (ndcg_cut) and ranx. Where two tools give a
number they are compared here first.
"""

import json

import numpy as np
import pytrec_eval
import ranx
from sklearn.metrics import average_precision_score

KS = (1, 2, 5, 10, 20, 50, 100)


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


def main():
    out = []
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
            assert abs(trec["recip_rank"] - other["mrr"]) < 1e-12
            for theirs, ours, key in [("map", "map_cut", "ap_all"), ("precision", "P", "precision"), ("recall", "recall", "recall"), ("ndcg", "ndcg_cut", "ndcg")]:
                case[key] = {k: trec[f"{ours}_{k}"] for k in KS}
                for k in KS:
                    assert abs(case[key][k] - other[f"{theirs}@{k}"]) < 1e-9, (name, key, k, case[key][k], other[f"{theirs}@{k}"])
            case["ap_min"] = {k: case["ap_all"][k] * len(relevant) / min(k, len(relevant)) for k in KS}
            case["ap_hits"] = {}
            for k in KS:
                top = flags[:k]
                case["ap_hits"][k] = float(average_precision_score(top, range(len(top), 0, -1))) if any(top) else 0.0
        out.append(case)
    print(json.dumps(out, separators=(",", ":")))


if __name__ == "__main__":
    main()
