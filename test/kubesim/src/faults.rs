//! Owns the faults that tests plan: rules that match requests and say what goes wrong, how often and when.
//! It carries out nothing; the connection and the watch ask it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::route::RequestInfo;
use crate::status::ApiError;

/// What goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Any `Status` as the answer, nothing applied.
    Status(ApiError),
    /// 410 `Expired` as the HTTP status.
    Gone,
    /// 429 with `Retry-After` in seconds and, as from priority and fairness, a body that is plain text.
    TooManyRequests {
        retry_after: u32,
    },
    InternalError,
    Unavailable,
    Unauthorized,
    /// 409 `Conflict` as of a lost optimistic lock.
    Conflict,
    /// 504 with the cause `ResourceVersionTooLarge`.
    ResourceVersionTooLarge,
    /// The connection closes before an answer, nothing applied.
    CutBeforeAnswer,
    /// The change lands, then the connection closes without an answer.
    ApplyThenCut,
    /// The change lands, and the answer is this `Status`.
    ApplyThenStatus(ApiError),
    /// The answer stops after so many bytes of its body.
    CutInBody(usize),
    /// No answer ever; the socket stays open. Nothing applied.
    Stall,
    /// The answer comes late.
    Delay(Duration),
    /// The answer comes one byte at a time with this pause between.
    Drip(Duration),
    /// 200 with a body that is not JSON.
    GarbageBody,
    /// Something inside an open watch stream.
    Watch(WatchFault),
}

/// What goes wrong inside a watch stream.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchFault {
    /// An ERROR event with 410 `Expired`, then the end.
    Gone,
    /// An ERROR event with this `Status`, then the end.
    Error(ApiError),
    /// A `Status` as a line of its own, not inside an event, then the end.
    BareStatus,
    /// A line that is not JSON; the stream goes on.
    Garbage,
    /// The next event is sent by half, then the connection closes.
    CutMidLine,
    /// The connection closes without the end of the stream.
    Cut,
    /// The stream ends in order.
    End,
    /// Nothing is ever sent again, the socket stays open: a dead peer.
    Silent,
}

/// A fault with the requests it hits. Without a restriction it hits the next request of any kind.
#[derive(Debug, Clone)]
pub struct Fault {
    action: Action,
    verb: Option<String>,
    resource: Option<String>,
    name: Option<String>,
    subresource: Option<String>,
    /// Matching requests that pass unharmed first; for watch faults, events sent on the stream first.
    after: usize,
    left: usize,
}

impl Fault {
    pub fn new(action: Action) -> Self {
        Self { action, verb: None, resource: None, name: None, subresource: None, after: 0, left: 1 }
    }

    /// A fault inside a watch stream, open or to come.
    pub fn watch(fault: WatchFault) -> Self {
        Self::new(Action::Watch(fault)).verb("watch")
    }

    /// Only requests of this RBAC verb: get, list, watch, create, update, patch, delete, deletecollection.
    pub fn verb(mut self, verb: &str) -> Self {
        self.verb = Some(verb.to_owned());
        self
    }

    /// Only requests for this resource, by its plural.
    pub fn resource(mut self, resource: &str) -> Self {
        self.resource = Some(resource.to_owned());
        self
    }

    /// Only requests for this name, from the path or from `fieldSelector=metadata.name=`.
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Only requests for this subresource, such as `status`.
    pub fn subresource(mut self, subresource: &str) -> Self {
        self.subresource = Some(subresource.to_owned());
        self
    }

    /// Hits this many requests; 1 unless said otherwise.
    pub fn times(mut self, times: usize) -> Self {
        self.left = times;
        self
    }

    /// Hits every matching request until it is cleared.
    pub fn always(self) -> Self {
        self.times(usize::MAX)
    }

    /// Lets this many matching requests pass first; for a watch fault, this many events of the stream.
    pub fn after(mut self, count: usize) -> Self {
        self.after = count;
        self
    }

    fn matches(&self, info: &RequestInfo) -> bool {
        let fits = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|w| w == is);
        fits(&self.verb, &info.verb)
            && fits(&self.resource, &info.resource)
            && fits(&self.name, &info.name)
            && fits(&self.subresource, &info.subresource)
    }

    fn use_up(&mut self) {
        if self.left != usize::MAX {
            self.left -= 1;
        }
    }
}

/// The planned faults of a server, first come first used.
#[derive(Debug, Default)]
pub struct Faults {
    rules: Mutex<Vec<Fault>>,
}

impl Faults {
    fn rules(&self) -> MutexGuard<'_, Vec<Fault>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, fault: Fault) {
        self.rules().push(fault);
    }

    pub(crate) fn clear(&self) {
        self.rules().clear();
    }

    /// Faults that have not hit as often as they should.
    pub(crate) fn pending(&self) -> usize {
        self.rules().len()
    }

    /// The fault of a request, if one is due.
    pub(crate) fn take(&self, info: &RequestInfo) -> Option<Action> {
        let mut rules = self.rules();
        let mut found = None;
        for rule in rules.iter_mut().filter(|r| !matches!(r.action, Action::Watch(_)) && r.matches(info)) {
            if rule.after > 0 {
                rule.after -= 1;
            } else {
                rule.use_up();
                found = Some(rule.action.clone());
                break;
            }
        }
        rules.retain(|r| r.left > 0);
        found
    }

    /// The fault of an open watch that has sent `events` events, if one is due.
    pub(crate) fn take_watch(&self, info: &RequestInfo, events: usize) -> Option<WatchFault> {
        let mut rules = self.rules();
        let mut found = None;
        for rule in rules.iter_mut() {
            if let Action::Watch(fault) = &rule.action
                && rule.matches(info)
                && events >= rule.after
            {
                found = Some(fault.clone());
                rule.use_up();
                break;
            }
        }
        rules.retain(|r| r.left > 0);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_count_skip_and_go() {
        let faults = Faults::default();
        let info = RequestInfo { verb: "create".to_owned(), resource: "events".to_owned(), ..RequestInfo::default() };
        faults.add(Fault::new(Action::InternalError).verb("create").after(1).times(2));
        faults.add(Fault::new(Action::Stall).verb("delete"));
        let hits: Vec<bool> = (0..4).map(|_| faults.take(&info).is_some()).collect();
        assert_eq!((hits, faults.pending()), (vec![false, true, true, false], 1));
    }
}
