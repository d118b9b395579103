//! Training through the real binary: features of the contract, interruption, resuming, folding.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const IMAGE: usize = 6;
const VIDEO: usize = 11;

struct Place(tempfile::TempDir);

impl Place {
    /// Features of 5 classes around class means: 60 images and videos to train on, 20 to validate.
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        for (name, length) in [("images", IMAGE), ("videos", VIDEO)] {
            let value = |row: usize, i: usize| {
                let mean = ((row % 5 * 7 + i * 3 + length) % 13) as f32 / 6.0 - 1.0;
                mean + ((row * 31 + i * 17) % 11) as f32 / 60.0
            };
            let values: Vec<f32> = (0..80 * length).map(|at| value(at / length, at % length)).collect();
            std::fs::write(place.path(&format!("{name}.npy")), npy(80, length, &values)).unwrap();
            let line = |row: usize| {
                let split = if row < 60 { "train" } else { "val" };
                format!("{{\"id\":\"{name}{row}\",\"label\":\"class {}\",\"split\":\"{split}\"}}\n", row % 5)
            };
            std::fs::write(place.path(&format!("{name}.jsonl")), (0..80).map(line).collect::<String>()).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn train(&self, out: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reelseek"));
        command.args(["train", "--features"]).arg(self.0.path()).arg("--out").arg(self.path(out)).args(more);
        command.stdin(Stdio::null());
        command
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }
}

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

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn reelseek(arguments: &[&str], paths: &[(&str, &Path)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reelseek"));
    command.args(arguments);
    for (option, path) in paths {
        if !option.is_empty() {
            command.arg(option);
        }
        command.arg(path);
    }
    command.output().unwrap()
}

#[test]
fn an_interrupted_run_resumes_to_the_same_bytes() {
    let place = Place::new();
    let options = ["--epochs", "300", "--batch", "16"];
    let whole = place.train("whole.safetensors", &options).output().unwrap();
    assert!(whole.status.success(), "{}", said(&whole));
    assert!(said(&whole).contains("validation mAP@10"), "{}", said(&whole));

    let mut child = place.train("cut.safetensors", &options).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let mut lines = stderr.lines();
    assert!(lines.by_ref().any(|line| line.unwrap().contains("epoch   3")));
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(lines.any(|line| line.unwrap().contains("with --resume to continue")));
    assert_eq!(child.wait().unwrap().code(), Some(130));

    let again = place.train("cut.safetensors", &options).output().unwrap();
    assert_eq!(again.status.code(), Some(2));
    assert!(said(&again).contains("--resume"), "{}", said(&again));
    let resumed = place.train("cut.safetensors", &[&options[..], &["--resume"]].concat()).output().unwrap();
    assert!(resumed.status.success(), "{}", said(&resumed));
    for ending in ["safetensors", "csv", "svg"] {
        assert!(place.bytes(&format!("whole.{ending}")) == place.bytes(&format!("cut.{ending}")), "{ending}");
    }
    assert!(!place.path("cut.safetensors.resume").exists());
}

#[test]
fn a_killed_run_resumes_from_its_last_epoch_to_the_same_bytes() {
    let place = Place::new();
    let options = ["--epochs", "200", "--batch", "16"];
    assert!(place.train("whole.safetensors", &options).output().unwrap().status.success());
    let mut child = place.train("cut.safetensors", &options).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.by_ref().any(|line| line.unwrap().contains("epoch   4")));
    child.kill().unwrap();
    child.wait().unwrap();
    let resumed = place.train("cut.safetensors", &[&options[..], &["--resume"]].concat()).output().unwrap();
    assert!(resumed.status.success(), "{}", said(&resumed));
    assert!(place.bytes("whole.safetensors") == place.bytes("cut.safetensors"));
    assert_eq!(place.bytes("whole.csv"), place.bytes("cut.csv"));
}

#[test]
fn search_accepts_only_folded_models() {
    let place = Place::new();
    let trained = place.train("model.safetensors", &["--epochs", "2", "--loss", "triplet"]).output().unwrap();
    assert!(trained.status.success(), "{}", said(&trained));
    let (model, folded) = (place.path("model.safetensors"), place.path("folded.safetensors"));
    let index = |checkpoint: &Path| {
        let output =
            reelseek(&["index"], &[("--index", &place.path("index")), ("--checkpoint", checkpoint), ("", &model)]);
        assert_eq!(output.status.code(), Some(2));
        said(&output)
    };
    assert!(index(&model).contains("reelseek fold"), "{}", index(&model));
    let output = reelseek(&["fold"], &[("", &model), ("--out", &folded)]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(index(&folded).contains("made for the encoder unknown"), "{}", index(&folded));
    let again = reelseek(&["fold"], &[("", &model), ("--out", &folded)]);
    assert!(!again.status.success() && said(&again).contains("--force"), "{}", said(&again));
    let twice = reelseek(&["fold"], &[("", &folded), ("--out", &place.path("x"))]);
    assert!(said(&twice).contains("folded already"), "{}", said(&twice));
}

#[test]
fn keeps_existing_files_and_names_invalid_options() {
    let place = Place::new();
    std::fs::write(place.path("a.csv"), "mine").unwrap();
    let refused = |out: &str, more: &[&str], word: &str| {
        let output = place.train(out, more).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{more:?}");
        assert!(said(&output).contains(word), "{more:?}: {}", said(&output));
    };
    refused("a.safetensors", &[], "a.csv exists");
    assert_eq!(place.bytes("a.csv"), b"mine");
    refused("b.safetensors", &["--multiple", "2"], "multiple is 2");
    refused("b.safetensors", &["--multiple", "2.5"], "2.5");
    refused("b.safetensors", &["--boundary", "1"], "boundary is 1");
    refused("b.safetensors", &["--temperature", "0"], "temperature is 0");
    refused("b.safetensors", &["--device", "cuda"], "--features cuda");
    refused("b.safetensors", &["--resume"], "there is no interrupted run");
    refused("b.safetensors", &["--learning-rate", "1e9", "--batch", "16"], "diverged");
    refused("b.safetensors", &["--held-out", "1"], "held-out is 1");
    refused("no/such/folder/b.safetensors", &[], "cannot be written");
    std::fs::create_dir(place.path("c.safetensors")).unwrap();
    refused("c.safetensors", &["--force"], "is a folder");
    let out = place.path("d.safetensors");
    let output = reelseek(&["train", "--boundary", "0.2", "--videos", "/nothing/here"], &[("--out", &out)]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("start from a fit"), "{}", said(&output));
    refused("b.svg", &[], "learning curve");
    assert!(!place.path("b.safetensors").exists());
}
