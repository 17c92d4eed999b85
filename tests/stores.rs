//! Every store keeps its promises, and a store that does not is caught.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use keyward::{
    AdminProof, Owner, TokenId, UserId,
    scope::{Grant, ScopeSet},
    secret::TokenDigest,
    store::{
        Change, ChangeCursor, Changes, Claimed, Ended, MemoryStore, Page, Purge, Purged, Reach, Revoked,
        Room, Rotation, StaticList, StoreError, StoreErrorKind, TokenStore, Usage, UserState, Warnings,
    },
    testing::conformance,
    time::UnixTime,
    token::TokenRecord,
};

#[tokio::test]
async fn memory_keeps_every_promise() {
    conformance::check(|| async { MemoryStore::new() }).await;
}

#[tokio::test]
async fn what_a_store_need_not_write_itself_keeps_every_promise() {
    conformance::check(|| async { PlainStore::default() }).await;
}

#[tokio::test]
async fn a_shared_store_keeps_every_promise() {
    conformance::check(|| async { Arc::new(MemoryStore::new()) }).await;
    conformance::check_audit(|| async { Arc::new(MemoryStore::new()) }).await;
}

#[tokio::test]
async fn a_static_list_keeps_the_promises_of_a_store_that_cannot_be_written() {
    let tokens = [
        ("admin", "3f5c0a9e7b1d4826a0c3e5f7192b4d6e"),
        ("analyst", "91b7d2c4e6f8a0b3c5d7e9f1a2b4c6d8"),
        ("admin", "c05e1f7a3b9d2846e0f1a5c7b3d92e48"),
    ];
    let entries = tokens.map(|(label, token)| format!("{label}:{token}"));
    let list = StaticList::parse(&entries.join(",")).unwrap();
    let known = tokens.map(|(label, token)| (UserId::new(label).unwrap(), TokenDigest::of(token.as_bytes())));
    conformance::check_read_only(&list, &known).await;
}

#[tokio::test]
async fn the_store_that_is_broken_below_is_whole_without_a_flaw() {
    conformance::check(|| async { FlawedStore::default() }).await;
}

#[tokio::test]
async fn a_broken_promise_is_named() {
    for (flaw, promises) in FLAWS {
        let failure = failure_of(*flaw).await;
        for promise in *promises {
            assert!(failure.contains(promise), "{flaw:?} should break {promise}, but: {failure}");
        }
    }
}

#[tokio::test]
async fn a_store_that_only_fails_keeps_no_promise() {
    let failure = failure_of(Flaw::Fails).await;
    for promise in conformance::promises() {
        assert!(failure.contains(&format!("- {promise}: ")), "{promise} holds for a store that only fails");
    }
}

#[tokio::test]
async fn a_broken_promise_of_a_read_only_store_is_named() {
    let check = tokio::spawn(async {
        let known = (UserId::new("alice").unwrap(), TokenDigest::of(b"known"));
        conformance::check_read_only(&MemoryStore::new(), &[known]).await;
    });
    let payload = check.await.unwrap_err().into_panic();
    let failure = payload.downcast_ref::<String>().unwrap();
    assert!(failure.contains("read_only::known_digests_are_found"), "{failure}");
    assert!(failure.contains("read_only::writes_are_refused"), "{failure}");
}

/// What the suite says of a store with this flaw.
async fn failure_of(flaw: Flaw) -> String {
    let check = tokio::spawn(conformance::check(move || async move {
        FlawedStore { flaw: Some(flaw), ..Default::default() }
    }));
    let Err(error) = check.await else { return "the suite finds nothing".to_owned() };
    let payload = error.into_panic();
    payload.downcast_ref::<String>().cloned().unwrap_or_default()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    CutsNames,
    EndsTextsAtNul,
    TakesNothingForAll,
    Overwrites,
    TakesEveryDigest,
    ForgetsLimit,
    LimitsAllUsersTogether,
    LimitCountsTheDead,
    LimitCountsTraps,
    LimitIsCheckedTooEarly,
    LimitIsCheckedTooLate,
    FindsByPrefix,
    FindsTheLivingOnly,
    GetsForeignTokens,
    FoldsCase,
    ListsOldestFirst,
    RepeatsTheCursor,
    ListsTooMany,
    CountsRevoked,
    ChangesForeignTokens,
    TellsForeignTokens,
    EnablesRevoked,
    MovesRevocations,
    IgnoresRevisions,
    LosesFields,
    LiftsNoLimits,
    RotatesForeignTokens,
    RotatesHalf,
    RotatesAgain,
    RotatesRevoked,
    RotatesInTwoSteps,
    RotationLengthens,
    RevokesEverybody,
    RevokesAgain,
    RevokeAllIsNoChange,
    UseStopsAtUnknownIds,
    UseMovesBack,
    UseWraps,
    UseShortens,
    UseCountsAsChange,
    UseForgetsQuotas,
    UseMixesQuotas,
    WaitsForEver,
    ForgetsUsers,
    RegistersWithoutToken,
    RegistersAgain,
    RegistersWhoHasNoLivingToken,
    RegistersHalf,
    RegistrationIsCheckedTooEarly,
    Fails,
    PutsExpiriesOff,
    RotationForgetsLimit,
    RotationCountsTheOldOne,
    LeavesChildrenBehind,
    MovesTheDead,
    TakesEveryParent,
    RevokesOneAlone,
    RevokesChildrenOnly,
    RevokesAllThatWasMade,
    StopsAtRevoked,
    RevokesBeyondTheUser,
    RevokesWithinTheUser,
    RevokesForeignTokens,
    RevokesInCircles,
    MakesNoRoom,
    MakesRoomAlways,
    MakesRoomByAge,
    MakesRoomOfTraps,
    MakesRoomTooEarly,
    MakesTooMuchRoom,
    SparesNobody,
    LeavesOrphansInTheRoom,
    RemovesNothing,
    RemovesTraps,
    RemovesWhatIsOff,
    RemovesTooEarly,
    HidesInsteadOfRemoving,
    RemovesAllAtOnce,
    RemovesFromTheStart,
    RemovesWhatIsNew,
    LeavesOrphans,
    RemovesFamiliesAtOnce,
    RemovesWithTheReplaced,
    WarnsAgain,
    WarnsTwice,
    WarnsNever,
    WarnsOfTheDead,
    WarnsOfTooMany,
    WarnsSeveral,
    ForgetsRenewals,
    WarnsAfterRenewal,
    CutsHabits,
    UseForgetsHabits,
    UseReplacesHabits,
    ChangesForgetHabits,
}

/// Ways to get a store wrong, and promises that each breaks.
const FLAWS: &[(Flaw, &[&str])] = &[
    (
        Flaw::ForgetsUsers,
        &[
            "denying::statuses_are_kept",
            "denying::inactive_users_get_no_tokens",
            "room::nothing_gives_way_to_what_is_refused",
            "registering::users_with_a_state_are_not_new",
        ],
    ),
    (Flaw::RegistersWithoutToken, &["registering::new_users_are_stored_with_their_first_token"]),
    (
        Flaw::RegistersAgain,
        &["registering::users_are_registered_once", "registering::users_with_tokens_are_not_new"],
    ),
    (Flaw::RegistersWhoHasNoLivingToken, &["registering::users_with_tokens_are_not_new"]),
    (Flaw::RegistersHalf, &["registering::taken_tokens_register_nobody"]),
    (Flaw::RegistrationIsCheckedTooEarly, &["registering::of_several_registrations_one_wins"]),
    (Flaw::CutsNames, &["storing::texts_come_back_unchanged"]),
    (Flaw::EndsTextsAtNul, &["storing::nul_characters_come_back"]),
    (Flaw::TakesNothingForAll, &["storing::grants_keep_their_kind"]),
    (Flaw::Overwrites, &["storing::taken_ids_are_refused"]),
    (Flaw::TakesEveryDigest, &["storing::taken_digests_are_refused", "racing::one_digest_is_stored_once"]),
    (Flaw::ForgetsLimit, &["limits::limits_refuse_one_more", "limits::a_limit_of_zero_refuses"]),
    (Flaw::LimitsAllUsersTogether, &["limits::other_users_do_not_count"]),
    (Flaw::LimitCountsTheDead, &["limits::dead_tokens_do_not_count"]),
    (Flaw::LimitCountsTraps, &["limits::traps_do_not_count"]),
    (Flaw::LimitIsCheckedTooEarly, &["racing::limits_hold"]),
    (Flaw::LimitIsCheckedTooLate, &["limits::refused_tokens_leave_nothing_behind"]),
    (Flaw::FindsByPrefix, &["storing::digests_are_compared_in_full"]),
    (Flaw::FindsTheLivingOnly, &["storing::tokens_are_found_in_any_state"]),
    (Flaw::GetsForeignTokens, &["owners::foreign_records_are_not_read"]),
    (
        Flaw::FoldsCase,
        &[
            "owners::user_ids_are_compared_byte_for_byte",
            "revoking::revoke_all_spares_other_users",
            "registering::users_are_registered_once",
        ],
    ),
    (Flaw::ListsOldestFirst, &["listing::newest_come_first"]),
    (Flaw::RepeatsTheCursor, &["listing::pages_join_without_gaps_or_repeats"]),
    (Flaw::ListsTooMany, &["listing::limits_are_kept"]),
    (Flaw::CountsRevoked, &["listing::counts_leave_out_revoked_tokens_only"]),
    (Flaw::ChangesForeignTokens, &["owners::foreign_records_are_not_changed"]),
    (Flaw::TellsForeignTokens, &["owners::foreign_records_are_not_changed"]),
    (Flaw::EnablesRevoked, &["revoking::revoked_tokens_stay_revoked"]),
    (Flaw::MovesRevocations, &["revoking::the_first_revocation_stands"]),
    (
        Flaw::IgnoresRevisions,
        &[
            "changing::another_revision_conflicts",
            "rotating::another_revision_conflicts",
            "racing::one_of_several_changes_of_a_revision_wins",
        ],
    ),
    (Flaw::LosesFields, &["changing::each_field_changes_alone"]),
    (
        Flaw::LiftsNoLimits,
        &["changing::limits_and_texts_can_be_taken_away", "changing::disabled_tokens_can_be_enabled"],
    ),
    (Flaw::RotatesForeignTokens, &["owners::foreign_records_are_not_rotated"]),
    (Flaw::RotatesHalf, &["rotating::taken_successors_leave_the_old_token_alone"]),
    (Flaw::RotatesAgain, &["rotating::tokens_are_replaced_once", "racing::a_token_is_replaced_once"]),
    (Flaw::RotatesRevoked, &["rotating::revoked_tokens_are_not_replaced"]),
    (
        Flaw::RotatesInTwoSteps,
        &["racing::a_token_is_replaced_once", "racing::revocation_and_rotation_do_not_mix"],
    ),
    (Flaw::RotationForgetsLimit, &["rotating::successors_stay_within_the_limit"]),
    (Flaw::RotationCountsTheOldOne, &["rotating::successors_stay_within_the_limit"]),
    (Flaw::RotationLengthens, &["rotating::overlaps_never_lengthen_a_life"]),
    (Flaw::RevokesEverybody, &["revoking::revoke_all_spares_other_users"]),
    (Flaw::RevokesAgain, &["revoking::revoke_all_again_revokes_nothing"]),
    (Flaw::RevokeAllIsNoChange, &["revoking::revoke_all_counts_as_a_change"]),
    (Flaw::UseStopsAtUnknownIds, &["usage::unknown_ids_are_skipped"]),
    (Flaw::UseMovesBack, &["usage::the_last_use_never_moves_back"]),
    (Flaw::UseWraps, &["usage::large_counts_neither_fail_nor_wrap"]),
    (Flaw::UseShortens, &["usage::renewals_only_lengthen"]),
    (Flaw::UseCountsAsChange, &["usage::uses_are_no_changes"]),
    (Flaw::UseForgetsQuotas, &["usage::quotas_are_added_up_within_their_period"]),
    (Flaw::UseMixesQuotas, &["usage::quotas_of_another_period_are_skipped"]),
    (Flaw::WaitsForEver, &["storing::changes_without_a_cursor_return_at_once"]),
    (Flaw::PutsExpiriesOff, &["changing::an_expiry_only_comes_earlier"]),
    (Flaw::LeavesChildrenBehind, &["rotating::what_ends_with_it_moves_to_the_successor"]),
    (Flaw::MovesTheDead, &["rotating::what_is_dead_stays_with_the_old_token"]),
    (Flaw::TakesEveryParent, &["families::dead_parents_take_no_children"]),
    (Flaw::RevokesOneAlone, &["families::what_ends_with_a_token_is_revoked_with_it"]),
    (Flaw::RevokesChildrenOnly, &["families::everything_made_through_a_token_is_revoked_on_demand"]),
    (Flaw::RevokesAllThatWasMade, &["families::what_ends_with_a_token_is_revoked_with_it"]),
    (Flaw::StopsAtRevoked, &["families::revoked_tokens_are_passed_through"]),
    (Flaw::RevokesBeyondTheUser, &["families::only_administrators_revoke_what_was_made_for_others"]),
    (Flaw::RevokesWithinTheUser, &["families::only_administrators_revoke_what_was_made_for_others"]),
    (Flaw::RevokesForeignTokens, &["families::foreign_tokens_are_not_revoked"]),
    (Flaw::RevokesInCircles, &["families::circles_end"]),
    (Flaw::MakesNoRoom, &["room::the_longest_unused_gives_way", "racing::room_is_made_for_each"]),
    (Flaw::MakesRoomAlways, &["room::where_there_is_room_nothing_is_revoked"]),
    (Flaw::MakesRoomByAge, &["room::the_longest_unused_gives_way"]),
    (Flaw::MakesRoomOfTraps, &["room::traps_do_not_give_way"]),
    (Flaw::MakesRoomTooEarly, &["racing::room_is_made_for_each"]),
    (Flaw::MakesTooMuchRoom, &["room::one_gives_way_to_one"]),
    (Flaw::SparesNobody, &["room::spared_tokens_do_not_give_way"]),
    (Flaw::LeavesOrphansInTheRoom, &["room::what_ends_with_it_gives_way_too"]),
    (Flaw::RemovesNothing, &["purging::what_ended_long_ago_is_removed"]),
    (Flaw::RemovesTraps, &["purging::what_ended_long_ago_is_removed"]),
    (Flaw::RemovesWhatIsOff, &["purging::what_ended_long_ago_is_removed"]),
    (Flaw::RemovesTooEarly, &["purging::what_ended_long_ago_is_removed"]),
    (Flaw::HidesInsteadOfRemoving, &["purging::what_was_removed_is_unknown"]),
    (Flaw::RemovesAllAtOnce, &["purging::steps_join_without_gaps_or_repeats"]),
    (Flaw::RemovesFromTheStart, &["purging::steps_join_without_gaps_or_repeats"]),
    (Flaw::RemovesWhatIsNew, &["purging::removal_and_inserts_do_not_mix"]),
    (Flaw::LeavesOrphans, &["purging::what_ends_with_a_removed_token_is_removed"]),
    (Flaw::RemovesFamiliesAtOnce, &["purging::large_families_go_in_steps"]),
    (Flaw::RemovesWithTheReplaced, &["purging::what_stayed_with_a_replaced_token_ends_by_itself"]),
    (Flaw::WarnsAgain, &["warning::each_warning_is_given_out_once"]),
    (Flaw::WarnsNever, &["warning::each_warning_is_given_out_once"]),
    (Flaw::WarnsSeveral, &["warning::what_was_missed_is_told_once"]),
    (Flaw::WarnsTwice, &["warning::each_warning_goes_to_one_of_many"]),
    (Flaw::WarnsOfTheDead, &["warning::nobody_is_warned_without_need"]),
    (Flaw::WarnsOfTooMany, &["warning::steps_give_out_each_warning_once"]),
    (Flaw::ForgetsRenewals, &["warning::a_renewal_starts_anew"]),
    (Flaw::CutsHabits, &["noticing::habits_come_back"]),
    (Flaw::UseForgetsHabits, &["noticing::what_is_noticed_is_added_up"]),
    (Flaw::UseReplacesHabits, &["noticing::what_is_noticed_is_added_up"]),
    (Flaw::ChangesForgetHabits, &["noticing::habits_stay_whatever_changes"]),
    (Flaw::WarnsAfterRenewal, &["warning::a_renewal_starts_anew"]),
];

#[test]
fn each_promise_of_a_store_with_new_abilities_has_a_flaw_that_breaks_it() {
    let promises = conformance::promises()
        .filter(|name| ["families::", "room::"].iter().any(|theme| name.starts_with(theme)));
    for promise in promises {
        assert!(FLAWS.iter().any(|(_, broken)| broken.contains(&promise)), "{promise}");
    }
}

/// A store that does only what it must, and lets others in between.
#[derive(Debug, Default)]
struct PlainStore(MemoryStore);

#[async_trait]
impl TokenStore for PlainStore {
    async fn insert(&self, record: &TokenRecord, limit: Option<u32>) -> Result<(), StoreError> {
        tokio::task::yield_now().await;
        self.0.insert(record, limit).await
    }

    async fn find(&self, digest: &TokenDigest) -> Result<Option<TokenRecord>, StoreError> {
        self.0.find(digest).await
    }

    async fn get(&self, owner: Owner<'_>, id: TokenId) -> Result<Option<TokenRecord>, StoreError> {
        self.0.get(owner, id).await
    }

    async fn list(&self, owner: Owner<'_>, page: Page) -> Result<Vec<TokenRecord>, StoreError> {
        tokio::task::yield_now().await;
        self.0.list(owner, page).await
    }

    async fn count(&self, owner: Owner<'_>) -> Result<u64, StoreError> {
        self.0.count(owner).await
    }

    async fn update(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        change: &Change,
    ) -> Result<Option<TokenRecord>, StoreError> {
        tokio::task::yield_now().await;
        self.0.update(owner, id, change).await
    }

    async fn rotate(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        rotation: &Rotation,
    ) -> Result<Option<TokenRecord>, StoreError> {
        self.0.rotate(owner, id, rotation).await
    }

    async fn revoke_all(&self, owner: &UserId, at: UnixTime) -> Result<Vec<TokenDigest>, StoreError> {
        self.0.revoke_all(owner, at).await
    }

    async fn record_usage(&self, batch: &[Usage]) -> Result<(), StoreError> {
        self.0.record_usage(batch).await
    }
}

/// A store like that of the example `custom_store`, with at most one flaw.
#[derive(Debug, Default)]
struct FlawedStore {
    records: Mutex<BTreeMap<TokenId, TokenRecord>>,
    warn_from: Mutex<BTreeMap<TokenId, UnixTime>>,
    owners: Mutex<Vec<UserId>>,
    flaw: Option<Flaw>,
}

impl FlawedStore {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    fn lock(&self) -> Result<MutexGuard<'_, BTreeMap<TokenId, TokenRecord>>, StoreError> {
        if self.has(Flaw::Fails) {
            return Err(StoreErrorKind::Unavailable.into());
        }
        Ok(self.records.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn includes(&self, owner: Owner<'_>, user: &UserId) -> bool {
        let folded = |owner: &UserId| owner.as_str().eq_ignore_ascii_case(user.as_str());
        owner.includes(user) || (self.has(Flaw::FoldsCase) && owner.user().is_some_and(folded))
    }

    fn is_full(&self, record: &TokenRecord, limit: Option<u32>) -> Result<bool, StoreError> {
        let records = self.lock()?;
        let own = records
            .values()
            .filter(|other| other.owner == record.owner || self.has(Flaw::LimitsAllUsersTogether));
        let counts = |other: &TokenRecord| {
            let forced = self.has(Flaw::LimitCountsTheDead) && !other.honeytoken
                || self.has(Flaw::LimitCountsTraps) && other.honeytoken;
            other.counts_as_active(record.created_at) || forced
        };
        let active = own.filter(|other| counts(other)).count();
        Ok(!self.has(Flaw::ForgetsLimit) && limit.is_some_and(|limit| active >= limit as usize))
    }

    /// What goes with the token `id`.
    fn followers(
        &self,
        scope: Owner<'_>,
        id: TokenId,
        reach: Reach,
    ) -> Result<BTreeSet<TokenId>, StoreError> {
        let (records, mut reached) = (self.lock()?, BTreeSet::new());
        loop {
            let before = reached.len();
            for record in records.values().filter(|record| scope.includes(&record.owner)) {
                let from = |from: TokenId| {
                    let stops = self.has(Flaw::StopsAtRevoked)
                        && records.get(&from).is_some_and(|from| from.revoked_at.is_some());
                    reach.includes(record, from) && (from == id || reached.contains(&from) && !stops)
                };
                if [record.parent, record.created_by].into_iter().flatten().any(from) {
                    reached.insert(record.id);
                }
            }
            if reached.len() == before {
                break;
            }
        }
        if !self.has(Flaw::RevokesInCircles) {
            reached.remove(&id);
        }
        Ok(reached)
    }

    fn revoke_each(&self, ids: BTreeSet<TokenId>, at: UnixTime) -> Result<Vec<Ended>, StoreError> {
        let (mut records, mut ended) = (self.lock()?, Vec::new());
        for id in ids {
            let Some(record) = records.get_mut(&id) else { continue };
            let living = record.revoked_at.is_none();
            if living {
                Change::revoke(at).apply(record)?;
            }
            if living || self.has(Flaw::RevokesInCircles) {
                ended.push(Ended::from(&*record));
            }
        }
        Ok(ended)
    }

    fn knows(&self, user: &UserId) -> Result<bool, StoreError> {
        let records = self.lock()?;
        let mut living = records.values().filter(|record| record.revoked_at.is_none());
        let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(match self.flaw {
            Some(Flaw::RegistersAgain) => false,
            Some(Flaw::RegistersWhoHasNoLivingToken) => living.any(|record| record.owner == *user),
            _ => owners.iter().any(|owner| self.includes(Owner::User(owner), user)),
        })
    }

    fn note_owner(&self, user: &UserId) {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).push(user.clone());
    }

    fn store(&self, record: &TokenRecord) -> Result<(), StoreError> {
        if self.has(Flaw::RegistersHalf) {
            self.note_owner(&record.owner);
        }
        let mut records = self.lock()?;
        let parent = record.parent.and_then(|parent| records.get(&parent));
        let fits = parent.is_none_or(|parent| parent.may_be_parent_of(record));
        if !fits && !self.has(Flaw::TakesEveryParent) {
            return Err(StoreErrorKind::Conflict.into());
        }
        let same_digest = records.values().any(|other| other.digest == record.digest);
        let same_id = records.contains_key(&record.id) && !self.has(Flaw::Overwrites);
        if same_id || (same_digest && !self.has(Flaw::TakesEveryDigest)) {
            return Err(StoreErrorKind::Duplicate.into());
        }
        let mut record = record.clone();
        if self.has(Flaw::CutsNames) {
            record.name = record.name.chars().take(255).collect();
        }
        if self.has(Flaw::EndsTextsAtNul) {
            record.name = record.name.chars().take_while(|character| *character != '\0').collect();
        }
        if self.has(Flaw::TakesNothingForAll) && record.scopes == Grant::Only(ScopeSet::empty()) {
            record.scopes = Grant::All;
        }
        if self.has(Flaw::CutsHabits)
            && let Some(habits) = &mut record.habits
        {
            habits.networks.truncate(4);
        }
        self.note_owner(&record.owner);
        records.insert(record.id, record);
        Ok(())
    }
}

#[async_trait]
impl TokenStore for FlawedStore {
    async fn set_user_state(&self, _: &UserState) -> Result<(), StoreError> {
        if self.flaw == Some(Flaw::ForgetsUsers) { Ok(()) } else { Err(StoreErrorKind::ReadOnly.into()) }
    }

    async fn insert(&self, record: &TokenRecord, limit: Option<u32>) -> Result<(), StoreError> {
        if self.has(Flaw::LimitIsCheckedTooLate) {
            let full = self.is_full(record, limit)?;
            self.store(record)?;
            return if full { Err(StoreErrorKind::LimitReached.into()) } else { Ok(()) };
        }
        if self.is_full(record, limit)? {
            return Err(StoreErrorKind::LimitReached.into());
        }
        if self.has(Flaw::LimitIsCheckedTooEarly) {
            tokio::task::yield_now().await;
        }
        self.store(record)
    }

    async fn register(&self, record: &TokenRecord) -> Result<(), StoreError> {
        if self.knows(&record.owner)? {
            return Err(StoreErrorKind::UserExists.into());
        }
        if self.has(Flaw::RegistrationIsCheckedTooEarly) {
            tokio::task::yield_now().await;
        }
        if self.has(Flaw::RegistersWithoutToken) { Ok(()) } else { self.store(record) }
    }

    async fn find(&self, digest: &TokenDigest) -> Result<Option<TokenRecord>, StoreError> {
        let length = if self.has(Flaw::FindsByPrefix) { 31 } else { 32 };
        let start = |digest: &TokenDigest| digest.as_bytes().iter().copied().take(length).collect::<Vec<_>>();
        let same = |other: &TokenDigest| start(other) == start(digest);
        let alive = |record: &TokenRecord| record.revoked_at.is_none() || !self.has(Flaw::FindsTheLivingOnly);
        Ok(self.lock()?.values().find(|record| same(&record.digest) && alive(record)).cloned())
    }

    async fn get(&self, owner: Owner<'_>, id: TokenId) -> Result<Option<TokenRecord>, StoreError> {
        let seen =
            |record: &TokenRecord| self.includes(owner, &record.owner) || self.has(Flaw::GetsForeignTokens);
        Ok(self.lock()?.get(&id).filter(|record| seen(record)).cloned())
    }

    async fn list(&self, owner: Owner<'_>, page: Page) -> Result<Vec<TokenRecord>, StoreError> {
        let older = |id: TokenId| match page.before {
            Some(before) if self.has(Flaw::RepeatsTheCursor) => id <= before,
            Some(before) => id < before,
            None => true,
        };
        let records = self.lock()?;
        let wanted =
            records.values().rev().filter(|record| self.includes(owner, &record.owner) && older(record.id));
        let limit = (page.limit as usize).saturating_add(usize::from(self.has(Flaw::ListsTooMany)));
        let mut listed: Vec<_> = wanted.take(limit).cloned().collect();
        if self.has(Flaw::ListsOldestFirst) {
            listed.reverse();
        }
        Ok(listed)
    }

    async fn count(&self, owner: Owner<'_>) -> Result<u64, StoreError> {
        let alive = |record: &TokenRecord| record.revoked_at.is_none() || self.has(Flaw::CountsRevoked);
        let records = self.lock()?;
        let counted = records.values().filter(|record| self.includes(owner, &record.owner) && alive(record));
        Ok(counted.count() as u64)
    }

    async fn update(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        change: &Change,
    ) -> Result<Option<TokenRecord>, StoreError> {
        let mut records = self.lock()?;
        let Some(record) = records.get_mut(&id) else { return Ok(None) };
        if !self.includes(owner, &record.owner) && !self.has(Flaw::ChangesForeignTokens) {
            return if self.has(Flaw::TellsForeignTokens) {
                Err(StoreErrorKind::Conflict.into())
            } else {
                Ok(None)
            };
        }
        let mut change = change.clone();
        if self.has(Flaw::IgnoresRevisions) {
            change.if_revision = None;
        }
        if self.has(Flaw::PutsExpiriesOff)
            && let Some(expires_by) = change.expires_by.take()
        {
            record.expires_at = Some(expires_by);
            record.rolling = false;
        }
        if self.has(Flaw::LiftsNoLimits) {
            change.allowed_ips = change.allowed_ips.filter(Option::is_some);
            change.disabled_at = change.disabled_at.filter(Option::is_some);
        }
        change.apply(record)?;
        if self.has(Flaw::ChangesForgetHabits) {
            record.habits = None;
        }
        if self.has(Flaw::EnablesRevoked) && change.disabled_at == Some(None) {
            record.revoked_at = None;
        }
        if self.has(Flaw::MovesRevocations) {
            record.revoked_at = change.revoked_at.or(record.revoked_at);
        }
        if self.has(Flaw::LosesFields) {
            record.allowed_ips = change.allowed_ips.flatten();
        }
        Ok(Some(record.clone()))
    }

    async fn rotate(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        rotation: &Rotation,
    ) -> Result<Option<TokenRecord>, StoreError> {
        let own = |record: &TokenRecord| {
            self.includes(owner, &record.owner) || self.has(Flaw::RotatesForeignTokens)
        };
        let found = self.lock()?.get(&id).filter(|record| own(record)).cloned();
        let Some(mut old) = found else { return Ok(None) };
        let before = old.clone();
        if self.has(Flaw::IgnoresRevisions) {
            old.revision = rotation.if_revision;
        }
        if self.has(Flaw::RotatesRevoked) {
            old.revoked_at = None;
        }
        if self.has(Flaw::RotatesAgain) && old.successor.take().is_some() {
            old.revision = rotation.if_revision;
        }
        rotation.apply(&mut old)?;
        if !self.has(Flaw::RotationForgetsLimit) {
            let records = self.lock()?;
            let counted = if self.has(Flaw::RotationCountsTheOldOne) { &before } else { &old };
            rotation.require_room(counted, records.values().filter(|record| record.owner == old.owner))?;
        }
        if self.has(Flaw::RotationLengthens) {
            old.expires_at = before.expires_at.max(Some(rotation.old_expires_at));
        }
        if self.has(Flaw::RotatesInTwoSteps) {
            tokio::task::yield_now().await;
        }
        if self.has(Flaw::RotatesHalf) {
            self.lock()?.insert(id, old.clone());
        }
        self.store(&rotation.successor)?;
        let mut records = self.lock()?;
        if !self.has(Flaw::LeavesChildrenBehind) {
            records.values_mut().for_each(|record| rotation.adopt(id, record));
        }
        if self.has(Flaw::MovesTheDead) {
            let children = records.values_mut().filter(|record| record.parent == Some(id));
            children.for_each(|record| record.parent = Some(rotation.successor.id));
        }
        records.insert(id, old.clone());
        Ok(Some(old))
    }

    async fn revoke_all(&self, owner: &UserId, at: UnixTime) -> Result<Vec<TokenDigest>, StoreError> {
        let mut digests = Vec::new();
        for record in self.lock()?.values_mut() {
            let own = self.includes(Owner::User(owner), &record.owner) || self.has(Flaw::RevokesEverybody);
            if own && (record.revoked_at.is_none() || self.has(Flaw::RevokesAgain)) {
                Change::revoke(at).apply(record)?;
                record.revision -= u64::from(self.has(Flaw::RevokeAllIsNoChange));
                digests.push(record.digest);
            }
        }
        Ok(digests)
    }

    async fn revoke(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        at: UnixTime,
        reach: Reach,
    ) -> Result<Option<Revoked>, StoreError> {
        let record = {
            let mut records = self.lock()?;
            let own = |record: &TokenRecord| {
                self.includes(owner, &record.owner) || self.has(Flaw::RevokesForeignTokens)
            };
            let Some(record) = records.get_mut(&id).filter(|record| own(record)) else { return Ok(None) };
            Change::revoke(at).apply(record)?;
            record.clone()
        };
        let reach = match self.flaw {
            Some(Flaw::RevokesChildrenOnly) => Reach::Children,
            Some(Flaw::RevokesAllThatWasMade) => Reach::Minted,
            _ => reach,
        };
        let anybody = AdminProof::operator("flawed", "looks at all").map_err(|_| StoreErrorKind::Corrupt)?;
        let scope = match self.flaw {
            Some(Flaw::RevokesBeyondTheUser) => Owner::Any(&anybody),
            Some(Flaw::RevokesWithinTheUser) => Owner::User(&record.owner),
            _ => owner,
        };
        let followers = match self.has(Flaw::RevokesOneAlone) {
            true => BTreeSet::new(),
            false => self.followers(scope, id, reach)?,
        };
        Ok(Some(Revoked::new(record, self.revoke_each(followers, at)?)))
    }

    async fn insert_making_room(&self, record: &TokenRecord, room: &Room) -> Result<Vec<Ended>, StoreError> {
        let (owner, at, mut room) = (Owner::User(&record.owner), record.created_at, room.clone());
        if self.has(Flaw::SparesNobody) {
            room.spared.clear();
        }
        if self.has(Flaw::MakesRoomAlways) && room.limit > 0 {
            room.limit = 1;
        }
        if self.has(Flaw::MakesNoRoom) {
            return self.store(record).map(|()| Vec::new());
        }
        let mut ended = Vec::new();
        loop {
            let mut own: Vec<_> =
                self.lock()?.values().filter(|own| owner.includes(&own.owner)).cloned().collect();
            if self.has(Flaw::MakesRoomByAge) {
                own.iter_mut().for_each(|record| record.last_used = None);
            }
            if self.has(Flaw::MakesRoomOfTraps) {
                own.iter_mut().for_each(|record| record.honeytoken = false);
            }
            let Some(chosen) = room.choose(&own, at)?.map(|chosen| chosen.id) else { break };
            if self.has(Flaw::MakesRoomTooEarly) {
                tokio::task::yield_now().await;
            }
            // What cannot be stored displaces nothing.
            self.store(record)?;
            self.lock()?.remove(&record.id);
            let mut going = self.followers(owner, chosen, Reach::Children)?;
            if self.has(Flaw::LeavesOrphansInTheRoom) {
                going.clear();
            }
            going.insert(chosen);
            ended.extend(self.revoke_each(going, at)?);
            if !self.has(Flaw::MakesTooMuchRoom) {
                break;
            }
        }
        self.store(record)?;
        Ok(ended)
    }

    async fn purge(&self, _: &AdminProof, purge: &Purge) -> Result<Purged, StoreError> {
        let anybody = AdminProof::operator("flawed", "looks at all").map_err(|_| StoreErrorKind::Corrupt)?;
        let before = self.lock()?.clone();
        if self.has(Flaw::RemovesWhatIsNew) {
            tokio::task::yield_now().await;
        }
        let after = purge.after.filter(|_| !self.has(Flaw::RemovesFromTheStart));
        let limit = if self.has(Flaw::RemovesAllAtOnce) { usize::MAX } else { purge.limit as usize };
        let step: Vec<_> = before
            .values()
            .filter(|record| after.is_none_or(|after| record.id > after))
            .take(limit)
            .collect();
        let mut going = BTreeSet::new();
        for record in step.iter().rev() {
            let mut judged = TokenRecord::clone(record);
            judged.honeytoken &= !self.has(Flaw::RemovesTraps);
            let takes = match self.flaw {
                Some(Flaw::RemovesNothing) => false,
                Some(Flaw::RemovesWhatIsOff) => purge.takes(&judged) || record.disabled_at.is_some(),
                Some(Flaw::RemovesTooEarly) => {
                    purge.takes(&judged) || record.revoked_at.is_some() || record.successor.is_some()
                }
                _ => purge.takes(&judged),
            };
            let ended = |parent: &&TokenRecord| match self.has(Flaw::RemovesWithTheReplaced) {
                true => purge.takes(parent),
                false => purge.takes_children_of(parent),
            };
            let ancestors = std::iter::successors(Some(*record), |record| before.get(&record.parent?));
            let by_others =
                !self.has(Flaw::LeavesOrphans) && ancestors.skip(1).take(9).any(|one| ended(&one));
            let mut children = before.values().filter(|child| child.parent == Some(record.id));
            let waits = children.any(|child| !going.contains(&child.id));
            if self.has(Flaw::RemovesFamiliesAtOnce) && takes {
                going.extend(self.followers(Owner::Any(&anybody), record.id, Reach::Children)?);
                going.insert(record.id);
            } else if (takes || by_others) && (!waits || self.has(Flaw::LeavesOrphans)) {
                going.insert(record.id);
            }
        }
        let mut records = self.lock()?;
        if self.has(Flaw::RemovesWhatIsNew) {
            records.retain(|id, _| before.contains_key(id));
        }
        for id in &going {
            if self.has(Flaw::HidesInsteadOfRemoving) {
                records.entry(*id).and_modify(|record| record.revoked_at = Some(purge.before));
            } else {
                records.remove(id);
            }
        }
        let next = step.last().filter(|_| step.len() == limit).map(|record| record.id);
        Ok(Purged::new(step.len() as u64, going.len() as u64, next))
    }

    async fn claim_warnings(&self, _: &AdminProof, warnings: &Warnings) -> Result<Claimed, StoreError> {
        let since = |id: &TokenId| {
            let times = self.warn_from.lock().unwrap_or_else(PoisonError::into_inner);
            times.get(id).copied().unwrap_or(UnixTime::EPOCH)
        };
        let limit = if self.has(Flaw::WarnsOfTooMany) { usize::MAX } else { warnings.limit as usize };
        let records: Vec<_> = self.lock()?.values().cloned().collect();
        let waiting = records.into_iter().filter(|record| since(&record.id) <= warnings.now).take(limit);
        let waiting: Vec<_> = waiting.map(|record| (since(&record.id), record)).collect();
        let mut claimed = Claimed::new(Vec::new(), waiting.len() == limit);
        if self.has(Flaw::WarnsTwice) {
            tokio::task::yield_now().await;
        }
        for (since, record) in waiting {
            let mut judged = record.clone();
            if self.has(Flaw::WarnsOfTheDead) {
                (judged.revoked_at, judged.successor) = (None, None);
            }
            let (due, next) = warnings.judge(&judged, since);
            let next = next.unwrap_or(UnixTime::MAX);
            let times = match self.flaw {
                Some(Flaw::WarnsNever) => 0,
                Some(Flaw::WarnsSeveral) => {
                    let passed = warnings.ahead.iter().filter(|ahead| {
                        judged.expires_at.is_some_and(|at| at.saturating_sub(**ahead) <= warnings.now)
                    });
                    if due { passed.count() } else { 0 }
                }
                _ => usize::from(due),
            };
            claimed.tokens.extend(std::iter::repeat_n(&record, times).cloned());
            if !self.has(Flaw::WarnsAgain) || !due {
                self.warn_from.lock().unwrap_or_else(PoisonError::into_inner).insert(record.id, next);
            }
        }
        Ok(claimed)
    }

    async fn record_usage(&self, batch: &[Usage]) -> Result<(), StoreError> {
        let mut records = self.lock()?;
        for usage in batch {
            let Some(record) = records.get_mut(&usage.id) else {
                if self.has(Flaw::UseStopsAtUnknownIds) {
                    break;
                }
                continue;
            };
            let before = record.clone();
            usage.apply(record);
            if record.expires_at != before.expires_at && !self.has(Flaw::ForgetsRenewals) {
                let after = match self.has(Flaw::WarnsAfterRenewal) {
                    true => UnixTime::EPOCH,
                    false => Warnings::after_renewal(usage.last_used),
                };
                let mut times = self.warn_from.lock().unwrap_or_else(PoisonError::into_inner);
                times.insert(usage.id, after);
            }
            match self.flaw {
                Some(Flaw::UseMovesBack) => record.last_used = Some(usage.last_used),
                Some(Flaw::UseWraps) => record.request_count = before.request_count.wrapping_add(usage.count),
                Some(Flaw::UseShortens) => record.expires_at = usage.renewed_to.or(before.expires_at),
                Some(Flaw::UseCountsAsChange) => record.revision += 1,
                Some(Flaw::UseForgetsQuotas) => record.quota_use = before.quota_use,
                Some(Flaw::UseForgetsHabits) => record.habits = before.habits,
                Some(Flaw::UseReplacesHabits) => record.habits = usage.habits.clone(),
                Some(Flaw::UseMixesQuotas) => record.quota_use = usage.quota.or(before.quota_use),
                _ => {}
            }
        }
        Ok(())
    }

    async fn health(&self) -> Result<(), StoreError> {
        self.lock().map(drop)
    }

    async fn changes(&self, _: Option<ChangeCursor>) -> Result<Changes, StoreError> {
        if self.has(Flaw::WaitsForEver) {
            std::future::pending::<()>().await;
        }
        self.lock().map(|_| Changes::of(ChangeCursor(0), Vec::new()))
    }
}

/// What the work grows with.
#[cfg(target_os = "linux")]
#[allow(clippy::unwrap_used, reason = "helpers of tests")]
mod growth {
    use std::time::Duration;

    use keyward::token::Lifetimes;

    use super::*;

    /// How long this thread has worked: what others do on the machine does not count.
    fn worked() -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs().try_into().unwrap())
    }

    /// Panics if four times as many tokens cost clearly more than four times as much: work that grows with the square
    /// costs sixteen times as much.
    async fn assert_linear(what: &str, few: u64, cost: impl AsyncFn(u64) -> Duration) {
        let fastest = async |tokens| {
            let costs = [cost(tokens).await, cost(tokens).await, cost(tokens).await];
            costs.into_iter().min().unwrap()
        };
        let (once, fourfold) = (fastest(few).await, fastest(4 * few).await);
        let bound = 8 * once + Duration::from_millis(5);
        assert!(fourfold <= bound, "{what}: {once:?} for {few} tokens, {fourfold:?} for four times as many");
    }

    fn numbered(number: u64) -> TokenRecord {
        let id = (0x019a_9d5a_7c00_7abc_8def_0000_0000_0000 + u128::from(number)).to_be_bytes();
        let digest = TokenDigest::of(&number.to_be_bytes());
        TokenRecord::new(
            TokenId::from_bytes(id).unwrap(),
            digest,
            UserId::new("alice").unwrap(),
            UnixTime::EPOCH,
        )
    }

    #[tokio::test]
    async fn the_end_of_a_long_chain_of_tokens_costs_as_much_as_it_is_long() {
        let alice = UserId::new("alice").unwrap();
        let proof = AdminProof::operator("ops", "a test").unwrap();
        for owner in [Owner::User(&alice), Owner::Any(&proof)] {
            assert_linear("revocation of a chain", 800, async |tokens| {
                let store = MemoryStore::new();
                for number in 0..tokens {
                    let mut record = numbered(number);
                    record.created_by = number.checked_sub(1).map(|maker| numbered(maker).id);
                    store.insert(&record, None).await.unwrap();
                }
                let begun = worked();
                let revoked = store.revoke(owner, numbered(0).id, UnixTime::EPOCH, Reach::Minted).await;
                assert_eq!(revoked.unwrap().unwrap().others.len() as u64, tokens - 1);
                worked() - begun
            })
            .await;
        }
    }

    #[tokio::test]
    async fn the_removal_of_many_tokens_of_one_user_costs_as_much_as_they_are_many() {
        let proof = AdminProof::operator("ops", "a test").unwrap();
        assert_linear("removal", 500, async |tokens| {
            let store = MemoryStore::new();
            for number in 0..tokens {
                let mut record = numbered(number);
                record.revoked_at = Some(UnixTime::EPOCH);
                store.insert(&record, None).await.unwrap();
            }
            let purge = Purge::new(UnixTime::EPOCH, Lifetimes::default(), u32::MAX);
            let begun = worked();
            assert_eq!(store.purge(&proof, &purge).await.unwrap().removed, tokens);
            worked() - begun
        })
        .await;
    }
}
