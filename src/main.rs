//! The program `reelseek`. See `reelseek --help`, and the tour in the documentation of the library.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    reelseek::cli::main()
}
