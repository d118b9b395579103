//! The program `reelseek`. See `reelseek --help`, and the tour in the documentation of the library.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    // Without this, a file of the index that another process truncates ends the program.
    reelseek_index::install_sigbus_guard();
    reelseek::cli::main()
}
