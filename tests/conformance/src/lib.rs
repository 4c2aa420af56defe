//! The contract of the stores, written once and run by every one of them.
//!
//! A rule is an async function of a [`World`]; [`suite!`] lists them all and makes each a test of one back
//! end. The rules talk to the use cases wherever a device could see the difference, and to the port
//! only where the promise is the port's own. The rules of the projection are a list of their own,
//! [`projection_suite!`].

pub mod decisions;
pub mod downloads;
pub mod failures;
pub mod forgetting;
pub mod late;
pub mod port;
pub mod promises;
pub mod races;
pub mod references;
pub mod resets;
pub mod retention;
pub mod snapshots;
pub mod users;
pub mod world;

pub use world::{Backend, LongLived, Projecting, World};

/// Makes every rule of the projection a test of one back end, given by its [`Projecting`] type.
#[macro_export]
macro_rules! projection_suite {
    ($backend:ty) => {
        $crate::suite! { @rules $backend;
            failures::a_row_of_another_user_is_left_alone,
            failures::two_users_with_one_key_in_every_order,
            failures::a_later_success_clears_the_failures_of_the_row,
            failures::an_upload_is_applied_whatever_becomes_of_its_projection,
            failures::a_request_is_projected_by_its_net_effect,
            failures::a_retry_projects_the_row_as_it_stands_now,
            failures::a_failure_belongs_to_its_user,
            failures::failures_are_listed_by_schema_table_and_page,
            failures::a_rebuild_makes_rows_what_the_sidecar_has,
            failures::a_rebuild_leaves_alone_what_is_not_projected,
        }
    };
}

/// Makes every rule of the long run a test of one back end, given by its [`LongLived`] type.
#[macro_export]
macro_rules! long_lived_suite {
    ($backend:ty) => {
        $crate::suite! { @rules $backend;
            retention::what_a_later_change_supersedes_goes_when_it_is_old,
            retention::what_is_left_adds_up_to_the_same_rows,
            retention::a_pruned_entry_still_answers_its_retries,
            retention::an_old_deletion_goes_with_its_row,
            retention::a_forgotten_row_can_be_made_again,
            retention::numbers_are_never_used_twice,
            retention::a_sweep_works_through_a_long_stream_in_steps,
            retention::a_step_is_bounded_in_entries_and_in_bytes,
            retention::an_upload_that_was_planned_before_a_pruning_is_planned_anew,
            retention::streams_are_taken_once_and_not_again_while_nothing_can_go,
            retention::uploads_during_sweeps_lose_nothing,
            retention::users_are_swept_each_by_itself,
            retention::a_clock_that_was_wrong_does_not_end_the_sweeps,
            forgetting::a_key_outlives_its_entry_and_its_row,
            forgetting::a_replay_of_a_forgotten_change_is_a_conflict,
            forgetting::a_forgotten_number_changes_nothing_for_other_sources,
            forgetting::a_source_is_told_its_highest_number_whatever_was_forgotten,
            forgetting::contacts_are_remembered,
            forgetting::a_forgotten_row_leaves_no_failures_behind,
            late::a_late_insert_brings_nothing_back,
            late::a_late_update_does_not_fit_a_row_that_was_made_again,
            late::a_late_deletion_of_nothing_deletes_nothing,
            late::a_conflict_that_was_applied_in_the_end_is_pruned_like_any_change,
            late::a_forgotten_conflict_is_a_conflict_still,
            late::the_number_of_a_conflict_is_a_used_one,
            resets::a_device_behind_the_floor_starts_again,
            resets::a_new_device_pages_through_what_is_left,
            resets::a_device_that_was_here_before_and_has_downloaded_nothing_starts_again,
            resets::an_epoch_is_the_same_for_every_node_and_before_the_first_change,
            resets::another_epoch_is_refused,
            resets::a_restored_database_begins_another_epoch,
            snapshots::pages_follow_each_other_parents_first,
            snapshots::a_snapshot_holds_what_is_live,
            snapshots::rows_of_tables_that_are_not_registered_any_more_are_there,
            snapshots::a_snapshot_during_uploads_misses_nothing,
            snapshots::a_page_of_large_rows_is_cut_short,
            snapshots::users_see_their_own_rows,
            snapshots::a_page_that_was_made_up_harms_nobody,
        }
    };
}

/// Makes every rule about users a test of one back end, given by its type, which is [`LongLived`] and [`Projecting`].
#[macro_export]
macro_rules! users_suite {
    ($backend:ty) => {
        $crate::suite! { @rules $backend;
            users::users_are_listed_while_anything_is_kept_of_them,
            users::devices_are_listed_with_how_far_they_are,
            users::a_stream_that_begins_anew_has_an_epoch_of_its_own,
            users::an_erased_user_is_gone_and_no_other,
            users::an_erasure_goes_on_where_it_was_stopped,
            users::devices_that_upload_meanwhile_lose_nothing_that_is_kept,
            late::an_erased_user_has_no_conflicts,
            users::nobody_is_erased_who_is_not_there,
        }
    };
}

/// Makes every rule of a store a test of one back end, given by its [`Backend`] type.
#[macro_export]
macro_rules! suite {
    ($backend:ty) => {
        $crate::suite! { @rules $backend;
            decisions::a_malformed_change_is_bad_payload,
            decisions::an_unregistered_table_is_refused_and_the_rest_goes_on,
            decisions::the_first_matching_rule_wins,
            decisions::a_retry_is_told_what_the_first_try_was_told,
            decisions::a_reused_id_is_refused,
            decisions::a_key_sent_twice_in_one_request_is_decided_against_the_first,
            decisions::a_key_belongs_to_its_source,
            decisions::a_refused_change_does_not_use_up_its_key,
            decisions::deleting_an_unseen_row_is_applied_without_a_trace,
            decisions::deleting_a_tombstone_at_its_version_is_applied_without_a_trace,
            decisions::the_named_version_decides,
            decisions::a_stale_change_is_a_conflict_with_the_row,
            decisions::a_conflict_shows_a_tombstone_and_an_unknown_row,
            decisions::changes_of_one_request_see_each_other,
            decisions::a_conflict_in_a_chain_shows_what_the_chain_made,
            decisions::one_bad_change_blocks_no_other,
            decisions::a_deleted_row_can_be_made_again,
            decisions::an_upload_over_the_limit_is_refused_whole,
            decisions::an_empty_upload_is_accepted,
            decisions::an_atomic_upload_applies_whole,
            decisions::an_atomic_upload_with_one_conflict_leaves_no_trace,
            decisions::an_aborted_upload_may_be_sent_again,
            decisions::an_aborted_upload_still_confirms_what_was_applied_before,
            late::a_row_that_came_to_fit_makes_no_difference,
            late::another_version_under_the_same_number_is_decided_anew,
            late::a_conflict_may_be_resolved_in_its_own_request,
            late::another_change_under_the_same_number_is_decided_anew,
            late::a_refusal_that_is_no_conflict_is_not_remembered,
            late::a_conflict_is_remembered_beside_what_is_applied,
            late::an_aborted_upload_leaves_its_conflicts,
            late::a_conflict_is_written_once_and_moves_no_stream,
            late::a_conflict_on_a_moved_stream_is_decided_anew,
            promises::a_version_counts_every_applied_change,
            promises::a_rejected_change_never_reaches_another_device,
            promises::the_stream_has_no_holes,
            promises::users_see_nothing_of_each_other,
            promises::odd_ids_are_kept_apart,
            promises::payloads_come_back_as_they_came,
            promises::a_row_is_named_by_schema_table_and_pk,
            promises::the_log_tells_who_and_when,
            downloads::pages_follow_each_other_without_a_gap,
            downloads::own_changes_are_left_out_unless_asked_for,
            downloads::a_schema_filter_leaves_out_the_rest,
            downloads::an_exhausted_window_moves_the_cursor_to_its_end,
            downloads::until_freezes_the_window,
            downloads::a_cursor_beyond_the_end_is_refused,
            downloads::an_empty_stream_answers,
            downloads::a_page_of_large_changes_is_cut_short,
            races::one_of_twenty_racing_uploads_to_a_row_wins,
            races::twelve_copies_of_an_upload_apply_once_and_answer_alike,
            races::a_reader_polling_during_uploads_misses_nothing,
            races::users_do_not_disturb_each_other,
            races::an_upload_whose_caller_left_is_whole_or_absent,
            references::a_change_without_its_parent_is_refused,
            references::every_missing_parent_is_listed,
            references::a_parent_that_comes_later_in_the_request_counts,
            references::a_parent_that_is_refused_later_does_not_count,
            references::a_deleted_parent_does_not_count,
            references::a_parent_of_another_user_does_not_count,
            references::a_reference_takes_every_form_of_a_key,
            references::null_absent_and_unregistered_references_are_not_checked,
            references::rows_may_refer_to_each_other_and_to_themselves,
            references::a_retry_is_not_asked_for_its_parents_again,
            references::a_delete_needs_no_parent,
            port::a_commit_on_a_moved_stream_leaves_no_trace,
            port::a_first_commit_on_a_started_stream_is_contention,
            port::load_answers_what_is_wanted_and_no_more,
            port::a_large_upload_is_loaded_and_written,
            port::storage_answers,
        }
    };
    (@rules $backend:ty; $($module:ident::$rule:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $rule() {
                let world = $crate::World::<$backend>::new().await;
                $crate::$module::$rule(&world).await;
            }
        )*
    };
}
