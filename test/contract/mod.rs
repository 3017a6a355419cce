//! What we rely on in an API server, as one suite that the simulated and the real one have to pass: so the fake cannot lie.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

pub mod api;
mod auth;
mod binder;
mod cleanup;
mod events;
mod jobs;
mod lists;
mod nodes;
pub mod watches;
mod writes;

use api::Api;

/// Each case once against kubesim and once against a real control plane.
macro_rules! contract {
    ($($room:ident: $($case:ident),+ $(,)?;)+) => {
        mod kubesim {
            $($(
                #[test]
                fn $case() {
                    super::$room::$case(&super::Api::in_memory());
                }
            )+)+
        }

        mod real {
            $($(
                #[test]
                fn $case() {
                    if let Some(api) = super::Api::real() {
                        super::$room::$case(&api);
                    }
                }
            )+)+
        }
    };
}

contract! {
    lists:
        lists_come_in_pages_which_together_are_the_whole,
        a_page_after_a_token_that_makes_no_sense_is_refused,
        a_label_selector_shows_what_carries_the_label,
        a_field_selector_shows_the_one_of_that_name,
        whatever_name_is_looked_for_the_answer_is_a_list,
        an_object_that_does_not_exist_is_named_in_the_404,
        a_path_that_is_not_served_is_no_missing_object,
        a_version_of_the_future_is_too_large_for_a_list;
    watches:
        a_watch_goes_on_where_a_list_ended,
        a_watch_resumes_after_any_version_it_has_shown,
        what_leaves_the_selection_is_deleted_for_it,
        a_watch_of_one_name_shows_only_that,
        a_quiet_watch_gets_a_bookmark_and_ends_in_order,
        a_version_of_the_future_is_watched_in_silence,
        a_version_that_is_none_is_refused;
    writes:
        a_volume_that_is_made_has_uid_version_and_protection,
        a_status_that_is_posted_is_ignored,
        a_name_that_is_taken_is_a_conflict_of_its_own_kind,
        volumes_that_make_no_sense_are_refused_by_field,
        the_names_and_labels_that_we_make_are_good,
        a_deletion_needs_the_very_uid_and_version,
        what_is_gone_cannot_be_deleted_again,
        a_patch_merges_and_null_removes,
        a_patch_needs_the_very_uid_and_version,
        capacity_and_owners_can_be_repaired,
        where_a_volume_lies_cannot_be_changed;
    binder:
        a_volume_is_available_bound_and_released,
        a_volume_is_available_again_when_its_claim_is_taken_off,
        a_volume_of_a_claim_that_does_not_exist_is_released,
        a_bound_volume_outlives_its_deletion_until_the_claim_goes,
        a_volume_goes_with_the_node_that_owns_it;
    events:
        an_event_is_made_and_counted,
        events_of_objects_without_a_namespace_belong_into_default;
    nodes:
        taints_are_replaced_only_where_they_are_those_that_were_seen;
    jobs:
        a_cleanup_job_is_taken_whole_found_by_its_node_and_deleted_only_as_the_very_object;
    cleanup:
        a_claim_is_marked_and_deleted_only_in_the_very_state,
        a_lease_is_made_once_and_written_only_over_what_was_read,
        nodes_are_found_by_their_hostname_label;
    auth:
        a_token_that_is_wrong_is_401,
        a_right_that_is_missing_is_403_and_names_it;
}

/// Against the real one this needs a server that was started again: `real.rs` has it.
#[test]
fn in_memory_a_version_that_is_too_old_is_gone() {
    watches::a_version_that_is_too_old_is_gone(&Api::in_memory());
}
