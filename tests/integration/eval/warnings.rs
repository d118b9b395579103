//! Errors, warnings and interrupts of the evaluation.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::Value;

use super::IMAGE;
use crate::support::{Signal, TestFolder, output_text, send_signal};

/// If images are as long as videos or longer, the table has other rows than the paper's.
#[test]
fn the_papers_numbers_appear_only_for_its_structure() {
    let folder = TestFolder::with_features();
    let swap = |from: &str, to: &str| {
        for ending in ["npy", "jsonl"] {
            folder.write(&format!("{to}.{ending}"), folder.read(&format!("features/{from}.{ending}")));
        }
    };
    swap("images", "longer/videos");
    swap("videos", "longer/images");
    swap("videos", "same/images");
    swap("videos", "same/videos");
    let table = |features: &str| folder.json(&["eval", "--features", features, "--table", "--epochs", "1", "--json"]);
    for (features, methods, lengths) in [
        ("@longer", vec!["cosine", "ridge", "ridge-image", "cca", "gmf-video", "gmf"], [(12, 12), (40, 12)]),
        ("@same", vec!["cosine", "ridge", "ridge-image", "cca", "gmf"], [(40, 40), (40, 40)]),
    ] {
        let table = table(features);
        let rows = table["rows"].as_array().unwrap();
        assert_eq!(rows.iter().map(|row| row["method"].as_str().unwrap()).collect::<Vec<_>>(), methods);
        assert!(rows.iter().all(|row| row["paper"].is_null()), "{table}");
        let (first, last) = (&rows[0]["lengths"], &rows[rows.len() - 1]["lengths"]);
        assert_eq!([first, last].map(|l| (l[0].as_u64().unwrap(), l[1].as_u64().unwrap())), lengths);
    }
    let refused = folder.run(&["eval", "--features", "@longer", "--method", "gmf-image"]);
    assert!(
        refused.status.code() == Some(2) && output_text(&refused).contains("without -image"),
        "{}",
        output_text(&refused)
    );
}

#[test]
fn warns_of_inflated_results() {
    let folder = TestFolder::with_features();
    let words = ["eval", "--features", "@features", "--method", "ridge", "--json"];
    let val = folder.success(&[&words[..], &["--split", "val"]].concat());
    assert!(output_text(&val).contains("trained on the split val or chosen by it"), "{}", output_text(&val));
    let table = output_text(&folder.success(&[
        "eval",
        "--features",
        "@features",
        "--table",
        "--methods",
        "cca",
        "--split",
        "val",
    ]));
    assert!(table.contains("split val") && table.contains("which inflates their results"), "{table}");
    // Three videos are both in the split train and in the split test.
    let lines = folder.read_text("features/videos.jsonl");
    let shared = (0..3).fold(lines.clone(), |lines, i| {
        lines.replace(&format!("\"video\":\"videos{i}\""), &format!("\"video\":\"v{i}\""))
    });
    folder.write("features/videos.jsonl", shared);
    let output = folder.success(&words);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["shared_sources"], 3);
    assert!(
        output_text(&output).contains("3 videos of the split test are also in the splits")
            && output_text(&output).contains("v0, v1, v2")
    );
    // In the split test, only images have labels.
    let bare = |text: &str| -> String {
        let line = |line: &str| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            if line["split"] == "test" {
                line.as_object_mut().unwrap().remove("label");
            }
            format!("{line}\n")
        };
        text.lines().map(line).collect()
    };
    folder.write("features/videos.jsonl", bare(&lines));
    let output = folder.run(&words);
    for part in [
        "no videos of the split test have labels",
        "names of videos were compared: the image images400 is of images400, the first video is v",
    ] {
        assert!(
            output.status.code() == Some(2) && output_text(&output).contains(part),
            "{part}: {}",
            output_text(&output)
        );
    }
    let images = folder.read_text("features/images.jsonl");
    folder.write("features/images.jsonl", images.replace("\"video\":\"images400\"", "\"video\":\"v4\""));
    let output = folder.success(&words);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&found["relevant"], &found["queries"]), (&"video".into(), &1.into()));
    assert!(
        output_text(&output).contains("warning: in the split train a shared label makes a pair"),
        "{}",
        output_text(&output)
    );
}

#[test]
fn rejects_impossible_options_before_reading_features() {
    let folder = TestFolder::with_features();
    std::fs::create_dir(folder.path("folder")).unwrap();
    for (words, word) in [
        (vec!["--seeds", "1,2,3"], "need --table"),
        (vec!["--method", "magic"], "no method magic"),
        (vec!["--floor", "nan"], "--floor is NaN"),
        (vec!["--method", "cca", "--epochs", "3"], "do not apply to cca"),
        (vec!["--checkpoint", "@x", "--learning-rate", "0.1"], "--learning-rate"),
        (vec!["--trec-run", "@folder"], "is a folder"),
        (vec!["--report", "@page", "--media", "@nowhere"], "nowhere is not a folder"),
    ] {
        let output = folder.run(&[&["eval", "--features", "@nothing"][..], &words].concat());
        assert!(
            output.status.code() == Some(2) && output_text(&output).contains(word),
            "{words:?}: {}",
            output_text(&output)
        );
    }
    // Later errors leave no folder behind.
    let output = folder.run(&["eval", "--features", "@nothing", "--report", "@new/page", "--trec-run", "@other/run"]);
    assert!(
        output.status.code() == Some(2) && output_text(&output).contains("nothing/images.npy"),
        "{}",
        output_text(&output)
    );
    assert!(!folder.path("new").exists() && !folder.path("other").exists());
}

#[test]
fn an_interrupted_table_ends_with_130() {
    let folder = TestFolder::with_features();
    let mut command = folder.command(&["eval", "--table", "--features", "@features", "--report", "@page"]);
    command.args(["--methods", "gmf-image,gmf", "--epochs", "100000"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.by_ref().any(|line| line.unwrap().contains("epoch 2 of")));
    send_signal(&child, Signal::INT);
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert!(rest.iter().any(|line| line.contains("interrupted; nothing was written")), "{rest:?}");
    assert!(!rest.iter().any(|line| line.contains("kept")) && !folder.path("page").exists(), "{rest:?}");
}

#[test]
fn reports_faults_of_features_before_any_work() {
    let folder = TestFolder::with_features();
    let lines = folder.read_text("features/images.jsonl");
    let numbers = folder.read("features/images.npy");
    let wrong = |word: &str| {
        let output = folder.run(&["eval", "--features", "@features", "--method", "cca"]);
        assert!(
            output.status.code() == Some(2) && output_text(&output).contains(word),
            "{word}: {}",
            output_text(&output)
        );
    };
    let mut nan = numbers.clone();
    let at = nan.len() - 4 * IMAGE * 7;
    nan[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    folder.write("features/images.npy", &nan);
    wrong("row 593");
    for (old, new, word) in [("<f4", ">f4", ">f4"), ("False", "True ", "Fortran")] {
        let at = numbers.windows(old.len()).position(|window| window == old.as_bytes()).unwrap();
        let mut other = numbers.clone();
        other[at..at + old.len()].copy_from_slice(new.as_bytes());
        folder.write("features/images.npy", &other);
        wrong(word);
    }
    folder.write("features/images.npy", &numbers);
    folder.write("features/images.jsonl", lines.replacen("images7\"", "images6\"", 1));
    wrong("line 8: id images6 repeats the id of line 7");
    folder.write("features/images.jsonl", lines.replace("\"test\"", "\"train\""));
    wrong("--split");
    folder.write("features/images.jsonl", lines);
    folder.success(&["eval", "--features", "@features", "--method", "cca"]);
}
