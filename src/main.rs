//! The program: which subcommand, and the exit code. Everything else is the library's.

use local_pv_provisioner::cli::{self, Invocation, Surroundings};
use local_pv_provisioner::model::chain::chain;
use local_pv_provisioner::{clean_device, daemon, logging, node_cleanup, plan};
use std::io::Write;
use std::process::ExitCode;

/// Could not start, or a part of it failed.
const FAILED: u8 = 1;
/// Bad flags.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let outcome = match cli::parse(std::env::args_os(), &Surroundings::of_process()) {
        Ok(Invocation::Print(text)) => return print(&text),
        Ok(Invocation::Run(options)) => {
            logging::init(options.node.log_level, options.node.development);
            warn(&options.node.warnings);
            daemon::run(options).map_err(|error| chain(&error))
        }
        Ok(Invocation::NodeCleanup(options)) => {
            logging::init(options.log_level, options.development);
            node_cleanup::run(options).map_err(|error| chain(&error))
        }
        Ok(Invocation::Plan(options)) => {
            logging::init(log::LevelFilter::Warn.min(options.node.log_level), true);
            warn(&options.node.warnings);
            match plan::run(&options) {
                Ok(answer) => {
                    print(&answer.text);
                    if answer.broken.is_empty() { Ok(()) } else { Err(answer.broken.join("; ")) }
                }
                Err(error) => Err(chain(&error)),
            }
        }
        Ok(Invocation::Clean(options)) => {
            logging::init(log::LevelFilter::Info, true);
            clean_device::run(&options).map_err(|error| chain(&error))
        }
        Err(error) => return complain(&error.to_string(), USAGE),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error, FAILED),
    }
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        log::warn!("{warning}");
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
