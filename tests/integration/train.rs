//! Training with the binary: interrupting, resuming, folding, invalid options.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use super::support::{Signal, TestFolder, npy, output_text, send_signal};

const IMAGE: usize = 6;
const VIDEO: usize = 11;

impl TestFolder {
    /// A folder with features of 5 classes, around class means: 60 images and videos for training, 20 for
    /// validation.
    fn with_training_features() -> TestFolder {
        let folder = TestFolder::new();
        for (name, length) in [("images", IMAGE), ("videos", VIDEO)] {
            let value = |row: usize, i: usize| {
                let mean = ((row % 5 * 7 + i * 3 + length) % 13) as f32 / 6.0 - 1.0;
                mean + ((row * 31 + i * 17) % 11) as f32 / 60.0
            };
            let values: Vec<f32> = (0..80 * length).map(|at| value(at / length, at % length)).collect();
            folder.write(&format!("features/{name}.npy"), npy(80, length, &values));
            let line = |row: usize| {
                let split = if row < 60 { "train" } else { "val" };
                format!("{{\"id\":\"{name}{row}\",\"label\":\"class {}\",\"split\":\"{split}\"}}\n", row % 5)
            };
            folder.write(&format!("features/{name}.jsonl"), (0..80).map(line).collect::<String>());
        }
        folder
    }

    fn train_command(&self, out: &str, more: &[&str]) -> Command {
        self.command(&[&["train", "--features", "@features", "--out", &format!("@{out}")], more].concat())
    }

    fn train(&self, out: &str, more: &[&str]) -> Output {
        self.train_command(out, more).output().unwrap()
    }
}

#[test]
fn an_interrupted_run_resumes_to_the_same_bytes() {
    let folder = TestFolder::with_training_features();
    let options = ["--epochs", "300", "--batch", "16"];
    let whole = folder.train("whole.safetensors", &options);
    assert!(whole.status.success(), "{}", output_text(&whole));
    assert!(output_text(&whole).contains("validation mAP@10"), "{}", output_text(&whole));

    let mut child = folder.train_command("cut.safetensors", &options).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let mut lines = stderr.lines();
    assert!(lines.by_ref().any(|line| line.unwrap().contains("epoch   3")));
    send_signal(&child, Signal::INT);
    assert!(lines.any(|line| line.unwrap().contains("with --resume to continue")));
    assert_eq!(child.wait().unwrap().code(), Some(130));

    let again = folder.train("cut.safetensors", &options);
    assert_eq!(again.status.code(), Some(2));
    assert!(output_text(&again).contains("--resume"), "{}", output_text(&again));
    let resumed = folder.train("cut.safetensors", &[&options[..], &["--resume"]].concat());
    assert!(resumed.status.success(), "{}", output_text(&resumed));
    for ending in ["safetensors", "csv", "svg"] {
        assert!(folder.read(&format!("whole.{ending}")) == folder.read(&format!("cut.{ending}")), "{ending}");
    }
    assert!(!folder.path("cut.safetensors.resume").exists());
}

#[test]
fn a_killed_run_resumes_from_its_last_epoch_to_the_same_bytes() {
    let folder = TestFolder::with_training_features();
    let options = ["--epochs", "200", "--batch", "16"];
    assert!(folder.train("whole.safetensors", &options).status.success());
    let mut child = folder.train_command("cut.safetensors", &options).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.by_ref().any(|line| line.unwrap().contains("epoch   4")));
    child.kill().unwrap();
    child.wait().unwrap();
    let resumed = folder.train("cut.safetensors", &[&options[..], &["--resume"]].concat());
    assert!(resumed.status.success(), "{}", output_text(&resumed));
    assert!(folder.read("whole.safetensors") == folder.read("cut.safetensors"));
    assert_eq!(folder.read("whole.csv"), folder.read("cut.csv"));
}

#[test]
fn search_accepts_only_folded_models() {
    let folder = TestFolder::with_training_features();
    let trained = folder.train("model.safetensors", &["--epochs", "2", "--loss", "triplet"]);
    assert!(trained.status.success(), "{}", output_text(&trained));
    let index = |checkpoint: &str| {
        let output = folder.run(&["index", "--checkpoint", checkpoint, "@model.safetensors"]);
        assert_eq!(output.status.code(), Some(2));
        output_text(&output)
    };
    assert!(index("@model.safetensors").contains("reelseek fold"), "{}", index("@model.safetensors"));
    let output = folder.run(&["fold", "@model.safetensors", "--out", "@folded.safetensors"]);
    assert!(output.status.success(), "{}", output_text(&output));
    assert!(index("@folded.safetensors").contains("made for the encoder unknown"), "{}", index("@folded.safetensors"));
    let again = folder.run(&["fold", "@model.safetensors", "--out", "@folded.safetensors"]);
    assert!(!again.status.success() && output_text(&again).contains("--force"), "{}", output_text(&again));
    let twice = folder.run(&["fold", "@folded.safetensors", "--out", "@x"]);
    assert!(output_text(&twice).contains("folded already"), "{}", output_text(&twice));
}

#[test]
fn keeps_existing_files_and_names_invalid_options() {
    let folder = TestFolder::with_training_features();
    folder.write("a.csv", "mine");
    let refused = |out: &str, more: &[&str], word: &str| {
        let output = folder.train(out, more);
        assert_eq!(output.status.code(), Some(2), "{more:?}");
        assert!(output_text(&output).contains(word), "{more:?}: {}", output_text(&output));
    };
    refused("a.safetensors", &[], "a.csv exists");
    assert_eq!(folder.read("a.csv"), b"mine");
    refused("b.safetensors", &["--multiple", "2"], "multiple is 2");
    refused("b.safetensors", &["--multiple", "2.5"], "2.5");
    refused("b.safetensors", &["--boundary", "1"], "boundary is 1");
    refused("b.safetensors", &["--temperature", "0"], "temperature is 0");
    refused("b.safetensors", &["--device", "cuda"], "--features cuda");
    refused("b.safetensors", &["--resume"], "there is no interrupted run");
    refused("b.safetensors", &["--learning-rate", "1e9", "--batch", "16"], "diverged");
    refused("b.safetensors", &["--held-out", "1"], "held-out is 1");
    refused("no/such/folder/b.safetensors", &[], "cannot be written");
    std::fs::create_dir(folder.path("c.safetensors")).unwrap();
    refused("c.safetensors", &["--force"], "is a folder");
    let output = folder.run(&["train", "--boundary", "0.2", "--videos", "@a.csv", "--out", "@d.safetensors"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output_text(&output).contains("start from a fit"), "{}", output_text(&output));
    refused("b.svg", &[], "learning curve");
    assert!(!folder.path("b.safetensors").exists());
}
