//! Options that several commands share.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::collection::ModelChoice;

/// Selects the index.
#[derive(Debug, Args)]
pub(super) struct IndexFolderArgs {
    /// Folder of the index
    #[arg(long, value_name = "DIR", env = "REELSEEK_INDEX", default_value = ".reelseek")]
    pub(super) index: PathBuf,
}

/// Selects the encoder and the checkpoint, for commands that index.
#[derive(Debug, Args)]
pub(super) struct ModelArgs {
    /// Encoder: a name that `reelseek encoders` lists, or onnx:FILE [default: the index's; layout for a new
    /// index]
    #[arg(long, value_name = "NAME")]
    encoder: Option<String>,
    /// Weights of the encoder [default: the downloaded ones]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Folded checkpoint [default: the index's; for a new index, the embedded one with layout, otherwise one
    /// fitted to the videos]
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
}

impl ModelArgs {
    pub(super) fn choice(&self) -> ModelChoice {
        let ModelArgs { encoder, weights, checkpoint } = self;
        ModelChoice { encoder: encoder.clone(), weights: weights.clone(), checkpoint: checkpoint.clone() }
    }
}

/// Files to use instead of the index's own checkpoint and weights, for commands that search.
#[derive(Debug, Args)]
pub(super) struct StoredModelArgs {
    /// Folded checkpoint that the index was made with [default: the one in its folder]
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Weights of the index's encoder [default: the file that the index was made with]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
}

impl StoredModelArgs {
    pub(super) fn choice(&self) -> ModelChoice {
        ModelChoice { encoder: None, weights: self.weights.clone(), checkpoint: self.checkpoint.clone() }
    }
}

/// Parses a number from 0 to 1.
pub(super) fn share(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("expected a number from 0 to 1".to_owned()),
    }
}

/// Parses a whole number above 0.
pub(super) fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "expected a whole number above 0".to_owned())
}

/// Refuses paths where nothing exists, before any work is done.
#[cfg(feature = "research")]
pub(super) fn check_exist(paths: &[PathBuf]) -> anyhow::Result<()> {
    paths.iter().try_for_each(|path| std::fs::metadata(path).map(drop).with_context(|| path.display().to_string()))
}

/// Largest size of a pattern in bytes.
const MAX_PATTERN_BYTES: usize = 4096;
/// Most alternatives `{a,b}` in a pattern. The compiler of patterns calls itself for each that is within
/// another.
const MAX_ALTERNATIVES: usize = 100;

/// Compiles the patterns of `--exclude`.
pub(super) fn globs(patterns: &[String]) -> anyhow::Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let (bytes, alternatives) = (pattern.len(), pattern.matches('{').count());
        if bytes > MAX_PATTERN_BYTES || alternatives > MAX_ALTERNATIVES {
            let start: String = pattern.chars().take(40).collect();
            bail!(
                "--exclude {start}...: found {bytes} bytes with {alternatives} opening braces, expected at most \
                 {MAX_PATTERN_BYTES} and {MAX_ALTERNATIVES}"
            );
        }
        set.add(Glob::new(pattern).with_context(|| format!("--exclude {pattern}"))?);
    }
    set.build().context("--exclude")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_patterns_are_compiled_or_refused_on_a_small_stack() {
        let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(|| {
            for piece in ["{", "{a,", "[", "*", "**/", "?", "{a,{b,c}}", "[!a-z]", "\\", "}", "{}"] {
                for count in [1, 99, 100, 101, 5000, 100_000] {
                    for pattern in [piece.repeat(count), format!("{}{}", piece.repeat(count), "}".repeat(count))] {
                        let bytes = pattern.len();
                        if let Err(error) = globs(&[pattern]) {
                            let text = error.to_string();
                            assert!(text.contains("--exclude"), "{bytes}: {text}");
                        } else {
                            assert!(bytes <= MAX_PATTERN_BYTES);
                        }
                    }
                }
            }
        });
        thread.unwrap().join().unwrap();
        let set = globs(&["*.part".to_owned(), "{a,b}/*".to_owned()]).unwrap();
        assert!(set.is_match("x.part") && set.is_match("b/c") && !set.is_match("c/d"));
    }
}
