//! Audit entries: kept as they are, chained, found, and forgotten from the beginning only.

use std::{collections::HashSet, net::IpAddr};

use crate::{
    error::Refusal,
    event::{Alert, Event, EventKind, Outcome},
    store::{
        AuditEntry, AuditQuery, AuditStore, ChainEnds, ChainHead, MemoryStore, StoreErrorKind, Verified,
        audit::verify::verify,
    },
    testing::conformance::{
        harness::join_all,
        records::{assert_refused, id, later, user},
    },
    time::UnixTime,
};

/// A fresh log has no entries and both its ends at the start.
pub async fn a_fresh_log_is_empty(store: &dyn AuditStore) {
    assert_eq!(
        store.chain_ends().await.expect("chain_ends"),
        ChainEnds::default(),
        "the ends of a fresh log"
    );
    assert_eq!(all(store).await, [], "the entries of a fresh log");
    assert_eq!(found(store, &AuditQuery::default()).await, [0; 0], "what is found in a fresh log");
    assert_eq!(verified(store).await.entries, 0, "how many entries are verified");
    assert_eq!(store.delete_before(UnixTime::MAX, 10).await.expect("delete_before"), 0);
}

/// All that an event says comes back, whatever characters and times it holds.
pub async fn every_member_comes_back(store: &dyn AuditStore) {
    let odd = "\0 \"'%_\u{7f}\u{202e}用户\r\n";
    let full = Event::new(EventKind::AccessRefused(Refusal::Revoked))
        .by(&user("alice"))
        .with_email(Some("alice@example.org".into()))
        .owned_by(&user("用户"))
        .token(id(1))
        .at_ip(Some(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1])))
        .in_request(Some("r-1"))
        .because(odd);
    let mut events =
        vec![full, Event::alert(Alert::ForeignAccess), Event::new(EventKind::TokensRevoked(u64::MAX))];
    for at in [i64::MIN, -1, 0, i64::MAX] {
        events.push(Event { at: UnixTime::from_millis(at), ..Event::new(EventKind::AdminOverride) });
    }
    append(store, &events).await;
    let mut head = ChainHead::START;
    let expected: Vec<_> = events
        .iter()
        .map(|event| {
            let entry = AuditEntry::following(&head, event);
            head = entry.head();
            entry
        })
        .collect();
    assert_eq!(all(store).await, expected, "the entries that come back");
    let newest_first: Vec<_> = expected.into_iter().rev().collect();
    assert_eq!(search(store, &AuditQuery::default()).await, newest_first, "the entries that are found");
}

/// What is appended later follows what was appended before, and the head that is returned is the last.
pub async fn later_entries_follow_earlier_ones(store: &dyn AuditStore) {
    for (count, head) in [(1, 1), (3, 4), (0, 4), (2, 6)] {
        let events = vec![Event::new(EventKind::TokenCreated); count];
        let returned = append(store, &events).await;
        assert_eq!(returned.number, head, "the number of the head that is returned");
        let ends = store.chain_ends().await.expect("chain_ends");
        assert_eq!((ends.head, ends.anchor), (returned, ChainHead::START), "the recorded ends");
    }
    let verified = verified(store).await;
    assert_eq!((verified.entries, verified.head.number), (6, 6), "what is verified");
}

/// Entries come in pages, in ascending order without gaps or repeats.
pub async fn pages_join_without_gaps_or_repeats(store: &dyn AuditStore) {
    append(store, &vec![Event::new(EventKind::TokenCreated); 10]).await;
    for limit in [1, 3, 10, 11] {
        let (mut number, mut numbers) = (0, Vec::new());
        loop {
            let page = store.entries_after(number, limit).await.expect("entries_after");
            assert!(page.len() <= limit as usize, "a page is longer than its limit");
            let Some(last) = page.last() else { break };
            number = last.number;
            numbers.extend(page.iter().map(|entry| entry.number));
        }
        assert!(numbers.into_iter().eq(1..=10), "pages of {limit}");
        let mut query = AuditQuery::default().with_limit(limit);
        let mut numbers = Vec::new();
        loop {
            let page = found(store, &query).await;
            assert!(page.len() <= limit as usize, "a page is longer than its limit");
            let Some(last) = page.last() else { break };
            query = query.with_cursor(Some(*last));
            numbers.extend(page);
        }
        assert!(numbers.into_iter().eq((1..=10).rev()), "pages of {limit}, newest first");
    }
    assert_eq!(store.entries_after(u64::MAX, 9).await.expect("entries_after"), [], "after the last number");
    assert_eq!(found(store, &AuditQuery::default().with_cursor(Some(u64::MAX))).await.len(), 10);
}

/// Each filter keeps what it says and nothing else, alone and with others.
pub async fn filters_find_what_they_say(store: &dyn AuditStore) {
    let by = |name: &str, kind| Event::new(kind).by(&user(name));
    let refused = EventKind::AccessRefused(Refusal::Expired);
    let events = [
        by("alice", EventKind::TokenCreated).owned_by(&user("alice")).token(id(1)),
        by("root", EventKind::TokenRevoked).owned_by(&user("alice")).token(id(1)),
        by("alice", refused).owned_by(&user("bob")).token(id(2)),
        by("bob", EventKind::OperationFailed),
        Event::new(refused).owned_by(&user("Alice")).token(id(3)),
        Event::new(EventKind::Alert(Alert::StoreUnavailable)),
    ];
    let dated = events.into_iter().enumerate();
    let dated: Vec<_> = dated.map(|(at, event)| Event { at: later(at as u64 + 1), ..event }).collect();
    append(store, &dated).await;
    let all = AuditQuery::default;
    let alice = || all().with_user(user("alice"));
    for (name, query, expected) in [
        ("all", all(), vec![6, 5, 4, 3, 2, 1]),
        ("a user, on either side", alice(), vec![3, 2, 1]),
        ("a user, byte for byte", all().with_user(user("Alice")), vec![5]),
        ("a user who is a pattern", all().with_user(user("%lice")), vec![]),
        ("a token", all().with_token(id(1)), vec![2, 1]),
        ("an event", all().with_event("access.refused"), vec![5, 3]),
        ("an event that nobody knows", all().with_event("x"), vec![]),
        ("refused", all().with_outcome(Outcome::Refused), vec![5, 3]),
        ("failed", all().with_outcome(Outcome::Failed), vec![6, 4]),
        ("since", all().since(later(5)), vec![6, 5]),
        ("until", all().until(later(3)), vec![2, 1]),
        ("between", all().since(later(2)).until(later(5)), vec![4, 3, 2]),
        ("a user and an outcome", alice().with_outcome(Outcome::Refused), vec![3]),
        ("a user and a limit", alice().with_limit(2), vec![3, 2]),
        ("a user, a cursor and a limit", alice().with_cursor(Some(3)).with_limit(1), vec![2]),
        (
            "everything at once",
            alice().with_token(id(2)).with_event("access.refused").since(later(3)).until(later(4)),
            vec![3],
        ),
        ("nothing is both", alice().with_token(id(3)), vec![]),
    ] {
        assert_eq!(found(store, &query).await, expected, "{name}");
    }
}

/// Deleting takes from the beginning only, up to the first entry that is new enough, and keeps the anchor, so
/// that the rest is still verified.
pub async fn deleting_keeps_the_anchor(store: &dyn AuditStore) {
    let at = [1, 2, 3, 9, 4, 10]
        .map(|seconds| Event { at: later(seconds), ..Event::new(EventKind::TokenCreated) });
    let head = append(store, &at).await;
    let before = all(store).await;
    for (seconds, limit, deleted, left) in
        [(1, 10, 0, 6), (4, 2, 2, 4), (4, 10, 1, 3), (4, 10, 0, 3), (5, 10, 0, 3), (10, 10, 2, 1)]
    {
        let count = store.delete_before(later(seconds), limit).await.expect("delete_before");
        assert_eq!(count, deleted, "how many are deleted before {seconds}");
        let verified = verified(store).await;
        assert_eq!((verified.entries, verified.head), (left, head), "what is verified then");
        let last_deleted = before.iter().rfind(|entry| entry.number <= 6 - left);
        assert_eq!(verified.anchor, last_deleted.map_or(ChainHead::START, AuditEntry::head), "the anchor");
    }
    assert_eq!(store.delete_before(UnixTime::MAX, 10).await.expect("delete_before"), 1);
    let ends = store.chain_ends().await.expect("chain_ends");
    assert_eq!((ends.anchor, ends.head), (head, head), "the ends of a log without entries");
    append(store, &at).await;
    let verified = verified(store).await;
    assert_eq!((verified.entries, verified.head.number), (6, 12), "what follows what was deleted");
}

/// Those who append at the same time make one chain, in which each batch stands together.
pub async fn simultaneous_appends_make_one_chain(store: &dyn AuditStore) {
    let batches: Vec<Vec<Event>> = (0..16)
        .map(|number| vec![Event::new(EventKind::TokenCreated).by(&user(&format!("user {number}"))); 5])
        .collect();
    let heads = join_all(batches.iter().map(|batch| store.append(batch))).await;
    let heads: HashSet<_> = heads.into_iter().map(|head| head.expect("append").number).collect();
    assert!((1..=16).all(|batch| heads.contains(&(batch * 5))), "the heads that are returned: {heads:?}");
    assert_eq!(verified(store).await.entries, 80, "what is verified");
    for batch in all(store).await.chunks(5) {
        let actors: HashSet<_> = batch.iter().map(|entry| &entry.actor).collect();
        assert_eq!(actors.len(), 1, "a batch is torn apart");
    }
}

/// Entries of another log are kept as they are, from wherever that one begins, flaws and all; they are found, and what
/// is appended later follows them. What does not follow is refused. A store that takes in none says so by
/// [`StoreErrorKind::ReadOnly`].
pub async fn entries_of_another_log_go_on_as_they_are(store: &dyn AuditStore) {
    let other = MemoryStore::new();
    append(
        &other,
        &[1, 2, 3, 4, 5, 6].map(|n| Event::new(EventKind::TokenCreated).by(&user(&format!("u{n}")))),
    )
    .await;
    let entries = all(&other).await;
    let [first, second, third, fourth, fifth, _] = entries.as_slice() else {
        panic!("six entries were appended")
    };
    let (anchor, begin) = (first.head(), [second.clone(), third.clone()]);
    match store.append_entries(&anchor, &begin).await {
        Err(error) if error.kind() == StoreErrorKind::ReadOnly => return,
        done => done.expect("append_entries to a fresh log"),
    }
    let head = third.head();
    assert_eq!(store.chain_ends().await.expect("chain_ends"), ChainEnds { anchor, head }, "the ends");
    for (what, after, entries) in [
        ("entries after another head", anchor, &begin),
        ("entries that are there", head, &[third.clone(), fourth.clone()]),
        ("entries in another order", head, &[fifth.clone(), fourth.clone()]),
    ] {
        assert_refused(what, store.append_entries(&after, entries).await, StoreErrorKind::Conflict);
    }
    let altered = AuditEntry { alert: true, ..fifth.clone() };
    let unreadable = AuditEntry::unreadable(6);
    let flawed = [fourth.clone(), altered, unreadable.clone()];
    store.append_entries(&head, &flawed).await.expect("append_entries to what was appended before");
    let expected: Vec<_> = begin.iter().chain(&flawed).cloned().collect();
    assert_eq!(all(store).await, expected, "the entries that come back");
    assert_eq!(found(store, &AuditQuery::default().with_user(user("u4"))).await, [4], "what is found");
    let head = append(store, &[Event::new(EventKind::TokenCreated)]).await;
    assert_eq!(head.number, 7, "what is appended by an event");
    let last = all(store).await.pop().expect("an entry");
    assert_eq!(last.check_after(&unreadable.head()), Ok(()), "it follows the last one");
    assert_eq!(
        store.chain_ends().await.expect("chain_ends"),
        ChainEnds { anchor, head },
        "the ends after it"
    );
    store.append_entries(&head, &[]).await.expect("append_entries of none");
}

async fn append(store: &dyn AuditStore, events: &[Event]) -> ChainHead {
    store.append(events).await.expect("append")
}

async fn all(store: &dyn AuditStore) -> Vec<AuditEntry> {
    store.entries_after(0, 1000).await.expect("entries_after")
}

async fn search(store: &dyn AuditStore, query: &AuditQuery) -> Vec<AuditEntry> {
    let entries = store.search(query).await.expect("search");
    assert!(entries.iter().all(|entry| query.matches(entry)), "an entry that was not asked for");
    entries
}

async fn found(store: &dyn AuditStore, query: &AuditQuery) -> Vec<u64> {
    search(store, query).await.iter().map(|entry| entry.number).collect()
}

async fn verified(store: &dyn AuditStore) -> Verified {
    verify(store, None).await.expect("the chain is whole")
}
