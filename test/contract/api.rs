//! The small handle that cases get: the product's own client, names of their own, and plain requests for what the
//! agent itself never does (claims, accounts).

use crate::support::{Scratch, control_plane, eventually};
use kubesim::Server;
use local_pv_provisioner::kube::client::Client;
use local_pv_provisioner::kube::config::{Auth, Config, Secret};
use local_pv_provisioner::kube::error::ApiError;
use local_pv_provisioner::kube::objects::{ConfigMap, PersistentVolume};
use local_pv_provisioner::kube::request::{self, Target};
use rustls::client::ResolvesClientCert;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The label by which a case finds its own volumes on a server that others use too.
pub const LABEL: &str = "contract.example.com/case";

pub struct Api {
    pub client: Client,
    config: Config,
    /// Begins the name of everything that the case makes.
    pub case: String,
    /// Of the simulated one; `None`: the real one.
    server: Option<Server>,
}

impl Api {
    pub fn in_memory() -> Api {
        let server = Server::start().unwrap();
        let dir = Scratch::new("contract");
        server.write_kubeconfig(dir.path("kubeconfig")).unwrap();
        Api::new(&dir.path("kubeconfig"), Some(server))
    }

    /// `None` where there is no real control plane, which is said.
    pub fn real() -> Option<Api> {
        control_plane().map(|plane| Api::new(&plane.kubeconfig, None))
    }

    /// A real server that is a test's own.
    pub fn at(kubeconfig: &Path) -> Api {
        Api::new(kubeconfig, None)
    }

    fn new(kubeconfig: &Path, server: Option<Server>) -> Api {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let case = format!("contract-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let config = Config::load(Some(kubeconfig), |_| None).unwrap();
        Api { client: client(&config), config, case, server }
    }

    /// The same server asked with another token and no certificate, at another base path.
    pub fn other_client(&self, token: &str, base_path: &str) -> Client {
        let mut server = self.config.server.clone();
        server.base_path = base_path.to_owned();
        let trust = match token {
            "" => self.config.trust.clone(),
            _ => local_pv_provisioner::kube::config::Trust { identity: None, ..self.config.trust.clone() },
        };
        let auth = if token.is_empty() { Auth::None } else { Auth::Token(Secret::new(token)) };
        client(&Config { server, trust, auth, source: "test".to_owned() })
    }

    /// A token that is good and gives no rights.
    pub fn powerless_token(&self) -> String {
        if let Some(server) = &self.server {
            server.set_rbac(Some(Vec::new()));
            server.configure(|settings| settings.user = "system:serviceaccount:default:powerless".to_owned());
            return "any".to_owned();
        }
        let accounts = "/api/v1/namespaces/default/serviceaccounts";
        self.post(accounts, &json!({"metadata": {"name": self.case}}));
        let token = self.post(&format!("{accounts}/{}/token", self.case), &json!({"spec": {}}));
        token["status"]["token"].as_str().unwrap().to_owned()
    }

    /// Makes a token wrong that is not one.
    pub fn demand_tokens(&self) {
        if let Some(server) = &self.server {
            server.set_token(Some("the-good-one"));
        }
    }

    /// Makes the history forget its beginning; a real server's watches know nothing from before its last start.
    pub fn forget_history(&self) {
        if let Some(server) = &self.server {
            server.compact();
        }
    }

    // What the agent does, with its own requests.

    pub fn create(&self, pv: &PersistentVolume) -> PersistentVolume {
        self.client.call(&request::create_persistent_volume(pv)).unwrap()
    }

    pub fn get(&self, name: &str) -> Option<PersistentVolume> {
        match self.client.call(&request::get_persistent_volume(name)) {
            Ok(pv) => Some(pv),
            Err(error) if error.is_not_found() => None,
            Err(error) => panic!("{}", error.chain()),
        }
    }

    pub fn patch(&self, name: &str, patch: &Value) -> Result<PersistentVolume, ApiError> {
        self.client.call(&request::patch_persistent_volume(name, patch))
    }

    pub fn delete(&self, pv: &PersistentVolume) -> Result<Value, ApiError> {
        let meta = &pv.metadata;
        self.client.call(&request::delete_persistent_volume(&meta.name, &meta.uid, &meta.resource_version))
    }

    /// Waits until the volume is as it should be.
    pub fn await_pv(&self, name: &str, what: &str, is: impl Fn(&PersistentVolume) -> bool) -> PersistentVolume {
        eventually(&format!("{name} {what}"), || self.get(name).filter(|pv| is(pv)))
    }

    pub fn await_gone(&self, name: &str) {
        eventually(&format!("{name} is gone"), || self.get(name).is_none().then_some(()));
    }

    /// The case's own volumes.
    pub fn own(&self) -> Target<PersistentVolume> {
        Target::persistent_volumes(LABEL, &self.case)
    }

    /// A volume as the agent makes them, not yet posted.
    pub fn pv(&self, name: &str) -> PersistentVolume {
        serde_json::from_value(self.pv_json(name)).unwrap()
    }

    pub fn pv_json(&self, name: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {"name": format!("{}-{name}", self.case), "labels": {LABEL: self.case}},
            "spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "volumeMode": "Block",
                "persistentVolumeReclaimPolicy": "Retain", "storageClassName": self.case,
                "local": {"path": format!("/dev/{}", self.case)},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]}},
            },
        })
    }

    /// A claim on one volume of the case by name; its UID.
    pub fn claim(&self, name: &str, volume: &str) -> String {
        self.claim_of_class(name, volume, &self.case)
    }

    pub fn claim_of_class(&self, name: &str, volume: &str, class: &str) -> String {
        let claim = json!({
            "metadata": {"name": format!("{}-{name}", self.case)},
            "spec": {
                "accessModes": ["ReadWriteOnce"], "volumeMode": "Block", "storageClassName": class,
                "volumeName": volume, "resources": {"requests": {"storage": "1Mi"}},
            },
        });
        let made = self.post("/api/v1/namespaces/default/persistentvolumeclaims", &claim);
        made["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    pub fn unclaim(&self, name: &str) {
        let path = format!("/api/v1/namespaces/default/persistentvolumeclaims/{}-{name}", self.case);
        let (code, answer) = self.raw("DELETE", &path, &json!({}));
        assert!(code == 200 || code == 202, "{code} {answer}");
    }

    pub fn create_node(&self, name: &str) -> Value {
        self.post("/api/v1/nodes", &json!({"metadata": {"name": format!("{}-{name}", self.case)}}))
    }

    pub fn create_configmap(&self, name: &str) -> ConfigMap {
        let object = json!({"metadata": {"name": name}, "data": {"key": "value"}});
        serde_json::from_value(self.post("/api/v1/namespaces/default/configmaps", &object)).unwrap()
    }

    pub fn post(&self, path: &str, body: &Value) -> Value {
        let (code, answer) = self.raw("POST", path, body);
        assert_eq!(code, 201, "POST {path}: {answer}");
        answer
    }

    /// One plain request on a connection of its own: status and answer.
    pub fn raw(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let server = &self.config.server;
        let tcp = TcpStream::connect((server.host.as_str(), server.port)).unwrap();
        tcp.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
        let body = body.to_string();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n{body}",
            server.authority(),
            if method == "PATCH" { "application/merge-patch+json" } else { "application/json" },
            body.len(),
        );
        let answer = if server.https { exchange(self.tls(tcp), &request) } else { exchange(tcp, &request) };
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {method} {path}"));
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        let body = if chunked { unchunked(body) } else { body.to_owned() };
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }

    fn tls(&self, tcp: TcpStream) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
        let trust = &self.config.trust;
        let mut roots = rustls::RootCertStore::empty();
        for certificate in trust.roots.iter() {
            roots.add(certificate.clone()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let identity = trust.identity.clone().unwrap().0;
        let resolver: Arc<dyn ResolvesClientCert> = Arc::new(rustls::sign::SingleCertAndKey::from(identity));
        let config = builder.with_root_certificates(roots).with_client_cert_resolver(resolver);
        let name = self.config.server.host.clone().try_into().unwrap();
        rustls::StreamOwned::new(rustls::ClientConnection::new(Arc::new(config), name).unwrap(), tcp)
    }
}

fn client(config: &Config) -> Client {
    Client::new(config, "contract-test", |_| {}).unwrap()
}

fn exchange(mut stream: impl Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    stream.flush().unwrap();
    let mut answer = Vec::new();
    // A server that closes without TLS's farewell has said everything all the same.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

fn unchunked(mut text: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            break;
        }
        out.push_str(&rest[..size]);
        text = &rest[size + 2..];
    }
    out
}
