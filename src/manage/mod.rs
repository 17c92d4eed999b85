//! The whole life of a key: [`TokenManager`].

use std::{pin::pin, sync::Arc, sync::atomic::Ordering, time::Duration};

use crate::{
    event::{Audit, EventKind},
    id::{TokenId, TokenIds, UserId},
    metrics,
    store::{
        Owner, StoreError, StoreErrorKind, TokenLookup, TokenStore,
        lineage::Ancestors,
        lookup::{Inner, STORE_TIMEOUT, USAGE_INTERVAL},
    },
    time::UnixTime,
    token::{TokenRecord, TokenStatus},
};

mod builder;
mod listing;
mod living;
mod maintenance;
mod operations;
mod pace;
mod register;
mod report;
mod request;
mod revoking;
mod rights;
mod rotation;
mod users;

pub use builder::{TokenManagerBuilder, WhenFull};
pub use maintenance::Cleanup;
use report::{Report, failure};
pub use request::{Actor, IssuedToken, ListQuery, NewToken, TokenError, TokenPage, TokenUpdate};
pub use rotation::{Finish, Finished};

/// Issues, lists, changes, rotates and revokes tokens. Cloning shares it.
///
/// Every operation names an [`Actor`]: what is not within their reach does not exist for them, and an
/// attempt to reach it raises an alert. What a store returns is checked once more before it is returned.
///
/// ```
/// use keyward::{TokenManager, UserId, manage::{ListQuery, NewToken, TokenError}, store::MemoryStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let tokens = TokenManager::new(MemoryStore::new());
/// let (alice, bob) = (UserId::new("alice")?, UserId::new("bob")?);
///
/// let issued = tokens.create(&alice, NewToken::named("laptop")).await?;
/// println!("shown once: {}", issued.key.expose());
///
/// assert_eq!(tokens.list(&alice, ListQuery::default()).await?.tokens.len(), 1);
/// assert!(tokens.list(&bob, ListQuery::default()).await?.tokens.is_empty());
/// assert!(matches!(tokens.revoke(&bob, issued.record.id).await, Err(TokenError::NotFound)));
/// tokens.revoke(&alice, issued.record.id).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TokenManager {
    lookup: TokenLookup,
    issuing: Arc<Issuing>,
}

#[derive(Debug)]
struct Issuing {
    ids: TokenIds,
    max_active: Option<u32>,
    pace: Option<pace::Pace>,
    when_full: WhenFull,
    maintenance: maintenance::Maintenance,
    /// Shared by what hands out rights, taken alone by what takes them away: so a key that is revoked while
    /// it makes another one is either still good or already refused.
    rights: tokio::sync::RwLock<()>,
    /// When the store was last asked for its health, and what it said.
    health: tokio::sync::Mutex<Option<(UnixTime, Result<(), TokenError>)>>,
}

impl From<&TokenManager> for TokenLookup {
    fn from(manager: &TokenManager) -> Self {
        manager.lookup.clone()
    }
}

impl TokenManager {
    /// A manager of the tokens in `store` with the default settings; see [`TokenManagerBuilder`].
    #[must_use]
    pub fn new(store: impl TokenStore) -> Self {
        Self::builder(store).build()
    }

    /// A manager with settings of your own.
    pub fn builder(store: impl TokenStore) -> TokenManagerBuilder {
        TokenManagerBuilder::new(store)
    }

    fn from_parts(lookup: TokenLookup, issuing: Issuing) -> Self {
        Self { lookup, issuing: Arc::new(issuing) }
    }

    fn inner(&self) -> &Inner {
        self.lookup.inner()
    }

    /// Issues a token. The key is in the answer and nowhere else.
    ///
    /// A token made through an API key ends no later than that key itself. It goes on working when that key is
    /// revoked, unless it was made [as its child](NewToken::as_child); see also
    /// [`revoke_cascade`](Self::revoke_cascade).
    ///
    /// # Errors
    /// [`TokenError::Invalid`], [`TokenError::BeyondOwnRights`], [`TokenError::LimitReached`],
    /// [`TokenError::TooFast`] or [`TokenError::Store`].
    pub async fn create<'a>(
        &self,
        actor: impl Into<Actor<'a>>,
        new: NewToken,
    ) -> Result<IssuedToken, TokenError> {
        let actor = actor.into();
        let report = self.report(actor, EventKind::TokenCreated, None);
        let result = self.within(self.try_create(actor, new)).await;
        match &result {
            Ok(issued) => {
                report.done(EventKind::TokenCreated, Some(&issued.record.owner), Some(issued.record.id));
            }
            Err(error) => report.done(failure(error), None, None),
        }
        result
    }

    /// One token's record. That of a token that ends with others is shown as it works: with their expiry, if that
    /// comes first, and switched off if one of them is.
    ///
    /// # Errors
    /// [`TokenError::NotFound`], with an alert if it is somebody else's, or [`TokenError::Store`].
    pub async fn get<'a>(&self, actor: impl Into<Actor<'a>>, id: TokenId) -> Result<TokenRecord, TokenError> {
        let actor = actor.into();
        let record = self.within(async {
            let record = self.reach(actor, id).await?;
            self.as_it_works(record, &mut Ancestors::new()).await
        });
        let record = record.await?;
        self.report_read(actor, EventKind::TokenRead, Some(&record.owner), Some(id));
        Ok(record)
    }

    /// The actor's tokens, newest first.
    ///
    /// # Errors
    /// [`TokenError::Store`].
    pub async fn list<'a>(
        &self,
        actor: impl Into<Actor<'a>>,
        query: ListQuery,
    ) -> Result<TokenPage, TokenError> {
        let actor = actor.into();
        let empty = TokenPage { tokens: Vec::new(), next_cursor: None };
        let scope = match (&query.owner, actor.scope()) {
            (Some(owner), scope) if !scope.includes(owner) => return Ok(empty),
            (Some(owner), _) => Owner::User(owner),
            (None, scope) => scope,
        };
        let page = self.within(self.list_pages(actor, scope, &query)).await?;
        // A filter that finds nothing is the client's text, and may be anything.
        let owner = scope.user().filter(|_| !page.tokens.is_empty());
        self.report_read(actor, EventKind::TokensListed, owner, None);
        Ok(page)
    }

    /// What to call the state of `record` now.
    #[must_use]
    pub fn status(&self, record: &TokenRecord) -> TokenStatus {
        record.status(self.inner().lifetimes.policy(record.class), self.lookup.now())
    }

    /// How many of the actor's tokens are not revoked.
    ///
    /// # Errors
    /// [`TokenError::Store`].
    pub async fn count<'a>(&self, actor: impl Into<Actor<'a>>) -> Result<u64, TokenError> {
        let actor = actor.into();
        let count = self.within(self.ask(self.inner().store.count(actor.scope()))).await?;
        self.report_read(actor, EventKind::TokensListed, actor.scope().user(), None);
        Ok(count)
    }

    /// Changes a token.
    ///
    /// # Errors
    /// [`TokenError::NotFound`], [`TokenError::Invalid`], [`TokenError::BeyondOwnRights`] when the token
    /// has or would have more rights than the presented credential, [`TokenError::Conflict`] or
    /// [`TokenError::Store`].
    pub async fn update<'a>(
        &self,
        actor: impl Into<Actor<'a>>,
        id: TokenId,
        update: TokenUpdate,
    ) -> Result<TokenRecord, TokenError> {
        let actor = actor.into();
        let kind = match update.enabled {
            Some(false) => EventKind::TokenDisabled,
            Some(true) if update.only_enables() => EventKind::TokenEnabled,
            _ => EventKind::TokenUpdated,
        };
        let report = self.report(actor, kind, Some(id));
        let result = self.within(async {
            let record = self.try_update(actor, id, &update).await?;
            self.as_it_works(record, &mut Ancestors::new()).await
        });
        let result = result.await;
        let owner = result.as_ref().ok().map(|record| &record.owner);
        report.done(result.as_ref().map_or_else(failure, |_| kind), owner, Some(id));
        result
    }

    /// Whether the store answers and can be written. It is asked once a second at most, whoever wants to
    /// know.
    ///
    /// # Errors
    /// [`TokenError::Store`].
    pub async fn health(&self) -> Result<(), TokenError> {
        let mut last = self.issuing.health.lock().await;
        let now = self.lookup.now();
        if let Some((at, verdict)) = &*last
            && *at <= now
            && now < at.saturating_add(Duration::from_secs(1))
        {
            return verdict.clone();
        }
        let verdict = self.within(self.ask(self.inner().store.health())).await;
        *last = Some((self.lookup.now(), verdict.clone()));
        verdict
    }

    /// Where this manager's events go, for authenticators that report to the same place.
    #[must_use]
    pub fn audit(&self) -> Audit {
        self.inner().audit.clone()
    }

    /// Writes what was counted of the use of keys and not written yet.
    ///
    /// # Errors
    /// [`TokenError::Store`]; what could not be written is kept.
    pub async fn flush(&self) -> Result<(), TokenError> {
        self.within(self.ask(self.inner().write_all_usage())).await
    }

    /// The background work, until `shutdown` is done: writes the use of keys once a second, follows what other
    /// processes change, and once an hour does what [`cleanup`](Self::cleanup) does. It writes once more at the
    /// end, so await it.
    ///
    /// ```no_run
    /// # async fn example(tokens: keyward::TokenManager) {
    /// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    /// let work = tokio::spawn(tokens.clone().run(async { drop(stopped.await) }));
    /// // serve …
    /// drop(stop);
    /// let _ = work.await;
    /// # }
    /// ```
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let inner = self.inner();
        let _attended = Attended::new(inner);
        let mut shutdown = pin!(shutdown);
        let writing = async {
            loop {
                tokio::select! {
                    () = &mut shutdown => return,
                    () = tokio::time::sleep(USAGE_INTERVAL) => {}
                }
                // A failure has raised its alert, and the uses wait for the next time.
                let _ = self.within(self.ask(inner.write_usage())).await;
                // What would go out of date before the next time is loaded now.
                let _ = inner.know_denials_at(self.lookup.now().saturating_add(USAGE_INTERVAL)).await;
            }
        };
        tokio::select! {
            () = writing => {}
            () = self.follow_changes() => {}
            () = self.keep_clean() => {}
            () = metrics::keep_published() => {}
        }
        self.send_claimed().await;
        let _ = self.flush().await;
    }

    /// Makes the cache forget what others changed, and loads again what is denied. Never returns.
    async fn follow_changes(&self) {
        let mut cursor = None;
        loop {
            match self.inner().store.changes(cursor).await {
                Ok(changes) => {
                    let first = cursor.replace(changes.cursor).is_none();
                    match changes.digests {
                        Some(digests) => digests.iter().for_each(|digest| self.inner().invalidate(digest)),
                        None => self.inner().invalidate_all(),
                    }
                    if changes.denials || first {
                        self.inner().denied.outdate();
                        // A failure has raised its alert, and it is tried again when it is needed.
                        let _ = self.inner().reload_denials().await;
                    }
                }
                Err(error) => {
                    let _ = self.inner().watch::<()>(Err(error));
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
            }
        }
    }

    /// Waits for an operation, but not for ever.
    async fn within<T>(
        &self,
        operation: impl Future<Output = Result<T, TokenError>>,
    ) -> Result<T, TokenError> {
        let done = tokio::time::timeout(STORE_TIMEOUT, operation).await;
        done.unwrap_or_else(|_| Err(TokenError::Store(self.inner().timed_out())))
    }

    /// Asks the store, and watches whether it answers.
    async fn ask<T>(&self, answer: impl Future<Output = Result<T, StoreError>>) -> Result<T, TokenError> {
        self.inner().watch(answer.await).map_err(|error| match error.kind() {
            StoreErrorKind::Conflict => TokenError::Conflict,
            StoreErrorKind::LimitReached => TokenError::LimitReached,
            StoreErrorKind::UserExists => TokenError::UserExists,
            StoreErrorKind::OwnerInactive => TokenError::OwnerInactive,
            _ => TokenError::Store(error),
        })
    }

    /// The report of an operation that begins now. It is sent even if the operation is given up.
    fn report<'a>(&'a self, actor: Actor<'a>, attempted: EventKind, token: Option<TokenId>) -> Report<'a> {
        Report { manager: self, actor, attempted, token, client_ip: actor.client_ip(), done: false }
    }

    fn report_read(&self, actor: Actor<'_>, kind: EventKind, owner: Option<&UserId>, token: Option<TokenId>) {
        self.report(actor, kind, token).done(kind, owner, token);
    }
}

/// Says that somebody runs the background work, for as long as they do.
struct Attended<'a>(&'a Inner);

impl<'a> Attended<'a> {
    fn new(inner: &'a Inner) -> Self {
        inner.usage.attended.store(true, Ordering::Relaxed);
        Self(inner)
    }
}

impl Drop for Attended<'_> {
    fn drop(&mut self) {
        self.0.usage.attended.store(false, Ordering::Relaxed);
    }
}
