//! What the store denies, kept in memory: loaded as a whole, and again when it may have changed.

use std::{
    collections::HashMap,
    pin::{Pin, pin},
    sync::{
        PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Sleep;

use crate::{
    count::{self, Level, Stamp},
    error::Refusal,
    id::UserId,
    store::{
        Denials, JwtId, StoreError, StoreErrorKind, UserState, UserStatus,
        lookup::{Inner, STORE_TIMEOUT},
    },
    time::UnixTime,
};

/// How long a store that failed is left alone.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// How long after a failure it is still taken to last while it is found out whether it does.
const OUTAGE: Duration = RETRY_AFTER.saturating_add(STORE_TIMEOUT);

/// A time at which nothing can have failed.
const NEVER: i64 = i64::MIN;

/// With more users who changed than this, the whole cache is cheaper to forget than one user at a time.
const FEW_USERS: usize = 8;

/// Where the numbers of the next source of denials begin, so that no two sources have one in common.
static SPANS: AtomicU64 = AtomicU64::new(0);

#[derive(Debug)]
pub(crate) struct Denied {
    known: RwLock<Known>,
    /// Where `generation` began.
    source: u64,
    /// Counts the sets that differed from the one before.
    generation: AtomicU64,
    loaded: AtomicBool,
    /// Written under the lock of `known`.
    fresh_from: AtomicI64,
    fresh_until: AtomicI64,
    /// When it could last not be loaded, though it had been before; [`NEVER`] if it was loaded since.
    failed_at: AtomicI64,
    /// Counts the loads that began.
    begun: AtomicU64,
    /// Held while it is loaded; what the last load came to, unless it was given up.
    loading: tokio::sync::Mutex<Option<Result<(), StoreError>>>,
    /// How many users and JWTs, and when they were last loaded.
    levels: [Level; 2],
    loaded_at: Stamp,
}

#[derive(Debug, Default)]
pub(crate) struct Known {
    users: HashMap<UserId, UserState>,
    jwts: HashMap<JwtId, UnixTime>,
    /// Counts how often it was said to be out of date.
    notices: u64,
}

impl Default for Denied {
    fn default() -> Self {
        let source = SPANS.fetch_add(1 << 32, Ordering::Relaxed);
        Self {
            known: RwLock::default(),
            source,
            generation: AtomicU64::new(source),
            loaded: AtomicBool::new(false),
            fresh_from: AtomicI64::new(i64::MAX),
            fresh_until: AtomicI64::new(i64::MIN),
            failed_at: AtomicI64::new(NEVER),
            begun: AtomicU64::new(0),
            loading: tokio::sync::Mutex::new(None),
            levels: [&count::DENIED_USERS, &count::DENIED_JWTS].map(Level::of),
            loaded_at: Stamp::of(&count::DENIALS_LOADED),
        }
    }
}

impl Known {
    pub(crate) fn user(&self, user: &UserId) -> Option<&UserState> {
        self.users.get(user)
    }

    pub(crate) fn is_active(&self, user: &UserId) -> bool {
        self.user(user).is_none_or(UserState::is_active)
    }

    pub(crate) fn revokes(&self, issuer: &str, jwt_id: &str) -> bool {
        !self.jwts.is_empty() && self.jwts.contains_key(&JwtId::of(issuer, jwt_id))
    }

    /// Takes over what a store said. Returns whether anything differs, and who may now do something or
    /// nothing any more.
    fn replace(&mut self, denials: Denials) -> (bool, Vec<UserId>) {
        let users: HashMap<_, _> =
            denials.users.into_iter().map(|state| (state.user.clone(), state)).collect();
        let jwts = denials.jwts.into_iter().map(|jwt| (jwt.id, jwt.until)).collect();
        let differs = users != self.users || jwts != self.jwts;
        let old = std::mem::replace(&mut self.users, users);
        self.jwts = jwts;
        let was_active = |user| old.get(user).is_none_or(UserState::is_active);
        let both = old.keys().chain(self.users.keys().filter(|user| !old.contains_key(*user)));
        let changed = both.filter(|user| was_active(user) != self.is_active(user)).cloned().collect();
        (differs, changed)
    }
}

impl Denied {
    /// What no other source of denials has.
    pub(crate) fn source(&self) -> u64 {
        self.source
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of what is known, if one may judge by it without a word of the store: it is fresh, or the
    /// store was asked and did not answer.
    pub(crate) fn generation(&self, now: UnixTime) -> Option<u64> {
        (self.is_fresh(now) || self.is_excused(now)).then(|| self.generation.load(Ordering::Acquire))
    }

    /// Whether the store ever said what it denies.
    pub(crate) fn is_known(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
    }

    fn is_fresh(&self, now: UnixTime) -> bool {
        let now = now.as_millis();
        self.fresh_from.load(Ordering::Acquire) <= now && now < self.fresh_until.load(Ordering::Acquire)
    }

    /// Whether the store is down: it failed a moment ago, or before that and is being asked whether it still
    /// does. So one request at a time waits for a store that hangs, not all of them.
    fn is_excused(&self, now: UnixTime) -> bool {
        self.failed_within(RETRY_AFTER, now)
            || self.failed_within(OUTAGE, now) && self.loading.try_lock().is_err()
    }

    fn failed_within(&self, bound: Duration, now: UnixTime) -> bool {
        let failed_at = self.failed_at.load(Ordering::Acquire);
        let until = UnixTime::from_millis(failed_at).saturating_add(bound);
        failed_at != NEVER && failed_at <= now.as_millis() && now < until
    }

    /// Has it loaded again before it is next used. A load that began before does not count.
    pub(crate) fn outdate(&self) {
        let mut known = self.write();
        known.notices += 1;
        self.fresh_until.store(i64::MIN, Ordering::Release);
    }

    fn set_fresh(&self, from: UnixTime, bound: Duration) {
        self.fresh_from.store(from.as_millis(), Ordering::Release);
        self.fresh_until.store(from.saturating_add(bound).as_millis(), Ordering::Release);
    }
}

/// In whole seconds, as JWTs count: one of the same second may be from before.
fn issued_after(issued_at: Option<UnixTime>, not_before: UnixTime) -> bool {
    let second = |time: UnixTime| time.as_millis().div_euclid(1000);
    issued_at.is_some_and(|issued_at| second(issued_at) > second(not_before))
}

impl Inner {
    /// Judges from memory whether a credential that is no stored token was withdrawn: all of `user`, or the JWT with
    /// these claims `iss`, `jti` and `iat`.
    pub(crate) fn require_unwithdrawn(
        &self,
        user: &UserId,
        jwt: Option<(&str, Option<&str>, Option<UnixTime>)>,
    ) -> Result<(), Refusal> {
        let known = self.denied.read();
        let state = known.user(user);
        let is_gone = state.is_some_and(|state| !state.is_active());
        if is_gone || self.directory.as_ref().is_some_and(|directory| !directory.was_active(user)) {
            return Err(Refusal::UserInactive);
        }
        let Some((issuer, jwt_id, issued_at)) = jwt else { return Ok(()) };
        let not_before = state.and_then(|state| state.jwts_not_before);
        if not_before.is_some_and(|not_before| !issued_after(issued_at, not_before)) {
            return Err(Refusal::Revoked);
        }
        match jwt_id {
            Some(jwt_id) if known.revokes(issuer, jwt_id) => Err(Refusal::Revoked),
            _ => Ok(()),
        }
    }

    /// Makes sure that what is denied is known, as of the staleness bound ago.
    pub(crate) async fn know_denials(&self) -> Result<(), StoreError> {
        self.know_denials_at(self.clock.now()).await
    }

    /// Like [`know_denials`](Self::know_denials), as if it were `then` already. A store that failed is left
    /// alone for a moment.
    pub(crate) async fn know_denials_at(&self, then: UnixTime) -> Result<(), StoreError> {
        let settled = || match self.denied.is_fresh(then) {
            true => Some(Ok(())),
            false if self.denied.failed_within(RETRY_AFTER, self.clock.now()) => {
                Some(Err(StoreErrorKind::Unavailable.into()))
            }
            false => None,
        };
        match settled() {
            Some(outcome) => outcome,
            None => self.load_denials(settled).await,
        }
    }

    /// Asks the store anew what is denied: when this returns, all is known that was stored before.
    pub(crate) async fn reload_denials(&self) -> Result<(), StoreError> {
        self.load_denials(|| None).await
    }

    /// One load at a time, so that an older answer never follows a newer one. Whoever waits is served by
    /// any load that began after they asked, or by one that settled it for them; all within the time that a
    /// store has.
    async fn load_denials(
        &self,
        settled: impl Fn() -> Option<Result<(), StoreError>>,
    ) -> Result<(), StoreError> {
        let mut late = pin!(tokio::time::sleep(STORE_TIMEOUT));
        let asked = self.denied.begun.load(Ordering::SeqCst);
        let mut last = tokio::select! {
            biased;
            last = self.denied.loading.lock() => last,
            () = &mut late => return Err(self.timed_out()),
        };
        if let Some(outcome) = settled() {
            return outcome;
        }
        if let Some(outcome) = last.as_ref().filter(|_| self.denied.begun.load(Ordering::SeqCst) > asked) {
            return outcome.clone();
        }
        *last = None;
        self.denied.begun.fetch_add(1, Ordering::SeqCst);
        let outcome = self.ask_denials(late).await;
        *last = Some(outcome.clone());
        outcome
    }

    async fn ask_denials(&self, late: Pin<&mut Sleep>) -> Result<(), StoreError> {
        let now = self.clock.now();
        let notices = self.denied.read().notices;
        let answer = tokio::select! {
            biased;
            answer = self.store.denials(now) => self.watch(answer),
            () = late => Err(self.timed_out()),
        };
        let denials = answer.inspect_err(|_| {
            if self.denied.is_known() {
                self.denied.failed_at.store(self.clock.now().as_millis(), Ordering::Release);
            }
        })?;
        let first = !self.denied.is_known();
        let changed = self.take_denials(denials, notices, now);
        // After the set, so that a load of a key that does not know the new set is not kept. Before the
        // first set no key was judged at all.
        match changed {
            _ if first => {}
            changed if changed.len() > FEW_USERS => self.invalidate_all(),
            changed => changed.iter().for_each(|user| self.invalidate_owner(user)),
        }
        Ok(())
    }

    fn take_denials(&self, denials: Denials, notices: u64, now: UnixTime) -> Vec<UserId> {
        let denied = &self.denied;
        let mut known = denied.write();
        let (differs, changed) = known.replace(denials);
        let [users, jwts] = &denied.levels;
        users.set(known.users.values().filter(|state| !state.is_active()).count());
        jwts.set(known.jwts.len());
        denied.loaded_at.set(now);
        if differs {
            denied.generation.fetch_add(1, Ordering::AcqRel);
        }
        denied.loaded.store(true, Ordering::Release);
        denied.failed_at.store(NEVER, Ordering::Release);
        if known.notices == notices {
            denied.set_fresh(now, self.staleness);
        }
        changed
    }

    /// What is known of `user`.
    pub(crate) fn known_state(&self, user: &UserId) -> UserState {
        let known = self.denied.read();
        known.user(user).cloned().unwrap_or_else(|| UserState::new(user.clone(), UserStatus::Active))
    }
}
