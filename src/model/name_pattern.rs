//! `namePattern`: which names in a discovery directory are meant. Go's `filepath.Match`, several separated by commas.

/// A list of patterns, of which one must match the whole name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern(pub Vec<String>);
