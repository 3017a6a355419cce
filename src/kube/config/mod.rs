//! Where the API server is and how to prove who we are: from a kubeconfig, or from the pod's service account.
//!
//! Reads files, checks them and says what is wrong with them; makes no connection. Secrets are never printed.

mod base64;
mod kubeconfig;
mod tls;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
pub use tls::{ClientIdentity, Trust};

/// Where kubelet puts a pod's service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Largest file read here: kubeconfigs and CA bundles are a few kB, some bundles 300 kB.
const FILE_MAX: u64 = 2 * 1024 * 1024;

/// What is wrong with the configuration of the API client, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "no way to the Kubernetes API: this is not a pod (KUBERNETES_SERVICE_HOST is not set); \
         give a kubeconfig with --kubeconfig or KUBECONFIG"
    )]
    NoSource,
    #[error("cannot read {what} {}", path.display())]
    Read {
        what: String,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}: {what}: {problem}", file.display())]
    Invalid { file: PathBuf, what: String, problem: String },
    #[error("environment variable {variable}: {problem}")]
    Environment { variable: &'static str, problem: String },
    #[error("the API server's URL {url}: {problem}")]
    Url { url: String, problem: String },
}

/// The API server's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub https: bool,
    /// Name or address; IPv6 without brackets.
    pub host: String,
    pub port: u16,
    /// What stands before `/api/v1`, as in `/k8s/clusters/c-1`; no slash at the end.
    pub base_path: String,
}

impl Server {
    /// `host:port`, IPv6 in brackets.
    pub fn authority(&self) -> String {
        let bracket = self.host.contains(':');
        let (open, close) = if bracket { ("[", "]") } else { ("", "") };
        format!("{open}{}{close}:{}", self.host, self.port)
    }

    /// `https://host:port`
    pub fn url(&self) -> String {
        format!("{}://{}{}", if self.https { "https" } else { "http" }, self.authority(), self.base_path)
    }

    fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or("has no scheme; write https://HOST:PORT")?;
        let https = match scheme {
            "https" => true,
            "http" => false,
            other => return Err(format!("scheme {other} is not known; write https://HOST:PORT")),
        };
        if rest.contains(['?', '#', '@']) || rest.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err("must be https://HOST:PORT with an optional path, without user, query or fragment".to_owned());
        }
        let (authority, path) = rest.find('/').map_or((rest, ""), |i| rest.split_at(i));
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => {
                let (host, after) = v6.split_once(']').ok_or("has an unclosed [")?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| format!("[{host}] is no IPv6 address"))?;
                (host, after.strip_prefix(':'))
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(valid) {
            return Err(format!("`{host}` is no host name"));
        }
        let port = match port {
            Some(port) => parse_port(port)?,
            None if https => 443,
            None => 80,
        };
        Ok(Self { https, host: host.to_owned(), port, base_path: path.trim_end_matches('/').to_owned() })
    }
}

fn parse_port(port: &str) -> Result<u16, String> {
    match port.parse() {
        Ok(0) | Err(_) => Err(format!("`{port}` is no port")),
        Ok(port) => Ok(port),
    }
}

/// A word that must not be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// How requests say who sends them. A client certificate is apart, in [`Trust`]: both may be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    None,
    Token(Secret),
    /// Read again as it rotates.
    TokenFile(PathBuf),
}

/// All that a client needs.
#[derive(Debug)]
pub struct Config {
    pub server: Server,
    pub trust: Trust,
    pub auth: Auth,
    /// For people: `in-cluster`, or the kubeconfig's files and the context's name.
    pub source: String,
}

impl Config {
    /// `kubeconfig` (the flag), else `$KUBECONFIG` (a list of files, merged as kubectl does), else the service account
    /// of the pod that this process runs in. `env` gives an environment variable.
    pub fn load(kubeconfig: Option<&Path>, env: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        if let Some(path) = kubeconfig {
            return kubeconfig::load(&[path.to_owned()], true);
        }
        let list = env("KUBECONFIG").unwrap_or_default();
        let paths: Vec<PathBuf> = std::env::split_paths(&list).filter(|p| !p.as_os_str().is_empty()).collect();
        if !paths.is_empty() {
            return kubeconfig::load(&paths, false);
        }
        in_cluster(&env, Path::new(SERVICE_ACCOUNT))
    }

    /// The same, with another API server.
    pub fn at(self, url: &str) -> Result<Self, ConfigError> {
        let invalid = |problem| ConfigError::Url { url: url.to_owned(), problem };
        Ok(Self { server: Server::parse(url).map_err(invalid)?, ..self })
    }
}

/// The namespace of the pod that this process runs in; `None`: it is in none.
pub fn pod_namespace() -> Option<String> {
    let text = std::fs::read_to_string(Path::new(SERVICE_ACCOUNT).join("namespace")).ok()?;
    Some(text.trim().to_owned()).filter(|namespace| !namespace.is_empty())
}

fn in_cluster(env: &dyn Fn(&str) -> Option<OsString>, account: &Path) -> Result<Config, ConfigError> {
    const HOST: &str = "KUBERNETES_SERVICE_HOST";
    const PORT: &str = "KUBERNETES_SERVICE_PORT";
    let text = |variable: &'static str| {
        env(variable).filter(|v| !v.is_empty()).map(|value| {
            let problem = "is not UTF-8".to_owned();
            value.into_string().map_err(|_| ConfigError::Environment { variable, problem })
        })
    };
    let host = text(HOST).ok_or(ConfigError::NoSource)??;
    let port = text(PORT).unwrap_or_else(|| {
        Err(ConfigError::Environment { variable: PORT, problem: format!("is not set, though {HOST} is") })
    })?;
    // The variable carries an IPv6 address without brackets.
    let bracket = host.contains(':') && !host.starts_with('[');
    let url = if bracket { format!("https://[{host}]") } else { format!("https://{host}") };
    let mut server = Server::parse(&url).map_err(|problem| ConfigError::Environment { variable: HOST, problem })?;
    server.port = parse_port(&port).map_err(|problem| ConfigError::Environment { variable: PORT, problem })?;

    let token = account.join("token");
    // Read once now, so that a missing service account is said at the start, not at the first request.
    read_token(&token)?;
    let ca = account.join("ca.crt");
    let roots = tls::roots(&read("the service account's CA", &ca)?).map_err(|problem| ConfigError::Invalid {
        file: ca,
        what: "CA certificates".to_owned(),
        problem,
    })?;
    Ok(Config {
        server,
        trust: Trust { roots, ..Trust::default() },
        auth: Auth::TokenFile(token),
        source: "in-cluster".to_owned(),
    })
}

/// The token in a file, without the white space around it.
pub fn read_token(path: &Path) -> Result<Secret, ConfigError> {
    let invalid = |problem: &str| ConfigError::Invalid {
        file: path.to_owned(),
        what: "token".to_owned(),
        problem: problem.to_owned(),
    };
    let bytes = read("the token", path)?;
    let text = String::from_utf8(bytes).map_err(|_| invalid("is not text"))?;
    check_token(text.trim()).map_err(invalid)
}

/// A token goes into a header: printable ASCII only.
fn check_token(token: &str) -> Result<Secret, &'static str> {
    if token.is_empty() {
        return Err("is empty");
    }
    if !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("has characters that no token has");
    }
    Ok(Secret::new(token))
}

fn read(what: &str, path: &Path) -> Result<Vec<u8>, ConfigError> {
    use std::io::Read;
    let error = |source| ConfigError::Read { what: what.to_owned(), path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(error)?;
    if !file.metadata().map_err(error)?.is_file() {
        return Err(error(std::io::Error::other("not a file")));
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(error)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(error(std::io::Error::other(format!("larger than {FILE_MAX} bytes"))));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
