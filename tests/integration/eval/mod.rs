//! Evaluation with the binary: synthetic features, real annotations, real clips.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::support::*;

mod others;
mod warnings;

const IMAGE: usize = 12;
const VIDEO: usize = 40;
const CLASSES: usize = 12;

/// Seeded numbers with an approximately normal distribution.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        let mut uniform = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 40) as f32 / (1 << 24) as f32
        };
        (0..6).map(|_| uniform()).sum::<f32>() - 3.0
    }

    fn many(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }
}

fn seen(latent: &[f32], matrix: &[f32], length: usize) -> Vec<f32> {
    (0..length).map(|i| latent.iter().enumerate().map(|(j, z)| z * matrix[j * length + i]).sum()).collect()
}

impl TestFolder {
    /// The JSON of `eval` on the features of this folder.
    fn measure(&self, more: &[&str]) -> Value {
        self.json(&[&["eval", "--features", "@features", "--json"], more].concat())
    }

    /// Features of two modalities with unequal lengths. Each maps the same latent class structure with its
    /// own matrix and adds structure that does not depend on the class. The test gallery holds two clips per
    /// video.
    fn with_features() -> TestFolder {
        TestFolder::with_features_about(0.0)
    }

    /// The features of [`TestFolder::with_features`], plus `offset` in every number.
    fn with_features_about(offset: f32) -> TestFolder {
        let folder = TestFolder::new();
        let mut noise = Noise(1);
        let centres = noise.many(CLASSES * 8);
        for (name, length, own) in [("images", IMAGE, 2.0), ("videos", VIDEO, 4.0)] {
            let (see, disturb) = (noise.many(8 * length), noise.many(4 * length));
            let (mut values, mut lines) = (Vec::new(), String::new());
            for i in 0..600 {
                let class = i % CLASSES;
                let latent: Vec<f32> = centres[class * 8..][..8].iter().map(|c| c + 0.5 * noise.next()).collect();
                let private: Vec<f32> = noise.many(4).iter().map(|x| own * x).collect();
                let (a, b) = (seen(&latent, &see, length), seen(&private, &disturb, length));
                values.extend(a.iter().zip(&b).map(|(a, b)| a + b + noise.next() + offset));
                let split = ["train", "train", "train", "val", "test", "test"][i / 100];
                let video = if name == "videos" && split == "test" {
                    format!("v{}", i % 100 / 24 * 12 + class + i / 500 * 100)
                } else {
                    format!("{name}{i}")
                };
                lines += &format!(
                    "{{\"id\":\"{name}{i}\",\"label\":\"class {class}\",\"split\":\"{split}\",\"video\":\"{video}\"}}\n"
                );
            }
            folder.write(&format!("features/{name}.npy"), npy(600, length, &values));
            folder.write(&format!("features/{name}.jsonl"), lines);
        }
        folder
    }
}

#[test]
fn measures_a_method_by_the_contract() {
    let folder = TestFolder::with_features();
    let found = folder.measure(&["--method", "cca", "--pools", "--ann", "--ef", "400"]);
    assert_eq!(
        (&found["method"], &found["queries"], &found["skipped_queries"]),
        (&"cca".into(), &200.into(), &0.into())
    );
    assert_eq!((&found["rows"], &found["normaliser"]), (&200.into(), &"hits".into()));
    assert_eq!(
        (&found["split"], &found["relevant"], &found["shared_sources"]),
        (&"test".into(), &"label".into(), &0.into())
    );
    assert_eq!(found["seed"], 1, "pools are seeded");
    let gallery = found["gallery"].as_u64().unwrap();
    assert!(gallery < 200 && gallery > 90, "{gallery}");
    let map = |key: &str, k: &str| found[key][k].as_f64().unwrap();
    assert!(map("map", "10") > 0.6 && map("map", "10") >= map("map", "100"), "{found}");
    assert!(map("recall", "100") > map("recall", "10") && map("map_in_pools", "10") > map("map_in_pools", "100"));
    // With such a wide search, HNSW misses nothing.
    assert_eq!(found["ann"]["map"], found["map"]);
    assert_eq!(found["ann"]["ann_recall"]["100"], 1.0);
    for (how, other) in [("--normaliser", "min"), ("--normaliser", "all"), ("--pooling", "mean:2")] {
        let changed = folder.measure(&["--method", "cca", how, other]);
        assert_ne!(changed["map"], found["map"], "{other}");
    }
    let plain = folder.measure(&["--method", "cca", "--at", "10,100,10"]);
    assert_eq!((plain.get("seed"), plain["map"].as_object().unwrap().len()), (None, 2));
    let printed = output_text(&folder.success(&["eval", "--features", "@features", "--method", "cca"]));
    assert!(
        printed.contains("cca, split test: 200 queries") && printed.contains("relevant is a shared label"),
        "{printed}"
    );
    let below = folder.run(&["eval", "--features", "@features", "--method", "cca", "--floor", "0.99"]);
    assert_eq!(below.status.code(), Some(1), "{}", output_text(&below));
}

/// A constant added to all features carries no information and must not change the results.
#[test]
fn an_offset_does_not_ruin_a_method() {
    let map10 = |folder: &TestFolder, method: &str| {
        let found = folder.measure(&["--method", method]);
        found["map"]["10"].as_f64().unwrap()
    };
    let (about_zero, far_off) = (TestFolder::with_features(), TestFolder::with_features_about(50.0));
    for method in ["cosine", "ridge", "ridge-image", "cca"] {
        let (before, after) = (map10(&about_zero, method), map10(&far_off, method));
        assert!(before > 0.4 && (before - after).abs() < 0.02, "{method}: {before}, with an offset {after}");
    }
}

#[test]
fn the_table_compares_gmf_with_closed_forms_and_the_paper() {
    let folder = TestFolder::with_features();
    let words =
        ["eval", "--features", "@features", "--table", "--epochs", "20", "--learning-rate", "0.01", "--seeds", "1,2"];
    let table = folder.json(&[&words[..], &["--json"]].concat());
    let rows = table["rows"].as_array().unwrap();
    let row = |method: &str| rows.iter().find(|row| row["method"] == method).unwrap();
    let map10 = |method: &str| row(method)["map"]["10"].as_f64().unwrap();
    assert_eq!(rows.len(), 8);
    assert!(map10("gmf") > map10("cosine") + 0.05, "gmf {} cosine {}", map10("gmf"), map10("cosine"));
    assert!(map10("gmf") > map10("cca") - 0.05, "gmf {} cca {}", map10("gmf"), map10("cca"));
    assert_eq!((&row("gmf")["paper"][0], &row("ridge")["paper"]), (&0.355.into(), &Value::Null));
    assert_eq!(
        (&table["split"], &table["relevant"], &table["shared_sources"]),
        (&"test".into(), &"label".into(), &0.into())
    );
    for row in rows {
        let of = |of: &Value| of["10"].as_f64().unwrap();
        let (low, high) = (row["interval"]["10"][0].as_f64().unwrap(), row["interval"]["10"][1].as_f64().unwrap());
        assert!(low <= of(&row["map"]) && of(&row["map"]) <= high, "{row}");
        let seeds = if row["method"].as_str().unwrap().starts_with("gmf") { 2 } else { 0 };
        assert_eq!((row["seeds"].as_array().unwrap().len(), row["epochs"].as_array().unwrap().len()), (seeds, seeds));
    }
    // The counts include the map to principal directions or to the videos' length (12 x 40), and the model.
    let plain = |length: u64| 4 * length * (length + 1) + length * (2 * length + 1) * 2 + length * (2 * length + 1);
    for (method, length, before) in [("gmf-image", 12, 12 * 40 + 12), ("gmf-video", 40, 12 * 40 + 40 + 40)] {
        assert_eq!(row(method)["params"].as_u64().unwrap(), 2 * plain(length) + before, "{method}");
        let weights = 2 * (plain(length) - 7 * length) + 12 * 40;
        assert_eq!(row(method)["flops"].as_u64().unwrap(), 2 * weights, "{method}");
    }
    let lengths =
        [("cosine", 40, 40), ("ridge-image", 12, 12), ("cca-image", 12, 12), ("cca", 12, 40), ("gmf-video", 40, 40)];
    for (method, image, video) in lengths {
        assert_eq!(row(method)["lengths"], serde_json::json!([image, video]), "{method}");
    }
    // A method gives the same result alone and in the table.
    let alone = folder.measure(&["--method", "ridge"]);
    assert_eq!(alone["map"]["10"], row("ridge")["map"]["10"]);
    let few = ["--methods", "cosine,cca", "--report", "@page/deep"];
    let markdown = output_text(&folder.success(&[&words[..], &few[..]].concat()));
    assert!(markdown.contains("| CCA | 12-40 |") && markdown.contains("0.235 / 0.221 / 0.213 / 0.205"), "{markdown}");
    assert!(
        markdown.contains("split test, relevant is a shared label") && !markdown.contains("GMF starts"),
        "{markdown}"
    );
    let latex = output_text(&folder.success(&[&words[..], &few[..2], &["--latex"]].concat()));
    assert!(latex.contains("\\begin{tabular}") && latex.contains("CCA & 12-40 &"), "{latex}");
    let page = folder.read_text("page/deep/index.html");
    for part in [
        "cosine of mapped features</td>",
        "The best method: cca",
        "<svg",
        "mAP@10 by class",
        "of the split test",
        "pooled by best",
    ] {
        assert!(page.contains(part), "{part}");
    }
    let unknown = folder.run(&["eval", "--features", "@nothing", "--table", "--methods", "magic"]);
    assert!(unknown.status.code() == Some(2) && output_text(&unknown).contains("magic"), "{}", output_text(&unknown));
}

#[test]
fn layered_and_folded_checkpoints_measure_equally() {
    let folder = TestFolder::with_features();
    folder.success(&["train", "--features", "@features", "--out", "@all.safetensors", "--epochs", "2"]);
    folder.success(&["fold", "@all.safetensors", "--out", "@small.safetensors"]);
    let measure = |name: &str| folder.measure(&["--checkpoint", name]);
    let (all, small) = (measure("@all.safetensors"), measure("@small.safetensors"));
    assert_eq!((&all["map"], &all["params"], &all["flops"]), (&small["map"], &small["params"], &small["flops"]));
    let wrong = folder.run(&["eval", "--features", "@features", "--checkpoint", "@features/images.npy"]);
    assert!(wrong.status.code() == Some(2) && output_text(&wrong).contains("images.npy"), "{}", output_text(&wrong));
}

/// Real clips, named by ids of the real annotations: all commands from videos to figures and a report.
#[test]
fn from_videos_under_ids_of_activitynet_to_a_report() {
    let annotations = test_data("activitynet/activity_net.v1-3.reconstructed.min.json");
    let clips = test_data("videos");
    let (Ok(json), Ok(manifest)) =
        (std::fs::read_to_string(&annotations), std::fs::read_to_string(clips.join("manifest.jsonl")))
    else {
        return skip("the annotations and clips are missing");
    };
    let folder = TestFolder::new();
    let annotations: Value = serde_json::from_str(&json).unwrap();
    // Small clips of at least 8 s, named by ids of some classes whose first segment lies within the clip.
    let listed: Vec<Value> = manifest.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut small = listed
        .iter()
        .filter(|clip| clip["duration_s"].as_f64().unwrap() >= 8.0 && clip["bytes"].as_u64().unwrap() < 1_000_000)
        .cycle();
    let mut counts = std::collections::BTreeMap::new();
    for (id, video) in annotations["database"].as_object().unwrap() {
        let subset = video["subset"].as_str().unwrap();
        let early = video["annotations"].get(0).is_some_and(|first| {
            let (segment, label) = (&first["segment"], first["label"].as_str().unwrap());
            let middle = (segment[0].as_f64().unwrap() + segment[1].as_f64().unwrap()) / 2.0;
            middle < 8.0 && ["A", "B", "C"].iter().any(|letter| label.starts_with(letter))
        });
        let count = counts.entry(subset.to_owned()).or_insert(0);
        if early && *count < 40 {
            *count += 1;
            let clip = small.next().unwrap()["path"].as_str().unwrap();
            let ending = Path::new(clip).extension().unwrap().to_str().unwrap();
            // Copied and not linked, because links to one file are one video.
            folder.write(&format!("media/v_{id}.{ending}"), std::fs::read(clips.join(clip)).unwrap());
        }
    }
    folder.write("annotations.json", json);
    let listed = folder.success(&[
        "dataset",
        "activitynet",
        "--annotations",
        "@annotations.json",
        "--have",
        "@media",
        "--out",
        "@list.jsonl",
        "--missing",
        "@missing.txt",
        "--query-share",
        "0.4",
    ]);
    assert!(
        output_text(&listed).contains("12 segments of no length") && output_text(&listed).contains("lacks "),
        "{}",
        output_text(&listed)
    );
    assert!(folder.read_text("missing.txt").lines().count() > 14_000);
    let extracted = folder.success(&["extract", "@media", "--benchmark", "@list.jsonl", "--out", "@features"]);
    assert!(output_text(&extracted).contains("images"), "{}", output_text(&extracted));
    folder.success(&["train", "--features", "@features", "--out", "@model.safetensors", "--epochs", "1"]);
    let found = folder.measure(&["--checkpoint", "@model.safetensors", "--report", "@page", "--media", "@media"]);
    assert!(found["queries"].as_u64().unwrap() >= 3, "{found}");
    let page = folder.read_text("page/index.html");
    assert!(
        page.contains("data:image/jpeg;base64,") && page.contains("<svg") && !page.contains("://"),
        "self-contained"
    );
    assert!(
        folder.run(&["eval", "--features", "@features", "--report", "@page"]).status.code() == Some(2),
        "nothing is overwritten"
    );
    screenshot(&folder.path("page/index.html"), &folder.path("page.png"));
}

/// Takes a screenshot of a page in a headless browser. Reports a skip if no browser is installed.
fn screenshot(page: &Path, out: &Path) {
    let Some(browser) = browser() else { return skip("no browser is installed") };
    let profile = tempfile::tempdir().unwrap();
    let mut child = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--no-first-run",
            "--disable-background-networking",
        ])
        .args(["--window-size=1100,3000", "--virtual-time-budget=2000"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--screenshot={}", out.display()))
        .arg(format!("file://{}", page.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = std::time::Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed().as_secs() > 60 {
            child.kill().unwrap();
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let picture = std::fs::read(out).unwrap_or_default();
    assert!(picture.len() > 20_000 && picture.starts_with(b"\x89PNG"), "{} bytes of a picture", picture.len());
    if let Some(keep) = std::env::var_os("REELSEEK_KEEP_SCREENSHOT") {
        std::fs::copy(out, keep).unwrap();
    }
}

/// Compares the metrics with those that trec_eval computes from the written files, if it is installed.
#[test]
fn pytrec_eval_reads_runs_and_agrees() {
    let folder = TestFolder::with_features();
    let found = folder.measure(&[
        "--method",
        "cca",
        "--normaliser",
        "all",
        "--trec-run",
        "@run.txt",
        "--trec-qrels",
        "@qrels.txt",
    ]);
    let script = "
import sys, json, pytrec_eval
run, qrels = {}, {}
for line in open(sys.argv[1]):
    q, _, d, r, s, _ = line.split()
    run.setdefault(q, {})[d] = float(s)
for line in open(sys.argv[2]):
    q, _, d, r = line.split()
    qrels.setdefault(q, {})[d] = int(r)
e = pytrec_eval.RelevanceEvaluator(qrels, {'map_cut.10,20,50,100', 'recall.10,100', 'ndcg_cut.10', 'recip_rank'}).evaluate(run)
print(json.dumps({m: sum(v[m] for v in e.values()) / len(e) for m in next(iter(e.values()))}))
";
    let python = std::env::var("REELSEEK_PYTHON").unwrap_or_else(|_| "python3".into());
    let known = Command::new(&python).args(["-c", "import pytrec_eval"]).output();
    if !known.is_ok_and(|output| output.status.success()) {
        return skip(format_args!("{python} has no pytrec_eval (pip install pytrec_eval-terrier)"));
    }
    let output = Command::new(python)
        .args(["-c", script])
        .arg(folder.path("run.txt"))
        .arg(folder.path("qrels.txt"))
        .output()
        .unwrap();
    let theirs: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", output_text(&output)));
    for (ours, name) in [
        (&found["map"]["10"], "map_cut_10"),
        (&found["map"]["100"], "map_cut_100"),
        (&found["recall"]["10"], "recall_10"),
        (&found["recall"]["100"], "recall_100"),
        (&found["ndcg"]["10"], "ndcg_cut_10"),
        (&found["mrr"], "recip_rank"),
    ] {
        let (ours, theirs) = (ours.as_f64().unwrap(), theirs[name].as_f64().unwrap());
        assert!((ours - theirs).abs() < 1e-9, "{name}: {ours}, theirs {theirs}");
    }
}
