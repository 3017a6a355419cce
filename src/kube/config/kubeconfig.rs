//! kubeconfig files: found, merged and resolved as kubectl does. What kubectl would run or ask for is refused by name.

use super::{Auth, Config, ConfigError, Secret, Server, Trust, base64, check_token, read, read_token, tls};
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct File {
    current_context: Option<String>,
    clusters: Option<Vec<NamedCluster>>,
    contexts: Option<Vec<NamedContext>>,
    users: Option<Vec<NamedUser>>,
}

#[derive(Debug, Deserialize)]
struct NamedCluster {
    name: String,
    #[serde(default)]
    cluster: Option<Cluster>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: Option<String>,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    insecure_skip_tls_verify: Option<bool>,
    tls_server_name: Option<String>,
    proxy_url: Option<String>,
}

#[derive(Debug, Deserialize)]
struct NamedContext {
    name: String,
    #[serde(default)]
    context: Option<Context>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: Option<String>,
    user: Option<String>,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: Option<User>,
}

impl std::fmt::Debug for NamedUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "user {}", self.name)
    }
}

/// No `Debug`: it holds secrets.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    username: Option<String>,
    #[serde(rename = "as")]
    impersonate: Option<String>,
    exec: Option<serde::de::IgnoredAny>,
    auth_provider: Option<serde::de::IgnoredAny>,
}

/// One of the files, with the path that its relative paths start from.
struct Source {
    path: PathBuf,
    file: File,
}

/// The current context of `paths`, merged: the first file that says something about a name wins. Where `must_exist` is
/// false, missing files are passed over as long as one exists.
pub(super) fn load(paths: &[PathBuf], must_exist: bool) -> Result<Config, ConfigError> {
    let mut sources = Vec::new();
    let mut missing = None;
    for path in paths {
        match read("kubeconfig", path) {
            Ok(bytes) => sources.push(Source { path: path.clone(), file: parse(path, &bytes)? }),
            Err(ConfigError::Read { what, path, source })
                if !must_exist && source.kind() == std::io::ErrorKind::NotFound =>
            {
                missing = missing.or(Some(ConfigError::Read { what, path, source }));
            }
            Err(error) => return Err(error),
        }
    }
    if sources.is_empty() {
        return Err(missing.unwrap_or(ConfigError::NoSource));
    }
    resolve(&sources)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<File, ConfigError> {
    let invalid = |problem: &str| ConfigError::Invalid {
        file: path.to_owned(),
        what: "kubeconfig".to_owned(),
        problem: problem.to_owned(),
    };
    let text = std::str::from_utf8(bytes).map_err(|_| invalid("is not text"))?;
    if text.trim().is_empty() {
        return Err(invalid("is empty"));
    }
    // The parser's own text quotes what it read, and that can be a token: only the place is told.
    serde_saphyr::from_str(text).map_err(|e| match e.location() {
        Some(at) => invalid(&format!("is not a kubeconfig in YAML, see line {}, column {}", at.line(), at.column())),
        None => invalid("is not a kubeconfig in YAML"),
    })
}

fn resolve(sources: &[Source]) -> Result<Config, ConfigError> {
    let first = &sources[0];
    let invalid = |source: &Source, what: String, problem: String| ConfigError::Invalid {
        file: source.path.clone(),
        what,
        problem,
    };

    let current = sources.iter().find_map(|s| s.file.current_context.as_deref().filter(|c| !c.is_empty()));
    let context_name = current.ok_or_else(|| {
        let problem = "is not set; run `kubectl config use-context NAME`".to_owned();
        invalid(first, "current-context".to_owned(), problem)
    })?;
    let (source, context) = find(sources, |f| f.contexts.as_deref(), |c| &c.name, context_name).ok_or_else(|| {
        invalid(first, format!("current-context \"{context_name}\""), "there is no such context".to_owned())
    })?;
    let what = format!("context \"{context_name}\"");
    let context = context.context.as_ref().ok_or_else(|| invalid(source, what.clone(), "says nothing".to_owned()))?;

    let cluster_name = context.cluster.as_deref().unwrap_or_default();
    let (cluster_source, cluster) = find(sources, |f| f.clusters.as_deref(), |c| &c.name, cluster_name)
        .and_then(|(s, c)| Some((s, c.cluster.as_ref()?)))
        .ok_or_else(|| invalid(source, what.clone(), format!("there is no cluster \"{cluster_name}\"")))?;
    let (server, mut trust) = cluster_of(cluster_source, cluster_name, cluster)?;

    // A context without a user is allowed: an API server may take anyone, as one on loopback for tests does.
    let auth = match context.user.as_deref().unwrap_or_default() {
        "" => Auth::None,
        user_name => {
            let (user_source, user) = find(sources, |f| f.users.as_deref(), |u| &u.name, user_name)
                .ok_or_else(|| invalid(source, what.clone(), format!("there is no user \"{user_name}\"")))?;
            match &user.user {
                Some(user) => {
                    let (auth, identity) = user_of(user_source, user_name, user)?;
                    trust.identity = identity;
                    auth
                }
                None => Auth::None,
            }
        }
    };
    let files: Vec<String> = sources.iter().map(|s| s.path.display().to_string()).collect();
    Ok(Config { server, trust, auth, source: format!("kubeconfig {}, context \"{context_name}\"", files.join(":")) })
}

fn find<'a, E>(
    sources: &'a [Source],
    list: impl Fn(&'a File) -> Option<&'a [E]>,
    name_of: impl Fn(&'a E) -> &'a String,
    name: &str,
) -> Option<(&'a Source, &'a E)> {
    sources.iter().find_map(|source| {
        let entry = list(&source.file)?.iter().find(|e| name_of(e) == name)?;
        Some((source, entry))
    })
}

fn cluster_of(source: &Source, name: &str, cluster: &Cluster) -> Result<(Server, Trust), ConfigError> {
    let invalid = |key: &str, problem: String| ConfigError::Invalid {
        file: source.path.clone(),
        what: format!("cluster \"{name}\": {key}"),
        problem,
    };
    let url = cluster.server.as_deref().unwrap_or_default();
    if url.is_empty() {
        return Err(invalid("server", "is not set".to_owned()));
    }
    let server = Server::parse(url).map_err(|problem| invalid("server", problem))?;
    if cluster.proxy_url.as_deref().is_some_and(|p| !p.is_empty()) {
        let problem = "proxies are not supported; a node reaches its API server directly".to_owned();
        return Err(invalid("proxy-url", problem));
    }
    let insecure = cluster.insecure_skip_tls_verify.unwrap_or_default();
    let ca = pem(
        source,
        ("certificate-authority-data", cluster.certificate_authority_data.as_deref()),
        ("certificate-authority", cluster.certificate_authority.as_deref()),
        &invalid,
    )?;
    let mut trust =
        Trust { insecure, server_name: cluster.tls_server_name.clone().filter(|n| !n.is_empty()), ..Trust::default() };
    match ca {
        Some(_) if insecure => {
            let problem = "is true, but a certificate-authority is given as well; remove one of them".to_owned();
            return Err(invalid("insecure-skip-tls-verify", problem));
        }
        Some((key, ca)) => trust.roots = tls::roots(&ca).map_err(|problem| invalid(key, problem))?,
        None if server.https && !insecure => {
            let problem = "is not set; give the cluster's CA (public roots are not built in)".to_owned();
            return Err(invalid("certificate-authority", problem));
        }
        None => {}
    }
    if let Some(server_name) = &trust.server_name {
        rustls::pki_types::ServerName::try_from(server_name.as_str())
            .map_err(|_| invalid("tls-server-name", format!("`{server_name}` is no host name")))?;
    }
    Ok((server, trust))
}

fn user_of(source: &Source, name: &str, user: &User) -> Result<(Auth, Option<tls::ClientIdentity>), ConfigError> {
    let invalid = |key: &str, problem: String| ConfigError::Invalid {
        file: source.path.clone(),
        what: format!("user \"{name}\": {key}"),
        problem,
    };
    const INSTEAD: &str = "use a client certificate, a token or a tokenFile instead, as in `kubectl create token`";
    if user.exec.is_some() {
        return Err(invalid("exec", format!("credential plugins are not run by this program; {INSTEAD}")));
    }
    if user.auth_provider.is_some() {
        return Err(invalid("auth-provider", format!("was removed from Kubernetes; {INSTEAD}")));
    }
    if user.username.as_deref().is_some_and(|u| !u.is_empty()) {
        return Err(invalid("username", format!("passwords were removed from Kubernetes 1.19; {INSTEAD}")));
    }
    if user.impersonate.as_deref().is_some_and(|u| !u.is_empty()) {
        return Err(invalid("as", "impersonation is not supported; use a user of its own".to_owned()));
    }

    let chain = pem(
        source,
        ("client-certificate-data", user.client_certificate_data.as_deref()),
        ("client-certificate", user.client_certificate.as_deref()),
        &invalid,
    )?;
    let key = pem(
        source,
        ("client-key-data", user.client_key_data.as_deref()),
        ("client-key", user.client_key.as_deref()),
        &invalid,
    )?;
    let identity = match (chain, key) {
        (Some((key_name, chain)), Some((_, key))) => {
            Some(tls::identity(&chain, &key).map_err(|problem| invalid(key_name, problem))?)
        }
        (None, None) => None,
        (Some(_), None) => return Err(invalid("client-key", "is not set, though client-certificate is".to_owned())),
        (None, Some(_)) => return Err(invalid("client-certificate", "is not set, though client-key is".to_owned())),
    };

    // As kubectl: the file wins, because it rotates.
    let token_file = user.token_file.as_deref().filter(|p| !p.as_os_str().is_empty());
    let token = user.token.as_deref().filter(|t| !t.is_empty());
    let auth = match (token_file, token) {
        (Some(path), _) => {
            let path = beside(source, path);
            read_token(&path)?;
            Auth::TokenFile(path)
        }
        (None, Some(token)) => {
            let token: Secret = check_token(token.trim()).map_err(|p| invalid("token", p.to_owned()))?;
            Auth::Token(token)
        }
        (None, None) => Auth::None,
    };
    Ok((auth, identity))
}

/// Inline data wins over the file, as in kubectl. Answers which key it came from.
fn pem(
    source: &Source,
    data: (&'static str, Option<&str>),
    file: (&'static str, Option<&Path>),
    invalid: &dyn Fn(&str, String) -> ConfigError,
) -> Result<Option<(&'static str, Vec<u8>)>, ConfigError> {
    if let Some(text) = data.1.filter(|t| !t.is_empty()) {
        let bytes = base64::decode(text).map_err(|problem| invalid(data.0, problem.to_owned()))?;
        return Ok(Some((data.0, bytes)));
    }
    if let Some(path) = file.1.filter(|p| !p.as_os_str().is_empty()) {
        return Ok(Some((file.0, read(file.0, &beside(source, path))?)));
    }
    Ok(None)
}

/// A relative path starts at the folder of the kubeconfig that holds it.
fn beside(source: &Source, path: &Path) -> PathBuf {
    match source.path.parent() {
        Some(folder) => folder.join(path),
        None => path.to_owned(),
    }
}
