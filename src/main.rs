//! The `pgshunt` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    pgshunt::cli::run()
}
