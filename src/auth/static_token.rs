//! Tokens from a configured list.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use hashbrown::HashTable;

use crate::{
    auth::{Adoption, Authenticator, RequestHead, Revocations, Subject, Verdict},
    error::{AuthError, AuthErrorKind, Scheme},
    event::Audit,
    principal::{AuthMethod, Credential, Principal, RoleDirectory},
    scope::RoleSet,
    secret::TokenDigest,
    store::StaticList,
    time::{Clock, SystemClock, UnixTime},
};

/// The longest token that is hashed to look for it, in bytes.
const MAX_BYTES: usize = 1024;

/// No generation of revocations: whoever compares asks again.
const NEVER_JUDGED: u64 = u64::MAX;

/// Accepts the tokens of a [`StaticList`]: in `X-API-Key` and as bearer tokens. They have every scope and
/// the roles of their user.
///
/// What is not on its list is left to others; put it after [`ApiKeyAuth`](crate::auth::ApiKeyAuth) in an
/// [`AnyOf`](crate::auth::AnyOf). There a static token works as long as its user does: not while the user is
/// suspended, not once they are offboarded, and again after they are restored, since the list still holds it.
/// A time before which JWTs do not count says nothing of static tokens, which were issued at no time. While
/// the store is down, what was last known of its users counts; where nothing was ever known, the answer is 503.
///
/// Alone it asks nobody, and its tokens work until they are taken off the list; see
/// [`with_revocations`](Self::with_revocations).
///
/// ```
/// use keyward::{AuthLayer, auth::StaticAuth, store::StaticList};
///
/// let list = StaticList::parse("ops:3f5c0a9e7b1d4826a0c3e5f7192b4d6e")?;
/// let auth: AuthLayer = AuthLayer::new(StaticAuth::new(&list));
/// # let _ = auth;
/// # Ok::<(), keyward::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct StaticAuth {
    list: StaticList,
    audit: Audit,
    roles: Option<Arc<dyn RoleDirectory>>,
    clock: Arc<dyn Clock>,
    entries: Arc<HashTable<Entry>>,
    /// Each clone's own, until it is filled.
    judge: OnceLock<Arc<Judge>>,
    adoption: Adoption,
}

/// One token of the list.
struct Entry {
    credential: Arc<Credential>,
    /// Its place in [`Judge::good_by`].
    place: usize,
}

/// Whom to ask about users, and what they said.
struct Judge {
    revocations: Arc<dyn Revocations>,
    /// For each token by what it was found good.
    good_by: Box<[Good]>,
}

/// The generation by which a token was found good, and until when that lasts at most.
struct Good {
    generation: AtomicU64,
    until: AtomicI64,
}

impl StaticAuth {
    /// Accepts the tokens of `list`.
    #[must_use]
    pub fn new(list: &StaticList) -> Self {
        let auth = Self {
            list: list.clone(),
            audit: Audit::default(),
            roles: None,
            clock: Arc::new(SystemClock),
            entries: Arc::default(),
            judge: OnceLock::new(),
            adoption: Adoption::default(),
        };
        auth.rebuilt()
    }

    /// Which roles users have; by default static tokens carry none. It is asked now, for each user of the list: roles
    /// that change later need a new `StaticAuth`.
    #[must_use]
    pub fn with_roles(mut self, directory: impl RoleDirectory) -> Self {
        self.roles = Some(Arc::new(directory));
        self.rebuilt()
    }

    /// Where alerts of these callers go; [`tracing`] by default.
    #[must_use]
    pub fn with_audit(mut self, audit: Audit) -> Self {
        self.audit = audit;
        self.rebuilt()
    }

    /// Who knows which users are suspended or gone; nobody by default. In an
    /// [`AnyOf`](crate::auth::AnyOf) beside [`ApiKeyAuth`](crate::auth::ApiKeyAuth) it is the store of the
    /// keys, without being told.
    ///
    /// ```
    /// use keyward::{AuthLayer, TokenManager, auth::StaticAuth};
    /// use keyward::store::{MemoryStore, StaticList, TokenLookup};
    ///
    /// let tokens = TokenManager::new(MemoryStore::new());
    /// let list = StaticList::parse("ops:3f5c0a9e7b1d4826a0c3e5f7192b4d6e")?;
    /// let auth = StaticAuth::new(&list).with_revocations(TokenLookup::from(&tokens));
    /// let layer: AuthLayer = AuthLayer::new(auth); // `tokens.suspend(…, "ops")` stops it
    /// # let _ = layer;
    /// # Ok::<(), keyward::ConfigError>(())
    /// ```
    #[must_use]
    pub fn with_revocations(mut self, revocations: impl Revocations) -> Self {
        self.judge = OnceLock::from(self.judge_with(Arc::new(revocations)));
        self.adoption.named = true;
        self
    }

    /// By which clock it is told whether what is known of users is still up to date; the system's by
    /// default. It must be the clock of those who know.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    fn rebuilt(mut self) -> Self {
        let mut entries = HashTable::new();
        for (place, record) in self.list.records().enumerate() {
            let roles =
                self.roles.as_ref().map_or_else(RoleSet::empty, |roles| roles.roles_of(&record.owner));
            let builder = Principal::builder(AuthMethod::Static, record.owner.clone()).roles(roles);
            let builder = builder.audit(self.audit.clone());
            let credential = Arc::new(builder.into_credential(record.digest));
            let hash = |entry: &Entry| entry.credential.digest.prefix();
            entries.insert_unique(record.digest.prefix(), Entry { credential, place }, hash);
        }
        self.entries = Arc::new(entries);
        self
    }

    fn judge_with(&self, revocations: Arc<dyn Revocations>) -> Arc<Judge> {
        let never = |_| Good { generation: AtomicU64::new(NEVER_JUDGED), until: AtomicI64::new(i64::MIN) };
        let good_by = (0..self.list.len()).map(never).collect();
        Arc::new(Judge { revocations, good_by })
    }
}

impl fmt::Debug for StaticAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticAuth").field("list", &self.list).finish_non_exhaustive()
    }
}

impl Authenticator for StaticAuth {
    fn authenticate(&self, head: &RequestHead<'_>) -> Verdict {
        let Some(presented) = head.presented else { return Verdict::Abstain };
        let token = presented.unchecked_bytes();
        if token.len() > MAX_BYTES {
            return Verdict::Abstain;
        }
        let digest = TokenDigest::of(token);
        let found = self.entries.find(digest.prefix(), |entry| entry.credential.digest == digest);
        let Some(entry) = found else { return Verdict::Abstain };
        match self.judge.get() {
            _ if self.adoption.is_torn() => {
                Verdict::Decided(Err(AuthError::from(AuthErrorKind::Misconfigured).by(Scheme::Static)))
            }
            None => Verdict::Decided(Ok(Principal::new(entry.credential.clone(), head.client_ip))),
            Some(judge) => {
                head.note_known();
                judge.verdict(entry, self.clock.now(), head.client_ip)
            }
        }
    }

    fn audit(&self) -> Audit {
        self.audit.clone()
    }

    fn adopt_revocations(&self, revocations: &Arc<dyn Revocations>) {
        let judge = self.judge.get_or_init(|| self.judge_with(revocations.clone()));
        self.adoption.offer(&judge.revocations, revocations);
    }

    fn revocations(&self) -> Option<Arc<dyn Revocations>> {
        self.judge.get().map(|judge| judge.revocations.clone())
    }
}

impl Judge {
    /// At once, unless it must be asked first who is denied.
    fn verdict(self: &Arc<Self>, entry: &Entry, now: UnixTime, client_ip: Option<IpAddr>) -> Verdict {
        let generation = self.revocations.generation(now);
        if let Some(verdict) = generation.and_then(|generation| self.at_once(entry, generation, now)) {
            return Verdict::Decided(verdict.map(|()| Principal::new(entry.credential.clone(), client_ip)));
        }
        let (judge, credential) = (self.clone(), entry.credential.clone());
        let by_static = |error: AuthError| error.by(Scheme::Static);
        Verdict::Pending(Box::pin(async move {
            if generation.is_none() {
                judge.revocations.refresh().await.map_err(by_static)?;
            }
            judge.revocations.learn(&credential.user).await.map_err(by_static)?;
            judge.check(&credential)?;
            Ok(Principal::new(credential, client_ip))
        }))
    }

    /// The verdict by this generation; `None` if its user must be asked about.
    fn at_once(&self, entry: &Entry, generation: u64, now: UnixTime) -> Option<Result<(), AuthError>> {
        let good = self.good_by.get(entry.place)?;
        let until = UnixTime::from_millis(good.until.load(Ordering::Relaxed));
        if good.generation.load(Ordering::Relaxed) == generation && now < until {
            return Some(Ok(()));
        }
        let until = self.revocations.good_until(&entry.credential.user, now)?;
        let checked = self.check(&entry.credential);
        if checked.is_ok() {
            good.until.store(until.as_millis(), Ordering::Relaxed);
            good.generation.store(generation, Ordering::Relaxed);
        }
        Some(checked)
    }

    fn check(&self, credential: &Credential) -> Result<(), AuthError> {
        let refused =
            |reason| AuthError::invalid(reason).by(Scheme::Static).about(None, Some(&credential.user));
        self.revocations.check(&Subject::new(&credential.user, None)).map_err(refused)
    }
}
