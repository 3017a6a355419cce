//! The one unfiltered LIST of PersistentVolumes in a node's life: page by page, keeping next to nothing.

use super::NodeScope;
use crate::decide::outcome::Listing;
use crate::kube::client::Client;
use crate::kube::error::ApiError;
use crate::kube::objects::{List, PersistentVolume};
use crate::kube::request::{self, Target};
use crate::kube::watch::PAGE_LIMIT;
use crate::model::discovery_names::is_provisioner_of;
use crate::model::memory::ForeignPv;
use crate::model::names;
use std::path::PathBuf;

/// Finds local PVs of this node that do not carry our label: the original's get it, all others are remembered.
pub(super) fn list_all(client: &Client, scope: &NodeScope, hostname: &str) -> Result<Listing, ApiError> {
    let target = Target::<PersistentVolume>::all_persistent_volumes();
    let mut listing = Listing::default();
    let mut next: Option<String> = None;
    loop {
        let page: List<PersistentVolume> = client.call(&target.list(PAGE_LIMIT, next.as_deref()))?;
        for pv in page.items {
            match class_of(&pv, scope, hostname) {
                Kind::Elsewhere => {}
                Kind::Originals => {
                    take_over(client, &pv, scope)?;
                    listing.taken_over += 1;
                }
                // A ledger that begins with this source forgets nothing: the original kept none.
                Kind::Discovered => take_over(client, &pv, scope)?,
                Kind::Foreign(path) => {
                    listing.foreign.push(ForeignPv { name: pv.metadata.name, uid: pv.metadata.uid, path })
                }
            }
        }
        if page.metadata.continue_token.is_empty() {
            return Ok(listing);
        }
        next = Some(page.metadata.continue_token);
    }
}

enum Kind {
    /// Of another node, no local volume, or labelled already: the watch shows it.
    Elsewhere,
    /// Made by the original for this node, without the label that the watch selects by.
    Originals,
    /// The same of the original of discovery directories, where that source runs.
    Discovered,
    Foreign(PathBuf),
}

fn class_of(pv: &PersistentVolume, scope: &NodeScope, hostname: &str) -> Kind {
    let Some(local) = &pv.spec.local else { return Kind::Elsewhere };
    if pv.metadata.labels.get(names::NODE_LABEL) == Some(&scope.node_label) || !names_node(pv, hostname) {
        return Kind::Elsewhere;
    }
    let provisioner = pv.metadata.annotations.get(names::PROVISIONED_BY_ANNOTATION);
    if scope.discovery_dir && provisioner.is_some_and(|by| is_provisioner_of(by, &scope.node_name)) {
        return Kind::Discovered;
    }
    let originals = pv.metadata.labels.get(names::NODE_LABEL_IO).is_some_and(|value| *value == scope.node_name)
        && !pv.metadata.labels.contains_key(names::NODE_LABEL);
    if originals { Kind::Originals } else { Kind::Foreign(PathBuf::from(&local.path)) }
}

/// Whether the affinity names this host; what cannot be understood may.
fn names_node(pv: &PersistentVolume, hostname: &str) -> bool {
    let Some(required) = pv.spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref()) else {
        return true;
    };
    required.node_selector_terms.iter().any(|term| {
        let by_host: Vec<_> = term.match_expressions.iter().filter(|e| e.key == names::HOSTNAME_LABEL).collect();
        by_host.is_empty() || by_host.iter().all(|e| e.operator != "In" || e.values.iter().any(|v| v == hostname))
    })
}

fn take_over(client: &Client, pv: &PersistentVolume, scope: &NodeScope) -> Result<(), ApiError> {
    let patch = serde_json::json!({"metadata": {
        "uid": pv.metadata.uid,
        "resourceVersion": pv.metadata.resource_version,
        "labels": {names::NODE_LABEL: scope.node_label},
    }});
    client.call::<serde_json::Value>(&request::patch_persistent_volume(&pv.metadata.name, &patch)).map(drop)
}
