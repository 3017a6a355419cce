//! Joins two rooms that do not know each other: what a cleaning asks before and after it writes is `observe`'s to say.

use crate::clean::job::Checks;
use crate::model::cleaning::CleanResult;
use crate::observe::census::Census;
use crate::observe::content::read_content_of;
use crate::observe::evidence::{verify, verify_directory};
use std::sync::Arc;

/// What a cleaning worker asks before it writes.
pub fn checks(allow_regular_files: bool) -> Checks {
    let census = Arc::new(Census::default());
    let directories = census.clone();
    Checks {
        verify: Arc::new(move |evidence, path, held| {
            verify(&census, allow_regular_files, evidence, path, held).map_err(CleanResult::from)
        }),
        content: Arc::new(read_content_of),
        verify_directory: Arc::new(move |evidence, at, held| {
            verify_directory(&directories, evidence, at, held).map_err(CleanResult::from)
        }),
    }
}
