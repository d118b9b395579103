//! The command line: parses arguments, calls the library, prints the results. Data is written to standard
//! output, everything else to standard error.
//!
//! | part | content |
//! |---|---|
//! | `commands` | one file for each command |
//! | `research` | the commands that train and measure (Cargo feature `research`) |
//! | `args` | options that several commands share |
//! | `output` | the JSON that is printed |
//! | `advice` | what to do about an error: one `match` for each error type |
//! | `terminal` | everything that is printed: lines, notes, errors, progress; Ctrl-C |

mod advice;
mod args;
mod commands;
mod output;
#[cfg(feature = "research")]
mod research;
mod terminal;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::base::visible;
use commands::{compact, completions, encoders, index, info, man, remove, search, verify};

/// Exit status: nothing found, or below the requested floor.
const FOUND_NOTHING: u8 = 1;
/// Exit status: an error.
const FAILED: u8 = 2;
/// Exit status: interrupted by a signal, 128 + SIGINT as in shells.
const INTERRUPTED: u8 = 130;

/// Find the videos, and the moment in each, that show what a picture shows.
#[derive(Debug, Parser)]
#[command(name = "reelseek", version, propagate_version = true, after_help = AFTER_HELP)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "Exit status:
  0    done
  1    nothing found (search, remove), or below the requested floor (quality, eval)
  2    error
  130  interrupted; index and train keep what is finished

Environment:
  REELSEEK_INDEX   folder of the index
  REELSEEK_FFMPEG  the ffmpeg program
  REELSEEK_CACHE   folder of the encoders' weights and of the server's previews
  HF_ENDPOINT      address of the hub that weights are downloaded from
  HF_HUB_OFFLINE   1 to download nothing";

#[derive(Debug, Subcommand)]
enum Command {
    /// Index video files and folders; unchanged files are skipped
    Index(index::IndexArgs),
    /// Find the videos, and the moment in each, that show what a picture shows
    Search(search::SearchArgs),
    /// Serve the web page and the HTTP API
    #[cfg(feature = "serve")]
    Serve(commands::serve::ServeArgs),
    /// Print what an index contains
    Info(info::InfoArgs),
    /// Check every file of an index against its checksum
    Verify(verify::VerifyArgs),
    /// Remove videos from an index; the video files are not touched
    Remove(remove::RemoveArgs),
    /// Merge the segments of an index and drop deleted rows
    Compact(compact::CompactArgs),
    /// List the encoders, or download their weights
    Encoders(encoders::EncodersArgs),
    #[cfg(feature = "research")]
    #[command(flatten)]
    Research(research::ResearchCommand),
    /// Print a shell completion script
    Completions(completions::CompletionsArgs),
    /// Write the man pages into a folder
    #[command(hide = true)]
    Man(man::ManArgs),
}

/// The arguments of the process. Ends the process if they are wrong, or ask for help.
fn command_line() -> CommandLine {
    CommandLine::try_parse().unwrap_or_else(|error| {
        // The message contains arguments. Escaped arguments are wrong in the same way, and safe to print.
        let arguments = std::env::args_os().map(|argument| visible::line(&argument.to_string_lossy()).into_owned());
        CommandLine::try_parse_from(arguments).err().unwrap_or(error).exit()
    })
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    terminal::report_panics();
    let outcome = match command_line().command {
        Command::Index(args) => index::run(&args),
        Command::Search(args) => search::run(&args),
        #[cfg(feature = "serve")]
        Command::Serve(args) => commands::serve::run(args),
        Command::Info(args) => info::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Remove(args) => remove::run(&args),
        Command::Compact(args) => compact::run(&args),
        Command::Encoders(args) => encoders::run(&args),
        #[cfg(feature = "research")]
        Command::Research(command) => research::run(&command),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    };
    match outcome {
        Ok(code) => code,
        // The process that read the output has ended, as in `| head`.
        Err(error) if terminal::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::print_error(&error);
            ExitCode::from(FAILED)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        CommandLine::command().debug_assert();
    }
}
