//! `lpp-api`: what `scripts/demo` asks and tells an API server, also where there is no kubectl. Prints what it gets;
//! understands nothing of it.

use bench::client::{Client, Result};
use serde_json::Value;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "\
Usage: lpp-api COMMAND...   (the server is that of $KUBECONFIG)

  get PATH [POINTER]            print an object, or the value at a JSON pointer in it
  table PATH                    print what `kubectl get` would
  post PATH                     create the object on standard input
  patch PATH JSON               merge-patch
  delete PATH                   delete; what is gone already is well
  sweep PATH TEXT               delete the objects of the list that hold TEXT anywhere
  wait PATH POINTER TEXT S      wait S seconds at most until the value there is TEXT; with POINTER `-`: until it is gone
  page HOST:PORT PATH           print a page of plain HTTP
  json POINTER                  print the value at a pointer of the document on standard input
  device PATH POINTER           the same below the device with that path in the /status on standard input
";

/// What a table leaves out, as `kubectl get` does without `-o wide`.
const NARROW: i64 = 0;
const POLL: Duration = Duration::from_millis(50);

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn input() -> Result<Value> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}

fn at(value: &Value, pointer: &str) -> Result<String> {
    match value.pointer(pointer) {
        Some(value) => Ok(shown(value)),
        None => Err(format!("there is nothing at {pointer}").into()),
    }
}

fn table(document: &Value) -> String {
    let empty = Vec::new();
    let columns = document["columnDefinitions"].as_array().unwrap_or(&empty);
    let wanted: Vec<usize> = (0..columns.len()).filter(|i| columns[*i]["priority"].as_i64() == Some(NARROW)).collect();
    let mut rows: Vec<Vec<String>> = vec![wanted.iter().map(|i| shown(&columns[*i]["name"]).to_uppercase()).collect()];
    for row in document["rows"].as_array().unwrap_or(&empty) {
        rows.push(wanted.iter().map(|i| shown(&row["cells"][*i])).collect());
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..wanted.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}   "));
        cells.collect::<String>().trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn wait(client: &mut Client, path: &str, pointer: &str, text: &str, seconds: &str) -> Result<String> {
    let end = Instant::now() + Duration::from_secs(seconds.parse()?);
    loop {
        let answer = client.get(path)?;
        let seen = match answer.code {
            404 if pointer == "-" => return Ok(String::new()),
            404 => "no object".to_owned(),
            _ if pointer == "-" => "an object".to_owned(),
            _ => answer.good()?.pointer(pointer).map(shown).unwrap_or_default(),
        };
        if pointer != "-" && seen == text {
            return Ok(String::new());
        }
        if Instant::now() > end {
            let wanted = if pointer == "-" { "nothing".to_owned() } else { format!("{text} at {pointer}") };
            return Err(format!("{path}: after {seconds} s there is {seen}, not {wanted}").into());
        }
        std::thread::sleep(POLL);
    }
}

fn sweep(client: &mut Client, path: &str, text: &str) -> Result<String> {
    let list = client.get(path)?.good()?;
    let collection = path.split('?').next().unwrap_or(path);
    for item in list["items"].as_array().ok_or("that is no list")? {
        if item.to_string().contains(text) {
            let answer = client.delete(&format!("{collection}/{}", shown(&item["metadata"]["name"])))?;
            if answer.code != 404 {
                answer.good()?;
            }
        }
    }
    Ok(String::new())
}

fn run(arguments: &[&str]) -> Result<String> {
    match arguments {
        ["page", address, path] => {
            let (host, port) = address.rsplit_once(':').ok_or("HOST:PORT")?;
            let answer = Client::plain(host, port.parse()?).get(path)?;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            return if answer.code == 200 { Ok(text) } else { Err(format!("{}: {text}", answer.code).into()) };
        }
        ["json", pointer] => return at(&input()?, pointer),
        ["device", path, pointer] => {
            let status = input()?;
            let devices = status["devices"].as_array().ok_or("no devices")?;
            let device = devices.iter().find(|device| device["path"] == *path).ok_or("no such device")?;
            return at(device, pointer);
        }
        _ => {}
    }
    let mut client = Client::new(None)?;
    match arguments {
        ["get", path] => Ok(client.get(path)?.good()?.to_string()),
        ["get", path, pointer] => at(&client.get(path)?.good()?, pointer),
        ["table", path] => Ok(table(&client.table(path)?.good()?)),
        ["post", path] => {
            client.post(path, &input()?)?.good()?;
            Ok(String::new())
        }
        ["patch", path, patch] => {
            client.patch(path, &serde_json::from_str(patch)?)?.good()?;
            Ok(String::new())
        }
        ["delete", path] => {
            let answer = client.delete(path)?;
            if answer.code != 404 {
                answer.good()?;
            }
            Ok(String::new())
        }
        ["sweep", path, text] => sweep(&mut client, path, text),
        ["wait", path, pointer, text, seconds] => wait(&mut client, path, pointer, text, seconds),
        _ => Err(format!("that is not how it is used\n{USAGE}").into()),
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let [] | ["-h" | "--help"] = arguments[..] {
        let written = io::stdout().write_all(USAGE.as_bytes());
        return if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    match run(&arguments) {
        Ok(text) => {
            let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
            let written = write!(io::stdout(), "{text}{end}");
            if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            // Nothing is left to do about a closed stderr.
            let _ = writeln!(io::stderr(), "lpp-api {}: {error}", arguments.join(" "));
            ExitCode::FAILURE
        }
    }
}
