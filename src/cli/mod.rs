//! Arguments in, library call, output. Data goes to standard output, talk to standard error.

mod api;
mod dataset;
mod encoders;
mod eval;
mod extract;
mod fold;
mod gallery;
mod index;
mod kinds;
mod manage;
mod model;
mod quality;
mod search;
mod serve;
mod talk;
mod train;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// What the process ends with.
const FOUND_NOTHING: u8 = 1;
const FAILED: u8 = 2;
/// 128 + SIGINT, as shells say it.
const INTERRUPTED: u8 = 130;

/// Give it a picture; it finds the videos, and the moment in each, that show the same scene.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, after_help = EXIT)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT: &str = "Exit status: 0 done, 1 nothing found (search) or below the asked floor (quality, eval), 2 error, 130 interrupted (index and train keep what was finished).

Environment: REELSEEK_INDEX folder of the index; REELSEEK_FFMPEG the ffmpeg program; REELSEEK_CACHE folder of encoders' weights and of previews;
HF_ENDPOINT, HF_HUB_OFFLINE where weights are fetched from, and that none are.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Make videos searchable: files or folders, only what is new or changed
    Index(index::Arguments),
    /// Find the videos, and the moment in each, that show what a picture shows
    Search(search::Arguments),
    /// Serve the web page and the HTTP API
    Serve(serve::Arguments),
    /// Show what an index holds
    Info(manage::Info),
    /// Check every file of an index against its checksum
    Verify(manage::Verify),
    /// Take videos out of an index (the files themselves are not touched)
    Remove(manage::Remove),
    /// Merge the segments of an index and drop what was removed
    Compact(manage::Compact),
    /// Measure the answers: distorted frames of the indexed videos as queries
    Quality(quality::Arguments),
    /// Measure the answers: photographs of the same kind of scene as queries
    Kinds(kinds::Arguments),
    /// Train a model on features, or on your own videos without labels
    Train(train::Arguments),
    /// Make a feature set of videos, or of features that others extracted
    Extract(extract::Arguments),
    /// Write the list of a retrieval benchmark: which frames are asked for, among which clips
    #[command(subcommand)]
    Dataset(dataset::Command),
    /// Measure image-to-video retrieval on features: mAP@k and the paper's Table 3
    Eval(eval::Arguments),
    /// Fold a trained model into the small checkpoint that `index` and `search` use
    Fold(fold::Arguments),
    /// List the encoders, or fetch the weights of some
    Encoders(encoders::Arguments),
}

/// Which index.
#[derive(Debug, Args)]
struct IndexFolder {
    /// Folder of the index
    #[arg(long, value_name = "DIR", env = "REELSEEK_INDEX", default_value = ".reelseek")]
    index: PathBuf,
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    #[cfg(feature = "onnx")]
    crate::encode::hide_caught_panics();
    let outcome = match cli.command {
        Command::Index(arguments) => index::run(&arguments),
        Command::Search(arguments) => search::run(&arguments),
        Command::Serve(arguments) => serve::run(arguments),
        Command::Info(arguments) => manage::info(&arguments),
        Command::Verify(arguments) => manage::verify(&arguments),
        Command::Remove(arguments) => manage::remove(&arguments),
        Command::Compact(arguments) => manage::compact(&arguments),
        Command::Quality(arguments) => quality::run(&arguments),
        Command::Kinds(arguments) => kinds::run(&arguments),
        Command::Train(arguments) => train::run(&arguments),
        Command::Extract(arguments) => extract::run(&arguments),
        Command::Dataset(command) => dataset::run(&command),
        Command::Eval(arguments) => eval::run(&arguments),
        Command::Fold(arguments) => fold::run(&arguments),
        Command::Encoders(arguments) => encoders::run(&arguments),
    };
    match outcome {
        Ok(code) => code,
        // The reader of our output has gone (`| head`): nothing is left to say.
        Err(error) if talk::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            talk::error(&error);
            ExitCode::from(FAILED)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_sound() {
        Cli::command().debug_assert();
    }
}
