//! Owns a naive HTTP client and the objects that the tests share. Naive on purpose: what it cannot read, a strict
//! client cannot read either.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use kubesim::Server;
use serde_json::{Value, json};

pub const PV: &str = "/api/v1/persistentvolumes";
pub const CM: &str = "/api/v1/namespaces/default/configmaps";
pub const MERGE: &str = "application/merge-patch+json";

/// An answer, read whole.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Code and reason of a `Status`.
    pub fn failure(&self) -> (u16, String) {
        let v = self.json();
        assert_eq!(v["kind"], "Status", "{}", self.body);
        assert_eq!(v["code"], self.status);
        (self.status, v["reason"].as_str().unwrap_or("").to_owned())
    }
}

/// One connection, kept alive.
pub struct Client {
    reader: BufReader<TcpStream>,
    pub token: Option<String>,
}

impl Client {
    pub fn new(server: &Server) -> Self {
        let stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { reader: BufReader::new(stream), token: None }
    }

    pub fn set_patience(&self, patience: Duration) {
        self.reader.get_ref().set_read_timeout(Some(patience)).unwrap();
    }

    fn send(&mut self, method: &str, target: &str, kind: &str, body: &str) -> io::Result<()> {
        let token = self.token.as_ref().map(|t| format!("Authorization: Bearer {t}\r\n")).unwrap_or_default();
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: x\r\nUser-Agent: naive/1\r\nContent-Type: {kind}\r\n{token}Content-Length: {}\r\n\r\n",
            body.len()
        );
        self.reader.get_mut().write_all(head.as_bytes())?;
        self.reader.get_mut().write_all(body.as_bytes())
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    fn head(&mut self) -> io::Result<(u16, Vec<(String, String)>)> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { return Ok((status, headers)) };
            headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
    }

    /// A request with a body of the given type.
    pub fn try_send(&mut self, method: &str, target: &str, kind: &str, body: &str) -> io::Result<Reply> {
        self.send(method, target, kind, body)?;
        let (status, headers) = self.head()?;
        let length = headers.iter().find(|(n, _)| n == "content-length").unwrap().1.parse().unwrap();
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body)?;
        Ok(Reply { status, headers, body: String::from_utf8(body).unwrap() })
    }

    pub fn request(&mut self, method: &str, target: &str, body: Option<&Value>) -> Reply {
        let text = body.map(Value::to_string).unwrap_or_default();
        self.try_send(method, target, "application/json", &text).unwrap()
    }

    pub fn get(&mut self, target: &str) -> Reply {
        self.request("GET", target, None)
    }

    pub fn post(&mut self, target: &str, body: &Value) -> Reply {
        self.request("POST", target, Some(body))
    }

    pub fn put(&mut self, target: &str, body: &Value) -> Reply {
        self.request("PUT", target, Some(body))
    }

    pub fn patch(&mut self, target: &str, kind: &str, body: &Value) -> Reply {
        self.try_send("PATCH", target, kind, &body.to_string()).unwrap()
    }

    pub fn delete(&mut self, target: &str, options: &Value) -> Reply {
        self.request("DELETE", target, Some(options))
    }

    /// Starts a watch; the connection is its own from here on.
    pub fn watch(mut self, target: &str) -> Result<Stream, Reply> {
        self.send("GET", target, "", "").unwrap();
        let (status, headers) = self.head().unwrap();
        if headers.iter().any(|(n, v)| n == "transfer-encoding" && v == "chunked") {
            assert_eq!(status, 200);
            return Ok(Stream { client: self, pending: String::new() });
        }
        let length: usize = headers.iter().find(|(n, _)| n == "content-length").unwrap().1.parse().unwrap();
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body).unwrap();
        Err(Reply { status, headers, body: String::from_utf8(body).unwrap() })
    }
}

/// An open watch.
pub struct Stream {
    client: Client,
    pending: String,
}

impl Stream {
    /// The next line; `None` at the orderly end; an error when cut or when patience is over.
    pub fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some((line, rest)) = self.pending.split_once('\n') {
                let line = line.to_owned();
                self.pending = rest.to_owned();
                return Ok(Some(line));
            }
            let size = usize::from_str_radix(&self.client.line()?, 16).unwrap();
            let mut chunk = vec![0; size + 2];
            self.client.reader.read_exact(&mut chunk)?;
            if size == 0 {
                return Ok(None);
            }
            self.pending.push_str(std::str::from_utf8(&chunk[..size]).unwrap());
        }
    }

    /// What arrived of a line that was never finished.
    pub fn fragment(&self) -> &str {
        &self.pending
    }

    /// Type, name and object of the next event.
    pub fn event(&mut self) -> (String, String, Value) {
        let line = self.line().unwrap().unwrap();
        let v: Value = serde_json::from_str(&line).unwrap();
        let name = v["object"]["metadata"]["name"].as_str().unwrap_or("").to_owned();
        (v["type"].as_str().unwrap().to_owned(), name, v["object"].clone())
    }

    /// The next event without its object.
    pub fn short(&mut self) -> (String, String) {
        let (kind, name, _) = self.event();
        (kind, name)
    }

    pub fn set_patience(&self, patience: Duration) {
        self.client.set_patience(patience);
    }
}

pub fn config_map(name: &str, value: &str) -> Value {
    json!({ "metadata": { "name": name }, "data": { "k": value } })
}

/// A local volume on node n1.
pub fn volume(name: &str, size: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": name },
        "spec": {
            "capacity": { "storage": size }, "accessModes": ["ReadWriteOnce"], "volumeMode": "Block",
            "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "local", "local": { "path": "/dev/sdb" },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                { "key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"] }] }] } },
        },
    })
}

pub fn claim(name: &str, size: &str) -> Value {
    json!({
        "metadata": { "name": name },
        "spec": { "accessModes": ["ReadWriteOnce"], "volumeMode": "Block", "storageClassName": "local",
                  "resources": { "requests": { "storage": size } } },
    })
}

pub fn class(mode: &str) -> Value {
    json!({ "metadata": { "name": "local" }, "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": mode })
}

/// Long enough for a loaded machine.
pub const SOON: Duration = Duration::from_secs(10);

/// Waits until the phase of a volume is this one.
pub fn await_phase(server: &Server, resource: &str, name: &str, phase: &str) {
    let reached = server.wait_for(|s| s.get(resource, name).is_some_and(|v| v["status"]["phase"] == phase), SOON);
    assert!(reached, "{name} is not {phase}: {:?}", server.get(resource, name));
}
