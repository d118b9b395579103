//! The program `reelseek`: see `reelseek --help`, and the tour in the library's documentation.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    reelseek::cli::main()
}
