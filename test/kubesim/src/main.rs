//! The `kubesim` program: a server for the demo that runs until it is killed.

use std::io::{self, Write};
use std::process::ExitCode;

use kubesim::Server;

const USAGE: &str = "\
Usage: kubesim [--listen ADDR] [--kubeconfig FILE] [--load FILE.json]...

  --listen ADDR      address to serve on (default 127.0.0.1:0: a free port)
  --kubeconfig FILE  write a kubeconfig for this server
  --load FILE.json   create the objects of a JSON document: one object, a List, or an array
  -h, --help         this text
";

struct Options {
    listen: String,
    kubeconfig: Option<String>,
    load: Vec<String>,
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut options = Options { listen: "127.0.0.1:0".to_owned(), kubeconfig: None, load: Vec::new() };
    while let Some(argument) = arguments.next() {
        let (flag, inline) = match argument.split_once('=') {
            Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        if matches!(flag.as_str(), "-h" | "--help") {
            return Ok(None);
        }
        let mut value = || inline.clone().or_else(|| arguments.next()).ok_or_else(|| format!("{flag} needs a value"));
        match flag.as_str() {
            "--listen" => options.listen = value()?,
            "--kubeconfig" => options.kubeconfig = Some(value()?),
            "--load" => options.load.push(value()?),
            other => return Err(format!("unknown argument {other}")),
        }
    }
    Ok(Some(options))
}

fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::start_on(&options.listen)?;
    for file in &options.load {
        let document = serde_json::from_slice(&std::fs::read(file)?)?;
        server.load(&document).map_err(|e| format!("{file}: {e}"))?;
    }
    if let Some(file) = &options.kubeconfig {
        server.write_kubeconfig(file)?;
    }
    writeln!(io::stdout(), "{}", server.url())?;
    loop {
        std::thread::park();
    }
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            let written = io::stdout().write_all(USAGE.as_bytes());
            return if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        Err(message) => {
            // Nothing is left to do about a closed stderr.
            let _ = write!(io::stderr(), "kubesim: {message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "kubesim: {error}");
            ExitCode::FAILURE
        }
    }
}
