//! Options that several commands share.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::collection::{ModelChoice, ModelChoices};
use crate::ingest::IndexOptions;
use crate::search::MatchChoice;

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

/// Selects the spaces, and the model of the kind space, for commands that index.
#[derive(Debug, Args)]
pub(super) struct KindModelArgs {
    /// What searches are to find: the same scene only, or also the same kind of scene [default: both if the
    /// index has a kind space or an encoder is known for it]
    #[arg(long = "match", value_name = "MATCH")]
    matching: Option<IndexMatch>,
    /// Encoder of the kind space: a name that `reelseek encoders` lists, or onnx:FILE [default: the index's]
    #[arg(long, value_name = "NAME")]
    kind_encoder: Option<String>,
    /// Weights of that encoder [default: the downloaded ones]
    #[arg(long, value_name = "FILE")]
    kind_weights: Option<PathBuf>,
    /// Folded checkpoint of the kind space [default: the index's; for a new space one that is fitted to the
    /// videos]
    #[arg(long, value_name = "FILE")]
    kind_checkpoint: Option<PathBuf>,
}

/// The spaces that a run of `index` fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum IndexMatch {
    Scene,
    Both,
}

impl KindModelArgs {
    /// The options with these spaces.
    pub(super) fn apply(&self, options: IndexOptions) -> anyhow::Result<IndexOptions> {
        let scene_only = self.matching == Some(IndexMatch::Scene);
        let choice = ModelChoice {
            encoder: self.kind_encoder.clone(),
            weights: self.kind_weights.clone(),
            checkpoint: self.kind_checkpoint.clone(),
        };
        if scene_only && choice != ModelChoice::default() {
            bail!("--match scene leaves out the kind space, for which --kind-encoder and similar options are");
        }
        Ok(options.kind_model(choice).scene_only(scene_only))
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
    /// Folded checkpoint of the kind space [default: the one in its folder]
    #[arg(long, value_name = "FILE")]
    kind_checkpoint: Option<PathBuf>,
    /// Weights of the kind space's encoder [default: the file that the space was made with]
    #[arg(long, value_name = "FILE")]
    kind_weights: Option<PathBuf>,
}

impl StoredModelArgs {
    pub(super) fn choices(&self) -> ModelChoices {
        let choice = |weights: &Option<PathBuf>, checkpoint: &Option<PathBuf>| ModelChoice {
            encoder: None,
            weights: weights.clone(),
            checkpoint: checkpoint.clone(),
        };
        ModelChoices {
            scene: choice(&self.weights, &self.checkpoint),
            kind: choice(&self.kind_weights, &self.kind_checkpoint),
        }
    }
}

/// The spaces that a search uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum SearchMatch {
    /// The same scene
    Scene,
    /// The same kind of scene
    Kind,
    /// The same scene first, then the same kind, as far as the index has both
    #[default]
    Both,
}

impl From<SearchMatch> for MatchChoice {
    fn from(matching: SearchMatch) -> MatchChoice {
        match matching {
            SearchMatch::Scene => MatchChoice::Scene,
            SearchMatch::Kind => MatchChoice::Kind,
            SearchMatch::Both => MatchChoice::Both,
        }
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
