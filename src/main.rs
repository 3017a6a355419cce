//! The program: which subcommand, and the exit code. Everything else is the library's.

use local_pv_provisioner::cli::{self, Invocation};
use local_pv_provisioner::model::chain::chain;
use local_pv_provisioner::{cleanup, daemon, logging, plan};
use std::io::Write;
use std::process::ExitCode;

/// Could not start, or a part of it failed.
const FAILED: u8 = 1;
/// Bad flags.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    let outcome = match cli::parse(std::env::args_os(), in_pod) {
        Ok(Invocation::Print(text)) => return print(&text),
        Ok(Invocation::Run(options)) => {
            logging::init(options.node.log_level, options.node.development);
            daemon::run(options).map_err(|error| chain(&error))
        }
        Ok(Invocation::Plan(options)) => {
            logging::init(log::LevelFilter::Warn.min(options.node.log_level), true);
            match plan::run(&options) {
                Ok(text) => return print(&text),
                Err(error) => Err(chain(&error)),
            }
        }
        Ok(Invocation::Clean(options)) => {
            logging::init(log::LevelFilter::Info, true);
            cleanup::run(&options).map_err(|error| chain(&error))
        }
        Err(error) => return complain(&error.to_string(), USAGE),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error, FAILED),
    }
}

fn print(text: &str) -> ExitCode {
    // A reader that has closed the pipe has read enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn complain(problem: &str, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "local-pv-provisioner: {problem}");
    ExitCode::from(code)
}
