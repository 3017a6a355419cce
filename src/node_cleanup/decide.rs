//! Which claims and volumes are lost with their node, and what is done about them now. Pure: caches and clocks in, a
//! plan out.
//!
//! The rules:
//! - Nothing is decided on a cache that is not filled, or whose watch is broken.
//! - A node is gone when no Node has its name and none has it as hostname label. A volume is gone when each node that
//!   it can be reached from is.
//! - The claim of a volume that is gone is marked with the time, and deleted once the delay has passed without a node's
//!   coming back. The mark stands on the claim, so that the delay outlives this process; it is taken off when the node
//!   is back.
//! - A volume that is gone is deleted if it is Available, or Released under the policy `Delete`.
//!
//! A decision is no permission: who carries it out asks the API server again first.

use super::affinity::Reach;
use super::cache::Cache;
use super::view::{Claim, NodeName, Volume};
use crate::kube::objects::Phase;
use serde::Serialize;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, SystemTime};

/// A mark may be so much ahead of this clock, since another replica's clock wrote it. One from further ahead would hold
/// the claim for ever and is written anew.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// Everything that a decision is made on.
pub struct Snapshot<'a> {
    pub classes: &'a BTreeSet<String>,
    pub delay: Duration,
    pub volumes: &'a Cache<Volume>,
    pub claims: &'a Cache<Claim>,
    pub nodes: &'a Cache<NodeName>,
    pub watched: Watched,
    /// The plan's before this one.
    pub waits: &'a Waits,
    /// On the monotonic clock.
    pub now: Duration,
    pub wall: SystemTime,
    /// It is time to look for volumes to delete.
    pub sweep: bool,
}

/// Since when the Nodes are watched without a break, and how long nobody had watched them before. What happened in the
/// meantime is unknown: a node may have come back and gone again. So before anything is deleted they are watched for as
/// long as they were not, or for the delay if that is less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watched {
    pub since: Duration,
    pub unwatched: Duration,
}

/// The claims that wait for their end, by key.
pub type Waits = HashMap<Box<str>, Wait>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    uid: Box<str>,
    mark: Box<str>,
    /// On the monotonic clock, so that a wall clock that jumps shortens no delay.
    pub due: Duration,
}

/// One thing to do, with the evidence that it was decided on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Mark { claim: Claim, since: String },
    Unmark { claim: Claim },
    DeleteClaim { claim: Claim, volume: Volume },
    DeleteVolume { volume: Volume },
}

/// What an action is about; there is at most one action about each.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    Claim(Box<str>),
    Volume(Box<str>),
}

impl Action {
    pub fn subject(&self) -> Subject {
        match self {
            Action::Mark { claim, .. } | Action::Unmark { claim } | Action::DeleteClaim { claim, .. } => {
                Subject::Claim(claim.key.clone())
            }
            Action::DeleteVolume { volume } => Subject::Volume(volume.name.clone()),
        }
    }

    /// Of the object that is written.
    pub fn resource_version(&self) -> &str {
        match self {
            Action::Mark { claim, .. } | Action::Unmark { claim } | Action::DeleteClaim { claim, .. } => {
                &claim.resource_version
            }
            Action::DeleteVolume { volume } => &volume.resource_version,
        }
    }
}

/// A claim that waits, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    pub claim: Box<str>,
    pub volume: Box<str>,
    pub nodes: Vec<Box<str>>,
    pub since: Box<str>,
    /// Seconds from now.
    pub seconds_left: u64,
}

/// A volume that is left alone, for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LeftAlone {
    pub volume: Box<str>,
    pub reason: &'static str,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub waits: Waits,
    pub waiting: Vec<Waiting>,
    pub left_alone: Vec<LeftAlone>,
    /// Why nothing is decided.
    pub awaited: Option<String>,
    /// When to decide again at the latest.
    pub wake_at: Option<Duration>,
}

pub fn decide(s: &Snapshot<'_>) -> Plan {
    let caches = [
        ("Nodes", s.nodes.awaited()),
        ("PersistentVolumes", s.volumes.awaited()),
        ("PersistentVolumeClaims", s.claims.awaited()),
    ];
    let awaited: Vec<String> =
        caches.iter().filter_map(|(what, why)| why.map(|why| format!("the {what}: {why}"))).collect();
    if !awaited.is_empty() {
        return Plan { awaited: Some(awaited.join("; ")), waits: s.waits.clone(), ..Plan::default() };
    }
    let names = s.nodes.values().flat_map(|node| [Some(&*node.name), node.hostname.as_deref()]);
    let there: HashSet<&str> = names.flatten().collect();
    let mut plan = Plan::default();
    let mut lost: HashSet<&str> = HashSet::new();
    for volume in s.volumes.values().filter(|volume| volume.local && s.classes.contains(&*volume.class)) {
        let nodes = match &volume.reach {
            Reach::Nodes(nodes) => nodes,
            Reach::Unknown(reason) => {
                plan.left_alone.push(LeftAlone { volume: volume.name.clone(), reason });
                continue;
            }
        };
        if nodes.iter().any(|node| there.contains(&**node)) {
            continue;
        }
        if let Some(claim) = claim_of(s, volume) {
            lost.insert(&*claim.key);
            if !claim.deleting {
                settle(s, volume, nodes, claim, &mut plan);
            }
        }
        let free = volume.phase == Phase::Available || volume.phase == Phase::Released && volume.delete_policy;
        if s.sweep && free && !volume.deleting {
            plan.actions.push(Action::DeleteVolume { volume: volume.clone() });
        }
    }
    // A mark that nothing stands behind would shorten the delay of the next time.
    let idle = s.claims.values().filter(|claim| claim.mark.is_some() && !claim.deleting && !lost.contains(&*claim.key));
    plan.actions.extend(idle.map(|claim| Action::Unmark { claim: claim.clone() }));
    plan
}

/// The claim that a volume is bound to, if both say so.
fn claim_of<'a>(s: &Snapshot<'a>, volume: &Volume) -> Option<&'a Claim> {
    let (key, uid) = volume.claim.as_ref()?;
    s.claims.get(key).filter(|claim| claim.uid == *uid && claim.volume == volume.name)
}

/// Marks a claim whose node is gone, waits, deletes.
fn settle(s: &Snapshot<'_>, volume: &Volume, nodes: &[Box<str>], claim: &Claim, plan: &mut Plan) {
    let marked = claim.mark.as_deref().and_then(|mark| Some((mark, humantime::parse_rfc3339(mark).ok()?)));
    let Some((mark, since)) = marked.filter(|(_, since)| *since <= s.wall + CLOCK_SKEW) else {
        let since = humantime::format_rfc3339_millis(s.wall).to_string();
        return plan.actions.push(Action::Mark { claim: claim.clone(), since });
    };
    let known = s.waits.get(&claim.key).filter(|wait| wait.uid == claim.uid && *wait.mark == *mark);
    let due = known.map_or_else(
        || s.now + s.delay.saturating_sub(s.wall.duration_since(since).unwrap_or_default()),
        |wait| wait.due,
    );
    let due = due.max(s.watched.since + s.watched.unwatched.min(s.delay));
    plan.waits.insert(claim.key.clone(), Wait { uid: claim.uid.clone(), mark: mark.into(), due });
    plan.waiting.push(Waiting {
        claim: claim.key.clone(),
        volume: volume.name.clone(),
        nodes: nodes.to_vec(),
        since: mark.into(),
        seconds_left: due.saturating_sub(s.now).as_secs(),
    });
    if due <= s.now {
        plan.actions.push(Action::DeleteClaim { claim: claim.clone(), volume: volume.clone() });
    } else {
        plan.wake_at = Some(plan.wake_at.map_or(due, |at| at.min(due)));
    }
}

#[cfg(test)]
mod tests;
