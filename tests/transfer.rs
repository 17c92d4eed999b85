//! Moving from one store to another: everything arrives, also when it is killed in the middle, while the source serves,
//! and when the target holds something already.
//!
//! `KEYWARD_TRANSFER_TOKENS` makes the measured move larger.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    task::Poll,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use keyward::{
    AdminProof, Owner, TokenId, TokenManager, UserId,
    audit::{AuditLog, ChainHead},
    event::{AuditSink, Event},
    limit::{Limits, Quota, QuotaPeriod, QuotaUse, RateLimit},
    manage::{IssuedToken, NewToken},
    net::IpList,
    scope::{Grant, ScopeSet},
    secret::TokenDigest,
    store::{
        AuditStore, Change, Claimed, Denials, JwtId, JwtRevocation, MemoryStore, Page, Purge, Reach,
        Rotation, SqliteOptions, SqliteStore, StoreError, TokenStore, Usage, UserState, UserStatus, Warnings,
        transfer::{Contents, Exported, Imported, Item, Position, Progress, Report, Section, Step, Transfer},
    },
    testing::{RecordingSink, conformance::copying},
    time::UnixTime,
    token::{Lifetimes, TokenRecord},
    watch::{Habits, Network},
};
use support::{Gatekeeper, user};
use tempfile::TempDir;
use tokio::sync::Notify;

fn operator() -> AdminProof {
    AdminProof::operator("ops", "move to another store").unwrap()
}

fn at(seconds: i64) -> UnixTime {
    UnixTime::from_millis(1_900_000_000_000 + 1000 * seconds)
}

fn id(n: u64) -> TokenId {
    let mut bytes = [1; 16];
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    TokenId::from_bytes(bytes).unwrap()
}

/// The token number `n`, of one of a few users, with something of everything.
fn record(n: u64) -> TokenRecord {
    let owner = user(["alice", "bob", "Zoë", "public:6b1d"][n as usize % 4]);
    let mut record = TokenRecord::new(id(n), TokenDigest::of(&n.to_be_bytes()), owner, at(n as i64));
    record.name = format!("token {n} \u{1f511}").into();
    record.hint = format!("kw_{n}…").into();
    record.expires_at = (!n.is_multiple_of(3)).then(|| at(n as i64 + 8_000_000));
    record.rolling = n.is_multiple_of(2);
    record.revoked_at = (n.is_multiple_of(7)).then(|| at(9));
    record.disabled_at = (n.is_multiple_of(11)).then(|| at(8));
    record.honeytoken = n.is_multiple_of(13);
    record.parent = (n.is_multiple_of(5) && n > 40).then(|| id(n - 40));
    record.created_by = (n.is_multiple_of(6)).then(|| id(n / 6));
    record.created_ip = Some([192, 0, 2, n as u8].into());
    record.hard_end = (n.is_multiple_of(17)).then(|| at(90_000_000));
    if n.is_multiple_of(4) {
        record.scopes = Grant::Only(ScopeSet::new(["jobs:read", "reports:*"]).unwrap());
        record.allowed_ips = Some(IpList::new(["10.0.0.0/8", "2001:db8::1"]).unwrap());
        record.metadata.insert("b".into(), serde_json::json!({ "z": [1, 2.5, null], "a": n }));
        record.metadata.insert("a".into(), u64::MAX.into());
        record.limits = Limits::default()
            .with_rate(Some(RateLimit::new(100, Duration::from_secs(60)).unwrap()))
            .with_quota(Some(Quota::new(9, QuotaPeriod::Month).unwrap()));
    }
    record
}

/// A record that is changed in some way.
fn but(mut record: TokenRecord, change: impl FnOnce(&mut TokenRecord)) -> TokenRecord {
    change(&mut record);
    record
}

/// Something that happened.
async fn event() -> Event {
    let sink = RecordingSink::default();
    let tokens = TokenManager::builder(MemoryStore::new()).with_audit(sink.clone()).build();
    tokens.create(&user("alice"), NewToken::named("laptop")).await.unwrap();
    sink.events().remove(0)
}

/// Fills a store as a service would in the course of time.
async fn fill(store: &(impl TokenStore + AuditStore), tokens: u64) {
    for n in 1..=tokens {
        store.insert(&but(record(n), |record| record.revoked_at = None), None).await.unwrap();
    }
    for record in (1..=tokens).map(record) {
        if let Some(at) = record.revoked_at {
            store.revoke(Owner::User(&record.owner), record.id, at, Reach::Children).await.unwrap();
        }
    }
    let mut habits = Habits::default();
    habits.networks.push((Network::of([192, 0, 2, 7].into()), at(5)).into());
    let uses: Vec<_> = (1..=tokens)
        .filter(|n| n.is_multiple_of(2))
        .map(|n| {
            let mut usage = Usage::new(id(n), n, at(5_000 + n as i64));
            usage.ip = Some([203, 0, 113, n as u8].into());
            usage.renewed_to = Some(at(9_000_000));
            usage.quota = Some(QuotaUse::new(QuotaPeriod::Month, at(0), 3));
            usage.habits = (n.is_multiple_of(8)).then(|| Box::new(habits.clone()));
            usage
        })
        .collect();
    store.record_usage(&uses).await.unwrap();
    store.set_user_state(&UserState::new(user("mallory"), UserStatus::Suspended)).await.unwrap();
    store.set_user_state(&UserState::new(user("Zoë"), UserStatus::Suspended)).await.unwrap();
    store.set_user_state(&UserState::new(user("Zoë"), UserStatus::Active)).await.unwrap();
    store.revoke_jwts_of(&user("bob"), at(77)).await.unwrap();
    // One who is gone, and whose token is.
    let gone = TokenRecord::new(id(1_000_000), TokenDigest::of(b"gone"), user("gone"), at(0));
    store.insert(&but(gone, |gone| gone.expires_at = Some(at(1))), None).await.unwrap();
    store.offboard(&user("gone"), at(10)).await.unwrap();
    store.purge(&operator(), &Purge::new(at(2), Lifetimes::default(), 10_000_000)).await.unwrap();
    for n in 0..5 {
        let jwt = JwtRevocation::new(JwtId::of("https://issuer.example", &n.to_string()), at(n));
        store.revoke_jwt(&jwt, UnixTime::EPOCH).await.unwrap();
    }
    let warnings = Warnings::new(at(7_990_000), vec![Duration::from_secs(86_400)], 50);
    store.claim_warnings(&operator(), &warnings).await.unwrap();
    let event = event().await;
    let events: Vec<_> = (0..tokens / 2)
        .map(|n| {
            let mut event = event.clone();
            (event.token, event.reason) = (Some(id(n + 1)), Some("of\0it".into()));
            event
        })
        .collect();
    store.append(&events).await.unwrap();
    store.delete_before(UnixTime::MAX, 10).await.unwrap();
}

/// Files that are gone at the end.
struct Folder(TempDir, AtomicU64);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap(), AtomicU64::new(0))
    }

    async fn store(&self) -> SqliteStore {
        let name = format!("{}.db", self.1.fetch_add(1, SeqCst));
        SqliteOptions::new(self.0.path().join(name)).with_readers(1).open().await.unwrap()
    }
}

async fn moved<A, B>(source: &A, target: &B) -> Contents
where
    A: TokenStore + AuditStore,
    B: TokenStore + AuditStore,
{
    let proof = operator();
    let report =
        Transfer::new(source, target, &proof).with_audit(source, target).finish(|_| {}).await.unwrap();
    assert!(report.is_complete(), "{report}");
    report.comparison.unwrap().target
}

async fn all(store: &dyn TokenStore) -> Vec<TokenRecord> {
    store.list(Owner::Any(&operator()), Page::first(10_000_000)).await.unwrap()
}

#[tokio::test]
async fn everything_arrives_from_store_to_store_and_back() {
    let folder = Folder::new();
    let [first, second, last] = [folder.store().await, folder.store().await, folder.store().await];
    let memory = MemoryStore::new();
    fill(&first, 300).await;
    let contents = moved(&first, &second).await;
    assert_eq!((contents.tokens, contents.users, contents.revoked_jwts), (300, 5, 5), "{contents}");
    assert_eq!(contents.audit_entries, 140, "{contents}");
    assert_eq!(moved(&second, &memory).await, contents);
    assert_eq!(moved(&memory, &last).await, contents);
    assert_eq!(moved(&first, &last).await, contents, "what is there already");

    // What the digest says is so.
    assert_eq!(all(&last).await, all(&first).await);
    let newest = last.find(&record(300).digest).await.unwrap().unwrap();
    assert_eq!(newest.request_count, 300);
    let now = UnixTime::EPOCH;
    let [mut here, mut there] = [first.denials(now).await.unwrap(), last.denials(now).await.unwrap()];
    for denials in [&mut here, &mut there] {
        denials.users.sort_by(|a, b| a.user.cmp(&b.user));
        denials.jwts.sort_by_key(|jwt| jwt.id);
    }
    assert_eq!(here, there);
    assert_eq!(first.chain_ends().await.unwrap(), last.chain_ends().await.unwrap());
    assert_eq!(first.entries_after(0, 1000).await.unwrap(), last.entries_after(0, 1000).await.unwrap());
    let again = TokenRecord::new(id(1_000_000), TokenDigest::of(b"again"), user("gone"), at(0));
    assert!(last.register(&again).await.is_err(), "whoever is gone stays known");
    let warnings = Warnings::new(at(7_990_000), vec![Duration::from_secs(86_400)], 10_000);
    let here = first.claim_warnings(&operator(), &warnings).await.unwrap().tokens;
    let there = last.claim_warnings(&operator(), &warnings).await.unwrap().tokens;
    let ids = |tokens: Vec<TokenRecord>| {
        let mut ids: Vec<_> = tokens.iter().map(|record| record.id).collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!(ids(here), ids(there), "the warnings that were not given out yet");
}

#[tokio::test]
async fn what_was_noted_of_the_audit_log_holds_in_the_target_and_the_log_goes_on_there() {
    let folder = Folder::new();
    let [source, target] = [Arc::new(folder.store().await), Arc::new(folder.store().await)];
    fill(&*source, 20).await;
    let noted: ChainHead = source.chain_ends().await.unwrap().head;
    moved(&source, &target).await;
    target.append(&[event().await]).await.unwrap();
    let (_sink, log) = AuditLog::new(target.clone());
    let verified = log.verify(&operator(), Some(noted)).await.unwrap();
    assert_eq!(verified.head.number, noted.number + 1);
}

/// Runs a round and drops it once `batches` were reported, at whatever it does then. Whether it was still running.
async fn killed(transfer: &mut Transfer<'_>, batches: usize) -> bool {
    let (done, dead) = (AtomicU64::new(0), Notify::new());
    let round = transfer.copy(|_| {
        if done.fetch_add(1, SeqCst) + 1 == batches as u64 {
            dead.notify_one();
        }
    });
    tokio::select! {
        biased;
        () = dead.notified() => true,
        round = round => {
            let _ = round.unwrap();
            false
        }
    }
}

#[tokio::test]
async fn a_move_that_is_killed_after_any_batch_is_taken_up_again() {
    let folder = Folder::new();
    let source = folder.store().await;
    fill(&source, 60).await;
    let proof = operator();
    let living: Vec<_> = all(&source).await;
    let whole = moved(&source, &MemoryStore::new()).await;
    let (mut batches, mut partial) = (1, 0);
    loop {
        let target = folder.store().await;
        let start = |batch| {
            Transfer::new(&source, &target, &proof).with_audit(&source, &target).with_batch_size(batch)
        };
        let was_running = killed(&mut start(7), batches).await;
        let there = all(&target).await;
        for record in &there {
            assert!(living.contains(record), "after batch {batches}: a token that is not so in the source");
        }
        partial += usize::from(!there.is_empty() && there.len() < 60);
        // Another process, which knows nothing of the first, and is killed as well.
        killed(&mut start(5), batches).await;
        let report = start(7).finish(|_| {}).await.unwrap();
        assert!(report.is_complete(), "after batch {batches}: {report}");
        assert_eq!(report.comparison.unwrap().target, whole, "after batch {batches}");
        if !was_running {
            break;
        }
        batches += 1;
    }
    assert!(batches > 15 && partial > 5, "there were {batches} batches, {partial} of which left a part");
}

#[tokio::test]
async fn a_second_round_writes_nothing_and_a_third_what_has_changed() {
    let (source, folder, proof) = (MemoryStore::new(), Folder::new(), operator());
    let target = folder.store().await;
    fill(&source, 50).await;
    let mut transfer = Transfer::new(&source, &target, &proof).with_audit(&source, &target);
    let steps = Mutex::new(Vec::new());
    let note = |progress: &Progress| steps.lock().unwrap().push(*progress);
    let first = transfer.copy(note).await.unwrap();
    assert_eq!((first.tokens.read, first.tokens.added, first.tokens.changed), (50, 50, 0), "{first}");
    assert!(!first.is_equal() && first.findings.is_empty(), "{first}");
    let tokens =
        steps.lock().unwrap().iter().rfind(|progress| progress.step == Step::Tokens).copied().unwrap();
    assert_eq!((tokens.done, tokens.total, &*tokens.to_string()), (50, Some(50), "tokens: 50 of 50"));
    assert_eq!(transfer.copy(|_| {}).await.unwrap().written(), 0);

    source.update(Owner::User(&user("bob")), id(1), &Change::revoke(at(1))).await.unwrap();
    source.record_usage(&[Usage::new(id(2), 1, at(9_999))]).await.unwrap();
    source.insert(&record(51), None).await.unwrap();
    source.revoke_jwts_of(&user("alice"), at(78)).await.unwrap();
    source.append(&[event().await]).await.unwrap();
    let third = transfer.finish(|_| {}).await.unwrap();
    assert!(third.is_complete(), "{third}");
    assert_eq!((third.tokens.added, third.tokens.changed), (1, 2), "{third}");
    assert_eq!((third.users.changed, third.audit_entries.added), (1, 1), "{third}");
    assert!(third.to_string().contains("51 tokens"), "{third}");
}

/// A store whose calls for a copy take a moment, in which they can be dropped, and may have a flaw.
#[derive(Debug, Default)]
struct Slow(MemoryStore, Option<Flaw>);

/// What may be wrong with a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    GivesOutBackwards,
    LeavesOut,
    ForgetsUse,
    ForgetsParents,
    ForgetsOwners,
    CallsRefusalsChanges,
    LoosensStates,
    WarnsAgain,
}

impl Slow {
    fn new() -> Self {
        Self::default()
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.1 == Some(flaw)
    }

    /// An item as it is taken in; `None` if it is not.
    async fn bent(&self, item: &Item) -> Option<Item> {
        let mut item = item.clone();
        match &mut item {
            Item::User(_) if self.has(Flaw::ForgetsOwners) => return None,
            Item::User(known) if self.has(Flaw::LoosensStates) => {
                self.0.set_user_state(known.state.as_ref()?).await.unwrap();
            }
            Item::Token(token) if self.has(Flaw::ForgetsUse) => token.record.last_used = None,
            Item::Token(token) if self.has(Flaw::ForgetsParents) => token.record.parent = None,
            Item::Token(token) if self.has(Flaw::WarnsAgain) => token.warn_from = Some(UnixTime::EPOCH),
            _ => {}
        }
        Some(item)
    }
}

#[async_trait]
impl TokenStore for Slow {
    async fn insert(&self, record: &TokenRecord, limit: Option<u32>) -> Result<(), StoreError> {
        self.0.insert(record, limit).await
    }

    async fn find(&self, digest: &TokenDigest) -> Result<Option<TokenRecord>, StoreError> {
        self.0.find(digest).await
    }

    async fn get(&self, owner: Owner<'_>, id: TokenId) -> Result<Option<TokenRecord>, StoreError> {
        self.0.get(owner, id).await
    }

    async fn list(&self, owner: Owner<'_>, page: Page) -> Result<Vec<TokenRecord>, StoreError> {
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

    async fn denials(&self, now: UnixTime) -> Result<Denials, StoreError> {
        tokio::task::yield_now().await;
        self.0.denials(now).await
    }

    async fn set_user_state(&self, state: &UserState) -> Result<(), StoreError> {
        self.0.set_user_state(state).await
    }

    async fn export(
        &self,
        proof: &AdminProof,
        section: Section,
        after: Option<&Position>,
        limit: u32,
    ) -> Result<Exported, StoreError> {
        tokio::task::yield_now().await;
        let mut step = self.0.export(proof, section, after, limit).await?;
        if self.has(Flaw::GivesOutBackwards) {
            step.items.reverse();
        }
        if self.has(Flaw::LeavesOut) && after.is_some() {
            step.items.pop();
        }
        Ok(step)
    }

    async fn import(&self, proof: &AdminProof, items: &[Item]) -> Result<Vec<Imported>, StoreError> {
        tokio::task::yield_now().await;
        let mut imported = Vec::new();
        for item in items {
            let done = match self.bent(item).await {
                Some(item) => self.0.import(proof, &[item]).await?[0],
                None => Imported::Added,
            };
            let refused = matches!(done, Imported::Refused(_)) && self.has(Flaw::CallsRefusalsChanges);
            imported.push(if refused { Imported::Changed } else { done });
        }
        Ok(imported)
    }

    async fn register(&self, record: &TokenRecord) -> Result<(), StoreError> {
        self.0.register(record).await
    }

    async fn revoke_jwt(&self, revocation: &JwtRevocation, now: UnixTime) -> Result<(), StoreError> {
        self.0.revoke_jwt(revocation, now).await
    }

    async fn claim_warnings(&self, proof: &AdminProof, warnings: &Warnings) -> Result<Claimed, StoreError> {
        self.0.claim_warnings(proof, warnings).await
    }
}

#[tokio::test]
async fn a_flaw_of_a_store_breaks_a_promise_about_copies() {
    type Run = fn(Slow) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;
    macro_rules! promise {
        ($name:ident) => {
            (|store| Box::pin(async move { copying::$name(&store).await })) as Run
        };
    }
    for (flaw, promise) in [
        (Flaw::GivesOutBackwards, promise!(each_section_is_given_out_in_order)),
        (Flaw::LeavesOut, promise!(each_section_is_given_out_in_order)),
        (Flaw::ForgetsUse, promise!(what_is_taken_in_is_stored_as_it_is)),
        (Flaw::ForgetsOwners, promise!(what_is_taken_in_is_stored_as_it_is)),
        (Flaw::ForgetsParents, promise!(what_was_taken_in_is_like_any_other)),
        (Flaw::CallsRefusalsChanges, promise!(only_earlier_versions_give_way)),
        (Flaw::LoosensStates, promise!(what_denies_stays)),
        (Flaw::ForgetsOwners, promise!(whoever_came_in_is_not_new)),
        (Flaw::WarnsAgain, promise!(warnings_come_along)),
    ] {
        tokio::spawn(promise(Slow::new())).await.unwrap();
        let broken = tokio::spawn(promise(Slow(MemoryStore::new(), Some(flaw)))).await;
        assert!(broken.is_err_and(|error| error.is_panic()), "{flaw:?} breaks nothing");
    }
}

/// Counts nothing of what happens in the background.
#[derive(Debug)]
struct Silent;

impl AuditSink for Silent {
    fn record(&self, _: &Event) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_revoked_while_it_is_copied_is_revoked_in_the_target() {
    let folder = Folder::new();
    let [source, target] = [Arc::new(folder.store().await), Arc::new(folder.store().await)];
    let manager = |store: &Arc<SqliteStore>| {
        TokenManager::builder(store.clone()).with_audit(Silent).with_max_active(None).build()
    };
    let service = manager(&source);
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for client in 0..4_u64 {
        let (service, stop, source) = (service.clone(), stop.clone(), source.clone());
        clients.push(tokio::spawn(async move { live_a_life(client, &service, &source, &stop).await }));
    }
    let proof = operator();
    let mut transfer =
        Transfer::new(&source, &target, &proof).with_audit(&source, &target).with_batch_size(50);
    let (mut rounds, mut written) = (0, 0);
    while rounds < 10 || written < 1_000 {
        let round = transfer.copy(|_| {}).await.unwrap();
        assert!(round.findings.is_empty(), "{round}");
        (rounds, written) = (rounds + u64::from(round.written() > 0), written + round.written());
    }
    stop.store(true, SeqCst);
    let mut keys = Vec::new();
    for client in clients {
        keys.extend(client.await.unwrap());
    }
    service.flush().await.unwrap();
    let report = transfer.finish(|_| {}).await.unwrap();
    assert!(report.is_complete(), "{report}");
    let there = Gatekeeper::new(&manager(&target));
    let (mut living, mut revoked) = (0, 0);
    for (key, lives) in keys {
        assert_eq!(there.accepts(&key).await, lives, "{:?}", key.record);
        *if lives { &mut living } else { &mut revoked } += 1;
    }
    assert!(living > 10 && revoked > 10, "{living} keys live and {revoked} are revoked");
}

/// What the users of a service do. The keys, and whether each of them works at the end.
async fn live_a_life(
    client: u64,
    service: &TokenManager,
    source: &SqliteStore,
    stop: &AtomicBool,
) -> Vec<(IssuedToken, bool)> {
    let (proof, event, mut keys) = (operator(), event().await, Vec::new());
    let mut turn = 0;
    while !stop.load(SeqCst) {
        turn += 1;
        let me = user(&format!("client-{client}-{}", turn % 9));
        let issued = service.create(&me, NewToken::named("made")).await.unwrap();
        let id = issued.record.id;
        source.record_usage(&[Usage::new(id, 1, issued.record.created_at)]).await.unwrap();
        match turn % 5 {
            0 => {
                service.revoke(&me, id).await.unwrap();
                keys.push((issued, false));
            }
            1 => {
                keys.push((service.rotate(&me, id, Some(Duration::ZERO)).await.unwrap(), true));
                keys.push((issued, false));
            }
            2 => {
                let gone = user(&format!("gone-{client}-{turn}"));
                keys.push((service.create(&gone, NewToken::named("gone")).await.unwrap(), false));
                service.offboard(&proof, &gone).await.unwrap();
                keys.push((issued, true));
            }
            _ => keys.push((issued, true)),
        }
        source.append(std::slice::from_ref(&event)).await.unwrap();
    }
    // Some that were copied long ago.
    for (issued, lives) in keys.iter_mut().filter(|(_, lives)| *lives).step_by(3) {
        service.revoke(&issued.record.owner, issued.record.id).await.unwrap();
        *lives = false;
    }
    keys
}

fn findings(report: &Report) -> Vec<String> {
    report.findings.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn what_is_something_else_in_the_target_is_left_alone_and_named() {
    let folder = Folder::new();
    for target in [&folder.store().await as &dyn TokenStore, &MemoryStore::new()] {
        let (source, proof) = (MemoryStore::new(), operator());
        for n in 1..=6 {
            source.insert(&record(n), None).await.unwrap();
        }
        source.revoke(Owner::User(&user("Zoë")), id(2), at(1), Reach::Children).await.unwrap();
        let same_id = but(record(1), |record| record.digest = TokenDigest::of(b"other"));
        let same_secret = but(record(2), |record| record.id = id(99));
        let revoked_there = but(record(3), |record| (record.revoked_at, record.revision) = (Some(at(5)), 1));
        let used_there = but(record(4), |record| (record.request_count, record.last_used) = (9, Some(at(5))));
        let alone = record(50);
        let there = [&same_id, &same_secret, &revoked_there, &used_there, &alone];
        for record in there {
            target.insert(record, None).await.unwrap();
        }
        target.set_user_state(&UserState::new(user("bob"), UserStatus::Suspended)).await.unwrap();
        let report = Transfer::new(&source, target, &proof).finish(|_| {}).await.unwrap();
        assert!(!report.is_equal() && !report.is_complete(), "{report}");
        let found = findings(&report);
        let name = |n: u64| format!("target: token {} of {}: ", id(n), record(n).owner);
        for (item, what) in [
            (name(1), "the token of this id there is another one"),
            (name(2), "another token there has the same secret"),
            (name(2), "it was revoked there, since it is revoked here"),
            (name(3), "it was changed there in another way"),
            (name(4), "it was used there more than here"),
            (name(50), "is in the target only"),
            (name(2), "is missing"),
            (name(1), "differs from the source in digest"),
            ("target: user bob: ".into(), "it is denied more there than here"),
        ] {
            assert!(found.contains(&format!("{item}{what}")), "{item}{what}\nis not in\n{report}");
        }
        assert_eq!(report.comparison.unwrap().ended, 1, "what was revoked is left over: {report}");
        for record in [&same_id, &revoked_there, &used_there, &alone] {
            let stored = target.get(Owner::Any(&proof), record.id).await.unwrap();
            assert_eq!(stored.as_ref(), Some(record));
        }
        let revoked = target.find(&same_secret.digest).await.unwrap().unwrap();
        assert_eq!(
            (revoked.id, revoked.revoked_at),
            (id(99), Some(at(1))),
            "the secret is revoked in the source"
        );
        assert!(target.find(&record(6).digest).await.unwrap().is_some(), "the others are copied");
        let denied = target.denials(at(0)).await.unwrap().users;
        assert_eq!(denied.len(), 1, "bob is not restored");
    }
}

#[tokio::test]
async fn a_user_who_is_restored_between_two_rounds_is_restored_in_the_target() {
    let (source, target, proof) = (MemoryStore::new(), MemoryStore::new(), operator());
    let set = async |status| source.set_user_state(&UserState::new(user("bob"), status)).await.unwrap();
    set(UserStatus::Suspended).await;
    let mut transfer = Transfer::new(&source, &target, &proof);
    let _ = transfer.copy(|_| {}).await.unwrap();
    set(UserStatus::Active).await;
    let report = transfer.finish(|_| {}).await.unwrap();
    assert!(report.is_complete(), "{report}");

    // A transfer that does not know who suspended them leaves them alone, unless it is told otherwise.
    set(UserStatus::Offboarded).await;
    let _ = Transfer::new(&source, &target, &proof).copy(|_| {}).await.unwrap();
    set(UserStatus::Active).await;
    let report = Transfer::new(&source, &target, &proof).finish(|_| {}).await.unwrap();
    assert!(!report.is_equal() && report.findings.len() == 2, "{report}");
    let mut told = Transfer::new(&source, &target, &proof).with_restored_users(true);
    let report = told.finish(|_| {}).await.unwrap();
    assert!(report.is_complete(), "{report}");
}

/// Runs a round over slow stores and drops it at the step with this number. Whether it was still running.
async fn stopped(transfer: &mut Transfer<'_>, steps: usize) -> bool {
    let mut round = pin!(transfer.copy(|_| {}));
    for _ in 0..steps {
        if poll_fn(|cx| Poll::Ready(round.as_mut().poll(cx).is_ready())).await {
            return false;
        }
    }
    true
}

#[tokio::test]
async fn nobody_is_restored_before_their_tokens_are_revoked() {
    let proof = operator();
    for steps in 1..30 {
        let (source, target) = (Slow::new(), Slow::new());
        source.0.insert(&record(1), None).await.unwrap();
        let mut transfer = Transfer::new(&source, &target, &proof);
        let _ = transfer.copy(|_| {}).await.unwrap();
        source.0.offboard(&user("bob"), at(1)).await.unwrap();
        assert!(killed(&mut transfer, 2).await);
        let is_denied = async || {
            let denials = target.0.denials(UnixTime::EPOCH).await.unwrap();
            denials.users.iter().any(|state| !state.is_active())
        };
        let is_revoked = async || all(&target.0).await[0].revoked_at.is_some();
        assert!(is_denied().await && !is_revoked().await, "the users were copied, and the tokens were not");
        source.0.set_user_state(&UserState::new(user("bob"), UserStatus::Active)).await.unwrap();
        let was_running = stopped(&mut transfer, steps).await;
        assert!(is_denied().await || is_revoked().await, "after step {steps}");
        if !was_running {
            assert!(!is_denied().await && is_revoked().await && steps > 5, "at the end");
            return;
        }
    }
    panic!("the round never ends");
}

#[tokio::test]
async fn revocations_come_first() {
    let proof = operator();
    let mut renamed_at = None;
    for steps in 1..40 {
        let (source, target) = (Slow::new(), Slow::new());
        for n in [1, 2, 3] {
            source.insert(&record(n), None).await.unwrap();
        }
        let mut transfer = Transfer::new(&source, &target, &proof).with_batch_size(1);
        let _ = transfer.copy(|_| {}).await.unwrap();
        let mut rename = Change::default();
        rename.name = Some("another name".into());
        source.update(Owner::Any(&proof), id(1), &rename).await.unwrap();
        source.update(Owner::Any(&proof), id(3), &Change::revoke(at(1))).await.unwrap();
        stopped(&mut transfer, steps).await;
        let there = all(&target).await;
        let (is_revoked, is_renamed) = (there[0].revoked_at.is_some(), &*there[2].name == "another name");
        assert!(is_revoked || !is_renamed, "after step {steps}");
        renamed_at = renamed_at.or(is_renamed.then_some(steps));
    }
    assert!(renamed_at.is_some_and(|steps| steps > 5), "{renamed_at:?}");
}

#[tokio::test]
async fn what_the_source_has_removed_meanwhile_is_no_difference() {
    let (source, target, proof) = (MemoryStore::new(), MemoryStore::new(), operator());
    fill(&source, 50).await;
    let revoked: Vec<_> =
        all(&source).await.into_iter().filter(|record| record.revoked_at.is_some()).collect();
    let expired = but(record(60), |record| record.expires_at = Some(UnixTime::from_millis(5)));
    source.insert(&expired, None).await.unwrap();
    let start = || Transfer::new(&source, &target, &proof).with_audit(&source, &target);
    let _ = start().copy(|_| {}).await.unwrap();
    let purge = Purge::new(at(100), Lifetimes::default(), 1000);
    let removed = source.purge(&proof, &purge).await.unwrap().removed;
    assert!(removed > 5 && revoked.len() > 5);
    source.delete_before(UnixTime::MAX, 3).await.unwrap();

    let report = start().finish(|_| {}).await.unwrap();
    assert!(!report.is_equal(), "one of them has only expired: {report}");
    let report = start().with_lifetimes(Lifetimes::default()).finish(|_| {}).await.unwrap();
    assert!(report.is_complete(), "{report}");
    assert_eq!(report.comparison.unwrap().ended, removed, "{report}");
    assert_eq!(
        source.chain_ends().await.unwrap(),
        target.chain_ends().await.unwrap(),
        "the audit log as well"
    );
}

#[tokio::test]
async fn a_log_of_its_own_in_the_target_is_left_alone_and_named() {
    let (source, target, proof) = (MemoryStore::new(), MemoryStore::new(), operator());
    fill(&source, 50).await;
    target.append(&[event().await]).await.unwrap();
    let before = target.chain_ends().await.unwrap();
    let report =
        Transfer::new(&source, &target, &proof).with_audit(&source, &target).finish(|_| {}).await.unwrap();
    assert!(!report.is_equal(), "{report}");
    assert!(
        report.to_string().contains("audit log: it is not what the log of the source goes on from"),
        "{report}"
    );
    assert_eq!(target.chain_ends().await.unwrap(), before);
    let report = Transfer::new(&source, &target, &proof).finish(|_| {}).await.unwrap();
    assert!(report.is_complete(), "without the log: {report}");
}

#[tokio::test]
async fn a_log_that_does_not_fit_into_memory_is_no_equal_one() {
    let folder = Folder::new();
    let (source, target, proof) = (folder.store().await, MemoryStore::new(), operator());
    source.append(&vec![event().await; 10_005]).await.unwrap();
    let mut transfer = Transfer::new(&source, &target, &proof).with_audit(&source, &target);
    let report = transfer.finish(|_| {}).await.unwrap();
    assert!(!report.is_equal(), "{report}");
    assert!(report.to_string().contains("audit log: it begins after 5:"), "{report}");
    assert!(findings(&report).contains(&"target: audit entry 5: is missing".to_owned()), "{report}");
}

/// The move of many tokens: how long it takes, and how long a service would stand still.
#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "lets a larger one be asked for, and measures it")]
async fn many_tokens_are_moved() {
    let tokens: u64 =
        std::env::var("KEYWARD_TRANSFER_TOKENS").ok().and_then(|tokens| tokens.parse().ok()).unwrap_or(3_000);
    let folder = Folder::new();
    let (memory, proof) = (MemoryStore::new(), operator());
    fill(&memory, tokens).await;
    let [source, target] = [folder.store().await, folder.store().await];
    let timed = async |what: &str, from: &dyn TokenStore, to: &dyn TokenStore| {
        let start = Instant::now();
        let round = Transfer::new(from, to, &proof).copy(|_| {}).await.unwrap();
        println!("{what}: {tokens} tokens in {:?}, {} written", start.elapsed(), round.written());
        let start = Instant::now();
        let report = Transfer::new(from, to, &proof).finish(|_| {}).await.unwrap();
        println!("{what}: the last round and the comparison in {:?}", start.elapsed());
        assert!(report.is_complete(), "{report}");
        report.comparison.unwrap().target
    };
    let first = timed("memory to SQLite", &memory, &source).await;
    let second = timed("SQLite to SQLite", &source, &target).await;
    assert_eq!(first, second);
    let begin = Instant::now();
    let _ = Transfer::new(&source, &target, &proof).compare(|_| {}).await.unwrap();
    println!("the comparison alone in {:?}", begin.elapsed());
}
