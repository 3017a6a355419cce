//! Owns the server as tests see it: start, address, kubeconfig, the direct helpers, the switches, and the end
//! of all threads.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::controllers;
use crate::deletion;
use crate::faults::Fault;
use crate::hub::{Hub, RequestRecord, Settings};
use crate::object::{self, text};
use crate::rbac::Rule;
use crate::registry::{self, Options, PatchType, Target};
use crate::resources::{self, CORE_NAMESPACES, Id, NAMESPACES, RESOURCES};
use crate::status::ApiError;
use crate::store::Snapshot;

/// Threads of connections are many with many watches; their stacks are shallow.
const CONNECTION_STACK: usize = 512 * 1024;
/// `wait_for` looks at least this often, for predicates over more than the store.
const POLL: Duration = Duration::from_millis(20);

/// A running server. Dropping it ends its threads and connections.
#[derive(Debug)]
pub struct Server {
    hub: Arc<Hub>,
    address: SocketAddr,
    threads: Vec<JoinHandle<()>>,
}

fn accept(hub: &Arc<Hub>, listener: &TcpListener) {
    for stream in listener.incoming() {
        if hub.is_stopping() {
            return;
        }
        let Ok(stream) = stream else { continue };
        let hub = Arc::clone(hub);
        // When no thread can be had, the connection closes: a server out of resources does the same.
        let _ = thread::Builder::new()
            .name("kubesim-connection".to_owned())
            .stack_size(CONNECTION_STACK)
            .spawn(move || handle(&hub, &stream));
    }
}

fn handle(hub: &Hub, stream: &TcpStream) {
    let Ok(copy) = stream.try_clone() else { return };
    let _ = stream.set_nodelay(true);
    let id = hub.adopt(copy);
    if !hub.is_stopping() {
        // The other side going away is the normal end of a connection.
        let _ = crate::connection::serve(hub, stream);
    }
    hub.forget(id);
}

/// The resource a test names, by plural, singular, short name or kind.
fn resource(name: &str) -> Result<Id, ApiError> {
    resources::by_any_name(name).ok_or_else(|| ApiError::bad_request(format!("kubesim knows no resource {name:?}")))
}

/// `name`, or `namespace/name`; without a namespace, `default` for namespaced resources.
fn target(resource_name: &str, name: &str) -> Result<Target, ApiError> {
    let id = resource(resource_name)?;
    Ok(if RESOURCES[id].namespaced {
        let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
        Target::new(id, namespace, name)
    } else {
        Target::new(id, "", name)
    })
}

impl Server {
    /// Starts on a free port of 127.0.0.1.
    pub fn start() -> io::Result<Self> {
        Self::start_on("127.0.0.1:0")
    }

    /// Starts on an address such as `[::1]:0`.
    pub fn start_on(address: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let hub = Arc::new(Hub::default());
        hub.write(|store| {
            for name in CORE_NAMESPACES {
                let body = json!({ "metadata": { "name": name } });
                // The names are ours and valid; nothing to report.
                let _ = registry::create(store, &Target::new(NAMESPACES, "", ""), body, Options::default());
            }
        });
        let for_accept = Arc::clone(&hub);
        let for_controllers = Arc::clone(&hub);
        let threads = vec![
            thread::Builder::new().name("kubesim-accept".to_owned()).spawn(move || accept(&for_accept, &listener))?,
            thread::Builder::new()
                .name("kubesim-controllers".to_owned())
                .spawn(move || controllers::run(&for_controllers))?,
        ];
        Ok(Self { hub, address, threads })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:12345`, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A kubeconfig with this server and, if one is set, its token.
    pub fn kubeconfig(&self) -> String {
        let user = match self.hub.settings().token {
            Some(token) => json!({ "token": token }),
            None => json!({}),
        };
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "kubesim",
            "clusters": [{ "name": "kubesim", "cluster": { "server": self.url() } }],
            "users": [{ "name": "kubesim", "user": user }],
            "contexts": [{ "name": "kubesim", "context": { "cluster": "kubesim", "user": "kubesim", "namespace": "default" } }],
        })
        .to_string()
    }

    /// Writes [`Self::kubeconfig`]; JSON is YAML.
    pub fn write_kubeconfig(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let mut file = std::fs::File::create(path)?;
        writeln!(file, "{}", self.kubeconfig())
    }

    // Direct access, without HTTP, faults, authentication or the request log; validation holds.

    /// Creates an object; its namespace is `default` unless it names one.
    pub fn create(&self, resource_name: &str, object: Value) -> Result<Value, ApiError> {
        let id = resource(resource_name)?;
        let namespace = match text(&object, "/metadata/namespace") {
            _ if !RESOURCES[id].namespaced => "",
            "" => "default",
            given => given,
        };
        let target = Target::new(id, namespace, "");
        self.hub.write(|s| registry::create(s, &target, object.clone(), Options::default())).map(|o| o.value())
    }

    /// Creates a document by its `apiVersion` and `kind`; a `List` item by item. For `--load`.
    pub fn load(&self, document: &Value) -> Result<usize, ApiError> {
        if let Some(items) = document.as_array().or_else(|| document["items"].as_array()) {
            return items.iter().try_fold(0, |n, item| Ok(n + self.load(item)?));
        }
        let (version, kind) = (text(document, "/apiVersion"), text(document, "/kind"));
        let id = resources::by_kind(version, kind)
            .ok_or_else(|| ApiError::bad_request(format!("no kind {kind:?} is registered for version {version:?}")))?;
        let created = self.create(RESOURCES[id].plural, document.clone())?;
        if RESOURCES[id].has_status && !document["status"].is_null() {
            let namespace = text(&created, "/metadata/namespace");
            let target = Target { status: true, ..Target::new(id, namespace, text(&created, "/metadata/name")) };
            let status = json!({ "status": document["status"] });
            self.hub.write(|s| registry::patch(s, &target, PatchType::Merge, &status, Options::default()))?;
        }
        Ok(1)
    }

    /// The object, or `None`. Names of namespaced resources are `namespace/name` or a name in `default`.
    pub fn get(&self, resource_name: &str, name: &str) -> Option<Value> {
        let target = target(resource_name, name).ok()?;
        let key = object::key(&target.namespace, &target.name);
        self.hub.store().get(target.resource, &key).map(|o| o.value())
    }

    /// All objects of a resource, over all namespaces, by key.
    pub fn list(&self, resource_name: &str) -> Vec<Value> {
        let Ok(id) = resource(resource_name) else { return Vec::new() };
        let objects: Vec<_> = self.hub.store().range(id, "", "").cloned().collect();
        objects.iter().map(|o| o.value()).collect()
    }

    /// How many objects a resource has.
    pub fn count(&self, resource_name: &str) -> usize {
        resource(resource_name).map_or(0, |id| self.hub.store().len(id))
    }

    /// Replaces an object (PUT).
    pub fn update(&self, resource_name: &str, object: Value) -> Result<Value, ApiError> {
        let namespace = text(&object, "/metadata/namespace");
        let name = text(&object, "/metadata/name");
        let name = if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
        let target = target(resource_name, &name)?;
        self.hub.write(|s| registry::update(s, &target, object.clone(), Options::default())).map(|(o, _)| o.value())
    }

    /// Merge-patches an object.
    pub fn merge_patch(&self, resource_name: &str, name: &str, patch: Value) -> Result<Value, ApiError> {
        self.patch(target(resource_name, name)?, PatchType::Merge, &patch)
    }

    /// JSON-patches an object.
    pub fn json_patch(&self, resource_name: &str, name: &str, patch: Value) -> Result<Value, ApiError> {
        self.patch(target(resource_name, name)?, PatchType::Json, &patch)
    }

    /// Merge-patches the status subresource; the patch starts at the object: `{"status": {...}}`.
    pub fn patch_status(&self, resource_name: &str, name: &str, patch: Value) -> Result<Value, ApiError> {
        self.patch(Target { status: true, ..target(resource_name, name)? }, PatchType::Merge, &patch)
    }

    fn patch(&self, target: Target, kind: PatchType, patch: &Value) -> Result<Value, ApiError> {
        self.hub.write(|s| registry::patch(s, &target, kind, patch, Options::default())).map(|o| o.value())
    }

    /// Deletes as DELETE does: an object with finalizers stays, with a deletionTimestamp.
    pub fn delete(&self, resource_name: &str, name: &str) -> Result<(), ApiError> {
        let target = target(resource_name, name)?;
        let now = json!({ "gracePeriodSeconds": 0 });
        self.hub.write(|s| deletion::delete(s, &target, &now)).map(drop)
    }

    /// Deletes whatever the finalizers say; whether there was something.
    pub fn force_delete(&self, resource_name: &str, name: &str) -> bool {
        let Ok(target) = target(resource_name, name) else { return false };
        let key = object::key(&target.namespace, &target.name);
        self.hub.write(|s| s.remove(target.resource, &key)).is_some()
    }

    /// Sets `status.phase` of a volume.
    pub fn set_pv_phase(&self, name: &str, phase: &str) -> Result<Value, ApiError> {
        self.hub.write(|s| registry::set_volume_phase(s, name, phase)).map(|o| o.value())
    }

    /// Waits until the predicate holds; false when the time was over first.
    pub fn wait_for(&self, mut predicate: impl FnMut(&Self) -> bool, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            if predicate(self) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            drop(self.hub.wait(self.hub.store(), left.min(POLL)));
        }
    }

    /// The current revision.
    pub fn resource_version(&self) -> u64 {
        self.hub.store().rv()
    }

    // The request log.

    /// Every request since the start or the last [`Self::clear_requests`], in order of arrival.
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.hub.requests()
    }

    pub fn clear_requests(&self) {
        self.hub.clear_requests();
    }

    /// Open connections, idle ones included.
    pub fn connections(&self) -> usize {
        self.hub.connections()
    }

    // Faults and switches.

    /// Plans a fault; several are used in the order in which they were planned.
    pub fn inject(&self, fault: Fault) {
        self.hub.faults.add(fault);
        self.hub.wake();
    }

    pub fn clear_faults(&self) {
        self.hub.faults.clear();
    }

    /// Planned faults that have not (all) hit yet.
    pub fn pending_faults(&self) -> usize {
        self.hub.faults.pending()
    }

    /// Only this bearer token is let in; `None` lets everybody in.
    pub fn set_token(&self, token: Option<&str>) {
        self.hub.configure(|s| s.token = token.map(str::to_owned));
    }

    /// Only what these rules allow is answered, the rest is 403; `None` allows everything.
    pub fn set_rbac(&self, rules: Option<Vec<Rule>>) {
        self.hub.configure(|s| s.rbac = rules);
    }

    /// Changes any of the [`Settings`].
    pub fn configure(&self, change: impl FnOnce(&mut Settings)) {
        self.hub.configure(change);
    }

    /// Forgets the history: watches from before and pages from before get 410.
    pub fn compact(&self) {
        self.hub.write(|s| s.compact());
    }

    /// How many changes the history keeps.
    pub fn set_history_limit(&self, changes: usize) {
        self.hub.write(|s| s.set_history_limit(changes));
    }

    /// Cuts every connection.
    pub fn drop_connections(&self) {
        self.hub.cut_all();
    }

    /// What a restart of the API server looks like: all connections cut, the watch cache empty. Data stay.
    pub fn restart(&self) {
        self.compact();
        self.drop_connections();
    }

    /// A copy of everything stored.
    pub fn snapshot(&self) -> Snapshot {
        self.hub.store().snapshot()
    }

    /// Goes back to a copy, as an etcd restore: revisions go backwards, all connections are cut.
    pub fn restore(&self, snapshot: &Snapshot) {
        self.hub.write(|s| s.restore(snapshot));
        self.drop_connections();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.hub.stop();
        // Wakes the accepting thread; a failure means that it is gone already.
        let _ = TcpStream::connect(self.address);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        let deadline = Instant::now() + Duration::from_secs(2);
        while self.hub.connections() > 0 && Instant::now() < deadline {
            self.hub.cut_all();
            thread::sleep(Duration::from_millis(5));
        }
    }
}
