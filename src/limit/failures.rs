//! Guessing: how many credentials from one address may be wrong.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    num::NonZeroU32,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use crate::{
    error::{AuthError, AuthErrorKind, Refusal},
    limit::{
        shared::{SharedFailure, SharedLimits},
        suspects::{Costing, Over, Set, Suspect, WAYS},
    },
    time::UnixTime,
};

/// How long a request waits for others of its address whose credentials are being looked up.
const PATIENCE: Duration = Duration::from_millis(400);

/// Limits failures by client address: 100 a minute, in each [`AuthLayer`](crate::AuthLayer), by default.
///
/// A failure is a credential that is answered 401. A request without one is none, nor is one that is answered
/// 400, 403, 429 or 503. The minute begins with the first failure of an address, and the whole limit may be
/// used at once; from then on whatever would be answered 401 is answered 429 with `Retry-After`, until the
/// minute is over. The first time raises an alert, [`BruteForce`](crate::event::Alert::BruteForce).
///
/// Good credentials from that address go on working: what is decided without a look-up is decided as always.
/// That is so for keys that are cached or were good a moment ago, JWTs that were seen before, static tokens.
/// What is not known yet, a key to look up or a JWT to verify, has a budget of ten a second for the address;
/// beyond it the answer is 429 without a look. While credentials of an address are being looked up they count
/// as failures that may come, so that many at once get no further than one after the other; those beyond wait
/// for a moment. A look-up that the client does not wait for counts as a failure.
///
/// IPv6 addresses count by their /64. Requests whose address is not known share one count: a service that does
/// not know its peers, or stands behind proxies that it was not told of, has one limit for all its clients.
///
/// It remembers a fixed number of addresses, 16 384 by default, in 40 bytes each. When more of them fail, those
/// with the fewest failures are forgotten. It lives in this process; other processes count on their own, unless they
/// [share](Self::with_shared_limits) their counts.
///
/// Clones share their counts: give one to several layers, or to a login route of your own.
///
/// ```
/// use std::num::NonZeroU32;
/// use keyward::{AuthLayer, TokenManager, auth::ApiKeyAuth, limit::FailureLimit, store::MemoryStore};
///
/// let tokens = TokenManager::new(MemoryStore::new());
/// let failures = FailureLimit::per_minute(NonZeroU32::new(20).ok_or("zero")?);
/// let api: AuthLayer = AuthLayer::new(ApiKeyAuth::new(&tokens)).with_failure_limit(Some(failures.clone()));
/// let admin: AuthLayer = AuthLayer::new(ApiKeyAuth::new(&tokens)).with_failure_limit(Some(failures));
/// # let _ = (api, admin);
/// # Ok::<(), &str>(())
/// ```
#[derive(Clone)]
pub struct FailureLimit(Arc<Inner>);

struct Inner {
    limit: u32,
    sets: usize,
    shared: Option<SharedLimits>,
    table: OnceLock<Table>,
    /// Requests that wait for others of their address.
    lines: Mutex<HashMap<Suspect, Line>>,
    waiting: AtomicUsize,
}

/// Which addresses failed, in sets that are found by a hash that nobody can foresee.
struct Table {
    hasher: RandomState,
    sets: Box<[Mutex<Set>]>,
}

struct Line {
    notify: Arc<Notify>,
    length: usize,
}

impl fmt::Debug for FailureLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailureLimit").field("per_minute", &self.0.limit).finish_non_exhaustive()
    }
}

impl Default for FailureLimit {
    /// 100 a minute.
    fn default() -> Self {
        Self::new(100, 16_384, None)
    }
}

impl FailureLimit {
    /// So many failures a minute from one address.
    #[must_use]
    pub fn per_minute(failures: NonZeroU32) -> Self {
        Self::new(failures.get(), 16_384, None)
    }

    /// Remembers so many addresses, 16 384 by default, in 40 bytes each; rounded up to a multiple of 16. With
    /// fewer, whoever has many addresses makes it forget sooner. What was counted is forgotten.
    #[must_use]
    pub fn with_addresses(self, addresses: usize) -> Self {
        Self::new(self.0.limit, addresses, self.0.shared.clone())
    }

    /// Has several processes count together, such as by [`Redis::limits`](crate::redis::Redis::limits): whatever this
    /// process would answer 401 is counted there first, for which the answer waits a short time at most. An address that
    /// was over the limit anywhere is over it here from its next failure on. While nobody answers, this process counts
    /// on its own. What was counted is forgotten.
    ///
    /// Credentials that are looked up at the same time count as failures that may come in each process alone, and the
    /// budget of ten a second is each process's.
    #[must_use]
    pub fn with_shared_limits(self, limits: SharedLimits) -> Self {
        Self::new(self.0.limit, self.0.sets.saturating_mul(WAYS), Some(limits))
    }

    fn new(limit: u32, addresses: usize, shared: Option<SharedLimits>) -> Self {
        Self(Arc::new(Inner {
            limit,
            shared,
            sets: addresses.div_ceil(WAYS).max(1),
            table: OnceLock::new(),
            lines: Mutex::default(),
            waiting: AtomicUsize::new(0),
        }))
    }

    /// Counts a failure that your own code has seen, such as a wrong password at a login route, beside those of
    /// the layers that share this limit.
    ///
    /// ```
    /// use std::num::NonZeroU32;
    /// use keyward::{limit::FailureLimit, time::{Clock, SystemClock}};
    ///
    /// let failures = FailureLimit::per_minute(NonZeroU32::MIN);
    /// let client = Some([192, 0, 2, 7].into());
    /// assert!(failures.count(client, SystemClock.now()).is_ok());
    /// let error = failures.count(client, SystemClock.now()).unwrap_err();
    /// assert_eq!(error.status(), 429);
    /// ```
    ///
    /// # Errors
    /// [`AuthErrorKind::TooManyRequests`] when the address had failed as often as it may already: answer that,
    /// whatever was presented. Only this process counts it; see [`count_shared`](Self::count_shared).
    pub fn count(&self, client_ip: Option<IpAddr>, now: UnixTime) -> Result<(), AuthError> {
        let failed = self.suspect(client_ip, |set, suspect| set.fail(suspect, self.0.limit, now));
        failed.map_err(|over| too_many(over.wait))
    }

    /// As [`count`](Self::count), for all processes that [share](Self::with_shared_limits) their counts.
    ///
    /// # Errors
    /// As there.
    pub async fn count_shared(&self, client_ip: Option<IpAddr>, now: UnixTime) -> Result<(), AuthError> {
        self.count(client_ip, now)?;
        self.fail_together(client_ip, now).await.map_err(|over| too_many(over.wait))
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.0.shared.is_some()
    }

    /// Counts a failure that this process has counted, and found within the limit, for the others as well.
    pub(crate) async fn fail_together(&self, client_ip: Option<IpAddr>, now: UnixTime) -> Result<(), Over> {
        let Some(shared) = &self.0.shared else { return Ok(()) };
        let (suspect, limit) = (Suspect::of(client_ip).into(), self.0.limit);
        let failures = shared.fail(SharedFailure { suspect, limit }).await;
        let Some(failures) = failures.filter(|failures| failures.count > u64::from(limit)) else {
            return Ok(());
        };
        let left = failures.left;
        self.suspect(client_ip, |set, suspect| set.learn_over(suspect, limit, left, now));
        Err(Over { is_first: failures.is_first, wait: left })
    }

    /// Counts a failure that a layer has seen. The first one beyond the limit says so.
    pub(crate) fn fail(&self, client_ip: Option<IpAddr>, now: UnixTime) -> Result<(), Over> {
        self.suspect(client_ip, |set, suspect| {
            let failed = set.fail(suspect, self.0.limit, now);
            failed.map_err(|over| set.tell(suspect, over))
        })
    }

    /// Whether an address has failed as often as it may.
    #[cfg_attr(not(feature = "_jwt"), allow(dead_code, reason = "only JWTs are judged by it"))]
    pub(crate) fn is_over(&self, client_ip: Option<IpAddr>, now: UnixTime) -> bool {
        // Nobody has failed yet.
        if self.0.table.get().is_none() {
            return false;
        }
        self.suspect(client_ip, |set, suspect| set.is_over(suspect, self.0.limit, now))
    }

    /// Asks whether a credential that is not known may cost something.
    pub(crate) fn enter(&self, client_ip: Option<IpAddr>, now: UnixTime) -> Entry {
        let costing = self.suspect(client_ip, |set, suspect| {
            let costing = set.enter(suspect, self.0.limit, now);
            if let Costing::Refused(over) = costing {
                Costing::Refused(set.tell(suspect, over))
            } else {
                costing
            }
        });
        let turn = |reserved| Turn {
            failures: self.clone(),
            suspect: Suspect::of(client_ip),
            entered: now,
            reserved,
            settled: false,
        };
        match costing {
            Costing::Reserved => Entry::Granted(turn(true)),
            Costing::Budget => Entry::Granted(turn(false)),
            Costing::Full => Entry::Full,
            Costing::Refused(over) => Entry::Refused(over),
        }
    }

    /// Waits until one of those whose credentials are being looked up is done, and asks again; not for long, since
    /// a look-up may take its own time.
    pub(crate) async fn wait(
        &self,
        client_ip: Option<IpAddr>,
        now: impl Fn() -> UnixTime + Send,
    ) -> Result<Turn, Waited> {
        let place = Place::new(self, Suspect::of(client_ip));
        let turn = async {
            loop {
                let mut notified = pin!(place.notify.notified());
                // From here on no release is missed.
                notified.as_mut().enable();
                match self.enter(client_ip, now()) {
                    Entry::Full => notified.await,
                    other => return other,
                }
            }
        };
        let entered = tokio::time::timeout(PATIENCE, turn).await;
        // There may be room for more, or an end of the waiting for all.
        place.notify.notify_one();
        match entered {
            Ok(Entry::Granted(turn)) => Ok(turn),
            Ok(Entry::Refused(over)) => Err(Waited::Over(over)),
            Ok(Entry::Full) | Err(_) => Err(Waited::InVain),
        }
    }

    fn suspect<T>(&self, client_ip: Option<IpAddr>, ask: impl FnOnce(&mut Set, Suspect) -> T) -> T {
        let suspect = Suspect::of(client_ip);
        ask(&mut self.set_of(suspect), suspect)
    }

    #[expect(clippy::indexing_slicing, reason = "the remainder is below the number of sets")]
    fn set_of(&self, suspect: Suspect) -> MutexGuard<'_, Set> {
        let Table { hasher, sets } = self.0.table.get_or_init(|| Table {
            hasher: RandomState::new(),
            sets: (0..self.0.sets).map(|_| Mutex::default()).collect(),
        });
        let set = &sets[hasher.hash_one(suspect) as usize % sets.len()];
        set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<Suspect, Line>> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer to an address that fails too often.
pub(crate) fn too_many(wait: Duration) -> AuthError {
    AuthError::because(AuthErrorKind::TooManyRequests, Refusal::TooManyFailures).retry_in(wait)
}

/// Whether an unknown credential may cost something.
pub(crate) enum Entry {
    Granted(Turn),
    /// It may, once others of its address are done.
    Full,
    Refused(Over),
}

/// Why waiting came to nothing.
pub(crate) enum Waited {
    Over(Over),
    InVain,
}

/// The right to look up one credential. Given up without a word it counts as a failure: the client may have gone
/// because it did not want to wait for that.
pub(crate) struct Turn {
    failures: FailureLimit,
    suspect: Suspect,
    entered: UnixTime,
    /// Whether it counts against the limit, or was had from the budget of an address that is over it.
    reserved: bool,
    settled: bool,
}

impl Turn {
    /// The credential was wrong: an error if that is one too many.
    pub(crate) fn failed(mut self, now: UnixTime) -> Result<(), Over> {
        self.settled = true;
        let (limit, suspect) = (self.failures.0.limit, self.suspect);
        let mut set = self.failures.set_of(suspect);
        set.leave(suspect, self.reserved);
        let failed = set.fail(suspect, limit, now).map_err(|over| set.tell(suspect, over));
        drop(set);
        self.wake();
        failed
    }

    /// Whatever came of it, it was no failure.
    pub(crate) fn passed(mut self) {
        self.settled = true;
        self.failures.set_of(self.suspect).leave(self.suspect, self.reserved);
        self.wake();
    }

    /// The next one may try.
    fn wake(&self) {
        if self.failures.0.waiting.load(Ordering::SeqCst) > 0
            && let Some(line) = self.failures.lines().get(&self.suspect)
        {
            line.notify.notify_one();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.settled {
            let mut set = self.failures.set_of(self.suspect);
            set.leave(self.suspect, self.reserved);
            // What is over the limit was over it before.
            let _ = set.fail(self.suspect, self.failures.0.limit, self.entered);
            drop(set);
            self.wake();
        }
    }
}

/// A place in the line of an address.
struct Place<'a> {
    failures: &'a FailureLimit,
    suspect: Suspect,
    notify: Arc<Notify>,
}

impl<'a> Place<'a> {
    fn new(failures: &'a FailureLimit, suspect: Suspect) -> Self {
        failures.0.waiting.fetch_add(1, Ordering::SeqCst);
        let mut lines = failures.lines();
        let line = lines.entry(suspect).or_insert_with(|| Line { notify: Arc::default(), length: 0 });
        line.length += 1;
        let notify = line.notify.clone();
        drop(lines);
        Self { failures, suspect, notify }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut lines = self.failures.lines();
        if let Some(line) = lines.get_mut(&self.suspect) {
            line.length -= 1;
            if line.length == 0 {
                lines.remove(&self.suspect);
            }
        }
        drop(lines);
        self.failures.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}
