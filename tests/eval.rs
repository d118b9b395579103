//! Evaluation through the real binary: made features, real annotations, real clips.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const IMAGE: usize = 12;
const VIDEO: usize = 40;
const CLASSES: usize = 12;

struct Place(tempfile::TempDir);

fn npy(rows: usize, columns: usize, values: &[f32]) -> Vec<u8> {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    bytes
}

/// Seeded numbers, about normal.
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

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    /// Two modalities of unequal length see one latent class structure, each through a matrix of its own, beside structure that
    /// says nothing of the class. The test gallery holds two clips a video.
    fn with_features() -> Place {
        let place = Place::new();
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
                values.extend(a.iter().zip(&b).map(|(a, b)| a + b + noise.next()));
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
            place.write(&format!("features/{name}.npy"), &npy(600, length, &values));
            place.write(&format!("features/{name}.jsonl"), lines.as_bytes());
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// Runs the program; words that begin with `@` are paths in this place.
    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reelseek"));
        for word in words {
            match word.strip_prefix('@') {
                Some(name) => command.arg(self.path(name)),
                None => command.arg(word),
            };
        }
        command.stdin(Stdio::null()).output().unwrap()
    }

    fn good(&self, words: &[&str]) -> Output {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    fn json(&self, words: &[&str]) -> Value {
        serde_json::from_slice(&self.good(words).stdout).unwrap()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_method_is_measured_as_the_contract_says() {
    let place = Place::with_features();
    let found = place.json(&[
        "eval",
        "--features",
        "@features",
        "--method",
        "cca",
        "--json",
        "--pools",
        "--ann",
        "--ef",
        "400",
    ]);
    assert_eq!(
        (&found["method"], &found["queries"], &found["skipped_queries"]),
        (&"cca".into(), &200.into(), &0.into())
    );
    assert_eq!((&found["rows"], &found["normaliser"]), (&200.into(), &"hits".into()));
    let gallery = found["gallery"].as_u64().unwrap();
    assert!(gallery < 200 && gallery > 90, "{gallery}");
    let map = |key: &str, k: &str| found[key][k].as_f64().unwrap();
    assert!(map("map", "10") > 0.6 && map("map", "10") >= map("map", "100"), "{found}");
    assert!(map("recall", "100") > map("recall", "10") && map("map_in_pools", "10") > map("map_in_pools", "100"));
    // With so wide a search HNSW misses nothing.
    assert_eq!(found["ann"]["map"], found["map"]);
    assert_eq!(found["ann"]["ann_recall"]["100"], 1.0);
    for (how, other) in [("--normaliser", "min"), ("--normaliser", "all"), ("--pooling", "mean:2")] {
        let changed = place.json(&["eval", "--features", "@features", "--method", "cca", "--json", how, other]);
        assert_ne!(changed["map"], found["map"], "{other}");
    }
    let below = place.run(&["eval", "--features", "@features", "--method", "cca", "--floor", "0.99"]);
    assert_eq!(below.status.code(), Some(1), "{}", said(&below));
}

#[test]
fn the_table_sets_gmf_beside_closed_forms_and_the_paper() {
    let place = Place::with_features();
    let words =
        ["eval", "--features", "@features", "--table", "--epochs", "40", "--learning-rate", "0.05", "--seeds", "1,2"];
    let table = place.json(&[&words[..], &["--json"]].concat());
    let rows = table["rows"].as_array().unwrap();
    let row = |method: &str| rows.iter().find(|row| row["method"] == method).unwrap();
    let map10 = |method: &str| row(method)["map"]["10"].as_f64().unwrap();
    assert_eq!(rows.len(), 8);
    assert!(map10("gmf") > map10("cosine"), "gmf {} cosine {}", map10("gmf"), map10("cosine"));
    assert_eq!((&row("gmf")["paper"][0], &row("ridge")["paper"]), (&0.355.into(), &Value::Null));
    assert_eq!(row("gmf")["seeds"].as_array().unwrap().len(), 2);
    for row in rows {
        let (map, low, high) = (&row["map"]["10"], &row["interval"]["10"][0], &row["interval"]["10"][1]);
        assert!(low.as_f64() <= map.as_f64() && map.as_f64() <= high.as_f64(), "{row}");
    }
    // One method alone gives what it gives in the table.
    let alone = place.json(&["eval", "--features", "@features", "--method", "ridge", "--json"]);
    assert_eq!(alone["map"]["10"], row("ridge")["map"]["10"]);
    let few = ["--methods", "cosine,cca", "--report", "@page"];
    let markdown = said(&place.good(&[&words[..], &few[..]].concat()));
    assert!(markdown.contains("| CCA | 12-40 |") && markdown.contains("0.235 / 0.221 / 0.213 / 0.205"), "{markdown}");
    let latex = said(&place.good(&[&words[..], &few[..2], &["--latex"]].concat()));
    assert!(latex.contains("\\begin{tabular}") && latex.contains("CCA & 12-40 &"), "{latex}");
    assert!(std::fs::read_to_string(place.path("page/index.html")).unwrap().contains("cosine of mapped features</td>"));
    let page = std::fs::read_to_string(place.path("page/index.html")).unwrap();
    assert!(page.contains("The best of them: cca") && page.contains("<svg") && page.contains("mAP@10 by class"));
    let unknown = place.run(&["eval", "--features", "@features", "--table", "--methods", "magic"]);
    assert!(unknown.status.code() == Some(2) && said(&unknown).contains("magic"), "{}", said(&unknown));
}

#[test]
fn checkpoints_of_both_kinds_give_the_same() {
    let place = Place::with_features();
    place.good(&["train", "--features", "@features", "--out", "@all.safetensors", "--epochs", "2"]);
    place.good(&["fold", "@all.safetensors", "--out", "@small.safetensors"]);
    let measure = |name: &str| place.json(&["eval", "--features", "@features", "--checkpoint", name, "--json"]);
    let (all, small) = (measure("@all.safetensors"), measure("@small.safetensors"));
    assert_eq!((&all["map"], &all["params"], &all["flops"]), (&small["map"], &small["params"], &small["flops"]));
    let wrong = place.run(&["eval", "--features", "@features", "--checkpoint", "@features/images.npy"]);
    assert!(wrong.status.code() == Some(2) && said(&wrong).contains("images.npy"), "{}", said(&wrong));
}

#[test]
fn what_is_wrong_with_features_is_said_before_any_work() {
    let place = Place::with_features();
    let lines = std::fs::read_to_string(place.path("features/images.jsonl")).unwrap();
    let numbers = std::fs::read(place.path("features/images.npy")).unwrap();
    let wrong = |word: &str| {
        let output = place.run(&["eval", "--features", "@features", "--method", "cca"]);
        assert!(output.status.code() == Some(2) && said(&output).contains(word), "{word}: {}", said(&output));
    };
    let mut nan = numbers.clone();
    let at = nan.len() - 4 * IMAGE * 7;
    nan[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    place.write("features/images.npy", &nan);
    wrong("row 593");
    for (old, new, word) in [("<f4", ">f4", ">f4"), ("False", "True ", "Fortran")] {
        let at = numbers.windows(old.len()).position(|window| window == old.as_bytes()).unwrap();
        let mut other = numbers.clone();
        other[at..at + old.len()].copy_from_slice(new.as_bytes());
        place.write("features/images.npy", &other);
        wrong(word);
    }
    place.write("features/images.npy", &numbers);
    place.write("features/images.jsonl", lines.replacen("images7\"", "images6\"", 1).as_bytes());
    wrong("line 8: id images6 is that of line 7");
    place.write("features/images.jsonl", lines.replace("\"test\"", "\"train\"").as_bytes());
    wrong("--split");
    place.write("features/images.jsonl", lines.as_bytes());
    place.good(&["eval", "--features", "@features", "--method", "cca"]);
}

#[test]
fn labels_and_splits_come_from_annotations() {
    let place = Place::with_features();
    let mut database = serde_json::Map::new();
    for name in ["images", "videos"] {
        let lines = std::fs::read_to_string(place.path(&format!("features/{name}.jsonl"))).unwrap();
        for line in lines.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let subset = if line["split"] == "test" { "validation" } else { "training" };
            let annotation = serde_json::json!([{"segment": [0.0, 1.0], "label": line["label"]}]);
            database.insert(
                line["video"].as_str().unwrap().to_owned(),
                serde_json::json!({"duration": 2.0, "subset": subset, "annotations": annotation}),
            );
        }
        // Without label and split: the annotations say both.
        let bare = lines.lines().map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            format!("{}\n", serde_json::json!({"id": line["id"], "video": line["video"]}))
        });
        place.write(&format!("bare/{name}.jsonl"), bare.collect::<String>().as_bytes());
        place.write(&format!("bare/{name}.npy"), &std::fs::read(place.path(&format!("features/{name}.npy"))).unwrap());
    }
    place.write("annotations.json", serde_json::json!({"version": "t", "database": database}).to_string().as_bytes());
    let words = ["eval", "--features", "@bare", "--activitynet", "@annotations.json", "--method", "ridge", "--json"];
    let found = place.json(&words);
    assert_eq!((&found["queries"], &found["rows"]), (&200.into(), &200.into()));
    assert!(found["map"]["10"].as_f64().unwrap() > 0.5, "{found}");
    let without = place.run(&["eval", "--features", "@bare"]);
    assert!(said(&without).contains("no split"), "{}", said(&without));
    let lines = std::fs::read_to_string(place.path("bare/images.jsonl")).unwrap();
    place.write("bare/images.jsonl", lines.replace("images5\"", "strange\"").as_bytes());
    let unknown = place.run(&words);
    assert!(said(&unknown).contains("line 6") && said(&unknown).contains("strange"), "{}", said(&unknown));
}

/// Real clips under ids of the real annotations: the whole way from videos to numbers and a page.
#[test]
fn from_videos_under_ids_of_activitynet_to_a_report() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let annotations = shared.join("activitynet/activity_net.v1-3.reconstructed.min.json");
    let (Ok(text), Ok(manifest)) =
        (std::fs::read_to_string(&annotations), std::fs::read_to_string(shared.join("videos/manifest.jsonl")))
    else {
        return eprintln!("skipped: the annotations and clips are not here");
    };
    let place = Place::new();
    let annotations: Value = serde_json::from_str(&text).unwrap();
    // Small clips of 8 s and more, under ids of some classes whose first segment lies within them.
    let clips: Vec<Value> = manifest.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut clips = clips
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
            let clip = clips.next().unwrap()["path"].as_str().unwrap();
            let ending = Path::new(clip).extension().unwrap().to_str().unwrap();
            std::fs::create_dir_all(place.path("media")).unwrap();
            // Copies: links to one file are one video.
            std::fs::copy(shared.join("videos").join(clip), place.path(&format!("media/v_{id}.{ending}"))).unwrap();
        }
    }
    place.write("annotations.json", text.as_bytes());
    let listed = place.good(&[
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
        said(&listed).contains("12 segments have no length") && said(&listed).contains("are missing"),
        "{}",
        said(&listed)
    );
    assert!(std::fs::read_to_string(place.path("missing.txt")).unwrap().lines().count() > 14_000);
    let extracted = place.good(&["extract", "@media", "--benchmark", "@list.jsonl", "--out", "@features"]);
    assert!(said(&extracted).contains("images"), "{}", said(&extracted));
    place.good(&["train", "--features", "@features", "--out", "@model.safetensors", "--epochs", "1"]);
    let found = place.json(&[
        "eval",
        "--features",
        "@features",
        "--checkpoint",
        "@model.safetensors",
        "--json",
        "--report",
        "@page",
        "--media",
        "@media",
    ]);
    assert!(found["queries"].as_u64().unwrap() >= 3, "{found}");
    let page = std::fs::read_to_string(place.path("page/index.html")).unwrap();
    assert!(
        page.contains("data:image/jpeg;base64,") && page.contains("<svg") && !page.contains("://"),
        "self-contained"
    );
    assert!(
        place.run(&["eval", "--features", "@features", "--report", "@page"]).status.code() == Some(2),
        "nothing is overwritten"
    );
    screenshot(&place.path("page/index.html"), &place.path("page.png"));
}

/// Opens a page in a headless browser; skipped with a word where there is none.
fn screenshot(page: &Path, out: &Path) {
    let browser = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok());
    let Some(browser) = browser else { return eprintln!("skipped: no browser to open the page in") };
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

/// trec_eval's own code on what is written, where it is installed.
#[test]
fn pytrec_eval_reads_runs_and_agrees() {
    let place = Place::with_features();
    let found = place.json(&[
        "eval",
        "--features",
        "@features",
        "--method",
        "cca",
        "--normaliser",
        "all",
        "--json",
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
        return eprintln!("skipped: {python} has no pytrec_eval (pip install pytrec_eval-terrier)");
    }
    let output = Command::new(python)
        .args(["-c", script])
        .arg(place.path("run.txt"))
        .arg(place.path("qrels.txt"))
        .output()
        .unwrap();
    let theirs: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
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

/// Features of others: an array a video for images and one for videos, by the list of a benchmark.
#[test]
fn features_of_others_become_a_feature_set() {
    let place = Place::new();
    let mut noise = Noise(5);
    let mut database = serde_json::Map::new();
    for i in 0..120usize {
        let (id, class) = (format!("video{i:06}"), i % 3);
        let subset = if i % 2 == 0 { "training" } else { "validation" };
        let annotation = serde_json::json!([{"segment": [1.0, 4.0], "label": format!("class {class}")}]);
        database.insert(id.clone(), serde_json::json!({"duration": 8.0, "subset": subset, "annotations": annotation}));
        if i % 10 == 9 {
            continue; // gone from the web
        }
        for (kind, length) in [("images", 5), ("videos", 9)] {
            let row: Vec<f32> =
                (0..2 * length).map(|j| ((class * 5 + j % length * 3) % 7) as f32 + 0.3 * noise.next()).collect();
            place.write(&format!("{kind}/v_{id}.npy"), &npy(2, length, &row));
        }
    }
    place.write("annotations.json", serde_json::json!({"version": "t", "database": database}).to_string().as_bytes());
    let listed = place.good(&[
        "dataset",
        "activitynet",
        "--annotations",
        "@annotations.json",
        "--have",
        "@videos",
        "--out",
        "@list.jsonl",
        "--missing",
        "@missing.txt",
    ]);
    assert!(said(&listed).contains("12 videos of the benchmark are missing"), "{}", said(&listed));
    assert_eq!(std::fs::read_to_string(place.path("missing.txt")).unwrap().lines().count(), 12);
    place.good(&[
        "extract",
        "--benchmark",
        "@list.jsonl",
        "--image-features",
        "@images",
        "--video-features",
        "@videos",
        "--out",
        "@features",
    ]);
    let found = place.json(&["eval", "--features", "@features", "--method", "cca", "--json"]);
    assert!(found["map"]["10"].as_f64().unwrap() > 0.9, "{found}");
    let again = place.run(&[
        "extract",
        "--benchmark",
        "@list.jsonl",
        "--image-features",
        "@images",
        "--video-features",
        "@videos",
        "--out",
        "@features",
    ]);
    assert!(again.status.code() == Some(2) && said(&again).contains("--force"), "{}", said(&again));
    place.write("videos/v_video000000.npy", b"nonsense");
    let words = [
        "extract",
        "--benchmark",
        "@list.jsonl",
        "--image-features",
        "@images",
        "--video-features",
        "@videos",
        "--out",
        "@other",
    ];
    let bad = place.run(&words);
    assert!(bad.status.code() == Some(2) && said(&bad).contains("v_video000000.npy"), "{}", said(&bad));
    assert_eq!(std::fs::read_dir(place.path("other")).unwrap().count(), 0, "nothing half written is left");
}
