//! Placeholder until the real one is merged.

pub struct Entry {
    pub number: u32,
    pub start: u64,
    pub uuid: Option<String>,
    pub protected: Option<String>,
}
