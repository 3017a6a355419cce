//! Speaks to the API server for the loop: a few threads take actions and answer each with one outcome.
//! Decides nothing and retries nothing: what a failure means is `decide`'s business.

mod listing;
pub mod pool;

use crate::decide::jobs::may_have_a_job;
use crate::decide::outcome::{CreateFailure, Failure, Outcome};
use crate::decide::plan::{Action, JobAction};
use crate::kube::client::Client;
use crate::kube::error::ApiError;
use crate::kube::objects::{Job, PersistentVolume};
use crate::kube::request::{self, discovery};
use crate::model::memory::{ForeignPv, PvRef};
use pool::Pool;
use std::sync::Arc;

/// Requests under way at once. An API server answers a POST in some 5 ms: four threads make 200 volumes in a second,
/// and one node is no burden on the server.
const THREADS: usize = 4;

/// Who asks: the node whose volumes are meant.
#[derive(Debug, Clone)]
pub struct NodeScope {
    pub node_name: String,
    pub node_label: String,
    /// Discovery directories are a source: volumes of its original are taken over.
    pub discovery_dir: bool,
}

/// The running threads.
pub struct Executor(Pool<(Action, NodeScopeWithHost)>);

/// The scope, with the hostname that the Node carries when the action is dispatched.
type NodeScopeWithHost = (Arc<NodeScope>, String);

impl Executor {
    pub fn spawn(client: &Client, sink: impl Fn(Outcome) + Send + Sync + 'static) -> std::io::Result<Executor> {
        let work = move |client: &Client, (action, (scope, hostname)): (Action, NodeScopeWithHost)| {
            if let Some(outcome) = carry_out(client, action, &scope, &hostname) {
                sink(outcome);
            }
        };
        Pool::spawn("execute", THREADS, client, work).map(Executor)
    }

    /// Hands an action over. `hostname` is the Node's `kubernetes.io/hostname`.
    pub fn submit(&self, action: Action, scope: &Arc<NodeScope>, hostname: &str) {
        self.0.submit((action, (scope.clone(), hostname.to_owned())));
    }

    /// Ends requests under way at once and waits for the threads.
    pub fn stop(self) {
        self.0.stop();
    }
}

/// One action, one answer. Actions of the cleaning workers are not for here.
fn carry_out(client: &Client, action: Action, scope: &NodeScope, hostname: &str) -> Option<Outcome> {
    Some(match action {
        Action::ReadLive { entry, job, names } => {
            let answer = names.iter().map(|name| get(client, name)).collect::<Result<Vec<_>, _>>();
            Outcome::Live { entry, job, answer: answer.map_err(|error| failure(&error)) }
        }
        Action::LookForPv { entry, name } => {
            Outcome::Looked { entry, answer: get(client, &name).map_err(|error| failure(&error)) }
        }
        Action::CreatePv { entry, pv } => Outcome::Created { entry, answer: create(client, &pv) },
        Action::DeletePv { name, uid, resource_version } => {
            let answer =
                client.call::<serde_json::Value>(&request::delete_persistent_volume(&name, &uid, &resource_version));
            Outcome::Wrote { name, answer: unless_gone(answer) }
        }
        Action::RepairPv { name, patch, .. } => {
            let answer = client.call::<serde_json::Value>(&request::patch_persistent_volume(&name, &patch));
            Outcome::Wrote { name, answer: unless_gone(answer) }
        }
        Action::SetTaints { seen, taints } => {
            let answer = client.call::<serde_json::Value>(&request::discovery::patch_taints(&seen, &taints));
            Outcome::Tainted { answer: unless_gone(answer) }
        }
        Action::ReadForeign { pvs } => {
            let there =
                |pv: &ForeignPv| get(client, &pv.name).map(|found| found.is_some_and(|f| f.metadata.uid == pv.uid));
            let answer = pvs.into_iter().map(|pv| Ok(there(&pv)?.then_some(pv))).collect::<Result<Vec<_>, ApiError>>();
            let answer = answer.map(|found| found.into_iter().flatten().collect());
            Outcome::Foreign { answer: answer.map_err(|error| failure(&error)) }
        }
        Action::Job(action) => {
            let name = action.name().to_owned();
            Outcome::Job { name, answer: write_job(client, action) }
        }
        Action::ListAllPvs => {
            Outcome::Listed { answer: listing::list_all(client, scope, hostname).map_err(|error| failure(&error)) }
        }
        Action::StartCleaning { .. } | Action::Proceed { .. } | Action::LetGo { .. } => return None,
    })
}

fn get(client: &Client, name: &str) -> Result<Option<Box<PersistentVolume>>, ApiError> {
    match client.call::<PersistentVolume>(&request::get_persistent_volume(name)) {
        Ok(pv) => Ok(Some(Box::new(pv))),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn write_job(client: &Client, action: JobAction) -> Result<Option<Box<Job>>, Failure> {
    match action {
        JobAction::Create { job, pv, claim_uid } => {
            make_way_for(client, &pv, &claim_uid)?;
            match client.call::<Job>(&discovery::create_job(&job)) {
                Ok(made) => Ok(Some(Box::new(made))),
                Err(error) => Err(failure(&error)),
            }
        }
        JobAction::Delete { namespace, name, uid } => {
            unless_gone(client.call::<serde_json::Value>(&discovery::delete_job(&namespace, &name, &uid)))?;
            Ok(None)
        }
    }
}

/// The live read before a Job is made, right before: a Job that exists writes.
fn make_way_for(client: &Client, pv: &PvRef, claim_uid: &str) -> Result<(), Failure> {
    let live = get(client, &pv.name).map_err(|error| failure(&error))?;
    let verdict = match &live {
        Some(live) => may_have_a_job(pv, claim_uid, live),
        None => Err(format!("PersistentVolume {} does not exist any more", pv.name)),
    };
    verdict.map_err(|why| Failure { reason: format!("no Job was made: {why}"), conflict: true, retry_after: None })
}

fn create(client: &Client, pv: &PersistentVolume) -> Result<Box<PersistentVolume>, CreateFailure> {
    match client.call::<PersistentVolume>(&request::create_persistent_volume(pv)) {
        Ok(created) => Ok(Box::new(created)),
        Err(error) if error.is_already_exists() => {
            // GET and look: it may be the one of an earlier try whose answer was lost.
            let pv = get(client, &pv.metadata.name).unwrap_or_else(|error| {
                log::warn!("{}", error.chain());
                None
            });
            Err(CreateFailure::Exists { pv })
        }
        Err(error) if error.is_definite() => Err(CreateFailure::Refused(failure(&error))),
        Err(error) => Err(CreateFailure::Unknown(failure(&error))),
    }
}

/// What is gone needs no write any more.
fn unless_gone<T>(answer: Result<T, ApiError>) -> Result<(), Failure> {
    match answer {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(failure(&error)),
    }
}

fn failure(error: &ApiError) -> Failure {
    Failure { reason: error.chain(), conflict: error.is_conflict(), retry_after: error.retry_after() }
}
