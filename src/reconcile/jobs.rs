//! What the state learns of cleanup Jobs: from their watch, and from the answers to what was done about them.

use super::state::State;
use crate::decide::backoff;
use crate::decide::jobs::is_cleanup;
use crate::decide::outcome::Failure;
use crate::decide::plan::JobAction;
use crate::decide::snapshot::{BackoffKey, JobWrite};
use crate::kube::objects::Job;
use crate::kube::watch::WatchUpdate;
use std::collections::BTreeMap;

impl State {
    pub(super) fn cleanup_jobs(&mut self, update: WatchUpdate<Job>) {
        match update {
            WatchUpdate::Replaced(all) => {
                let all: BTreeMap<String, Job> =
                    all.into_iter().filter(is_cleanup).map(|job| (job.metadata.name.clone(), job)).collect();
                for job in all.values() {
                    self.ended(job);
                }
                self.overtake_posts(|_| true);
                let same = |job: &Job| all.get(&job.metadata.name).is_some_and(|now| is_same(now, job));
                let gone = self.snapshot.cleanup_jobs.iter().flat_map(|jobs| jobs.values()).filter(|job| !same(job));
                for job in gone {
                    forget_deletion(&mut self.snapshot.job_writes, &job.metadata.name);
                }
                self.snapshot.cleanup_jobs = Some(all);
            }
            WatchUpdate::Applied(job) if is_cleanup(&job) => {
                self.ended(&job);
                let name = job.metadata.name.clone();
                self.overtake_posts(|posted| posted == name);
                let old = self.snapshot.cleanup_jobs.get_or_insert_default().insert(name.clone(), job.clone());
                if old.is_some_and(|old| !is_same(&old, &job)) {
                    forget_deletion(&mut self.snapshot.job_writes, &name);
                }
            }
            WatchUpdate::Deleted(job) if is_cleanup(&job) => {
                let name = &job.metadata.name;
                self.overtake_posts(|posted| posted == name);
                if self.snapshot.cleanup_job(name).is_some_and(|known| is_same(known, &job)) {
                    self.snapshot.cleanup_jobs.get_or_insert_default().remove(name);
                    forget_deletion(&mut self.snapshot.job_writes, name);
                }
            }
            _ => {}
        }
    }

    /// A Job that fails is waited with, longer each time; one that succeeds ends that.
    fn ended(&mut self, job: &Job) {
        let key = BackoffKey::Job(job.metadata.name.clone());
        let known = self.snapshot.cleanup_job(&job.metadata.name).filter(|known| is_same(known, job));
        match job.failure() {
            Some(why) if known.is_none_or(|known| known.failure().is_none()) => {
                self.back_off(key, backoff::CLEANING, format!("Job {} failed: {why}", job.metadata.name), None);
            }
            None if job.succeeded() => {
                self.snapshot.backoff.remove(&key);
            }
            _ => {}
        }
    }

    fn overtake_posts(&mut self, of: impl Fn(&str) -> bool) {
        for (_, write) in self.snapshot.job_writes.iter_mut().filter(|(name, _)| of(name)) {
            if *write == JobWrite::Posting {
                *write = JobWrite::Overtaken;
            }
        }
    }

    pub(super) fn job_dispatched(&mut self, action: &JobAction) {
        let write = match action {
            JobAction::Create { .. } => JobWrite::Posting,
            JobAction::Delete { .. } => JobWrite::Deleting,
        };
        self.snapshot.job_writes.insert(action.name().to_owned(), write);
    }

    pub(super) fn job_written(&mut self, name: String, answer: Result<Option<Box<Job>>, Failure>) {
        let Some(write) = self.snapshot.job_writes.get(&name).cloned() else { return };
        match (write, answer) {
            (JobWrite::Deleting, Ok(_)) => {
                self.snapshot.backoff.remove(&BackoffKey::Write(name));
            }
            (JobWrite::Deleting, Err(failure)) => {
                self.snapshot.job_writes.remove(&name);
                self.fail(BackoffKey::Write(name), failure);
            }
            (JobWrite::Posting | JobWrite::Overtaken, Err(failure)) => {
                self.snapshot.job_writes.remove(&name);
                self.fail(BackoffKey::Job(name), failure);
            }
            (JobWrite::Posting, Ok(Some(job))) => {
                self.snapshot.job_writes.remove(&name);
                self.snapshot.cleanup_jobs.get_or_insert_default().insert(name, *job);
            }
            (JobWrite::Posting | JobWrite::Overtaken, Ok(_)) => {
                self.snapshot.job_writes.remove(&name);
                if self.snapshot.cleanup_job(&name).is_none() {
                    // It has ended already, or a list from before it came late: without a wait it would be made again.
                    let why = format!("Job {name} is not shown by the watch yet");
                    self.back_off(BackoffKey::Job(name), backoff::API, why, None);
                }
            }
        }
    }
}

fn is_same(one: &Job, other: &Job) -> bool {
    one.metadata.uid == other.metadata.uid
}

fn forget_deletion(writes: &mut BTreeMap<String, JobWrite>, name: &str) {
    if writes.get(name) == Some(&JobWrite::Deleting) {
        writes.remove(name);
    }
}
