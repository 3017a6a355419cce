//! Owns garbage collection: dependents follow their owners, foreground deletion waits for them, orphaning lets
//! them go, and a namespace takes its content along.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::deletion;
use crate::hub::Hub;
use crate::object::{Object, finalizers, metadata_mut, text};
use crate::registry::{self, Options, PatchType, Target};
use crate::resources::{self, Id, NAMESPACES, RESOURCES};
use crate::store::{Change, Store};

/// What there is to look at.
#[derive(Debug, Default)]
pub struct Collector {
    /// Who is owned by a UID: a scan over 30,000 volumes for each deletion would be too much.
    owned: HashMap<String, BTreeSet<(Id, String)>>,
    /// Objects with owners, whose owners are to be looked for.
    dependents: BTreeSet<(Id, String)>,
    /// Objects that wait for `foregroundDeletion` or `orphan`.
    waiting: BTreeSet<(Id, String)>,
    /// Of these, the ones whose dependents were still there; each deletion of a dependent wakes them.
    blocked: BTreeSet<(Id, String)>,
    namespaces: BTreeSet<String>,
}

fn target(o: &Object) -> Target {
    Target::new(o.resource, &o.namespace, &o.name)
}

/// Whether the owner of a reference still lives; kinds that the server does not know are taken to live.
fn lives(store: &Store, dependent: &Object, owner: &Value) -> bool {
    let Some(id) = resources::by_kind(text(owner, "/apiVersion"), text(owner, "/kind")) else { return true };
    let name = text(owner, "/name");
    let key = if RESOURCES[id].namespaced {
        if dependent.namespace.is_empty() {
            // A cluster-scoped object cannot have a namespaced owner; the real collector leaves it alone.
            return true;
        }
        format!("{}/{name}", dependent.namespace)
    } else {
        name.to_owned()
    };
    store.get(id, &key).is_some_and(|o| o.uid == text(owner, "/uid"))
}

fn owners(body: &Value) -> Vec<Value> {
    body.pointer("/metadata/ownerReferences").and_then(Value::as_array).cloned().unwrap_or_default()
}

fn set_list(body: &mut Value, field: &str, list: &[Value]) {
    let meta = metadata_mut(body);
    if list.is_empty() {
        meta.remove(field);
    } else {
        meta.insert(field.to_owned(), json!(list));
    }
}

impl Collector {
    /// Forgets everything and looks at all objects.
    pub fn reset(&mut self, store: &Store) {
        *self = Self::default();
        for o in store.all() {
            self.look(o);
        }
    }

    fn look(&mut self, o: &Arc<Object>) {
        for uid in &o.owners {
            self.owned.entry(uid.clone()).or_default().insert((o.resource, o.key()));
            self.dependents.insert((o.resource, o.key()));
        }
        // A cheap look before the text is parsed.
        if o.item().contains("foregroundDeletion") || o.item().contains("\"orphan\"") {
            self.waiting.insert((o.resource, o.key()));
        }
    }

    pub fn note(&mut self, change: &Change) {
        for uid in change.old.iter().flat_map(|o| &o.owners) {
            if let Some(set) = self.owned.get_mut(uid) {
                set.remove(&(change.new.resource, change.new.key()));
            }
        }
        if change.deleted {
            self.dependents.extend(self.owned.remove(&change.new.uid).into_iter().flatten());
            if !change.new.owners.is_empty() {
                self.waiting.append(&mut self.blocked);
            }
            if change.new.resource == NAMESPACES {
                self.namespaces.insert(change.new.name.clone());
            }
        } else {
            self.look(&change.new);
        }
    }

    pub fn has_work(&self) -> bool {
        !(self.dependents.is_empty() && self.waiting.is_empty() && self.namespaces.is_empty())
    }

    pub fn work(&mut self, hub: &Hub) {
        if !self.has_work() {
            return;
        }
        for (id, key) in std::mem::take(&mut self.dependents) {
            hub.write(|store| collect(store, id, &key));
        }
        for (id, key) in std::mem::take(&mut self.waiting) {
            if hub.write(|store| finish(store, id, &key)) {
                self.blocked.insert((id, key));
            }
        }
        for namespace in std::mem::take(&mut self.namespaces) {
            hub.write(|store| {
                let prefix = format!("{namespace}/");
                let all: Vec<Arc<Object>> = (0..RESOURCES.len())
                    .flat_map(|id| store.range(id, &prefix, "").cloned().collect::<Vec<_>>())
                    .collect();
                for o in all {
                    let _ = deletion::delete(store, &target(&o), &json!({ "gracePeriodSeconds": 0 }));
                }
            });
        }
    }
}

/// Deletes an object all of whose owners are gone; drops the references to some that are.
fn collect(store: &mut Store, id: Id, key: &str) {
    let Some(o) = store.get(id, key).cloned() else { return };
    let mut body = o.body();
    let all = owners(&body);
    let living: Vec<Value> = all.iter().filter(|owner| lives(store, &o, owner)).cloned().collect();
    if living.len() == all.len() {
        return;
    }
    if living.is_empty() {
        // Gone in between, or refused: the next change brings it back here.
        let options = json!({ "preconditions": { "uid": o.uid }, "propagationPolicy": "Background" });
        let _ = deletion::delete(store, &target(&o), &options);
    } else {
        set_list(&mut body, "ownerReferences", &living);
        let _ = registry::update(store, &target(&o), body, Options::default());
    }
}

/// Works off the two finalizers of the collector; whether dependents still block the end.
fn finish(store: &mut Store, id: Id, key: &str) -> bool {
    let Some(o) = store.get(id, key).cloned() else { return false };
    let body = o.body();
    if text(&body, "/metadata/deletionTimestamp").is_empty() {
        return false;
    }
    let list = finalizers(&body);
    let dependents: Vec<Arc<Object>> = store.all().filter(|d| d.owners.contains(&o.uid)).cloned().collect();
    if list.iter().any(|f| f == "orphan") {
        for d in dependents {
            let mut body = d.body();
            let left: Vec<Value> = owners(&body).into_iter().filter(|r| text(r, "/uid") != o.uid).collect();
            set_list(&mut body, "ownerReferences", &left);
            let _ = registry::update(store, &target(&d), body, Options::default());
        }
        drop_finalizer(store, &o, "orphan");
    } else if list.iter().any(|f| f == "foregroundDeletion") {
        for d in &dependents {
            let options = json!({ "preconditions": { "uid": d.uid }, "propagationPolicy": "Foreground" });
            if text(&d.body(), "/metadata/deletionTimestamp").is_empty() {
                let _ = deletion::delete(store, &target(d), &options);
            }
        }
        let blocked = store.all().filter(|d| d.owners.contains(&o.uid)).any(|d| {
            owners(&d.body()).iter().any(|r| text(r, "/uid") == o.uid && r["blockOwnerDeletion"] == Value::Bool(true))
        });
        if blocked {
            return true;
        }
        drop_finalizer(store, &o, "foregroundDeletion");
    }
    false
}

/// Removes one finalizer by a write of its own.
pub fn drop_finalizer(store: &mut Store, o: &Object, finalizer: &str) {
    let left: Vec<String> = finalizers(&o.body()).into_iter().filter(|f| f != finalizer).collect();
    let patch = json!({ "metadata": { "finalizers": left } });
    let _ = registry::patch(store, &target(o), PatchType::Merge, &patch, Options::default());
}
