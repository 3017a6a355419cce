//! Owns what etcd would: the objects, the one growing revision, and a bounded history of changes from which
//! watches resume and older pages are rebuilt. It validates nothing; callers hold the one lock.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use serde_json::Value;

use crate::object::Object;
use crate::resources::{Id, RESOURCES};

/// Enough for a burst of 30,000 creations; about what a watch cache of a busy cluster holds.
pub const DEFAULT_HISTORY: usize = 40_000;

/// The revision of an empty store, as in etcd. Everything since is remembered, until it is compacted.
const FIRST_REVISION: u64 = 1;

/// One change, as watches see it.
#[derive(Debug, Clone)]
pub struct Change {
    pub rv: u64,
    /// Before; `None` for a creation.
    pub old: Option<Arc<Object>>,
    /// After; for a deletion the last state at the revision of the deletion.
    pub new: Arc<Object>,
    pub deleted: bool,
}

type Table = BTreeMap<String, Arc<Object>>;

/// A copy of everything stored, cheap because objects are shared.
#[derive(Debug, Clone)]
pub struct Snapshot {
    rv: u64,
    tables: Vec<Table>,
}

#[derive(Debug)]
pub struct Store {
    rv: u64,
    tables: Vec<Table>,
    history: VecDeque<Change>,
    history_limit: usize,
    /// New watches and older pages cannot reach back to before this revision.
    compacted: u64,
    /// The history itself starts after this revision; open watches read on until here.
    trimmed: u64,
    /// Grows when the past was replaced: open watches of an older epoch must end.
    epoch: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            rv: FIRST_REVISION,
            tables: vec![Table::new(); RESOURCES.len()],
            history: VecDeque::new(),
            history_limit: DEFAULT_HISTORY,
            compacted: 0,
            trimmed: 0,
            epoch: 0,
        }
    }
}

impl Store {
    /// The current revision.
    pub fn rv(&self) -> u64 {
        self.rv
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Changes up to and including this revision are forgotten for whoever comes now.
    pub fn compacted(&self) -> u64 {
        self.compacted
    }

    /// Changes up to and including this revision are gone for open watches too.
    pub fn trimmed(&self) -> u64 {
        self.trimmed
    }

    pub fn get(&self, resource: Id, key: &str) -> Option<&Arc<Object>> {
        self.tables[resource].get(key)
    }

    pub fn len(&self, resource: Id) -> usize {
        self.tables[resource].len()
    }

    /// Objects whose key starts with `prefix` and comes at or after `from`, in key order.
    pub fn range<'a>(&'a self, resource: Id, prefix: &'a str, from: &str) -> impl Iterator<Item = &'a Arc<Object>> {
        let start = if from > prefix { from } else { prefix };
        self.tables[resource]
            .range::<str, _>((Bound::Included(start), Bound::Unbounded))
            .take_while(move |(k, _)| k.starts_with(prefix))
            .map(|(_, o)| o)
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.tables.iter().flat_map(BTreeMap::values)
    }

    /// Stores a new or changed object under the next revision.
    pub fn put(&mut self, resource: Id, body: Value) -> Arc<Object> {
        self.rv += 1;
        let new = Arc::new(Object::new(resource, body, self.rv));
        let old = self.tables[resource].insert(new.key(), Arc::clone(&new));
        self.remember(Change { rv: self.rv, old, new: Arc::clone(&new), deleted: false });
        new
    }

    /// Removes an object; gives back its last state at the revision of the deletion.
    pub fn remove(&mut self, resource: Id, key: &str) -> Option<Arc<Object>> {
        let old = self.tables[resource].remove(key)?;
        self.rv += 1;
        let new = Arc::new(Object::new(resource, old.body(), self.rv));
        self.remember(Change { rv: self.rv, old: Some(old), new: Arc::clone(&new), deleted: true });
        Some(new)
    }

    fn remember(&mut self, change: Change) {
        self.history.push_back(change);
        self.trim();
    }

    fn trim(&mut self) {
        while self.history.len() > self.history_limit {
            if let Some(gone) = self.history.pop_front() {
                self.trimmed = gone.rv;
                self.compacted = self.compacted.max(gone.rv);
            }
        }
    }

    pub fn set_history_limit(&mut self, limit: usize) {
        self.history_limit = limit;
        self.trim();
    }

    /// Forgets every change, as etcd compaction and a restarted watch cache do. Open watches miss nothing: theirs
    /// is already on its way.
    pub fn compact(&mut self) {
        self.compacted = self.rv;
    }

    /// Up to `max` changes of one resource (or of all) after `rv`, and the revision up to which they reach.
    pub fn changes_after(&self, resource: Option<Id>, rv: u64, max: usize) -> (Vec<Change>, u64) {
        let start = self.history.partition_point(|c| c.rv <= rv);
        let mut found = Vec::new();
        for change in self.history.range(start..) {
            if resource.is_none_or(|r| r == change.new.resource) {
                found.push(change.clone());
                if found.len() == max {
                    return (found, change.rv);
                }
            }
        }
        (found, self.rv.max(rv))
    }

    /// What `keys` of a resource looked like at `rv`: the state before the first change after it.
    /// `None` in the map means that the key did not exist then.
    pub fn undo_to(&self, resource: Id, rv: u64) -> HashMap<String, Option<Arc<Object>>> {
        let start = self.history.partition_point(|c| c.rv <= rv);
        let mut then = HashMap::new();
        for change in self.history.range(start..).filter(|c| c.new.resource == resource) {
            then.entry(change.new.key()).or_insert_with(|| change.old.clone());
        }
        then
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot { rv: self.rv, tables: self.tables.clone() }
    }

    /// Goes back to an older state, revisions included, as an etcd restore does.
    pub fn restore(&mut self, snapshot: &Snapshot) {
        self.rv = snapshot.rv;
        self.tables = snapshot.tables.clone();
        self.history.clear();
        self.compacted = self.rv;
        self.trimmed = self.rv;
        self.epoch += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::CONFIG_MAPS;
    use serde_json::json;

    fn put(store: &mut Store, name: &str) -> u64 {
        store.put(CONFIG_MAPS, json!({"metadata": {"name": name, "namespace": "default"}})).rv
    }

    #[test]
    fn the_past_is_rebuilt_until_it_is_compacted() {
        let mut store = Store::default();
        put(&mut store, "a");
        let then = put(&mut store, "b");
        put(&mut store, "c");
        store.remove(CONFIG_MAPS, "default/a");
        let undo = store.undo_to(CONFIG_MAPS, then);
        assert!(undo["default/a"].is_some() && undo["default/c"].is_none() && !undo.contains_key("default/b"));
        assert_eq!(store.changes_after(Some(CONFIG_MAPS), then, 10).0.len(), 2);
        store.set_history_limit(1);
        assert!(store.compacted() > then);
    }

    #[test]
    fn restore_goes_back_in_revisions_too() {
        let mut store = Store::default();
        put(&mut store, "a");
        let saved = store.snapshot();
        put(&mut store, "b");
        store.restore(&saved);
        assert_eq!((store.len(CONFIG_MAPS), store.epoch()), (1, 1));
        assert_eq!(put(&mut store, "c"), saved.rv + 1);
    }
}
