//! Asks a [`Node`] for what a key wants, with the original's conversions, and keeps every error and warning that this
//! gives. What the keys are is not known here.

use super::DiscoveryError;
use super::yaml::Node;
use std::collections::BTreeMap;

/// Sub-keys by the names that they are known by.
pub type Fields = BTreeMap<&'static str, Node>;

#[derive(Debug, Default)]
pub struct Reader {
    pub errors: Vec<DiscoveryError>,
    pub warnings: Vec<String>,
}

impl Reader {
    pub fn error(&mut self, key: &str, problem: impl Into<String>) {
        self.errors.push(DiscoveryError { key: key.to_owned(), problem: problem.into() });
    }

    pub fn warn(&mut self, key: &str, problem: &str) {
        self.warnings.push(format!("{key}: {problem}"));
    }

    fn wants(&mut self, key: &str, wanted: &str, node: &Node) {
        self.error(key, format!("wants {wanted}, and there is {}", node.describe()));
    }

    /// `None`: nothing is given, or an error was noted.
    pub fn text(&mut self, key: &str, node: &Node) -> Option<String> {
        match node {
            Node::Null => None,
            node => match node.as_text() {
                Some(text) => Some(text.into_owned()),
                None => {
                    self.wants(key, "a text", node);
                    None
                }
            },
        }
    }

    pub fn boolean(&mut self, key: &str, node: &Node) -> Option<bool> {
        match node {
            Node::Null => None,
            Node::Bool(value) => Some(*value),
            other => {
                self.wants(key, "true or false (yes, no, on and off too), without quotes", other);
                None
            }
        }
    }

    pub fn integer(&mut self, key: &str, node: &Node) -> Option<i64> {
        match node {
            Node::Null => None,
            other => {
                let value = if let Node::Int(value) = other { i64::try_from(*value).ok() } else { None };
                if value.is_none() {
                    self.wants(key, "a whole number", other);
                }
                value
            }
        }
    }

    /// Each item with its place, such as `nodeLabelsForPV[0]`.
    pub fn list<'a>(&mut self, key: &str, node: &'a Node) -> Option<Vec<(String, &'a Node)>> {
        match node {
            Node::Null => None,
            Node::List(items) => {
                Some(items.iter().enumerate().map(|(n, item)| (format!("{key}[{n}]"), item)).collect())
            }
            other => {
                self.wants(key, "a list", other);
                None
            }
        }
    }

    /// An item that is nothing is the empty text, as in the original.
    pub fn texts(&mut self, key: &str, node: &Node) -> Option<Vec<String>> {
        let items = self.list(key, node)?;
        Some(items.into_iter().map(|(place, item)| self.text(&place, item).unwrap_or_default()).collect())
    }

    /// Entries whose keys are free: names of classes, or of labels.
    pub fn map<'a>(&mut self, key: &str, node: &'a Node) -> Option<&'a BTreeMap<String, Node>> {
        match node {
            Node::Null => None,
            Node::Map(entries) => Some(entries),
            other => {
                self.wants(key, "a map", other);
                None
            }
        }
    }

    /// Entries whose keys are known. Case does not matter; what is unknown is named in a warning.
    pub fn fields(&mut self, key: &str, node: &Node, known: &'static [&'static str]) -> Fields {
        let mut fields = Fields::new();
        for (name, value) in self.map(key, node).into_iter().flatten() {
            match known_as(name, known) {
                Some(name) => give(&mut fields, name, value.clone()),
                None => self.warn(&format!("{key}.{name}"), "is no key that is known, and ignored"),
            }
        }
        fields
    }
}

/// The name under which a key is known.
pub fn known_as(name: &str, known: &'static [&'static str]) -> Option<&'static str> {
    known.iter().find(|known| known.eq_ignore_ascii_case(name)).copied()
}

/// Notes a value beside one that was given under the same name in other case, as Go's `encoding/json` does: maps grow
/// together, and of other values the last holds, if it is one.
pub fn give(fields: &mut Fields, name: &'static str, value: Node) {
    match (fields.get_mut(name), value) {
        (Some(Node::Map(entries)), Node::Map(more)) => entries.extend(more),
        (Some(_), Node::Null) => {}
        (_, value) => drop(fields.insert(name, value)),
    }
}
