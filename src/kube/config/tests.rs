//! kubeconfigs as people have them, and as they should not be; a service account in a folder of its own.

use super::*;
use crate::kube::testing::{Ca, Folder};

fn no_env(_: &str) -> Option<OsString> {
    None
}

fn load(folder: &Folder, name: &str) -> Result<Config, ConfigError> {
    Config::load(Some(&folder.path(name)), no_env)
}

/// A kubeconfig with one cluster, user and context.
fn kubeconfig(cluster: &str, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts:\n- name: c\n  context: {{cluster: k, user: u, namespace: x}}\n\
         clusters:\n- name: k\n  cluster: {{{cluster}}}\nusers:\n- name: u\n  user: {{{user}}}\npreferences: {{}}\n"
    )
}

fn error_of(cluster: &str, user: &str) -> String {
    let folder = Folder::new();
    folder.write("config", kubeconfig(cluster, user));
    match load(&folder, "config") {
        Ok(config) => panic!("{cluster} {user}: {config:?}"),
        Err(error) => error.to_string(),
    }
}

const HTTP: &str = "server: 'http://127.0.0.1:8080'";

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let mut three = [0; 3];
        three[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for i in 0..4 {
            let keep = i <= chunk.len();
            out.push(if keep { char::from(ALPHABET[(bits >> (18 - 6 * i)) as usize & 63]) } else { '=' });
        }
    }
    out
}

#[test]
fn servers_are_read_and_wrong_ones_named() {
    let server = |url| Server::parse(url);
    let s = server("https://k8s.example:6443/k8s/clusters/c-1/").unwrap();
    assert_eq!(
        (s.https, s.host.as_str(), s.port, s.base_path.as_str()),
        (true, "k8s.example", 6443, "/k8s/clusters/c-1")
    );
    assert_eq!(s.url(), "https://k8s.example:6443/k8s/clusters/c-1");
    assert_eq!(server("https://10.0.0.1").unwrap().port, 443);
    assert_eq!(server("http://[::1]:8080").unwrap().authority(), "[::1]:8080");
    assert_eq!(server("https://[fd00::1]").unwrap().url(), "https://[fd00::1]:443");
    for bad in [
        "k8s:6443",
        "ftp://a",
        "https://",
        "https://a:0",
        "https://a:99999",
        "https://[::1",
        "https://[x]:1",
        "https://u:p@a",
        "https://a/?x",
        "https://a b",
        "https://a:b:c",
        "https://ü",
    ] {
        assert!(server(bad).is_err(), "{bad}");
    }
}

#[test]
fn files_beside_the_kubeconfig_are_found_and_inline_data_wins() {
    let folder = Folder::new();
    let ca = Ca::new();
    let client = ca.client("me");
    folder.write("pki/ca.crt", &ca.pem);
    folder.write("pki/me.crt", &client.chain);
    folder.write("pki/me.key", &client.key);
    let user = "client-certificate: pki/me.crt, client-key: pki/me.key";
    folder.write(
        "files",
        kubeconfig("server: 'https://h:6443', certificate-authority: pki/ca.crt, tls-server-name: other", user),
    );
    let config = load(&folder, "files").unwrap();
    assert_eq!(config.trust.roots.len(), 1);
    assert!(config.trust.identity.is_some());
    assert_eq!(config.trust.server_name.as_deref(), Some("other"));
    assert_eq!(config.auth, Auth::None);
    assert!(config.source.contains("context \"c\""), "{}", config.source);

    let cluster = format!(
        "server: 'https://h:6443', certificate-authority: missing, certificate-authority-data: {}",
        base64(ca.pem.as_bytes())
    );
    let user = format!(
        "client-certificate-data: {}, client-key-data: {}, token: abc",
        base64(client.chain.as_bytes()),
        base64(client.key.as_bytes())
    );
    folder.write("inline", kubeconfig(&cluster, &user));
    let config = load(&folder, "inline").unwrap();
    assert!(config.trust.identity.is_some());
    assert_eq!(config.auth, Auth::Token(Secret::new("abc")));
    assert!(!format!("{config:?}").contains("abc"), "{config:?}");
}

#[test]
fn another_api_server_is_asked_with_the_same_credentials() {
    let folder = Folder::new();
    folder.write("config", kubeconfig("server: 'https://h', insecure-skip-tls-verify: true", "token: t-1"));
    let config = load(&folder, "config").unwrap().at("https://other:6443/base").unwrap();
    assert_eq!(config.server.url(), "https://other:6443/base");
    assert_eq!(config.auth, Auth::Token(Secret::new("t-1")));
    let error = config.at("other:6443").unwrap_err().to_string();
    assert!(error.contains("other:6443") && error.contains("no scheme"), "{error}");
}

#[test]
fn a_token_file_wins_over_a_token_and_the_insecure_flag_needs_no_ca() {
    let folder = Folder::new();
    folder.write("token", "  t-1\n");
    folder.write(
        "config",
        kubeconfig("server: 'https://h', insecure-skip-tls-verify: true", "token: x, tokenFile: token"),
    );
    let config = load(&folder, "config").unwrap();
    assert!(config.trust.insecure);
    assert_eq!(config.auth, Auth::TokenFile(folder.path("token")));
}

#[test]
fn what_kubectl_would_run_is_refused_with_what_to_use_instead() {
    for (user, word) in [
        ("exec: {command: aws, apiVersion: x}", "exec"),
        ("auth-provider: {name: gcp}", "auth-provider"),
        ("username: me, password: pw-1", "username"),
        ("as: other", "as"),
    ] {
        let error = error_of(HTTP, user);
        assert!(error.contains(word) && error.contains("user \"u\"") && error.contains("use "), "{error}");
        assert!(!error.contains("pw-1"));
    }
    let error = error_of("server: 'http://h', proxy-url: 'socks5://p'", "");
    assert!(error.contains("proxy-url"), "{error}");
}

#[test]
fn errors_name_the_file_and_the_key() {
    let ca = Ca::new();
    let other = Ca::new().client("other");
    let data = base64(ca.pem.as_bytes());
    let client = ca.client("me");
    let mismatch = format!(
        "client-certificate-data: {}, client-key-data: {}",
        base64(client.chain.as_bytes()),
        base64(other.key.as_bytes())
    );
    let no_key = format!("client-certificate-data: {}", base64(client.chain.as_bytes()));
    let bad_key = format!("{no_key}, client-key-data: {}", base64(b"c2VjcmV0 junk"));
    for (cluster, user, key) in [
        ("", "", "cluster \"k\": server: is not set"),
        ("server: 'k8s'", "", "cluster \"k\": server: has no scheme"),
        ("server: 'https://h'", "", "certificate-authority: is not set"),
        ("server: 'https://h', certificate-authority-data: '***'", "", "certificate-authority-data: is not base64"),
        ("server: 'https://h', certificate-authority-data: aGk=", "", "certificate-authority-data: holds no PEM"),
        ("server: 'https://h', certificate-authority: gone.crt", "", "certificate-authority /"),
        (
            &format!("server: 'https://h', insecure-skip-tls-verify: true, certificate-authority-data: {data}"),
            "",
            "remove one",
        ),
        (HTTP, &no_key, "client-key: is not set"),
        (HTTP, &bad_key, "client-certificate-data: the key is no PEM"),
        (HTTP, &mismatch, "cannot be used together"),
        (HTTP, "token: \"two words\"", "token: has characters"),
        (HTTP, "tokenFile: gone", "the token /"),
    ] {
        let error = error_of(cluster, user);
        assert!(error.contains(key), "{cluster} {user}: {error}");
        assert!(error.contains("config") || error.contains("gone"), "{error}");
        assert!(!error.contains("c2VjcmV0"), "{error}");
    }
}

#[test]
fn a_broken_kubeconfig_does_not_show_its_secrets() {
    let folder = Folder::new();
    for (name, text) in [
        ("yaml", "users:\n- name: u\n  user: {token: s3cret\n  x"),
        ("shape", "users: [{name: u, user: s3cret}]\n"),
        ("list", "- s3cret\n"),
        ("word", "s3cret"),
        ("empty", "\n \n"),
    ] {
        folder.write(name, text);
        let error = load(&folder, name).unwrap_err();
        let all = format!("{error} {error:?}");
        assert!(all.contains(name) && !all.contains("s3cret"), "{all}");
    }
    std::fs::write(folder.path("binary"), [0xff, 0xfe, 0]).unwrap();
    assert!(load(&folder, "binary").unwrap_err().to_string().contains("is not text"));
    assert!(load(&folder, ".").unwrap_err().to_string().contains("kubeconfig"));
}

#[test]
fn missing_contexts_clusters_and_users_are_named() {
    let folder = Folder::new();
    for (text, word) in [
        ("clusters: []", "kubectl config use-context"),
        ("current-context: nope", "\"nope\""),
        ("current-context: c\ncontexts: [{name: c, context: {cluster: k}}]", "there is no cluster \"k\""),
        (
            "current-context: c\ncontexts: [{name: c, context: {cluster: k, user: who}}]\n\
             clusters: [{name: k, cluster: {server: 'http://h'}}]\nusers: null",
            "there is no user \"who\"",
        ),
    ] {
        folder.write("config", text);
        let error = load(&folder, "config").unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn json_is_a_kubeconfig_too() {
    let folder = Folder::new();
    folder.write(
        "config",
        r#"{"current-context":"c","contexts":[{"name":"c","context":{"cluster":"k"}}],"clusters":[{"name":"k","cluster":{"server":"http://h:1"}}]}"#,
    );
    assert_eq!(load(&folder, "config").unwrap().server.url(), "http://h:1");
}

#[test]
fn a_list_of_kubeconfigs_is_merged_and_the_first_word_counts() {
    let folder = Folder::new();
    folder.write("a/config", "current-context: c\nclusters: [{name: k, cluster: {server: 'http://first'}}]\n");
    folder.write("b/token", "from-b");
    folder.write("b/config", kubeconfig("server: 'http://second'", "tokenFile: token"));
    let list = std::env::join_paths([folder.path("gone"), folder.path("a/config"), folder.path("b/config")]).unwrap();
    let config = Config::load(None, |name| (name == "KUBECONFIG").then(|| list.clone())).unwrap();
    assert_eq!(config.server.host, "first");
    assert_eq!(config.auth, Auth::TokenFile(folder.path("b/token")));

    let gone = folder.path("gone").into_os_string();
    let error = Config::load(None, |name| (name == "KUBECONFIG").then(|| gone.clone())).unwrap_err();
    assert!(error.to_string().contains("gone"), "{error}");
}

#[test]
fn without_anything_the_error_says_what_to_give() {
    let error = Config::load(None, no_env).unwrap_err().to_string();
    assert!(error.contains("--kubeconfig") && error.contains("KUBECONFIG"), "{error}");
}

fn pod_env(host: &'static str, port: &'static str) -> impl Fn(&str) -> Option<OsString> {
    move |name| match name {
        "KUBERNETES_SERVICE_HOST" => Some(host.into()).filter(|v: &OsString| !v.is_empty()),
        "KUBERNETES_SERVICE_PORT" => Some(port.into()).filter(|v: &OsString| !v.is_empty()),
        _ => None,
    }
}

#[test]
fn in_a_pod_the_service_account_is_used() {
    let folder = Folder::new();
    let account = folder.path("");
    let at = |host, port| in_cluster(&pod_env(host, port), &account);
    assert!(at("10.96.0.1", "443").unwrap_err().to_string().contains("token"));
    folder.write("token", "t");
    assert!(at("10.96.0.1", "443").unwrap_err().to_string().contains("ca.crt"));
    folder.write("ca.crt", "no PEM");
    assert!(at("10.96.0.1", "443").unwrap_err().to_string().contains("CA certificates"));
    folder.write("ca.crt", Ca::new().pem);
    assert_eq!(at("10.96.0.1", "443").unwrap().server.url(), "https://10.96.0.1:443");
    assert_eq!(at("fd00::1", "6443").unwrap().server.url(), "https://[fd00::1]:6443");
    assert_eq!(at("fd00::1", "6443").unwrap().server.host, "fd00::1");
    for (host, port, word) in
        [("10.96.0.1", "", "PORT"), ("10.96.0.1", "x", "PORT"), ("a b", "1", "HOST"), ("", "1", "not a pod")]
    {
        let error = at(host, port).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    folder.write("token", "\n");
    assert!(at("10.96.0.1", "443").unwrap_err().to_string().contains("is empty"));
}

#[test]
fn damaged_kubeconfigs_are_survived() {
    let whole = kubeconfig("server: 'http://127.0.0.1:8080', insecure-skip-tls-verify: true", "token: abc");
    let folder = Folder::new();
    let mut state = 7u64;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    for _ in 0..1500 {
        let mut bytes = whole.clone().into_bytes();
        for _ in 0..=draw(4) {
            let at = draw(bytes.len());
            match draw(3) {
                0 => bytes[at] = draw(256) as u8,
                1 => bytes.truncate(at + 1),
                _ => bytes.insert(at, b"{}[]:,-&*!|>'\"\n\t #%"[draw(19)]),
            }
        }
        std::fs::write(folder.path("config"), &bytes).unwrap();
        if let Err(error) = load(&folder, "config") {
            assert!(!format!("{error} {error:?}").contains("abc"));
        }
    }
}
