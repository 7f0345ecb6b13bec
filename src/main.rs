//! The `lorakit` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    lorakit::cli::main()
}
