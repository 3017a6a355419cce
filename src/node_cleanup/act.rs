//! The threads that write to the API server for `node-cleanup`: each takes an action, asks whether what it was decided
//! on still holds, and answers with one outcome. Decides nothing and retries nothing.
//!
//! Before anything is deleted the nodes are asked for live, by name and by hostname label: the cache may be behind
//! without knowing it, and what is deleted cannot be brought back.

use super::affinity::Reach;
use super::decide::Action;
use super::lease::Lead;
use super::view::{Claim, Seen, Volume, split};
use crate::execute::pool::Pool;
use crate::kube::client::Client;
use crate::kube::error::ApiError;
use crate::kube::objects::{List, Node};
use crate::kube::request::cleanup::{delete_claim, nodes_of_hostname, patch_claim};
use crate::kube::request::{Request, delete_persistent_volume, get_node, get_persistent_volume};
use crate::model::names::{NODE_GONE_ANNOTATION, is_label_value};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// How an action ended.
#[derive(Debug)]
pub struct Outcome {
    pub action: Action,
    pub answer: Result<(), NotDone>,
}

#[derive(Debug)]
pub enum NotDone {
    /// What it was decided on does not hold any more.
    Stale(String),
    Failed {
        reason: String,
        retry_after: Option<Duration>,
    },
}

impl From<ApiError> for NotDone {
    fn from(error: ApiError) -> Self {
        match error.is_conflict() {
            true => NotDone::Stale(error.chain()),
            false => NotDone::Failed { reason: error.chain(), retry_after: error.retry_after() },
        }
    }
}

/// Starts the threads; `sink` is given each outcome.
pub fn spawn(
    client: &Client,
    threads: usize,
    lead: &Arc<Lead>,
    sink: impl Fn(Outcome) + Send + Sync + 'static,
) -> std::io::Result<Pool<Action>> {
    let lead = lead.clone();
    Pool::spawn("act", threads, client, move |client: &Client, action: Action| {
        let answer = carry_out(client, &lead, &action);
        sink(Outcome { action, answer });
    })
}

fn carry_out(client: &Client, lead: &Lead, action: &Action) -> Result<(), NotDone> {
    let request = match action {
        Action::Mark { claim, since } => annotate(claim, &json!(since)),
        Action::Unmark { claim } => annotate(claim, &Value::Null),
        Action::DeleteClaim { claim, volume } => {
            still_bound(client, volume)?;
            nodes_gone(client, volume)?;
            let (namespace, name) = split(&claim.key);
            delete_claim(namespace, name, &claim.uid, &claim.resource_version)
        }
        Action::DeleteVolume { volume } => {
            nodes_gone(client, volume)?;
            delete_persistent_volume(&volume.name, &volume.uid, &volume.resource_version)
        }
    };
    if !lead.holds() {
        return Err(NotDone::Stale("the Lease is not held any more".to_owned()));
    }
    match client.call::<IgnoredAny>(&request) {
        Ok(_) => Ok(()),
        // Somebody else has done it.
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn annotate(claim: &Claim, value: &Value) -> Request {
    let (namespace, name) = split(&claim.key);
    let metadata = json!({"resourceVersion": claim.resource_version, "annotations": {NODE_GONE_ANNOTATION: value}});
    patch_claim(namespace, name, &json!({ "metadata": metadata }))
}

/// The volume is the one that was decided on, bound to the same claim and reached from the same nodes.
fn still_bound(client: &Client, volume: &Volume) -> Result<(), NotDone> {
    let live = Volume::from(client.call::<Seen>(&get_persistent_volume(&volume.name))?);
    let same = live.uid == volume.uid
        && live.claim == volume.claim
        && live.class == volume.class
        && live.local == volume.local
        && live.reach == volume.reach;
    if same { Ok(()) } else { Err(NotDone::Stale(format!("PersistentVolume {} is another one by now", volume.name))) }
}

/// No Node has the name, and none the hostname label, of any node that the volume can be reached from.
fn nodes_gone(client: &Client, volume: &Volume) -> Result<(), NotDone> {
    let there = |node: &str| Err(NotDone::Stale(format!("Node {node} is there")));
    let Reach::Nodes(nodes) = &volume.reach else { return there("(unknown)") };
    for node in nodes {
        match client.call::<IgnoredAny>(&get_node(node)) {
            Ok(_) => return there(node),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        // A label cannot have any other value, so no Node has it.
        if is_label_value(node) && !client.call::<List<Node>>(&nodes_of_hostname(node).list(1, None))?.items.is_empty()
        {
            return there(node);
        }
    }
    Ok(())
}
