//! Keys that live at a URL: fetched before they get old, by one caller at a time, and kept if that fails.
//!
//! Readers take no lock. A fetch is a future in a slot, driven by whoever waits for it: if that caller is
//! cancelled, the next one goes on where it stopped. Nothing runs on its own unless somebody polls
//! [`RemoteKeys::run`].

use std::{
    collections::VecDeque,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use crate::{
    count::{self, Level, Stamp},
    event::{Alert, Audit, Event},
    jwt::{
        fetch::HttpFetch,
        key::KeySet,
        loader::{Content, Flight, Loaded, Loader, Parse, Source},
    },
    time::{Clock, UnixTime},
};

/// What a cancelled caller left behind longer ago than this is thrown away: its answer would be old.
const LEFTOVER_LIMIT: Duration = Duration::from_secs(10);
/// How long a key set is fresh: by its answer's `max-age` within these bounds, or by default.
const SHORTEST_TTL: Duration = Duration::from_secs(60);
const LONGEST_TTL: Duration = Duration::from_secs(60 * 60);
const DEFAULT_TTL: Duration = Duration::from_secs(10 * 60);
/// Between two attempts while there never was a set, so that a start does not wait for a whole cool-down.
const START_PAUSE: Duration = Duration::from_millis(500);
const SHORTEST_COOL_DOWN: Duration = Duration::from_secs(1);
/// A set from a little way in the future is one from before the clock was corrected.
const CLOCK_SLACK: Duration = Duration::from_secs(5 * 60);
/// `run` sleeps no longer than this at once: its timer may stand still while the machine sleeps.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const UNKNOWN_KEPT: usize = 256;
/// In an `AtomicI64` that holds a time.
const NEVER: i64 = i64::MIN;

/// Nobody fetches; somebody fetches; a fetch waits for somebody to go on with it.
const IDLE: u8 = 0;
const DRIVEN: u8 = 1;
const ORPHANED: u8 = 2;

/// What [`RemoteKeys`] needs besides a source.
#[derive(Clone, Debug)]
pub(super) struct RemoteSettings {
    /// From the start of one attempt to the start of the next; at least 1 second, 30 seconds by default.
    pub(super) cool_down: Duration,
    /// For how long a set is used that cannot be fetched again; 24 hours by default.
    pub(super) max_stale: Duration,
    /// By how much it fetches ahead of the time, in 256ths of a twentieth of that time. It is random: many that
    /// were started together do not ask together.
    haste: u8,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) audit: Audit,
}

/// A set of keys that is kept fresh. Clones share it.
pub(super) struct RemoteKeys<S>(Arc<Inner<S>>);

/// What can be fetched.
pub(super) trait Keys: Send + Sync + 'static {
    /// How many there are.
    fn count(&self) -> usize;
}

impl Keys for KeySet {
    fn count(&self) -> usize {
        self.len()
    }
}

/// A set, and when the fetch that brought it began.
#[derive(Debug)]
pub(super) struct Snapshot<S> {
    pub(super) set: Arc<S>,
    #[cfg_attr(not(test), expect(dead_code, reason = "tests look at it"))]
    pub(super) fetched_at: UnixTime,
    content: Content,
}

/// What a request should do before it uses the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeysState {
    /// Use it.
    Fresh,
    /// Refresh it, then use it, whatever came of that.
    Due,
    /// There is none, or it is too old: refresh it and ask again.
    Unusable,
}

/// Why somebody asks for a refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    /// The state is not [`KeysState::Fresh`].
    Due,
    /// A token names a key that the set does not have.
    UnknownKid,
}

/// What came of a demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refreshed {
    /// A fetch that began after the demand succeeded: what is not in the set now does not exist.
    New,
    /// The set is that of an earlier fetch, which succeeded.
    Old,
    /// The last fetch failed, or there was none.
    Failed,
}

struct Inner<S> {
    loader: Arc<Loader<S>>,
    settings: RemoteSettings,
    current: ArcSwapOption<Snapshot<S>>,
    epoch: AtomicU64,
    usable_until: AtomicI64,
    refresh_at: AtomicI64,
    attempted_at: AtomicI64,
    /// Counts attempts that came to an end.
    finished: AtomicU64,
    failed: AtomicBool,
    /// Why the last attempt that came to an end failed.
    last_error: Mutex<Option<String>>,
    /// Changes only under the slot's lock, or by the guard of who holds it.
    phase: AtomicU8,
    slot: tokio::sync::Mutex<Option<Flight<S>>>,
    orphaned: Notify,
    unknown: Mutex<VecDeque<(u64, UnixTime)>>,
    /// How many keys are in use, whether the last attempt failed, and when one succeeded.
    keys: Level,
    failing: Level,
    fetched: Stamp,
}

impl RemoteSettings {
    /// The defaults.
    pub(super) fn new(clock: Arc<dyn Clock>, audit: Audit) -> Self {
        let (cool_down, max_stale) = (Duration::from_secs(30), Duration::from_secs(24 * 60 * 60));
        Self { cool_down, max_stale, haste: random_haste(), clock, audit }
    }
}

impl<S: Keys> RemoteKeys<S> {
    /// Keys that are not fetched yet.
    pub(super) fn new(
        source: Source,
        fetch: Arc<dyn HttpFetch>,
        parse: Parse<S>,
        mut settings: RemoteSettings,
    ) -> Self {
        settings.cool_down = settings.cool_down.max(SHORTEST_COOL_DOWN);
        Self(Arc::new(Inner {
            loader: Arc::new(Loader { source, fetch, parse }),
            settings,
            current: ArcSwapOption::empty(),
            epoch: AtomicU64::new(0),
            usable_until: AtomicI64::new(NEVER),
            refresh_at: AtomicI64::new(NEVER),
            attempted_at: AtomicI64::new(NEVER),
            finished: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            last_error: Mutex::new(None),
            phase: AtomicU8::new(IDLE),
            slot: tokio::sync::Mutex::new(None),
            orphaned: Notify::new(),
            unknown: Mutex::new(VecDeque::new()),
            keys: Level::of(&count::JWKS_KEYS),
            failing: Level::of(&count::JWKS_FAILING),
            fetched: Stamp::of(&count::JWKS_FETCHED),
        }))
    }

    /// The last good set, however old it is.
    pub(super) fn current(&self) -> Option<Arc<Snapshot<S>>> {
        self.0.current.load_full()
    }

    /// Changes after a set with another content came into use. Read it before [`Self::current`], and what
    /// was concluded from that set holds for as long as it stays the same.
    pub(super) fn epoch(&self) -> u64 {
        self.0.epoch.load(SeqCst)
    }

    /// Whether there is a set that is not too old.
    #[inline]
    pub(super) fn usable(&self, now: UnixTime) -> bool {
        let until = UnixTime::from_millis(self.0.usable_until.load(SeqCst));
        // The second half: it was not fetched in what is the future, after the clock was set back.
        now < until && now.saturating_add(self.0.settings.max_stale).saturating_add(CLOCK_SLACK) >= until
    }

    /// What to do before using the set.
    #[inline]
    pub(super) fn state(&self, now: UnixTime) -> KeysState {
        if !self.usable(now) {
            return KeysState::Unusable;
        }
        let due = now.as_millis() >= self.0.refresh_at.load(SeqCst) && !self.0.cools_down(now);
        // What a cancelled request left behind is no reason for others to wait while the set is good.
        if due { KeysState::Due } else { KeysState::Fresh }
    }

    /// Whether the last attempt that came to an end failed.
    pub(super) fn last_failed(&self) -> bool {
        self.0.failed.load(SeqCst)
    }

    /// Why it failed.
    pub(super) fn last_error(&self) -> Option<String> {
        self.0.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes a key that a set does not have although it was fetched just for that; see [`Refreshed::New`].
    pub(super) fn note_unknown(&self, kid_hash: u64, now: UnixTime) {
        let mut unknown = self.0.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        unknown.retain(|&(known, at)| known != kid_hash && self.is_recent(at, now));
        if unknown.len() >= UNKNOWN_KEPT {
            unknown.pop_front();
        }
        unknown.push_back((kid_hash, now));
    }

    /// No longer than the cool-down: a key that somebody named before it was published must not be kept out.
    fn is_recent(&self, at: UnixTime, now: UnixTime) -> bool {
        at.since(now).max(now.since(at)) < self.0.settings.cool_down
    }

    /// Whether the key was noted within the cool-down, and the content of the set is still the same.
    pub(super) fn is_known_unknown(&self, kid_hash: u64, now: UnixTime) -> bool {
        let unknown = self.0.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        unknown.iter().any(|&(known, at)| known == kid_hash && self.is_recent(at, now))
    }
}

impl<S: Keys> RemoteKeys<S> {
    /// Fetches the set, or waits for a fetch that is on its way. Within the cool-down it returns at once.
    ///
    /// It takes no longer than 5 seconds and may be cancelled at any time.
    pub(super) async fn refresh(&self, demand: Demand) -> Refreshed {
        let inner = &*self.0;
        let began = match demand {
            Demand::Due => self.go(|now| !inner.cools_down(now) && self.is_due(now)).await,
            Demand::UnknownKid => self.go(|now| !inner.cools_down(now)).await,
        };
        match began {
            _ if self.last_failed() || inner.refresh_at.load(SeqCst) == NEVER => Refreshed::Failed,
            true => Refreshed::New,
            false => Refreshed::Old,
        }
    }

    /// Keeps the set fresh until `shutdown` is ready: fetches it now and before it gets old, tries again
    /// after a failure (after 1 second, then twice as long up to the cool-down), and goes on with what
    /// cancelled requests began.
    pub(super) async fn run(&self, shutdown: impl Future<Output = ()> + Send) {
        tokio::select! { biased; () = shutdown => {}, () = self.keep_fresh() => {} }
    }

    async fn keep_fresh(&self) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            self.go(|now| self.is_due(now) || self.last_failed()).await;
            let pause = if self.last_failed() {
                let pause = backoff.min(self.0.settings.cool_down);
                backoff = pause.saturating_mul(2);
                pause
            } else {
                backoff = FIRST_BACKOFF;
                let refresh_at = UnixTime::from_millis(self.0.refresh_at.load(SeqCst));
                refresh_at.since(self.0.settings.clock.now()).clamp(FIRST_BACKOFF, LONGEST_SLEEP)
            };
            let mut sleep = pin!(tokio::time::sleep(pause));
            loop {
                tokio::select! {
                    () = &mut sleep => break,
                    () = self.0.orphaned.notified() => { self.go(|_| false).await; }
                }
            }
        }
    }

    fn is_due(&self, now: UnixTime) -> bool {
        !self.usable(now) || now.as_millis() >= self.0.refresh_at.load(SeqCst)
    }

    /// Goes on with the fetch that is on its way, or begins one if it may. True if it began one.
    async fn go(&self, may_begin: impl Fn(UnixTime) -> bool + Send) -> bool {
        let inner = &*self.0;
        let finished = inner.finished.load(SeqCst);
        if inner.phase.load(SeqCst) == IDLE && !may_begin(inner.settings.clock.now()) {
            return false;
        }
        let mut slot = inner.slot.lock().await;
        let now = inner.settings.clock.now();
        if slot.is_some() && !inner.attempted_within(LEFTOVER_LIMIT, now) {
            *slot = None;
        }
        let begins = slot.is_none();
        if begins {
            inner.phase.store(IDLE, SeqCst);
            // Who waited for a fetch does not begin another: a thousand would, one after the other.
            if inner.finished.load(SeqCst) != finished || !may_begin(now) {
                return false;
            }
            inner.attempted_at.store(now.as_millis(), SeqCst);
            *slot = Some(inner.loader.begin(inner.current.load().as_ref().map(|current| current.content)));
        }
        inner.phase.store(DRIVEN, SeqCst);
        let mut driving = Driving { inner, arrived: false };
        let result = std::future::poll_fn(|cx| poll_flight(&mut slot, cx)).await;
        *slot = None;
        inner.finish(result);
        driving.arrived = true;
        begins
    }
}

impl<S: Keys> Inner<S> {
    fn cools_down(&self, now: UnixTime) -> bool {
        let cool_down = self.settings.cool_down;
        let first = self.usable_until.load(SeqCst) == NEVER;
        self.attempted_within(if first { cool_down.min(START_PAUSE) } else { cool_down }, now)
    }

    /// Of a clock that was set back far, it does not wait until the time comes again.
    fn attempted_within(&self, span: Duration, now: UnixTime) -> bool {
        let ago = now.as_millis().abs_diff(self.attempted_at.load(SeqCst));
        u128::from(ago) < span.as_millis()
    }

    fn finish(&self, result: Result<Loaded<S>, String>) {
        let error = result.as_ref().err().cloned();
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
        count::JWKS_FETCHES.note(result.is_ok());
        self.failing.set(result.is_err().into());
        match result {
            Ok(loaded) => {
                self.store(loaded);
                if self.failed.swap(false, SeqCst) {
                    self.alert(Alert::KeysRecovered, self.loader.source.host());
                }
            }
            Err(why) if !self.failed.swap(true, SeqCst) => self.alert(Alert::KeysUnavailable, &why),
            Err(_) => {}
        }
        self.finished.fetch_add(1, SeqCst);
    }

    fn alert(&self, alert: Alert, why: &str) {
        self.settings.audit.emit(Event::alert(alert).because(why));
    }

    fn store(&self, loaded: Loaded<S>) {
        // The answer is at least as new as its question; who was cancelled may have left it for a while.
        let fetched_at = UnixTime::from_millis(self.attempted_at.load(SeqCst));
        let changed = loaded.set.is_some();
        let kept = || self.current.load().as_ref().map(|current| Arc::clone(&current.set));
        let Some(set) = loaded.set.map(Arc::new).or_else(kept) else { return };
        self.keys.set(set.count());
        self.fetched.set(fetched_at);
        self.current.store(Some(Arc::new(Snapshot { set, fetched_at, content: loaded.content })));
        if changed {
            self.epoch.fetch_add(1, SeqCst);
            self.unknown.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        let max_stale = self.settings.max_stale;
        let ttl = loaded.max_age.map_or(DEFAULT_TTL, |age| age.clamp(SHORTEST_TTL, LONGEST_TTL));
        let ttl = ttl.min(max_stale);
        let refresh_at = fetched_at.saturating_add(ttl * 4 / 5 - ttl / 20 * self.settings.haste.into() / 256);
        self.refresh_at.store(refresh_at.as_millis(), SeqCst);
        self.usable_until.store(fetched_at.saturating_add(max_stale).as_millis(), SeqCst);
    }
}

/// Says that somebody polls the flight, and calls for help if they stop before it arrives.
struct Driving<'a, S> {
    inner: &'a Inner<S>,
    arrived: bool,
}

impl<S> Drop for Driving<'_, S> {
    fn drop(&mut self) {
        self.inner.phase.store(if self.arrived { IDLE } else { ORPHANED }, SeqCst);
        if !self.arrived {
            self.inner.orphaned.notify_one();
        }
    }
}

/// A client that panics is one that fails: the flight must not be polled again.
fn poll_flight<S>(slot: &mut Option<Flight<S>>, cx: &mut Context<'_>) -> Poll<Result<Loaded<S>, String>> {
    let Some(flight) = slot else { return Poll::Ready(Err("nothing to wait for".to_owned())) };
    catch_unwind(AssertUnwindSafe(|| flight.as_mut().poll(cx)))
        .unwrap_or_else(|_| Poll::Ready(Err("the client or the reader of its answer panicked".to_owned())))
}

/// Without randomness there is none: it is a courtesy only.
fn random_haste() -> u8 {
    let mut haste = [0];
    let _ = getrandom::fill(&mut haste);
    let [haste] = haste;
    haste
}

impl<S> Clone for RemoteKeys<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> fmt::Debug for RemoteKeys<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteKeys").field("source", &self.0.loader.source).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        jwt::{
            fetch::{FetchError, Fetched},
            loader::{ATTEMPT_LIMIT, BODY_LIMIT},
        },
        testing::{FakeIssuer, IssuerMode, ManualClock, RecordingSink},
    };
    use async_trait::async_trait;
    use http::Uri;
    use std::sync::atomic::AtomicUsize;

    const SEC: Duration = Duration::from_secs(1);

    /// What a [`Fake`] does with its next questions.
    #[derive(Clone, Debug)]
    enum Does {
        Answer(&'static str),
        AnswerFor(&'static str, Duration),
        AnswerAfter(Duration, &'static str),
        Fail,
        Hang,
        Panic,
    }

    #[derive(Clone, Debug)]
    struct Fake(Arc<(Mutex<Does>, AtomicUsize)>);

    impl Fake {
        fn does(&self, does: Does) {
            *self.0.0.lock().unwrap() = does;
        }

        fn calls(&self) -> usize {
            self.0.1.load(SeqCst)
        }
    }

    #[async_trait]
    impl HttpFetch for Fake {
        async fn get(&self, _: &Uri, limit: usize) -> Result<Fetched, FetchError> {
            assert_eq!(limit, BODY_LIMIT);
            self.0.1.fetch_add(1, SeqCst);
            let does = self.0.0.lock().unwrap().clone();
            match does {
                Does::Answer(body) => Ok(Fetched::new(body, None)),
                Does::AnswerFor(body, time) => Ok(Fetched::new(body, Some(time))),
                Does::AnswerAfter(time, body) => {
                    tokio::time::sleep(time).await;
                    Ok(Fetched::new(body, None))
                }
                Does::Fail => Err(FetchError::new("the answer has the status 500")),
                Does::Hang => std::future::pending().await,
                Does::Panic => panic!("a client with a bug"),
            }
        }
    }

    impl Keys for Vec<String> {
        fn count(&self) -> usize {
            self.len()
        }
    }

    impl Keys for usize {
        fn count(&self) -> usize {
            *self
        }
    }

    struct Bench {
        keys: RemoteKeys<Vec<String>>,
        fake: Fake,
        clock: ManualClock,
        events: RecordingSink,
    }

    /// Words in place of keys.
    fn words(body: &[u8]) -> Result<Vec<String>, String> {
        let text = std::str::from_utf8(body).map_err(|_| "not a text")?;
        let words: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
        if words.is_empty() { Err("the set has no usable key".to_owned()) } else { Ok(words) }
    }

    fn settings(clock: &ManualClock, events: &RecordingSink) -> RemoteSettings {
        let clock = Arc::new(clock.clone());
        let settings = RemoteSettings::new(clock.clone(), Audit::with_clock(events.clone(), clock));
        RemoteSettings { haste: 0, ..settings }
    }

    impl Bench {
        fn new() -> Self {
            let fake = Fake(Arc::new((Mutex::new(Does::Answer("a b")), AtomicUsize::new(0))));
            let clock = ManualClock::at("2026-01-01T00:00:00Z".parse().unwrap());
            let events = RecordingSink::default();
            let source = Source::key_set("https://login.example.com/keys").unwrap();
            let with = settings(&clock, &events);
            let keys = RemoteKeys::new(source, Arc::new(fake.clone()), Box::new(words), with);
            Self { keys, fake, clock, events }
        }

        async fn loaded() -> Self {
            let bench = Self::new();
            assert_eq!(bench.keys.refresh(Demand::Due).await, Refreshed::New);
            bench
        }

        fn now(&self) -> UnixTime {
            self.clock.now()
        }

        fn state(&self) -> KeysState {
            self.keys.state(self.now())
        }

        fn set(&self) -> Vec<String> {
            self.keys.current().map(|current| current.set.to_vec()).unwrap_or_default()
        }

        /// Both clocks.
        async fn pass(&self, time: Duration) {
            self.clock.advance(time);
            tokio::time::sleep(time).await;
        }

        async fn herd(&self, size: usize, demand: Demand) -> Vec<Refreshed> {
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..size {
                let keys = self.keys.clone();
                tasks.spawn(async move { keys.refresh(demand).await });
            }
            tasks.join_all().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_herd_fetches_once() {
        let bench = Bench::new();
        assert_eq!(bench.state(), KeysState::Unusable);
        bench.fake.does(Does::AnswerAfter(SEC, "a b"));
        let came = bench.herd(1000, Demand::Due).await;
        assert_eq!((bench.fake.calls(), bench.state()), (1, KeysState::Fresh));
        assert_eq!(came.iter().filter(|came| **came == Refreshed::New).count(), 1);
        assert!(!came.contains(&Refreshed::Failed));

        bench.pass(SEC * 479).await;
        assert_eq!(bench.state(), KeysState::Fresh);
        bench.pass(SEC).await;
        assert_eq!(bench.state(), KeysState::Due);
        bench.herd(1000, Demand::Due).await;
        assert_eq!((bench.fake.calls(), bench.state()), (2, KeysState::Fresh));
    }

    #[tokio::test(start_paused = true)]
    async fn while_one_fetches_the_set_counts_as_fresh() {
        let bench = Bench::loaded().await;
        bench.pass(SEC * 600).await;
        bench.fake.does(Does::AnswerAfter(SEC, "c"));
        let leader = tokio::spawn({
            let keys = bench.keys.clone();
            async move { keys.refresh(Demand::Due).await }
        });
        tokio::time::sleep(SEC / 10).await;
        assert_eq!(bench.state(), KeysState::Fresh);
        assert_eq!(leader.await.unwrap(), Refreshed::New);
        assert_eq!(bench.set(), ["c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_leader_leaves_its_fetch_to_the_next() {
        let bench = Bench::loaded().await;
        bench.pass(SEC * 600).await;
        bench.fake.does(Does::AnswerAfter(SEC * 2, "c"));
        let cut = tokio::time::timeout(SEC, bench.keys.refresh(Demand::Due)).await;
        assert!(cut.is_err());
        // Nobody with a known key has to go on with it, but whoever asks does.
        assert_eq!(bench.state(), KeysState::Fresh);
        assert_eq!(bench.keys.refresh(Demand::Due).await, Refreshed::Old);
        assert_eq!((bench.fake.calls(), bench.set()), (2, vec!["c".to_owned()]));
        assert_eq!(bench.state(), KeysState::Fresh);

        // Also if the next one waits already.
        bench.pass(SEC * 600).await;
        let first = tokio::time::timeout(SEC, bench.keys.refresh(Demand::Due));
        let (first, second) = tokio::join!(first, bench.keys.refresh(Demand::Due));
        assert!(first.is_err() && second == Refreshed::Old);
        assert_eq!((bench.fake.calls(), bench.state()), (3, KeysState::Fresh));
    }

    #[tokio::test(start_paused = true)]
    async fn a_leftover_of_long_ago_is_thrown_away() {
        let bench = Bench::loaded().await;
        bench.pass(SEC * 600).await;
        bench.fake.does(Does::AnswerAfter(SEC, "old"));
        assert!(tokio::time::timeout(SEC / 2, bench.keys.refresh(Demand::Due)).await.is_err());
        bench.pass(SEC * 3600).await;
        bench.fake.does(Does::Answer("new"));
        assert_eq!(bench.keys.refresh(Demand::UnknownKid).await, Refreshed::New);
        assert_eq!((bench.fake.calls(), bench.set()), (3, vec!["new".to_owned()]));
    }

    #[tokio::test(start_paused = true)]
    async fn unknown_keys_cause_one_fetch_for_each_cool_down() {
        for does in [Does::Answer("a b"), Does::Fail] {
            let bench = Bench::loaded().await;
            bench.pass(SEC * 30).await;
            let before = bench.fake.calls();
            bench.fake.does(does);
            for _ in 0..10_000 {
                bench.keys.refresh(Demand::UnknownKid).await;
                bench.clock.advance(Duration::from_millis(3));
            }
            assert_eq!(bench.fake.calls() - before, 1);
            bench.herd(10_000, Demand::UnknownKid).await;
            assert_eq!(bench.fake.calls() - before, 2);
            assert_eq!(bench.set(), ["a", "b"]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_without_the_provider_asks_twice_a_second_and_recovers() {
        let bench = Bench::new();
        bench.fake.does(Does::Fail);
        for _ in 0..1000 {
            assert_eq!(bench.keys.refresh(Demand::Due).await, Refreshed::Failed);
            bench.clock.advance(Duration::from_millis(10));
        }
        assert_eq!(bench.fake.calls(), 20);
        bench.fake.does(Does::Answer("a"));
        bench.clock.advance(SEC);
        assert_eq!(bench.keys.refresh(Demand::UnknownKid).await, Refreshed::New);
        assert_eq!(bench.events.alerts(), [Alert::KeysUnavailable, Alert::KeysRecovered]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waited_for_a_hanging_fetch_does_not_begin_another() {
        let bench = Bench::new();
        bench.fake.does(Does::Hang);
        let came = tokio::time::timeout(SEC * 6, bench.herd(1000, Demand::Due)).await.unwrap();
        assert!(came.iter().all(|came| *came == Refreshed::Failed));
        assert_eq!(bench.fake.calls(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_of_any_kind_keeps_the_set() {
        for (does, word) in [
            (Does::Fail, "login.example.com: the answer has the status 500"),
            (Does::Hang, "login.example.com: no answer within 5 seconds"),
            (Does::Panic, "panicked"),
            (Does::Answer(""), "login.example.com: the set has no usable key"),
        ] {
            let bench = Bench::loaded().await;
            let epoch = bench.keys.epoch();
            bench.pass(SEC * 600).await;
            bench.fake.does(does.clone());
            let began = tokio::time::Instant::now();
            assert_eq!(bench.keys.refresh(Demand::Due).await, Refreshed::Failed, "{does:?}");
            assert!(began.elapsed() <= ATTEMPT_LIMIT + SEC / 100);
            assert!(bench.keys.last_failed() && bench.keys.usable(bench.now()));
            assert_eq!((bench.set(), bench.keys.epoch()), (vec!["a".to_owned(), "b".to_owned()], epoch));
            // The outage is said once, and its end too.
            bench.pass(SEC * 30).await;
            assert_eq!(bench.keys.refresh(Demand::Due).await, Refreshed::Failed);
            let events = bench.events.events();
            assert!(events[0].reason.as_deref().unwrap().contains(word), "{events:?}");
            bench.fake.does(Does::Answer("a b"));
            bench.pass(SEC * 30).await;
            assert_eq!(bench.keys.refresh(Demand::Due).await, Refreshed::New);
            assert_eq!(bench.events.alerts(), [Alert::KeysUnavailable, Alert::KeysRecovered]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_removed_key_is_gone_and_the_epoch_moves() {
        let bench = Bench::loaded().await;
        let epoch = bench.keys.epoch();
        bench.pass(SEC * 600).await;
        bench.keys.refresh(Demand::Due).await;
        assert_eq!(bench.keys.epoch(), epoch, "the same content");
        assert_eq!(bench.keys.current().unwrap().fetched_at, bench.now());
        bench.fake.does(Does::Answer("b"));
        bench.pass(SEC * 600).await;
        bench.keys.refresh(Demand::Due).await;
        assert_eq!((bench.set(), bench.keys.epoch()), (vec!["b".to_owned()], epoch + 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_set_is_used_for_max_stale_and_not_from_the_future() {
        let bench = Bench::loaded().await;
        let (loaded, day) = (bench.now(), SEC * 86_400);
        assert!(bench.keys.usable(loaded.saturating_sub(SEC * 300)));
        assert!(!bench.keys.usable(loaded.saturating_sub(SEC * 301)));
        assert!(bench.keys.usable(loaded.saturating_add(day - SEC)));
        assert!(!bench.keys.usable(loaded.saturating_add(day)));
        bench.clock.advance(day);
        assert_eq!(bench.state(), KeysState::Unusable);
        bench.fake.does(Does::Fail);
        assert_eq!(bench.keys.refresh(Demand::Due).await, Refreshed::Failed);
        assert_eq!(bench.set(), ["a", "b"], "kept, but not usable");
        // A clock that was set back far does not make the cool-down last.
        bench.fake.does(Does::Answer("c"));
        bench.clock.set(loaded.saturating_sub(day));
        assert_eq!(bench.keys.refresh(Demand::Due).await, Refreshed::New);
        assert_eq!(bench.state(), KeysState::Fresh);
    }

    #[tokio::test(start_paused = true)]
    async fn max_age_is_kept_within_bounds() {
        for (max_age, haste, due) in
            [(0, 0, 48), (100, 0, 80), (1_000_000, 0, 2880), (0, 128, 47), (1_000_000, 255, 2701)]
        {
            let mut bench = Bench::new();
            Arc::get_mut(&mut bench.keys.0).unwrap().settings.haste = haste;
            bench.fake.does(Does::AnswerFor("a", SEC * max_age));
            bench.keys.refresh(Demand::Due).await;
            bench.clock.advance(SEC * due - SEC);
            assert_eq!(bench.state(), KeysState::Fresh);
            bench.clock.advance(SEC);
            assert_eq!(bench.state(), KeysState::Due);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn unknown_keys_are_remembered_within_bounds() {
        let bench = Bench::loaded().await;
        let known = |kid| bench.keys.is_known_unknown(kid, bench.now());
        for kid in 0..1000 {
            bench.keys.note_unknown(kid, bench.now());
        }
        assert!(!known(743) && known(744) && known(999));
        assert_eq!(bench.keys.0.unknown.lock().unwrap().len(), UNKNOWN_KEPT);
        bench.clock.advance(SEC * 300);
        assert!(!known(999));
        bench.keys.note_unknown(7, bench.now());
        bench.keys.refresh(Demand::UnknownKid).await;
        assert!(known(7), "the same content");
        bench.fake.does(Does::Answer("c"));
        bench.clock.advance(SEC * 30);
        bench.keys.refresh(Demand::UnknownKid).await;
        assert!(!known(7));
    }

    #[tokio::test(start_paused = true)]
    async fn run_fetches_ahead_retries_and_adopts() {
        let bench = Bench::new();
        bench.fake.does(Does::Fail);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let task = tokio::spawn({
            let keys = bench.keys.clone();
            async move { keys.run(async { drop(stopped.await) }).await }
        });
        // After 0, 1, 3, 7, 15, 31, 61 and 91 seconds.
        for _ in 0..100 {
            bench.pass(SEC).await;
        }
        assert_eq!(bench.fake.calls(), 8);
        bench.fake.does(Does::Answer("a"));
        for _ in 0..30 {
            bench.pass(SEC).await;
        }
        assert_eq!((bench.fake.calls(), bench.state()), (9, KeysState::Fresh));
        for _ in 0..600 {
            bench.pass(SEC).await;
            assert_ne!(bench.state(), KeysState::Unusable);
        }
        assert_eq!(bench.fake.calls(), 10);

        // It goes on with what a cancelled request began.
        bench.fake.does(Does::AnswerAfter(SEC * 2, "z"));
        assert!(tokio::time::timeout(SEC, bench.keys.refresh(Demand::UnknownKid)).await.is_err());
        bench.pass(SEC * 2).await;
        assert_eq!((bench.fake.calls(), bench.set()), (11, vec!["z".to_owned()]));
        stop.send(()).unwrap();
        task.await.unwrap();
    }

    fn of_issuer(issuer: &FakeIssuer, source: Source) -> (RemoteKeys<usize>, ManualClock, RecordingSink) {
        let clock = ManualClock::at("2026-01-01T00:00:00Z".parse().unwrap());
        let events = RecordingSink::default();
        let parse = |body: &[u8]| {
            let set: serde_json::Value = serde_json::from_slice(body).map_err(|_| "not JSON")?;
            let keys = set["keys"].as_array().map_or(0, Vec::len);
            if keys == 0 { Err("the set has no usable key".to_owned()) } else { Ok(keys) }
        };
        assert!(issuer.issuer().starts_with("http://127.0.0.1:"));
        let fetch = Arc::new(crate::jwt::https::HttpsFetch::new().unwrap());
        let with = settings(&clock, &events);
        (RemoteKeys::new(source, fetch, Box::new(parse), with), clock, events)
    }

    #[tokio::test]
    async fn a_real_provider_is_discovered_and_its_failures_are_refused() {
        let issuer = FakeIssuer::start().await;
        let source = Source::issuer(&issuer.issuer()).unwrap();
        let (keys, clock, events) = of_issuer(&issuer, source);
        assert_eq!(keys.refresh(Demand::Due).await, Refreshed::New);
        assert_eq!((issuer.discovery_requests(), issuer.key_set_requests()), (1, 1));
        for (mode, word) in [
            (IssuerMode::Down, "status 500"),
            (IssuerMode::Garbage, "not JSON"),
            (IssuerMode::Huge, "too long"),
            (IssuerMode::Redirect, "status 302"),
            (IssuerMode::WrongIssuer, "another issuer"),
            (IssuerMode::NoKeys, "no usable key"),
        ] {
            events.clear();
            issuer.set_mode(mode);
            clock.advance(SEC * 60);
            assert_eq!(keys.refresh(Demand::UnknownKid).await, Refreshed::Failed, "{mode:?}");
            let reason = events.events()[0].reason.clone().unwrap();
            assert!(reason.starts_with("127.0.0.1: ") && reason.contains(word), "{mode:?}: {reason}");
            assert_eq!(keys.current().map(|current| *current.set), Some(1));
            issuer.set_mode(IssuerMode::Slow(Duration::from_millis(10)));
            clock.advance(SEC * 60);
            assert_eq!(keys.refresh(Demand::UnknownKid).await, Refreshed::New);
        }
        issuer.rotate();
        clock.advance(SEC * 60);
        keys.refresh(Demand::UnknownKid).await;
        assert_eq!(keys.current().map(|current| *current.set), Some(2));
        issuer.forget_old_keys();
        clock.advance(SEC * 60);
        keys.refresh(Demand::UnknownKid).await;
        assert_eq!(keys.current().map(|current| *current.set), Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn discovery_must_lead_from_https_to_https() {
        let bench = Bench::new();
        let issuer = "https://login.example.com/";
        let fetch = Arc::new(bench.fake.clone());
        let with = settings(&bench.clock, &bench.events);
        let source = Source::issuer(issuer).unwrap();
        let Source::Issuer { discovery, .. } = &source else { panic!("an issuer") };
        assert_eq!(discovery, "https://login.example.com/.well-known/openid-configuration");
        let keys = RemoteKeys::new(source, fetch, Box::new(words), with);
        for document in [
            r#"{"issuer":"https://login.example.com/","jwks_uri":"http://127.0.0.1/keys"}"#,
            r#"{"issuer":"https://login.example.com/","jwks_uri":"http://example.com/keys"}"#,
            r#"{"issuer":"https://login.example.com","jwks_uri":"https://login.example.com/keys"}"#,
            r#"{"issuer":"https://login.example.com/"}"#,
            "[]",
        ] {
            bench.fake.does(Does::Answer(document));
            bench.clock.advance(SEC * 60);
            assert_eq!(keys.refresh(Demand::Due).await, Refreshed::Failed, "{document}");
        }
        assert_eq!(bench.fake.calls(), 5);
        assert!(Source::issuer("https://login.example.com/?tenant=1").is_err());
        assert!(Source::issuer("http://login.example.com").is_err());
        assert!(Source::key_set("http://login.example.com/keys").is_err());
    }
}
