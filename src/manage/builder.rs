//! The settings of a [`TokenManager`].

use std::{
    fmt,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use crate::{
    error::ConfigError,
    event::{Audit, AuditSink, Episodes, TracingSink},
    id::TokenIds,
    limit::{Meters, RateLimit, SharedLimits},
    manage::{Issuing, TokenManager, maintenance::Maintenance, pace::Pace},
    principal::RoleDirectory,
    secret::Pepper,
    store::{
        TokenLookup, TokenStore, UserDirectory, Wakeup, announced::Announced, cache::TokenCache,
        denied::Denied, directory::Directory, lookup::Inner, noticing::Noticing, state::StoreState,
        usage::UsageQueue,
    },
    time::{Clock, SystemClock},
    token::{KeyFormat, Lifetimes},
    watch::Watch,
};

const DAY: Duration = Duration::from_secs(86_400);

/// What to do about a new token when its owner has as many active ones as allowed.
///
/// Active are those that are neither revoked nor expired; see
/// [`with_max_active`](TokenManagerBuilder::with_max_active).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// Refuse it.
    #[default]
    Refuse,
    /// Revoke the one that was unused for the longest, never the one that is presented: for scripts that make
    /// a key at each run and never clean up. A token that was never used counts from its creation. One gives
    /// way to one: where there are more than allowed, since the limit was lowered, they do not all go at once.
    RevokeLongestUnused,
}

/// Makes a [`TokenManager`] with other settings than the defaults.
///
/// ```
/// use std::time::Duration;
/// use keyward::{TokenManager, store::MemoryStore, token::KeyFormat};
///
/// let tokens = TokenManager::builder(MemoryStore::new())
///     .with_key_format(KeyFormat::new("acme_live")?)
///     .with_staleness(Duration::from_secs(2))?
///     .build();
/// # let _ = tokens;
/// # Ok::<(), keyward::ConfigError>(())
/// ```
#[must_use]
pub struct TokenManagerBuilder {
    store: Box<dyn TokenStore>,
    format: KeyFormat,
    pepper: Option<Pepper>,
    lifetimes: Lifetimes,
    clock: Arc<dyn Clock>,
    sink: Box<dyn AuditSink>,
    roles: Option<Arc<dyn RoleDirectory>>,
    users: Option<Box<dyn UserDirectory>>,
    users_fresh: Duration,
    users_bound: Duration,
    staleness: Duration,
    capacity: usize,
    max_active: Option<u32>,
    pace: Option<RateLimit>,
    when_full: WhenFull,
    retention: Duration,
    warnings: Vec<Duration>,
    owner_rate: Option<RateLimit>,
    shared_limits: Option<SharedLimits>,
    watch: Option<Watch>,
}

impl fmt::Debug for TokenManagerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenManagerBuilder").field("store", &self.store).finish_non_exhaustive()
    }
}

impl TokenManagerBuilder {
    pub(super) fn new(store: impl TokenStore) -> Self {
        Self {
            store: Box::new(store),
            format: KeyFormat::default(),
            pepper: None,
            lifetimes: Lifetimes::default(),
            clock: Arc::new(SystemClock),
            sink: Box::new(TracingSink),
            roles: None,
            users: None,
            users_fresh: Duration::from_secs(60),
            users_bound: Duration::from_secs(300),
            staleness: Duration::from_secs(5),
            capacity: 100_000,
            max_active: Some(100),
            pace: Some(RateLimit::per_hour(300)),
            when_full: WhenFull::Refuse,
            retention: 30 * DAY,
            warnings: vec![30 * DAY, 7 * DAY, DAY],
            owner_rate: None,
            shared_limits: None,
            watch: None,
        }
    }

    /// What new keys look like and which are accepted; `kw_live_…` by default.
    pub fn with_key_format(mut self, format: KeyFormat) -> Self {
        self.format = format;
        self
    }

    /// A secret mixed into all digests; none by default. Keys issued with another pepper, or without
    /// one, are unknown afterwards.
    pub fn with_pepper(mut self, pepper: Pepper) -> Self {
        self.pepper = Some(pepper);
        self
    }

    /// How long tokens live; by default 90 days renewed by use, 30 days idle, a year at most.
    pub fn with_lifetimes(mut self, lifetimes: Lifetimes) -> Self {
        self.lifetimes = lifetimes;
        self
    }

    /// Where the time comes from; the system's clock by default.
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Where events go; [`TracingSink`] by default. Several sinks are a tuple, such as that of an
    /// [`AuditLog`](crate::audit::AuditLog) beside the log: `(TracingSink, audit)`.
    pub fn with_audit(mut self, sink: impl AuditSink) -> Self {
        self.sink = Box::new(sink);
        self
    }

    /// Which roles users have; by default a token carries the roles that it was made with.
    pub fn with_roles(mut self, directory: impl RoleDirectory) -> Self {
        self.roles = Some(Arc::new(directory));
        self
    }

    /// Which users may do anything at all, by a source of your own, beside what
    /// [`suspend`](TokenManager::suspend) and [`offboard`](TokenManager::offboard) say; none by default. Whom it
    /// does not let in is refused with all they have: keys, and the JWTs and static tokens beside them. They get
    /// no new keys either.
    ///
    /// An answer counts for a minute; then the next request of the user asks anew, and others of theirs meanwhile
    /// go on with what was said before. So who is suspended there is out within a minute. While it does not
    /// answer, what it said last counts for five minutes; after that, and for users of whom it never spoke, the
    /// answer is 503. See [`with_directory_staleness`](Self::with_directory_staleness). Users whose ids begin with
    /// `keyward:` or `static:` are keyward's own: it is not asked about them.
    ///
    /// Nobody can [register](TokenManager::register) beside it: its users are somebody already.
    pub fn with_user_directory(mut self, directory: impl UserDirectory) -> Self {
        self.users = Some(Box::new(directory));
        self
    }

    /// For how long an answer of the [user directory](Self::with_user_directory) is not asked for again, one
    /// minute by default, and for how long it is used while there is no new one, five minutes by default. With
    /// both at zero each request asks.
    ///
    /// # Errors
    /// When the second is shorter than the first or longer than an hour.
    pub fn with_directory_staleness(mut self, fresh: Duration, bound: Duration) -> Result<Self, ConfigError> {
        if bound < fresh || bound > Duration::from_secs(3600) {
            return Err(ConfigError::new(
                "answers of the user directory are used for at least as long as they are fresh, and for an hour at most",
            ));
        }
        (self.users_fresh, self.users_bound) = (fresh, bound);
        Ok(self)
    }

    /// For how long a verdict may be used without asking the store; 5 seconds. It bounds how long a
    /// change by another process goes unseen when no notification arrives, and how long keys keep
    /// working while the store is down. Zero asks the store for each request.
    ///
    /// # Errors
    /// When it is longer than five minutes: revocation would be late.
    pub fn with_staleness(mut self, bound: Duration) -> Result<Self, ConfigError> {
        if bound > Duration::from_secs(300) {
            return Err(ConfigError::new("the cache's staleness bound must not be longer than five minutes"));
        }
        self.staleness = bound;
        Ok(self)
    }

    /// For how many valid tokens verdicts are kept, about; 100 000, at most 256 bytes each beyond names
    /// and lists. With fewer than the tokens in use, the store is asked more often.
    pub fn with_cache_capacity(mut self, tokens: usize) -> Self {
        self.capacity = tokens;
        self
    }

    /// How many active tokens a user may have; 100. `None` is no limit.
    pub fn with_max_active(mut self, tokens: Option<u32>) -> Self {
        self.max_active = tokens;
        self
    }

    /// How many tokens a user may make and rotate with a credential of their own: 300 an hour, which may be used
    /// at once. `None` is no limit.
    ///
    /// Without one, whoever makes and revokes tokens in a loop fills the disk: tokens that have ended are kept for
    /// the [retention](Self::with_retention), and [`with_max_active`](Self::with_max_active) does not count them.
    /// Choose more where one user hands out many tokens that live shortly, such as one for each build.
    ///
    /// Users of [`register_anybody`](TokenManager::register_anybody) count by their address, an IPv6 one by its /64.
    /// What the program does itself in the name of a [`UserId`](crate::UserId) does not count, nor what an
    /// administrator does. The counts are this process's own.
    pub fn with_creation_limit(mut self, limit: Option<RateLimit>) -> Self {
        self.pace = limit;
        self
    }

    /// What to do when a user has as many active tokens as they may; [`WhenFull::Refuse`] by default.
    pub fn with_when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// For how long tokens are kept after they ended, before the background work removes them for good; 30 days.
    /// What is removed is in no list, and its use is that of an unknown key.
    pub fn with_retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// How long before a token expires the background work sends
    /// [`EventKind::TokenExpiring`](crate::event::EventKind::TokenExpiring), once each; 30, 7 and 1 days.
    pub fn with_expiry_warnings(mut self, ahead: impl IntoIterator<Item = Duration>) -> Self {
        self.warnings = ahead.into_iter().collect();
        self
    }

    /// How fast requests with the keys of one user may follow one another, all keys together; unlimited by
    /// default. It comes on top of what a key has of its own, and a user who may make keys cannot get around it.
    pub fn with_owner_rate_limit(mut self, limit: Option<RateLimit>) -> Self {
        self.owner_rate = limit;
        self
    }

    /// Where several processes count the rate limits and quotas of keys and users together, such as
    /// [`Redis::limits`](crate::redis::Redis::limits); by default each process has rate limits of its own. Each request
    /// with a limited key then asks there, and waits for a short time at most. What a quota has left is still written
    /// to the store as well.
    pub fn with_shared_limits(mut self, limits: SharedLimits) -> Self {
        self.shared_limits = Some(limits);
        self
    }

    /// Has other processes look at once for what this one changes, and this one for what they do, such as by
    /// [`Redis::wakeup`](crate::redis::Redis::wakeup); by default they look when their store's own feed tells them to,
    /// and when the cache's bound is over. Needs [`run`](TokenManager::run) where it is to be heard.
    pub fn with_wakeup(mut self, wakeup: impl Wakeup) -> Self {
        self.store = Box::new(Announced::new(self.store, wakeup));
        self
    }

    /// Raises alerts when keys are used otherwise than before; off by default. See [`watch`](crate::watch). A cached
    /// key takes about 350 bytes more then.
    ///
    /// ```
    /// use keyward::{TokenManager, store::MemoryStore, watch::Watch};
    ///
    /// let tokens = TokenManager::builder(MemoryStore::new()).with_watch(Watch::default()).build();
    /// # let _ = tokens;
    /// ```
    pub fn with_watch(mut self, watch: Watch) -> Self {
        self.watch = Some(watch);
        self
    }

    /// The manager.
    #[must_use]
    pub fn build(self) -> TokenManager {
        let lookup = TokenLookup::new(Inner {
            store: self.store,
            cache: TokenCache::new(self.capacity, 16_384),
            format: self.format,
            pepper: self.pepper,
            lifetimes: self.lifetimes,
            audit: Audit::from_parts(self.sink, self.clock.clone()),
            clock: self.clock,
            roles: self.roles,
            staleness: self.staleness,
            denied: Denied::default(),
            meters: Meters::new(self.capacity),
            owner_rate: self.owner_rate.map(|limit| (limit, Meters::new(self.capacity))),
            shared_limits: self.shared_limits,
            directory: self.users.map(|users| Directory::new(users, self.users_fresh, self.users_bound)),
            usage: UsageQueue::default(),
            families: AtomicBool::new(false),
            store_state: StoreState::default(),
            noticing: self.watch.map(|watch| Noticing::new(watch, self.capacity)),
            episodes: Episodes::default(),
        });
        let issuing = Issuing {
            ids: TokenIds::default(),
            max_active: self.max_active,
            pace: self.pace.map(Pace::new),
            when_full: self.when_full,
            maintenance: Maintenance::new(self.retention, self.warnings),
            rights: tokio::sync::RwLock::default(),
            health: tokio::sync::Mutex::default(),
        };
        TokenManager::from_parts(lookup, issuing)
    }
}
