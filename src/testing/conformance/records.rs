//! Records to store, and comparisons that say which field differs.

use std::{fmt, time::Duration};

use crate::{
    id::{TokenId, UserId},
    limit::{Limits, Quota, QuotaPeriod, QuotaUse, RateLimit},
    net::IpList,
    principal::AdminProof,
    scope::{Grant, RoleSet, ScopeSet},
    secret::TokenDigest,
    store::{Owner, Page, StoreError, StoreErrorKind, TokenStore},
    time::UnixTime,
    token::{Metadata, TokenClass, TokenRecord},
};

/// When the tests take place.
pub(super) const NOW: UnixTime = UnixTime::from_millis(1_800_000_000_123);

/// `seconds` after [`NOW`].
pub(super) fn later(seconds: u64) -> UnixTime {
    NOW.saturating_add(Duration::from_secs(seconds))
}

pub(super) fn user(name: &str) -> UserId {
    UserId::new(name).expect("a valid user id")
}

pub(super) fn admin() -> AdminProof {
    AdminProof::operator("conformance", "checks a store").expect("a valid user id")
}

/// The id number `n`: a UUID of version 7 from `n` seconds after [`NOW`].
pub(super) fn id(n: u16) -> TokenId {
    let millis = u128::try_from(later(n.into()).as_millis()).expect("a time after 1970");
    let bytes = (millis << 80) | (0x7abc << 64) | (0x8def << 48) | u128::from(n);
    TokenId::from_bytes(bytes.to_be_bytes()).expect("not all bytes are zero")
}

pub(super) fn digest(n: u16) -> TokenDigest {
    TokenDigest::of(&n.to_be_bytes())
}

/// The token number `n` of `owner`, as bare as it can be.
pub(super) fn token(n: u16, owner: &str) -> TokenRecord {
    TokenRecord::new(id(n), digest(n), user(owner), later(n.into()))
}

/// The token number `n` of `owner` with a value in every field that a live token can have.
pub(super) fn rich(n: u16, owner: &str) -> TokenRecord {
    TokenRecord {
        name: "laptop".into(),
        class: TokenClass::Service,
        scopes: Grant::Only(ScopeSet::new(["jobs:read", "reports:*"]).expect("valid scopes")),
        roles: Grant::Only(RoleSet::new(["editor", "viewer"]).expect("valid roles")),
        allowed_ips: Some(ips(&["192.0.2.7", "10.0.0.0/8", "2001:db8::/32"])),
        metadata: object(serde_json::json!({ "team": "blue", "order": [3, 1, 2] })),
        hint: "kw_a1b2…c3d4".into(),
        created_ip: Some([192, 0, 2, 1].into()),
        created_by: Some(id(u16::MAX)),
        parent: Some(id(u16::MAX - 1)),
        limits: Limits::default()
            .with_rate(Some(RateLimit::new(100, Duration::from_secs(60)).expect("a rate limit")))
            .with_quota(Some(Quota::new(9, QuotaPeriod::Month).expect("a quota"))),
        honeytoken: true,
        expires_at: Some(later(100_000)),
        rolling: true,
        hard_end: Some(later(900_000)),
        revision: 7,
        last_used: Some(later(1_000)),
        last_used_ip: Some([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into()),
        request_count: 5_000_000_000,
        quota_use: Some(QuotaUse::new(QuotaPeriod::Month, NOW, 7)),
        ..token(n, owner)
    }
}

pub(super) fn ips(addresses: &[&str]) -> IpList {
    IpList::new(addresses).expect("valid addresses")
}

pub(super) fn object(value: serde_json::Value) -> Metadata {
    serde_json::from_value(value).expect("an object")
}

/// Stores `record` and gives it back.
pub(super) async fn stored(store: &dyn TokenStore, record: TokenRecord) -> TokenRecord {
    store.insert(&record, None).await.expect("insert of a new record");
    record
}

/// What the store holds of `record` now.
pub(super) async fn current(store: &dyn TokenStore, record: &TokenRecord) -> TokenRecord {
    let found = store.get(Owner::User(&record.owner), record.id).await.expect("get of a stored record");
    found.expect("a stored record is found by its owner and id")
}

/// All that the store holds, newest first.
pub(super) async fn everything(store: &dyn TokenStore) -> Vec<TokenRecord> {
    store.list(Owner::Any(&admin()), Page::first(10_000)).await.expect("list of all records")
}

pub(super) async fn list(store: &dyn TokenStore, owner: &str, page: Page) -> Vec<TokenId> {
    let records = store.list(Owner::User(&user(owner)), page).await.expect("list");
    records.iter().map(|record| record.id).collect()
}

/// The ids with these numbers.
pub(super) fn ids(numbers: impl IntoIterator<Item = u16>) -> Vec<TokenId> {
    numbers.into_iter().map(id).collect()
}

/// Panics unless `get`, `find` and `list` all give `record`.
pub(super) async fn assert_stored(store: &dyn TokenStore, record: &TokenRecord) {
    assert_same("get", &current(store, record).await, record);
    let found = store.find(&record.digest).await.expect("find of a stored record");
    assert_same("find", &found.expect("a stored record is found by its digest"), record);
    let own = store.list(Owner::User(&record.owner), Page::first(10_000)).await.expect("list");
    let listed = own.iter().find(|other| other.id == record.id).expect("a stored record is listed");
    assert_same("list", listed, record);
}

/// Panics with `what` if the token number `n` is found by its digest.
pub(super) async fn assert_not_found(what: &str, store: &dyn TokenStore, n: u16) {
    let found = store.find(&digest(n)).await.expect("find");
    assert!(found.is_none(), "{what} is found by its digest");
}

/// Panics unless the store holds exactly `records`, which are in the order of their ids, newest first.
pub(super) async fn assert_holds(store: &dyn TokenStore, records: &[TokenRecord]) {
    let actual = everything(store).await;
    let ids = |records: &[TokenRecord]| records.iter().map(|record| record.id).collect::<Vec<_>>();
    assert_eq!(ids(&actual), ids(records), "the store does not hold the records that it should");
    for (actual, expected) in actual.iter().zip(records) {
        assert_same("the store's content", actual, expected);
    }
}

/// Panics with `what` and the fields that differ.
#[track_caller]
pub(super) fn assert_same(what: &str, actual: &TokenRecord, expected: &TokenRecord) {
    let mut differences = Vec::new();
    macro_rules! compare {
        ($($field:ident)+) => {$(
            if actual.$field != expected.$field {
                let (is, should) = (clip(&actual.$field), clip(&expected.$field));
                differences.push(format!("{} is {is} instead of {should}", stringify!($field)));
            }
        )+};
    }
    compare! {
        id digest owner name class scopes roles allowed_ips metadata hint created_at created_ip created_by
        parent limits honeytoken expires_at rolling hard_end disabled_at revoked_at successor revision last_used last_used_ip
        request_count quota_use habits
    }
    assert!(actual == expected, "{what}: {}", differences.join(", "));
}

/// `value` for a message, without pages of text.
fn clip(value: &impl fmt::Debug) -> String {
    let text = format!("{value:?}");
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}… ({} bytes)", text.split_at(end).0, text.len()),
        None => text,
    }
}

/// Panics unless `result` is an error of this kind.
#[track_caller]
pub(super) fn assert_refused<T>(what: &str, result: Result<T, StoreError>, kind: StoreErrorKind) {
    match result {
        Ok(_) => panic!("{what} is accepted, though it should be refused as {kind:?}"),
        Err(error) => assert_eq!(error.kind(), kind, "{what} is refused for another reason: {error}"),
    }
}

/// The record that a change or rotation returned.
#[track_caller]
pub(super) fn changed(result: Result<Option<TokenRecord>, StoreError>) -> TokenRecord {
    match result {
        Ok(Some(record)) => record,
        Ok(None) => panic!("the store does not find the record to change"),
        Err(error) => panic!("the store refuses the change: {error}"),
    }
}
