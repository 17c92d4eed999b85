//! Use is added up, whatever order it arrives in.

use std::net::IpAddr;

use crate::{
    limit::{Limits, Quota, QuotaPeriod, QuotaUse},
    store::{Change, Owner, TokenStore, Usage},
    testing::conformance::records::{
        assert_holds, assert_same, assert_stored, changed, current, id, later, rich, stored, token,
    },
    token::TokenRecord,
};

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const THERE: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));

/// Requests are added to those counted before, also when one batch names a token twice, and all other
/// fields stay.
pub async fn uses_add_up(store: &dyn TokenStore) {
    let other = stored(store, rich(2, "alice")).await;
    let record = stored(store, rich(1, "alice")).await;
    record_usage(store, &[Usage::new(id(1), 5, later(2_000))]).await;
    record_usage(store, &[Usage::new(id(1), 2, later(3_000)), Usage::new(id(1), 3, later(4_000))]).await;
    let request_count = record.request_count + 10;
    let expected = TokenRecord { request_count, last_used: Some(later(4_000)), ..record };
    assert_holds(store, &[other, expected]).await;
}

/// A batch from before the last use, as after a clock was set back, is counted and does not move the time.
pub async fn the_last_use_never_moves_back(store: &dyn TokenStore) {
    let record = stored(store, token(1, "alice")).await;
    for (count, seconds, last) in [(1, 50, 50), (2, 40, 50), (3, 60, 60), (4, 10, 60)] {
        record_usage(store, &[Usage::new(id(1), 1, later(seconds))]).await;
        let current = current(store, &record).await;
        assert_eq!(
            (current.request_count, current.last_used),
            (count, Some(later(last))),
            "count and last use"
        );
    }
}

/// The address is that of the last use; a use without address, or that is not later, leaves it.
pub async fn addresses_belong_to_the_last_use(store: &dyn TokenStore) {
    let record = stored(store, token(1, "alice")).await;
    let uses = [
        (50, Some(HERE), 50, HERE),
        (40, Some(THERE), 50, HERE),
        (50, Some(THERE), 50, HERE),
        (60, None, 60, HERE),
        (70, Some(THERE), 70, THERE),
    ];
    for (seconds, ip, last, address) in uses {
        record_usage(store, &[Usage { ip, ..Usage::new(id(1), 1, later(seconds)) }]).await;
        let current = current(store, &record).await;
        assert_eq!((current.last_used, current.last_used_ip), (Some(later(last)), Some(address)), "last use");
    }
}

/// Ids that are not stored are skipped, and the rest of the batch is counted.
pub async fn unknown_ids_are_skipped(store: &dyn TokenStore) {
    let record = stored(store, token(2, "alice")).await;
    record_usage(store, &[1, 2, 3].map(|n| Usage::new(id(n), 1, later(9)))).await;
    let expected = TokenRecord { request_count: 1, last_used: Some(later(9)), ..record };
    assert_holds(store, &[expected]).await;
}

/// Counts beyond what the store can hold stay at its maximum, which is at least [`i64::MAX`].
pub async fn large_counts_neither_fail_nor_wrap(store: &dyn TokenStore) {
    let record = stored(store, token(1, "alice")).await;
    for count in [i64::MAX.unsigned_abs(), 1, i64::MAX.unsigned_abs(), 5, u64::MAX, u64::MAX] {
        record_usage(store, &[Usage::new(id(1), count, later(9))]).await;
        let total = current(store, &record).await.request_count;
        assert!(total >= i64::MAX.unsigned_abs(), "after {count} more requests the count is {total}");
    }
}

/// A renewal moves the end of a rolling token to a later time and never to an earlier one, nor does it
/// give an end to a token that has none.
pub async fn renewals_only_lengthen(store: &dyn TokenStore) {
    let endless = stored(store, TokenRecord { rolling: true, ..token(2, "alice") }).await;
    let ending = TokenRecord { rolling: true, expires_at: Some(later(100)), ..token(1, "alice") };
    let ending = stored(store, ending).await;
    for (to, end) in [(200, 200), (150, 200), (200, 200), (300, 300)] {
        record_usage(store, &[renewal(1, to), renewal(2, to)]).await;
        assert_eq!(current(store, &ending).await.expires_at, Some(later(end)), "the end of a rolling token");
        assert_eq!(current(store, &endless).await.expires_at, None, "the end of a token without end");
    }
    record_usage(store, &[Usage::new(id(1), 1, later(40))]).await;
    assert_eq!(
        current(store, &ending).await.expires_at,
        Some(later(300)),
        "the end after use without renewal"
    );
}

/// The end of a token that is not rolling stays.
pub async fn only_rolling_tokens_are_renewed(store: &dyn TokenStore) {
    let record = TokenRecord { expires_at: Some(later(100)), ..token(1, "alice") };
    let record = stored(store, record).await;
    record_usage(store, &[renewal(1, 200)]).await;
    assert_eq!(current(store, &record).await.expires_at, record.expires_at, "the end of a token");
}

/// Use of a revoked token is counted, as the last requests before a revocation arrive after it, and its
/// end stays.
pub async fn revoked_tokens_are_counted_but_not_renewed(store: &dyn TokenStore) {
    let record = stored(store, TokenRecord { last_used: None, ..rich(1, "alice") }).await;
    let revoked =
        changed(store.update(Owner::User(&record.owner), record.id, &Change::revoke(later(9))).await);
    record_usage(store, &[Usage { ip: Some(HERE), ..renewal(1, 200_000) }]).await;
    let expected = TokenRecord {
        request_count: revoked.request_count + 1,
        last_used: Some(later(20)),
        last_used_ip: Some(HERE),
        ..revoked
    };
    assert_stored(store, &expected).await;
}

/// What is used of a quota is added up within its period. A later period begins anew; what arrives late for one
/// that is over adds nothing.
pub async fn quotas_are_added_up_within_their_period(store: &dyn TokenStore) {
    let record = stored(store, with_quota(1, QuotaPeriod::Day)).await;
    let other = stored(store, with_quota(2, QuotaPeriod::Day)).await;
    for (since, count, expected) in [
        (0, 3, used(QuotaPeriod::Day, 0, 3)),
        (0, 4, used(QuotaPeriod::Day, 0, 7)),
        (1, 5, used(QuotaPeriod::Day, 1, 5)),
        (0, 6, used(QuotaPeriod::Day, 1, 5)),
        (1, u32::MAX, used(QuotaPeriod::Day, 1, u32::MAX)),
    ] {
        record_usage(store, &[using(1, used(QuotaPeriod::Day, since, count))]).await;
        assert_eq!(
            current(store, &record).await.quota_use,
            Some(expected),
            "after {count} more of day {since}"
        );
    }
    record_usage(store, &[Usage::new(id(1), 1, later(9))]).await;
    assert_eq!(current(store, &record).await.quota_use, Some(used(QuotaPeriod::Day, 1, u32::MAX)));
    assert_eq!(current(store, &other).await.quota_use, None, "another token");
}

/// What was used of a quota of another period, or of one that was lifted, adds nothing: it was counted before the
/// change. What is stored stays, also through a change.
pub async fn quotas_of_another_period_are_skipped(store: &dyn TokenStore) {
    let record = stored(store, with_quota(1, QuotaPeriod::Month)).await;
    let without = stored(store, token(2, "alice")).await;
    let of_days = used(QuotaPeriod::Day, 0, 3);
    record_usage(store, &[using(1, of_days), using(2, of_days)]).await;
    for record in [&record, &without] {
        let current = current(store, record).await;
        assert_eq!((current.quota_use, current.request_count), (None, 1), "use of no quota of the token");
    }
    record_usage(store, &[using(1, used(QuotaPeriod::Month, 0, 4))]).await;
    let lift = Change { limits: Some(Limits::default()), ..Change::default() };
    let lifted = changed(store.update(Owner::User(&record.owner), record.id, &lift).await);
    assert_eq!(lifted.quota_use, Some(used(QuotaPeriod::Month, 0, 4)), "use after a change of limits");
    record_usage(store, &[using(1, used(QuotaPeriod::Month, 0, 4))]).await;
    assert_stored(store, &TokenRecord { request_count: 3, ..lifted }).await;
}

/// Use leaves the revision, so that it does not get in the way of a change, and a change leaves the use.
pub async fn uses_are_no_changes(store: &dyn TokenStore) {
    let record = stored(store, rich(1, "alice")).await;
    record_usage(store, &[Usage { ip: Some(HERE), ..Usage::new(id(1), 5, later(2_000)) }]).await;
    let used = current(store, &record).await;
    assert_eq!(used.revision, record.revision, "the revision after use");
    let change = Change { name: Some("new".into()), if_revision: Some(record.revision), ..Change::default() };
    let renamed = changed(store.update(Owner::User(&record.owner), record.id, &change).await);
    let expected = TokenRecord { name: "new".into(), revision: record.revision + 1, ..used };
    assert_same("the renamed token", &renamed, &expected);
}

/// A batch without uses is accepted.
pub async fn an_empty_batch_is_fine(store: &dyn TokenStore) {
    let record = stored(store, rich(1, "alice")).await;
    record_usage(store, &[]).await;
    assert_holds(store, &[record]).await;
}

fn renewal(n: u16, to: u64) -> Usage {
    Usage { renewed_to: Some(later(to)), ..Usage::new(id(n), 1, later(20)) }
}

fn with_quota(n: u16, period: QuotaPeriod) -> TokenRecord {
    let quota = Quota::new(10, period).expect("a quota");
    TokenRecord { limits: Limits::default().with_quota(Some(quota)), ..token(n, "alice") }
}

/// `count` requests in the period that began so many days later.
fn used(period: QuotaPeriod, day: u64, count: u32) -> QuotaUse {
    QuotaUse::new(period, later(day * 86_400), count)
}

fn using(n: u16, quota: QuotaUse) -> Usage {
    Usage { quota: Some(quota), ..Usage::new(id(n), 1, later(9)) }
}

async fn record_usage(store: &dyn TokenStore, batch: &[Usage]) {
    store.record_usage(batch).await.expect("record_usage");
}
