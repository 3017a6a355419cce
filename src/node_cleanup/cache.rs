//! The objects of one kind as the watch last said they are, and whether that can be believed now. Pure.

use super::view::{Claim, NodeName, Seen, Volume};
use crate::kube::watch::WatchUpdate;

/// What a cache needs of an object. Of a Node only the names are kept, so that a cluster's heartbeats change nothing and
/// cost no decision.
pub trait Kept: From<Seen> + PartialEq + 'static {
    fn key(&self) -> &str;
}

impl Kept for Volume {
    fn key(&self) -> &str {
        &self.name
    }
}

impl Kept for Claim {
    fn key(&self) -> &str {
        &self.key
    }
}

impl Kept for NodeName {
    fn key(&self) -> &str {
        &self.name
    }
}

/// One sorted vector: it is filled once from a list that comes sorted, and a tree's code is larger than this room.
#[derive(Debug)]
pub struct Cache<T> {
    objects: Vec<T>,
    /// Why it is not to be believed.
    awaited: Option<String>,
}

impl<T: Kept> Default for Cache<T> {
    fn default() -> Self {
        Cache { objects: Vec::new(), awaited: Some("not read yet".to_owned()) }
    }
}

impl<T: Kept> Cache<T> {
    /// Takes an update in, of the objects only those that `keep` wants. Whether a decision may come out otherwise now.
    pub fn apply(&mut self, update: WatchUpdate<T>, keep: impl Fn(&T) -> bool) -> bool {
        match update {
            WatchUpdate::Replaced(all) => {
                self.objects = Vec::new();
                for object in all.into_iter().filter(keep) {
                    self.put(object);
                }
                self.objects.shrink_to_fit();
                self.awaited = None;
                true
            }
            WatchUpdate::Applied(object) if keep(&object) => self.put(object),
            WatchUpdate::Applied(object) | WatchUpdate::Deleted(object) => {
                self.place(object.key()).map(|at| self.objects.remove(at)).is_ok()
            }
            WatchUpdate::Unsynced { reason } => {
                self.awaited = Some(reason);
                true
            }
            WatchUpdate::Resumed => {
                self.awaited = None;
                true
            }
        }
    }

    pub fn get(&self, key: &str) -> Option<&T> {
        self.place(key).ok().and_then(|at| self.objects.get(at))
    }

    /// In the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.objects.iter()
    }

    /// Why it is not to be believed; `None`: it is.
    pub fn awaited(&self) -> Option<&str> {
        self.awaited.as_deref()
    }

    /// Whether it was another one, or none.
    fn put(&mut self, object: T) -> bool {
        match self.place(object.key()) {
            Ok(at) if self.objects[at] == object => false,
            Ok(at) => {
                self.objects[at] = object;
                true
            }
            Err(at) => {
                self.objects.insert(at, object);
                true
            }
        }
    }

    fn place(&self, key: &str) -> Result<usize, usize> {
        self.objects.binary_search_by(|object| object.key().cmp(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, hostname: Option<&str>) -> NodeName {
        NodeName { name: name.into(), hostname: hostname.map(Box::from) }
    }

    #[test]
    fn a_cache_is_believed_from_its_first_whole_list_on_and_not_while_its_watch_is_broken() {
        let mut nodes = Cache::<NodeName>::default();
        assert!(nodes.awaited().is_some());
        nodes.apply(WatchUpdate::Unsynced { reason: "forbidden".to_owned() }, |_| true);
        assert_eq!(nodes.awaited(), Some("forbidden"));
        nodes.apply(WatchUpdate::Replaced(vec![node("n1", None)]), |_| true);
        assert_eq!(nodes.awaited(), None);
        nodes.apply(WatchUpdate::Unsynced { reason: "cut".to_owned() }, |_| true);
        assert_eq!(nodes.awaited(), Some("cut"));
        nodes.apply(WatchUpdate::Resumed, |_| true);
        assert_eq!(nodes.awaited(), None);
    }

    #[test]
    fn a_heartbeat_changes_nothing_and_a_new_hostname_does() {
        let mut nodes = Cache::<NodeName>::default();
        nodes.apply(WatchUpdate::Replaced(vec![node("n1", None)]), |_| true);
        assert!(!nodes.apply(WatchUpdate::Applied(node("n1", None)), |_| true));
        assert!(nodes.apply(WatchUpdate::Applied(node("n1", Some("h"))), |_| true));
        assert!(nodes.apply(WatchUpdate::Deleted(node("n1", Some("h"))), |_| true));
        assert!(!nodes.apply(WatchUpdate::Deleted(node("n1", Some("h"))), |_| true));
    }

    #[test]
    fn what_is_not_wanted_any_more_is_forgotten() {
        let mut nodes = Cache::<NodeName>::default();
        let with_hostname = |node: &NodeName| node.hostname.is_some();
        nodes.apply(WatchUpdate::Replaced(vec![node("n1", None), node("n2", Some("h"))]), with_hostname);
        assert_eq!(nodes.values().count(), 1);
        assert!(nodes.apply(WatchUpdate::Applied(node("n2", None)), with_hostname));
        assert_eq!(nodes.values().count(), 0);
    }
}
