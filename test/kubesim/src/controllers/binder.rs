//! Owns what the persistent volume controller, the protection controllers and, for claims that wait for their
//! first consumer, the scheduler do to volumes and claims. It provisions nothing and deletes no data.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::collector::drop_finalizer;
use super::matching::{Facts, Nodes, Wish, feasible_nodes};
use crate::defaults::{PV_PROTECTION, PVC_PROTECTION};
use crate::hub::Hub;
use crate::object::{self, Object, finalizers, text};
use crate::registry::{self, Options, PatchType, Target};
use crate::resources::{NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, STORAGE_CLASSES};
use crate::store::{Change, Store};

const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Both spellings are set on a claim that an external provisioner is to serve.
const PROVISIONER: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];

/// The volumes that are known, and what is to be looked at.
#[derive(Debug, Default)]
pub struct Binder {
    volumes: BTreeMap<String, Facts>,
    dirty_volumes: BTreeSet<String>,
    dirty_claims: BTreeSet<String>,
    /// Claims without a volume; a new volume, class, node or pod may serve them.
    unbound: BTreeSet<String>,
}

fn annotation<'a>(body: &'a Value, key: &str) -> &'a str {
    body["metadata"]["annotations"][key].as_str().unwrap_or("")
}

fn is_dying(body: &Value) -> bool {
    !text(body, "/metadata/deletionTimestamp").is_empty()
}

fn volume_target(name: &str) -> Target {
    Target::new(PERSISTENT_VOLUMES, "", name)
}

fn claim_target(key: &str) -> Target {
    let (namespace, name) = key.split_once('/').unwrap_or(("default", key));
    Target::new(PERSISTENT_VOLUME_CLAIMS, namespace, name)
}

/// A write of the controller; what is lost in a race comes back with the next change.
fn patch(store: &mut Store, target: &Target, patch: &Value) {
    let _ = registry::patch(store, target, PatchType::Merge, patch, Options::default());
}

fn patch_status(store: &mut Store, target: &Target, status: Value) {
    patch(store, &Target { status: true, ..target.clone() }, &json!({ "status": status }));
}

/// The protection controllers put back what a client took away from a living object.
fn add_finalizer(store: &mut Store, target: &Target, body: &Value, finalizer: &str) {
    let mut list = finalizers(body);
    list.push(finalizer.to_owned());
    patch(store, target, &json!({ "metadata": { "finalizers": list } }));
}

impl Binder {
    /// Forgets everything and looks at all volumes and claims.
    pub fn reset(&mut self, store: &Store) {
        *self = Self::default();
        for o in store.range(PERSISTENT_VOLUMES, "", "") {
            self.note_volume(o);
        }
        for o in store.range(PERSISTENT_VOLUME_CLAIMS, "", "") {
            self.note_claim(o);
        }
    }

    fn note_volume(&mut self, o: &Arc<Object>) {
        let facts = Facts::of(o);
        if let Some((namespace, name, _)) = &facts.claim {
            self.dirty_claims.insert(object::key(namespace, name));
        }
        if facts.available {
            self.dirty_claims.extend(self.unbound.iter().cloned());
        }
        self.volumes.insert(o.name.clone(), facts);
        self.dirty_volumes.insert(o.name.clone());
    }

    fn note_claim(&mut self, o: &Arc<Object>) {
        let body = o.body();
        if annotation(&body, BIND_COMPLETED).is_empty() {
            self.unbound.insert(o.key());
        } else {
            self.unbound.remove(&o.key());
        }
        let volume = text(&body, "/spec/volumeName");
        if !volume.is_empty() {
            self.dirty_volumes.insert(volume.to_owned());
        }
        self.dirty_claims.insert(o.key());
    }

    pub fn note(&mut self, change: &Change) {
        let o = &change.new;
        match (o.resource, change.deleted) {
            (PERSISTENT_VOLUMES, false) => self.note_volume(o),
            (PERSISTENT_VOLUMES, true) => {
                if let Some((namespace, name, _)) = self.volumes.remove(&o.name).and_then(|f| f.claim) {
                    self.dirty_claims.insert(object::key(&namespace, &name));
                }
            }
            (PERSISTENT_VOLUME_CLAIMS, false) => self.note_claim(o),
            (PERSISTENT_VOLUME_CLAIMS, true) => {
                self.unbound.remove(&o.key());
                let of_claim = |f: &Facts| f.claim.as_ref().is_some_and(|c| c.0 == o.namespace && c.1 == o.name);
                let theirs = self.volumes.iter().filter(|(_, f)| of_claim(f)).map(|(name, _)| name.clone());
                self.dirty_volumes.extend(theirs);
            }
            (PODS, gone) => {
                let claims = claims_of(&o.body()).into_iter().map(|c| object::key(&o.namespace, &c));
                if gone || !claims.clone().all(|c| !self.unbound.contains(&c)) {
                    self.dirty_claims.extend(claims);
                }
            }
            (STORAGE_CLASSES | NODES, _) => self.dirty_claims.extend(self.unbound.iter().cloned()),
            _ => {}
        }
    }

    pub fn has_work(&self) -> bool {
        !(self.dirty_volumes.is_empty() && self.dirty_claims.is_empty())
    }

    pub fn work(&mut self, hub: &Hub) {
        for name in std::mem::take(&mut self.dirty_volumes) {
            hub.write(|store| sync_volume(store, &name));
        }
        for key in std::mem::take(&mut self.dirty_claims) {
            let bound = hub.write(|store| self.sync_claim(store, &key));
            // What was just given away must not be given away again before its change is seen.
            if let Some(facts) = bound.and_then(|name| self.volumes.get_mut(&name)) {
                facts.available = false;
            }
        }
    }

    /// The volume that a claim was bound to, if any.
    fn sync_claim(&self, store: &mut Store, key: &str) -> Option<String> {
        let claim = store.get(PERSISTENT_VOLUME_CLAIMS, key).cloned()?;
        let body = claim.body();
        if is_dying(&body)
            && finalizers(&body).iter().any(|f| f == PVC_PROTECTION)
            && consumers(store, &claim).is_empty()
        {
            drop_finalizer(store, &claim, PVC_PROTECTION);
            return None;
        }
        if !is_dying(&body) && !finalizers(&body).iter().any(|f| f == PVC_PROTECTION) {
            add_finalizer(store, &claim_target(key), &body, PVC_PROTECTION);
            return None;
        }
        if !annotation(&body, BIND_COMPLETED).is_empty() {
            check_bound(store, &claim, &body);
            return None;
        }
        if is_dying(&body) {
            return None;
        }
        let named = text(&body, "/spec/volumeName");
        let name = if named.is_empty() {
            self.choose(store, &claim, &body)?
        } else {
            let volume = store.get(PERSISTENT_VOLUMES, named)?.body();
            if !is_free_for(&volume, &claim) {
                return None;
            }
            named.to_owned()
        };
        bind(store, &name, &claim, &body);
        Some(name)
    }

    /// The smallest volume that fits, or one that names the claim already. May ask a provisioner instead.
    fn choose(&self, store: &mut Store, claim: &Arc<Object>, body: &Value) -> Option<String> {
        let wish = Wish::of(claim, body);
        if let Some(name) = wish.promised(&self.volumes) {
            return Some(name.to_owned());
        }
        let class = store.get(STORAGE_CLASSES, &wish.class).map(|c| c.body());
        let waits = class.as_ref().is_some_and(|c| text(c, "/volumeBindingMode") == "WaitForFirstConsumer");
        let consumers = if waits { consumers(store, claim) } else { Vec::new() };
        let selected = annotation(body, SELECTED_NODE);
        if waits && consumers.is_empty() && selected.is_empty() {
            return None;
        }
        let nodes = if waits { feasible_nodes(store, &consumers, selected) } else { Nodes::Any };
        let reached = |name: &str| store.get(PERSISTENT_VOLUMES, name).is_some_and(|v| nodes.reach(&v.body()));
        if let Some(name) = wish.candidates(&self.volumes).into_iter().find(|name| reached(name)) {
            return Some(name.to_owned());
        }
        self.ask_provisioner(store, claim, body, class.as_ref()?, waits, &nodes);
        None
    }

    fn ask_provisioner(
        &self,
        store: &mut Store,
        claim: &Object,
        body: &Value,
        class: &Value,
        waits: bool,
        nodes: &Nodes,
    ) {
        let provisioner = text(class, "/provisioner");
        if provisioner == "kubernetes.io/no-provisioner" || !text(body, "/spec/volumeName").is_empty() {
            return;
        }
        let target = claim_target(&claim.key());
        if waits && annotation(body, SELECTED_NODE).is_empty() {
            let Some(node) = nodes.first() else { return };
            patch(store, &target, &json!({ "metadata": { "annotations": { SELECTED_NODE: node } } }));
        }
        if annotation(body, PROVISIONER[0]) != provisioner {
            let annotations = json!({ PROVISIONER[0]: provisioner, PROVISIONER[1]: provisioner });
            patch(store, &target, &json!({ "metadata": { "annotations": annotations } }));
        }
    }
}

fn claims_of(pod: &Value) -> Vec<String> {
    let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array);
    let name = |v: &Value| text(v, "/persistentVolumeClaim/claimName").to_owned();
    volumes.into_iter().flatten().map(name).filter(|n| !n.is_empty()).collect()
}

/// Pods that use a claim and have not finished.
fn consumers(store: &Store, claim: &Object) -> Vec<Value> {
    let prefix = format!("{}/", claim.namespace);
    store
        .range(PODS, &prefix, "")
        .filter(|pod| !matches!(pod.field("status.phase"), "Succeeded" | "Failed"))
        .map(|pod| pod.body())
        .filter(|pod| claims_of(pod).contains(&claim.name))
        .collect()
}

fn is_free_for(volume: &Value, claim: &Object) -> bool {
    let reference = &volume["spec"]["claimRef"];
    reference.is_null()
        || (text(reference, "/namespace") == claim.namespace
            && text(reference, "/name") == claim.name
            && matches!(text(reference, "/uid"), uid if uid.is_empty() || uid == claim.uid))
}

/// The four writes of a binding, in the order of the real controller.
fn bind(store: &mut Store, name: &str, claim: &Object, claim_body: &Value) {
    let Some(volume) = store.get(PERSISTENT_VOLUMES, name).cloned() else { return };
    let before = volume.body();
    let reference = json!({
        "kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": claim.namespace, "name": claim.name,
        "uid": claim.uid, "resourceVersion": claim.rv.to_string(),
    });
    if text(&before, "/spec/claimRef/uid") != claim.uid {
        let mut change = json!({ "spec": { "claimRef": reference } });
        if before["spec"]["claimRef"].is_null() {
            change["metadata"] = json!({ "annotations": { BOUND_BY_CONTROLLER: "yes" } });
        }
        patch(store, &volume_target(name), &change);
    }
    if text(&before, "/status/phase") != "Bound" {
        patch_status(store, &volume_target(name), json!({ "phase": "Bound" }));
    }
    let target = claim_target(&claim.key());
    let mut annotations = json!({ BIND_COMPLETED: "yes" });
    if text(claim_body, "/spec/volumeName").is_empty() {
        annotations[BOUND_BY_CONTROLLER] = json!("yes");
    }
    let change = json!({ "metadata": { "annotations": annotations }, "spec": { "volumeName": name } });
    patch(store, &target, &change);
    let status = json!({
        "phase": "Bound", "accessModes": before["spec"]["accessModes"], "capacity": before["spec"]["capacity"],
    });
    patch_status(store, &target, status);
}

/// A claim that was bound once: its volume must be there and be its own.
fn check_bound(store: &mut Store, claim: &Object, body: &Value) {
    let name = text(body, "/spec/volumeName");
    let volume = store.get(PERSISTENT_VOLUMES, name).map(|v| v.body());
    let lost = match &volume {
        None => true,
        Some(v) => !is_free_for(v, claim),
    };
    if lost {
        if text(body, "/status/phase") != "Lost" {
            patch_status(
                store,
                &claim_target(&claim.key()),
                json!({ "phase": "Lost", "accessModes": null, "capacity": null }),
            );
        }
        return;
    }
    let rebind = volume.is_some_and(|v| text(&v, "/spec/claimRef/uid") != claim.uid);
    if rebind || text(body, "/status/phase") != "Bound" {
        bind(store, name, claim, body);
    }
}

fn sync_volume(store: &mut Store, name: &str) {
    let Some(volume) = store.get(PERSISTENT_VOLUMES, name).cloned() else { return };
    let body = volume.body();
    let target = volume_target(name);
    let phase = text(&body, "/status/phase");
    if is_dying(&body) && phase != "Bound" && finalizers(&body).iter().any(|f| f == PV_PROTECTION) {
        drop_finalizer(store, &volume, PV_PROTECTION);
        return;
    }
    if !is_dying(&body) && !finalizers(&body).iter().any(|f| f == PV_PROTECTION) {
        add_finalizer(store, &target, &body, PV_PROTECTION);
        return;
    }
    let reference = &body["spec"]["claimRef"];
    let uid = text(reference, "/uid");
    if reference.is_null() || uid.is_empty() {
        // Unclaimed, or set aside by a person for a claim that has not come.
        if phase != "Available" {
            patch_status(store, &target, json!({ "phase": "Available", "message": null, "reason": null }));
        }
        return;
    }
    let key = object::key(text(reference, "/namespace"), text(reference, "/name"));
    let claim = store.get(PERSISTENT_VOLUME_CLAIMS, &key).filter(|c| c.uid == uid).map(|c| c.body());
    let Some(claim) = claim else {
        release(store, &target, &body);
        return;
    };
    let bound_to = text(&claim, "/spec/volumeName");
    if bound_to == name {
        if phase != "Bound" {
            patch_status(store, &target, json!({ "phase": "Bound" }));
        }
    } else if !bound_to.is_empty() {
        unbind(store, &target, &body);
    }
}

/// The claim is gone. No data are deleted here: Delete and Recycle fail without a plugin, as they do for local
/// volumes, unless an external provisioner has put its name on the volume.
fn release(store: &mut Store, target: &Target, body: &Value) {
    let phase = text(body, "/status/phase");
    if !matches!(phase, "Released" | "Failed") {
        patch_status(store, target, json!({ "phase": "Released" }));
    }
    let external = !annotation(body, PROVISIONED_BY).is_empty();
    let verb = match text(body, "/spec/persistentVolumeReclaimPolicy") {
        "Delete" if !external => "deleter",
        "Recycle" => "recycler",
        _ => return,
    };
    if phase != "Failed" && !is_dying(body) {
        let message = format!(
            "error getting {verb} volume plugin for volume {}: no volume plugin matched",
            crate::status::quote(&target.name)
        );
        patch_status(store, target, json!({ "phase": "Failed", "message": message }));
    }
}

/// The claim went to another volume.
fn unbind(store: &mut Store, target: &Target, body: &Value) {
    let ours = !annotation(body, BOUND_BY_CONTROLLER).is_empty();
    let change = if ours {
        json!({ "metadata": { "annotations": { BOUND_BY_CONTROLLER: null } }, "spec": { "claimRef": null } })
    } else {
        json!({ "spec": { "claimRef": { "uid": null, "resourceVersion": null } } })
    };
    patch(store, target, &change);
    patch_status(store, target, json!({ "phase": "Available" }));
}
