//! What every [`TokenStore`] and every [`AuditStore`] promises, as tests for authors of stores.
//!
//! [`check`] and [`check_audit`] try each promise on a fresh store and report all that are broken. Each promise
//! is also a function of its own, to run one alone while a store is being written:
//!
//! ```
//! use keyward::{store::MemoryStore, testing::conformance};
//!
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! conformance::revoking::the_first_revocation_stands(&MemoryStore::new()).await;
//! conformance::check(|| async { MemoryStore::new() }).await;
//! # });
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! No clock is read: all times are around the year 2027, wherever they are not at the edge of time. The
//! suite runs on any executor; the calls that it makes at once are polled by one task, so a store whose
//! calls never wait cannot be caught in a race.

#![expect(clippy::panic, clippy::expect_used, reason = "a test suite reports by panicking")]

use std::pin::Pin;

use crate::{
    id::UserId,
    secret::TokenDigest,
    store::{
        AuditStore, Purge, StoreError, StoreErrorKind, TokenStore, UserState, UserStatus, Warnings,
        transfer::Section,
    },
    time::UnixTime,
    token::Lifetimes,
};

pub mod auditing;
pub mod changing;
pub mod copying;
pub mod denying;
pub mod families;
mod harness;
pub mod limits;
pub mod listing;
pub mod noticing;
pub mod owners;
pub mod purging;
pub mod racing;
pub mod read_only;
mod records;
pub mod registering;
pub mod revoking;
pub mod room;
pub mod rotating;
pub mod storing;
pub mod usage;
pub mod warning;

/// Checks every promise, each on a fresh store from `make`, and goes on after a broken one. Those of
/// [`denying`], [`registering`], [`purging`], [`warning`] and [`copying`] are left out for a store that keeps no users'
/// states, cannot register users or remove tokens, knows nothing of warnings, or cannot be copied, which it says by
/// answering [`StoreErrorKind::ReadOnly`]; those of [`noticing`] for one that does not keep
/// [habits](crate::token::TokenRecord::habits).
///
/// ```
/// use keyward::{store::MemoryStore, testing::conformance};
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// conformance::check(|| async { MemoryStore::new() }).await;
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Panics
/// At the end, with the names of all broken promises and how they were broken. A promise that takes
/// longer than a minute counts as broken.
pub async fn check<S, F, Fut>(make: F)
where
    S: TokenStore,
    F: Fn() -> Fut,
    Fut: Future<Output = S>,
{
    let mut report = harness::Report::default();
    for (name, promise) in PROMISES {
        let run = async {
            let store = make().await;
            promise(&store).await;
        };
        report.add(name, harness::attempt(run).await);
    }
    for (knows, promises) in OPTIONAL {
        if !can(*knows, &make().await).await {
            continue;
        }
        for (name, promise) in *promises {
            let run = async { promise(&make().await).await };
            report.add(name, harness::attempt(run).await);
        }
    }
    report.finish();
}

/// Whether the store answers in another way than that it cannot do this.
async fn can(asks: Asks, store: &dyn TokenStore) -> bool {
    let mut read_only = false;
    // One that panics or hangs is reported by the promises.
    let _ = harness::attempt(async {
        read_only = asks(store).await.is_err_and(|error| error.kind() == StoreErrorKind::ReadOnly);
    })
    .await;
    !read_only
}

async fn set_a_state(store: &dyn TokenStore) -> Result<(), StoreError> {
    store.set_user_state(&UserState::new(records::user("alice"), UserStatus::Suspended)).await
}

async fn register_one(store: &dyn TokenStore) -> Result<(), StoreError> {
    store.register(&records::token(1, "alice")).await
}

async fn remove_nothing(store: &dyn TokenStore) -> Result<(), StoreError> {
    let purge = Purge::new(UnixTime::EPOCH, Lifetimes::default(), 1);
    store.purge(&records::admin(), &purge).await.map(drop)
}

async fn warn_of_nothing(store: &dyn TokenStore) -> Result<(), StoreError> {
    let warnings = Warnings::new(UnixTime::EPOCH, Vec::new(), 1);
    store.claim_warnings(&records::admin(), &warnings).await.map(drop)
}

async fn give_out_nothing(store: &dyn TokenStore) -> Result<(), StoreError> {
    store.export(&records::admin(), Section::Tokens, None, 1).await.map(drop)
}

/// Checks every promise of a store of audit entries, each on a fresh one from `make`, and goes on after a broken
/// one.
///
/// ```
/// use keyward::{store::MemoryStore, testing::conformance};
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// conformance::check_audit(|| async { MemoryStore::new() }).await;
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Panics
/// Like [`check`].
pub async fn check_audit<S, F, Fut>(make: F)
where
    S: AuditStore,
    F: Fn() -> Fut,
    Fut: Future<Output = S>,
{
    let mut report = harness::Report::default();
    for (name, promise) in AUDIT_PROMISES {
        let run = async { promise(&make().await).await };
        report.add(name, harness::attempt(run).await);
    }
    report.finish();
}

/// Checks the promises that a store keeps which cannot be written. `known` is everything that it holds:
/// for each token its owner and its digest.
///
/// ```
/// use keyward::{UserId, secret::TokenDigest, store::StaticList, testing::conformance};
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let token = "3f5c0a9e7b1d4826a0c3e5f7192b4d6e";
/// let list = StaticList::parse(&format!("admin:{token}"))?;
/// conformance::check_read_only(&list, &[(UserId::new("admin")?, TokenDigest::of(token.as_bytes()))]).await;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Panics
/// Like [`check`].
pub async fn check_read_only(store: &dyn TokenStore, known: &[(UserId, TokenDigest)]) {
    let mut report = harness::Report::default();
    for (name, promise) in READ_ONLY_PROMISES {
        report.add(name, harness::attempt(promise(store, known)).await);
    }
    report.finish();
}

/// The names of the promises that [`check`] tries of every store, in its order.
///
/// ```
/// use keyward::testing::conformance;
///
/// assert!(conformance::promises().any(|name| name == "revoking::the_first_revocation_stands"));
/// ```
pub fn promises() -> impl ExactSizeIterator<Item = &'static str> {
    PROMISES.iter().map(|(name, _)| *name)
}

type Asks =
    for<'a> fn(&'a dyn TokenStore) -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + 'a>>;
type Run<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
type Promise = for<'a> fn(&'a dyn TokenStore) -> Run<'a>;
type AuditPromise = for<'a> fn(&'a dyn AuditStore) -> Run<'a>;
type ReadOnlyPromise = for<'a> fn(&'a dyn TokenStore, &'a [(UserId, TokenDigest)]) -> Run<'a>;

macro_rules! promises {
    ($arguments:tt $($theme:ident { $($name:ident)+ })+) => {
        &[$($((concat!(stringify!($theme), "::", stringify!($name)), run!($arguments $theme $name))),+),+]
    };
}

macro_rules! run {
    (($($argument:ident)+) $theme:ident $name:ident) => {
        |$($argument),+| Box::pin($theme::$name($($argument),+))
    };
}

const PROMISES: &[(&str, Promise)] = promises! { (store)
    storing {
        a_fresh_store_is_healthy
        changes_without_a_cursor_return_at_once
        every_field_comes_back
        what_is_absent_stays_absent
        every_class_comes_back
        grants_keep_their_kind
        texts_come_back_unchanged
        nul_characters_come_back
        metadata_comes_back
        times_at_the_edges_come_back
        addresses_come_back
        unknown_digests_are_not_found
        digests_are_compared_in_full
        taken_digests_are_refused
        taken_ids_are_refused
        tokens_are_found_in_any_state
    }
    owners {
        foreign_records_are_not_read
        foreign_records_are_not_changed
        foreign_records_are_not_rotated
        unknown_ids_are_nobodys
        lists_and_counts_show_own_records_only
        admins_reach_every_record
        user_ids_are_compared_byte_for_byte
        user_ids_are_not_interpreted
        long_user_ids_are_not_cut
    }
    listing {
        newest_come_first
        pages_join_without_gaps_or_repeats
        limits_are_kept
        any_id_can_be_a_cursor
        pages_stay_while_tokens_are_added
        lists_show_tokens_in_any_state
        counts_leave_out_revoked_tokens_only
    }
    changing {
        each_field_changes_alone
        several_fields_change_at_once
        limits_and_texts_can_be_taken_away
        revisions_count_changes
        another_revision_conflicts
        the_expected_revision_is_accepted
        disabled_tokens_can_be_enabled
        an_expiry_only_comes_earlier
    }
    revoking {
        revoked_tokens_carry_the_time
        the_first_revocation_stands
        revoked_tokens_stay_revoked
        revoke_all_tells_what_it_revoked
        revoke_all_spares_other_users
        revoke_all_counts_as_a_change
        revoke_all_again_revokes_nothing
    }
    rotating {
        successors_are_stored_whole
        replaced_tokens_name_their_successor
        what_ends_with_it_moves_to_the_successor
        what_is_dead_stays_with_the_old_token
        overlaps_never_lengthen_a_life
        successors_stay_within_the_limit
        replaced_tokens_are_not_renewed
        tokens_are_replaced_once
        successors_can_be_replaced
        revoked_tokens_are_not_replaced
        another_revision_conflicts
        taken_successors_leave_the_old_token_alone
    }
    limits {
        limits_refuse_one_more
        refused_tokens_leave_nothing_behind
        dead_tokens_do_not_count
        disabled_tokens_count
        traps_do_not_count
        expiry_is_judged_at_the_new_tokens_time
        other_users_do_not_count
        a_limit_of_zero_refuses
        without_a_limit_nothing_counts
    }
    families {
        what_ends_with_a_token_is_revoked_with_it
        everything_made_through_a_token_is_revoked_on_demand
        revoked_tokens_are_passed_through
        only_administrators_revoke_what_was_made_for_others
        circles_end
        foreign_tokens_are_not_revoked
        dead_parents_take_no_children
    }
    room {
        where_there_is_room_nothing_is_revoked
        the_longest_unused_gives_way
        spared_tokens_do_not_give_way
        traps_do_not_give_way
        one_gives_way_to_one
        what_ends_with_it_gives_way_too
    }
    usage {
        uses_add_up
        the_last_use_never_moves_back
        addresses_belong_to_the_last_use
        unknown_ids_are_skipped
        large_counts_neither_fail_nor_wrap
        renewals_only_lengthen
        only_rolling_tokens_are_renewed
        revoked_tokens_are_counted_but_not_renewed
        quotas_are_added_up_within_their_period
        quotas_of_another_period_are_skipped
        uses_are_no_changes
        an_empty_batch_is_fine
    }
    racing {
        limits_hold
        room_is_made_for_each
        one_digest_is_stored_once
        a_token_is_replaced_once
        one_of_several_changes_of_a_revision_wins
        changes_of_different_fields_are_all_kept
        revocation_and_rotation_do_not_mix
        uses_and_changes_are_all_kept
    }
};

const DENYING_PROMISES: &[(&str, Promise)] = promises! { (store)
    denying {
        a_fresh_store_denies_nothing
        statuses_are_kept
        the_time_of_jwts_never_moves_back
        offboarding_ends_everything_of_one_user
        inactive_users_get_no_tokens
        offboarding_and_inserts_do_not_mix
        revoked_jwts_are_listed_until_their_end
    }
    room {
        nothing_gives_way_to_what_is_refused
    }
};

const PURGING_PROMISES: &[(&str, Promise)] = promises! { (store)
    purging {
        what_ended_long_ago_is_removed
        what_was_removed_is_unknown
        steps_join_without_gaps_or_repeats
        what_ends_with_a_removed_token_is_removed
        large_families_go_in_steps
        what_stayed_with_a_replaced_token_ends_by_itself
        removal_and_inserts_do_not_mix
    }
};

const WARNING_PROMISES: &[(&str, Promise)] = promises! { (store)
    warning {
        each_warning_is_given_out_once
        what_was_missed_is_told_once
        a_renewal_starts_anew
        nobody_is_warned_without_need
        steps_give_out_each_warning_once
        each_warning_goes_to_one_of_many
    }
};

/// What not every store can do, and what those promise that can.
const OPTIONAL: &[(Asks, &[(&str, Promise)])] = &[
    (|store| Box::pin(set_a_state(store)), DENYING_PROMISES),
    (|store| Box::pin(register_one(store)), REGISTERING_PROMISES),
    (|store| Box::pin(remove_nothing(store)), PURGING_PROMISES),
    (|store| Box::pin(warn_of_nothing(store)), WARNING_PROMISES),
    (|store| Box::pin(noticing::keep_habits(store)), NOTICING_PROMISES),
    (|store| Box::pin(give_out_nothing(store)), COPYING_PROMISES),
];

const REGISTERING_PROMISES: &[(&str, Promise)] = promises! { (store)
    registering {
        new_users_are_stored_with_their_first_token
        users_are_registered_once
        users_with_tokens_are_not_new
        users_with_a_state_are_not_new
        taken_tokens_register_nobody
        of_several_registrations_one_wins
    }
};

const COPYING_PROMISES: &[(&str, Promise)] = promises! { (store)
    copying {
        each_section_is_given_out_in_order
        what_is_taken_in_is_stored_as_it_is
        what_was_taken_in_is_like_any_other
        only_earlier_versions_give_way
        what_denies_stays
        whoever_came_in_is_not_new
        warnings_come_along
    }
};

const NOTICING_PROMISES: &[(&str, Promise)] = promises! { (store)
    noticing {
        habits_come_back
        what_is_noticed_is_added_up
        habits_stay_whatever_changes
    }
};

const AUDIT_PROMISES: &[(&str, AuditPromise)] = promises! { (store)
    auditing {
        a_fresh_log_is_empty
        every_member_comes_back
        later_entries_follow_earlier_ones
        pages_join_without_gaps_or_repeats
        filters_find_what_they_say
        deleting_keeps_the_anchor
        simultaneous_appends_make_one_chain
        entries_of_another_log_go_on_as_they_are
    }
};

const READ_ONLY_PROMISES: &[(&str, ReadOnlyPromise)] = promises! { (store known)
    read_only {
        the_store_is_healthy
        known_digests_are_found
        unknown_digests_are_not_found
        records_are_read_by_their_owner_only
        lists_and_counts_are_complete_and_scoped
        pages_join_without_gaps_or_repeats
        writes_are_refused
    }
};
