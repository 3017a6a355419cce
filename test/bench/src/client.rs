//! HTTP/1.1 by hand, over TCP or TLS, to the server of a kubeconfig. One connection, kept open; a watch has its own.

use local_pv_provisioner::kube::config::{Auth, Config, read_token};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, RootCertStore, SignatureScheme, StreamOwned};
use serde_json::Value;
use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// A server that is silent for so long is not waited for.
const PATIENCE: Duration = Duration::from_secs(60);

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(s) => s.read(buf),
            Stream::Tls(s) => s.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(s) => s.write(buf),
            Stream::Tls(s) => s.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(s) => s.flush(),
            Stream::Tls(s) => s.flush(),
        }
    }
}

/// The client certificate of the kubeconfig.
#[derive(Debug)]
struct Identity(Arc<CertifiedKey>);

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// An answer: its HTTP code, and its body.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&self.body)?)
    }

    /// The object of a good answer; else the server's own words.
    pub fn good(&self) -> Result<Value> {
        if (200..300).contains(&self.code) {
            return self.json();
        }
        let message = self.json().ok().and_then(|status| Some(status["message"].as_str()?.to_owned()));
        Err(format!("{}: {}", self.code, message.unwrap_or_default()).into())
    }
}

pub struct Client {
    authority: String,
    address: (String, u16),
    base_path: String,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    token: Option<String>,
    connection: Option<BufReader<Stream>>,
}

impl Client {
    /// As `kubectl` finds it: the file, else `$KUBECONFIG`.
    pub fn new(kubeconfig: Option<&Path>) -> Result<Client> {
        let config = Config::load(kubeconfig, |name| std::env::var_os(name))?;
        let token = match &config.auth {
            Auth::None => None,
            Auth::Token(secret) => Some(secret.reveal().to_owned()),
            Auth::TokenFile(path) => Some(read_token(path)?.reveal().to_owned()),
        };
        let tls = match config.server.https {
            true => Some(tls(&config)?),
            false => None,
        };
        Ok(Client {
            authority: config.server.authority(),
            address: (config.server.host.clone(), config.server.port),
            base_path: config.server.base_path.clone(),
            tls,
            token,
            connection: None,
        })
    }

    /// Plain HTTP without any credentials, for the agent's own pages.
    pub fn plain(host: &str, port: u16) -> Client {
        Client {
            authority: format!("{host}:{port}"),
            address: (host.to_owned(), port),
            base_path: String::new(),
            tls: None,
            token: None,
            connection: None,
        }
    }

    /// Another client of the same server, with its own connection.
    pub fn fork(&self) -> Client {
        Client {
            authority: self.authority.clone(),
            address: self.address.clone(),
            base_path: self.base_path.clone(),
            tls: self.tls.clone(),
            token: self.token.clone(),
            connection: None,
        }
    }

    pub fn get(&mut self, path: &str) -> Result<Answer> {
        self.send("GET", path, None, "application/json")
    }

    pub fn post(&mut self, path: &str, object: &Value) -> Result<Answer> {
        self.send("POST", path, Some(("application/json", object.to_string())), "application/json")
    }

    /// A merge patch.
    pub fn patch(&mut self, path: &str, patch: &Value) -> Result<Answer> {
        self.send("PATCH", path, Some(("application/merge-patch+json", patch.to_string())), "application/json")
    }

    pub fn delete(&mut self, path: &str) -> Result<Answer> {
        self.send("DELETE", path, None, "application/json")
    }

    /// As `kubectl get` asks: the server makes the columns.
    pub fn table(&mut self, path: &str) -> Result<Answer> {
        self.send("GET", path, None, "application/json;as=Table;g=meta.k8s.io;v=v1")
    }

    pub fn send(&mut self, method: &str, path: &str, body: Option<(&str, String)>, accept: &str) -> Result<Answer> {
        // A kept connection may have been closed by the server: then, and only then, it is tried once more.
        if let Some(connection) = self.connection.take()
            && let Ok(answer) = self.attempt(connection, method, path, body.as_ref(), accept)
        {
            return Ok(answer);
        }
        let connection = self.connect()?;
        self.attempt(connection, method, path, body.as_ref(), accept)
    }

    fn attempt(
        &mut self,
        mut connection: BufReader<Stream>,
        method: &str,
        path: &str,
        body: Option<&(&str, String)>,
        accept: &str,
    ) -> Result<Answer> {
        self.write_request(connection.get_mut(), method, path, body, accept)?;
        let head = read_head(&mut connection)?;
        let mut content = Vec::new();
        match head.length {
            Some(length) => {
                content.resize(length, 0);
                connection.read_exact(&mut content)?;
            }
            None if head.chunked => while read_chunk(&mut connection, &mut content)? {},
            None => drop(connection.read_to_end(&mut content)?),
        }
        if !head.close && (head.length.is_some() || head.chunked) {
            self.connection = Some(connection);
        }
        Ok(Answer { code: head.code, body: content })
    }

    fn write_request(
        &self,
        stream: &mut Stream,
        method: &str,
        path: &str,
        body: Option<&(&str, String)>,
        accept: &str,
    ) -> Result<()> {
        let mut text = format!(
            "{method} {}{path} HTTP/1.1\r\nHost: {}\r\nAccept: {accept}\r\nUser-Agent: lpp-bench\r\n",
            self.base_path, self.authority
        );
        if let Some(token) = &self.token {
            text.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        match body {
            Some((kind, content)) => {
                text.push_str(&format!("Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n{content}", content.len()));
            }
            None => text.push_str("\r\n"),
        }
        stream.write_all(text.as_bytes())?;
        stream.flush()?;
        Ok(())
    }

    fn connect(&self) -> Result<BufReader<Stream>> {
        let socket = TcpStream::connect((self.address.0.as_str(), self.address.1))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let stream = match &self.tls {
            None => Stream::Plain(socket),
            Some((config, name)) => {
                let connection = ClientConnection::new(config.clone(), name.clone())?;
                Stream::Tls(Box::new(StreamOwned::new(connection, socket)))
            }
        };
        Ok(BufReader::new(stream))
    }

    /// Begins a watch; `path` holds the query but `watch=1`.
    pub fn watch(&self, path: &str) -> Result<Watch> {
        let mut connection = self.connect()?;
        let sign = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{sign}watch=1&timeoutSeconds=3600");
        self.write_request(connection.get_mut(), "GET", &path, None, "application/json")?;
        let head = read_head(&mut connection)?;
        if head.code != 200 || !head.chunked {
            return Err(format!("the watch is answered with {}", head.code).into());
        }
        Ok(Watch { connection, pending: Vec::new() })
    }
}

/// The lines of a watch.
pub struct Watch {
    connection: BufReader<Stream>,
    pending: Vec<u8>,
}

impl Watch {
    /// The next event; `None` when the server ended the stream.
    pub fn next_event(&mut self) -> Result<Option<Value>> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            if !read_chunk(&mut self.connection, &mut self.pending)? {
                return Ok(None);
            }
        }
    }
}

struct Head {
    code: u16,
    length: Option<usize>,
    chunked: bool,
    close: bool,
}

fn read_line(connection: &mut BufReader<Stream>) -> Result<String> {
    let mut line = String::new();
    if connection.read_line(&mut line)? == 0 {
        return Err("the server closed the connection".into());
    }
    Ok(line.trim_end().to_owned())
}

fn read_head(connection: &mut BufReader<Stream>) -> Result<Head> {
    let status = read_line(connection)?;
    let code = status.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or("that is no HTTP answer")?;
    let mut head = Head { code, length: None, chunked: false, close: false };
    loop {
        let line = read_line(connection)?.to_ascii_lowercase();
        let Some((name, value)) = line.split_once(':') else { return Ok(head) };
        match (name, value.trim()) {
            ("content-length", value) => head.length = Some(value.parse()?),
            ("transfer-encoding", "chunked") => head.chunked = true,
            ("connection", "close") => head.close = true,
            _ => {}
        }
    }
}

/// Appends one chunk; false at the last.
fn read_chunk(connection: &mut BufReader<Stream>, into: &mut Vec<u8>) -> Result<bool> {
    let line = read_line(connection)?;
    let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)?;
    let before = into.len();
    into.resize(before + size, 0);
    connection.read_exact(&mut into[before..])?;
    read_line(connection)?;
    Ok(size > 0)
}

fn tls(config: &Config) -> Result<(Arc<ClientConfig>, ServerName<'static>)> {
    if config.trust.insecure {
        return Err("insecure-skip-tls-verify is not for the demo: give the cluster's CA".into());
    }
    let mut roots = RootCertStore::empty();
    for certificate in config.trust.roots.iter() {
        roots.add(certificate.clone())?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let tls = match &config.trust.identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(Identity(identity.0.clone()))),
        None => builder.with_no_client_auth(),
    };
    let name = config.trust.server_name.clone().unwrap_or_else(|| config.server.host.clone());
    Ok((Arc::new(tls), ServerName::try_from(name)?))
}
