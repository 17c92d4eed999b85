//! From a presented key to a verdict: the cache, the store behind it, and the count of uses.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    count::Flush,
    error::{AuthError, AuthErrorKind, Refusal},
    event::{Alert, Audit, Episodes, Event},
    id::{TokenId, UserId},
    limit::{Limiter, Meters, RateLimit, RateMeter, SharedLimits, TokenMeter},
    principal::{AuthMethod, Credential, Extra, RoleDirectory, UseCount, Uses, effective_roles},
    scope::Grant,
    secret::{Pepper, TokenDigest},
    store::{
        Owner, StoreError, StoreErrorKind, TokenStore, Usage,
        cache::{Cached, Dead, Entered, Found, TokenCache},
        denied::Denied,
        directory::{Directory, Standing, Unheard},
        lineage::Lineage,
        noticing::Noticing,
        state::StoreState,
        usage::UsageQueue,
    },
    time::{Clock, UnixTime},
    token::{
        Access, KeyFormat, Lifetimes, RequestClass, Shape, TokenRecord, decide, hard_end, renewed_expiry,
    },
};

/// For how long a refusal is remembered.
const NEGATIVE_BOUND: Duration = Duration::from_secs(1);

/// How long a request or an operation waits for the store at most.
pub(crate) const STORE_TIMEOUT: Duration = Duration::from_millis(4500);

/// How often uses are written, at most.
pub(crate) const USAGE_INTERVAL: Duration = Duration::from_secs(1);

/// Finds the credential of a key, in the cache or in the store, and counts its use. A
/// [`TokenManager`](crate::TokenManager) converts into it, for
/// [`ApiKeyAuth`](crate::auth::ApiKeyAuth). Cloning shares it.
#[derive(Clone, Debug)]
pub struct TokenLookup(Arc<Inner>);

/// Everything that a lookup is made of.
pub(crate) struct Inner {
    pub(crate) store: Box<dyn TokenStore>,
    pub(crate) cache: TokenCache,
    pub(crate) format: KeyFormat,
    pub(crate) pepper: Option<Pepper>,
    pub(crate) lifetimes: Lifetimes,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) audit: Audit,
    pub(crate) roles: Option<Arc<dyn RoleDirectory>>,
    /// For how long a verdict may be used without asking the store.
    pub(crate) staleness: Duration,
    pub(crate) denied: Denied,
    pub(crate) meters: Meters<TokenId, TokenMeter>,
    /// The rate limit that all keys of a user share.
    pub(crate) owner_rate: Option<(RateLimit, Meters<UserId, RateMeter>)>,
    /// Who counts for other processes as well.
    pub(crate) shared_limits: Option<SharedLimits>,
    /// The application's own source of users.
    pub(crate) directory: Option<Directory>,
    pub(crate) usage: UsageQueue,
    /// Whether a token was ever seen here that ends with another one.
    pub(crate) families: AtomicBool,
    pub(crate) store_state: StoreState,
    /// What is looked for in the use of tokens.
    pub(crate) noticing: Option<Noticing>,
    /// Which dead tokens are presented, and were told of.
    pub(crate) episodes: Episodes,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenLookup")
            .field("store", &self.store)
            .field("staleness", &self.staleness)
            .finish_non_exhaustive()
    }
}

impl TokenLookup {
    pub(crate) fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }

    #[inline]
    pub(crate) fn shape(&self, presented: &[u8]) -> Shape {
        self.0.format.shape(presented)
    }

    #[inline]
    pub(crate) fn digest(&self, key: &[u8]) -> TokenDigest {
        match &self.0.pepper {
            None => TokenDigest::of(key),
            Some(pepper) => pepper.digest(key),
        }
    }

    #[inline]
    pub(crate) fn now(&self) -> UnixTime {
        self.0.clock.now()
    }

    /// Whether the credential of `digest` was good when it was last loaded: then to look it up again is no guess.
    pub(crate) fn knows(&self, digest: &TokenDigest) -> bool {
        self.0.cache.peek(digest).is_some()
    }

    /// The verdict that the cache has, without waiting.
    #[inline]
    pub(crate) fn cached(&self, digest: &TokenDigest, now: UnixTime) -> Cached {
        self.0.cache.get(digest, now)
    }

    /// Counts one accepted request.
    #[inline]
    pub(crate) fn count_use(&self, credential: &Arc<Credential>, now: UnixTime, ip: Option<IpAddr>) {
        if let Some(ip) = ip
            && !credential.uses.is_at(ip)
        {
            self.0.move_to(credential, now, ip);
        }
        credential.uses.count(now);
        if !credential.uses.queued.load(Ordering::Relaxed) {
            self.0.usage.push_if_free(credential);
        }
    }

    /// Asks the store, once for all who ask at the same time, and within five seconds.
    pub(crate) async fn load(
        &self,
        digest: TokenDigest,
        client_ip: Option<IpAddr>,
    ) -> Result<Arc<Credential>, AuthError> {
        let found = tokio::time::timeout(STORE_TIMEOUT, self.find(&digest)).await;
        let found = found.unwrap_or_else(|_| {
            self.0.timed_out();
            Found::Failed
        });
        match found {
            Found::Live(credential) => Ok(credential),
            Found::Dead(dead) => Err(self.refuse(&dead, client_ip)),
            Found::Failed => Err(AuthError::because(AuthErrorKind::Unavailable, Refusal::StoreUnavailable)),
        }
    }

    async fn find(&self, digest: &TokenDigest) -> Found {
        loop {
            match self.0.cache.enter(digest, self.now()) {
                Entered::Found(found) => return found,
                Entered::Follow(mut flight) => {
                    if let Ok(found) = flight.wait_for(Option::is_some).await
                        && let Some(found) = found.clone()
                    {
                        return found;
                    }
                }
                Entered::Lead(lead) => {
                    self.0.write_unattended_usage().await;
                    let found = self.0.ask_store(digest).await;
                    if let Some(displaced) = lead.finish(found.clone()) {
                        self.0.usage.push_used(displaced);
                    }
                    return found;
                }
            }
        }
    }
}

impl Inner {
    async fn ask_store(&self, digest: &TokenDigest) -> Found {
        let asked_at = self.clock.now();
        match self.watch(self.store.find(digest).await) {
            Err(_) => Found::Failed,
            Ok(Some(mut record)) if record.digest == *digest => {
                let uses = self.add_latest_use(&mut record);
                let decision =
                    decide(&record, self.lifetimes.policy(record.class), asked_at, RequestClass::Safe);
                let access = match decision.access() {
                    Ok(access) => access,
                    // What is dead by itself is refused without a question to anybody else.
                    Err(reason) => {
                        let dead = self.dead(record.digest, reason, Some(&record), asked_at);
                        let fresh_until = dead.fresh_until.min(decision.until());
                        return Found::Dead(Arc::new(Dead { fresh_until, ..dead }));
                    }
                };
                if self.know_denials().await.is_err() {
                    return Found::Failed;
                }
                let Ok(lineage) = self.lineage(&record, asked_at).await else { return Found::Failed };
                match self.standing(&record.owner).await {
                    Ok(standing) => {
                        let alive = (access, decision.until());
                        self.judge(&record, alive, uses, &lineage, standing, asked_at)
                    }
                    Err(Unheard) => Found::Failed,
                }
            }
            Ok(Some(record)) => {
                let event = Event::alert(Alert::ForeignRecord).owned_by(&record.owner).token(record.id);
                self.audit.emit(event.because("the store returned a record of another digest"));
                Found::Dead(Arc::new(self.dead(*digest, Refusal::Unknown, None, asked_at)))
            }
            Ok(None) => Found::Dead(Arc::new(self.dead(*digest, Refusal::Unknown, None, asked_at))),
        }
    }

    /// The verdict over a record that works by itself, good for the staleness bound or until its state, or that of a
    /// token that it ends with, changes.
    fn judge(
        &self,
        record: &TokenRecord,
        (access, until): (Access, UnixTime),
        uses: Uses,
        lineage: &Lineage,
        standing: Standing,
        now: UnixTime,
    ) -> Found {
        let active = standing.active && self.denied.read().is_active(&record.owner);
        if !active || !lineage.lives {
            let reason = if active { Refusal::ParentEnded } else { Refusal::UserInactive };
            return Found::Dead(Arc::new(self.dead(record.digest, reason, Some(record), now)));
        }
        Found::Live(Arc::new(Credential {
            digest: record.digest,
            user: record.owner.clone(),
            token: Some(record.id),
            scopes: record.scopes.clone(),
            roles: effective_roles(self.roles.as_deref(), &record.owner, &record.roles),
            all_roles: record.roles == Grant::All,
            audit: self.audit.clone(),
            method: AuthMethod::ApiKey,
            read_only: access == Access::ReadOnly,
            revision: record.revision as u32,
            fresh_from: now,
            fresh_until: (now.saturating_add(self.staleness).min(until))
                .min(lineage.until)
                .min(standing.until),
            expires_at: record.expires_at.unwrap_or(UnixTime::MAX),
            hard_end: hard_end(record, self.lifetimes.policy(record.class)),
            rolling: record.rolling.then_some(record.class),
            extra: Extra {
                allowed_ips: record.allowed_ips.clone(),
                limits: record.limits,
                limiter: self.limiter(record, now),
                grace_until: (access == Access::ReadOnly).then_some(until),
                ends_with: Some(lineage.end).filter(|end| *end < record.expires_at.unwrap_or(UnixTime::MAX)),
                jwt: None,
                tracker: self.noticing.as_ref().map(|noticing| noticing.tracker(record, now)),
            }
            .boxed(),
            uses,
        }))
    }

    /// What counts the requests with this token, if they are limited.
    fn limiter(&self, record: &TokenRecord, now: UnixTime) -> Option<Limiter> {
        let owner = self.owner_rate.as_ref();
        let owner = owner.map(|(limit, meters)| (*limit, meters.of(&record.owner, now)));
        let meter = match record.limits.is_empty() {
            true if owner.is_none() => return None,
            true => Arc::default(),
            false => self.meters.of(&record.id, now),
        };
        let limiter = Limiter::new(record.limits, meter, owner, record.quota_use, now);
        Some(match &self.shared_limits {
            None => limiter,
            Some(shared) => limiter.together(shared, &record.id.to_string(), record.owner.as_str()),
        })
    }

    /// What the application's own source says of `user`.
    pub(crate) async fn standing(&self, user: &UserId) -> Result<Standing, Unheard> {
        match &self.directory {
            None => Ok(Standing::ALWAYS),
            Some(directory) => match directory.known(user, self.clock.now()) {
                Some(standing) => Ok(standing),
                None => directory.ask(user, &*self.clock, &self.audit).await,
            },
        }
    }

    fn dead(
        &self,
        digest: TokenDigest,
        reason: Refusal,
        record: Option<&TokenRecord>,
        now: UnixTime,
    ) -> Dead {
        Dead {
            digest,
            reason,
            token: record.map(|record| record.id),
            owner: record.map(|record| record.owner.clone()),
            replaced: matches!(reason, Refusal::Expired | Refusal::Idle | Refusal::TooOld)
                && record.is_some_and(|record| record.successor.is_some()),
            fresh_from: now,
            fresh_until: now.saturating_add(NEGATIVE_BOUND.min(self.staleness)),
        }
    }

    /// Passes a store's answer on, and raises an alert when the store stops or starts to answer.
    pub(crate) fn watch<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        let error = answer.as_ref().err();
        if let Some(is_down) = self.store_state.note(error.map(StoreError::kind)) {
            self.audit.emit(match error {
                Some(error) if is_down => Event::alert(Alert::StoreUnavailable).because(&error.to_string()),
                _ => Event::alert(Alert::StoreRecovered),
            });
        }
        answer
    }

    pub(crate) fn timed_out(&self) -> StoreError {
        let error = StoreError::new(StoreErrorKind::Unavailable, "no answer in time");
        self.watch::<()>(Err(error.clone())).err().unwrap_or(error)
    }

    /// Forgets what the cache knows of `digest`; uses that it counted are kept for writing.
    pub(crate) fn invalidate(&self, digest: &TokenDigest) {
        if let Some(credential) = self.cache.invalidate(digest) {
            self.usage.push_used(credential);
        }
    }

    pub(crate) fn invalidate_owner(&self, owner: &UserId) {
        for credential in self.cache.invalidate_owner(owner) {
            self.usage.push_used(credential);
        }
    }

    pub(crate) fn invalidate_all(&self) {
        for credential in self.cache.invalidate_all() {
            self.usage.push_used(credential);
        }
    }

    /// Adds to `record` what is counted and not written yet.
    pub(crate) fn add_unwritten_use(&self, record: &mut TokenRecord) {
        if let Some(credential) = self.cache.peek(&record.digest)
            && let Some(mut usage) = self.usage_of(&credential, credential.uses.peek())
        {
            usage.quota = credential.limiter().and_then(Limiter::unwritten);
            usage.habits = credential.tracker().map(|tracker| Box::new(tracker.habits()));
            usage.apply(record);
        }
    }

    /// Writes what was counted, in one batch. What cannot be written is kept for the next one.
    pub(crate) async fn write_usage(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.usage.writing.lock().await;
        let mut taken = Taken { inner: self, credentials: Vec::new() };
        let mut batch = Vec::new();
        for credential in self.usage.take() {
            let counted = credential.uses.take();
            batch.extend(self.usage_of(&credential, counted).map(|mut usage| {
                usage.quota = credential.limiter().and_then(Limiter::begin_write);
                usage.habits = self.notice_count(&credential, counted);
                usage
            }));
            taken.credentials.push((credential, counted.count));
        }
        self.usage.last_write.store(self.clock.now().as_millis(), Ordering::Relaxed);
        if !batch.is_empty() {
            let flush = Flush::begin();
            self.watch(self.store.record_usage(&batch).await)?;
            flush.done();
        }
        for (credential, _) in taken.credentials.drain(..) {
            if let Some(limiter) = credential.limiter() {
                limiter.wrote();
            }
        }
        Ok(())
    }

    /// Writes also those uses that found the list held by somebody else.
    pub(crate) async fn write_all_usage(&self) -> Result<(), StoreError> {
        self.note_all_uses();
        self.write_usage().await
    }

    fn note_all_uses(&self) {
        let unnoted = |credential: &Credential| {
            !credential.uses.queued.load(Ordering::Relaxed) && credential.uses.peek().count > 0
        };
        self.cache.pick(unnoted).into_iter().for_each(|credential| self.usage.push_used(credential));
    }

    pub(super) fn usage_of(&self, credential: &Credential, counted: UseCount) -> Option<Usage> {
        let mut usage = Usage::new(credential.token?, counted.count, counted.last_used);
        usage.ip = counted.ip;
        usage.renewed_to = credential.rolling.and_then(|class| {
            let policy = self.lifetimes.policy(class);
            renewed_expiry(credential.expires_at, credential.hard_end, policy, counted.last_used)
                .or(credential.uses.is_renewed.then_some(credential.expires_at))
        });
        (counted.count > 0).then_some(usage)
    }

    /// Writes uses along with other work while nobody runs the background future, so that a key in daily
    /// use does not die of idleness. The time of the last use must be known before a record is judged.
    pub(crate) async fn write_unattended_usage(&self) {
        let usage = &self.usage;
        let since = self.clock.now().since(UnixTime::from_millis(usage.last_write.load(Ordering::Relaxed)));
        if usage.attended.load(Ordering::Relaxed) || since < USAGE_INTERVAL || usage.is_empty() {
            return;
        }
        if !usage.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "nobody runs `TokenManager::run`: the use of keys is written along with other work, and \
                 changes by other processes are seen only when the cache's bound is over; spawn it at start"
            );
        }
        // A failure has raised its alert, and the uses wait for the next time.
        let _ = self.write_usage().await;
    }
}

/// Uses that were taken to be written; dropped before they are, they go back.
struct Taken<'a> {
    inner: &'a Inner,
    credentials: Vec<(Arc<Credential>, u64)>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        for (credential, count) in self.credentials.drain(..) {
            // Uses move to the credential that took its place, so that there is one for each token however
            // long the store fails.
            let current = self.inner.cache.peek(&credential.digest).unwrap_or_else(|| credential.clone());
            current.uses.restore(count, credential.uses.peek().last_used);
            if let Some(limiter) = credential.limiter() {
                limiter.not_written();
            }
            if let Some(tracker) = credential.tracker().filter(|_| count > 0) {
                tracker.not_written(count);
            }
            self.inner.usage.push_used(current);
        }
    }
}

/// A record that a store returned for `owner`, if it really is theirs; otherwise it is dropped with an
/// alert.
pub(crate) fn verify_owner(audit: &Audit, owner: Owner<'_>, record: TokenRecord) -> Option<TokenRecord> {
    if owner.includes(&record.owner) {
        return Some(record);
    }
    let event = Event::alert(Alert::ForeignRecord).owned_by(&record.owner).token(record.id);
    let event = match owner {
        Owner::User(user) => event.by(user),
        Owner::Any(proof) => event.by(proof.actor()),
    };
    audit.emit(event.because("the store returned a record of another owner"));
    None
}
