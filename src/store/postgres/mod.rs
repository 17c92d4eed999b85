//! The store on a PostgreSQL server, which any number of processes share.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use self::{feed::Feed, session::Server};
use crate::{
    event::Event,
    id::{TokenId, UserId},
    principal::AdminProof,
    secret::TokenDigest,
    store::{
        AuditEntry, AuditQuery, AuditStore, ChainEnds, ChainHead, Change, ChangeCursor, Changes, Claimed,
        Denials, Ended, JwtRevocation, Owner, Page, Purge, Purged, Reach, Revoked, Room, Rotation,
        StoreError, StoreErrorKind, TokenStore, Usage, UserState, Warnings,
    },
    time::UnixTime,
    token::TokenRecord,
};

mod audit;
mod failure;
mod family;
mod feed;
mod link;
mod log;
mod options;
mod queries;
mod rows;
mod schema;
mod session;
mod upkeep;
mod usage;
mod users;
mod wall;

pub use options::PostgresOptions;

/// Keeps tokens in a PostgreSQL database, version 13 or newer, which any number of processes may share.
///
/// A change is committed when the call returns; whether that is on the disk, and on a standby's, is what the
/// server's `synchronous_commit` says. Connections are opened when they are needed and replaced when they are
/// dead, so nothing needs to be started anew after the server was. Each is a task in the Tokio runtime of the
/// call that opened it, which must live as long as the store. So is each call that takes rights away, which is done
/// also if its caller gives up; other changes are undone then.
///
/// Another process learns of a change at once, by a notification, or at the next
/// [interval](PostgresOptions::with_watch_interval) where notifications do not arrive. For them the store keeps
/// one connection beside its pool. Between the store and the server may be no pooler that gives each
/// transaction another connection (PgBouncer's `transaction` mode): session settings and prepared statements
/// do not survive it.
///
/// ```no_run
/// use keyward::{TokenManager, store::PostgresStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = PostgresStore::open("postgres://keyward:secret@db.example.com/keys").await?; // over TLS
/// let tokens = TokenManager::new(store);
/// # let _ = tokens;
/// # Ok(())
/// # }
/// ```
pub struct PostgresStore {
    server: Arc<Server>,
    feed: Feed,
}

impl PostgresStore {
    /// Connects with the default [options](PostgresOptions), and makes the tables if there are none.
    ///
    /// # Errors
    /// As [`PostgresOptions::new`], then with [`StoreErrorKind::Unavailable`], and [`PostgresOptions::open`].
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        let options = PostgresOptions::new(url);
        options.map_err(|error| StoreError::new(StoreErrorKind::Unavailable, error))?.open().await
    }
}

/// Where it is, without the password.
impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.server.fmt(f)
    }
}

/// Work in which `$session` calls `$work`, with clones of these values: it may be done more than once.
macro_rules! work {
    (|$session:ident $(, $value:ident)*| $work:expr) => {{
        $(let $value = $value.clone();)*
        session::work(move |$session| {
            $(let $value = $value.clone();)*
            Box::pin(async move { $work.await })
        })
    }};
}

#[async_trait]
impl TokenStore for PostgresStore {
    async fn insert(&self, record: &TokenRecord, limit: Option<u32>) -> Result<(), StoreError> {
        self.server.write(work!(|session, record| queries::insert(session, &record, limit))).await
    }

    async fn register(&self, record: &TokenRecord) -> Result<(), StoreError> {
        self.server.write(work!(|session, record| queries::register(session, &record))).await
    }

    async fn find(&self, digest: &TokenDigest) -> Result<Option<TokenRecord>, StoreError> {
        self.server.read(work!(|session, digest| queries::find(session, &digest))).await
    }

    async fn get(&self, owner: Owner<'_>, id: TokenId) -> Result<Option<TokenRecord>, StoreError> {
        let owner = owner.user().cloned();
        let work = work!(|session, owner| queries::get(session, owner.as_ref(), id));
        self.server.read_of(owner.as_ref(), work).await
    }

    async fn list(&self, owner: Owner<'_>, page: Page) -> Result<Vec<TokenRecord>, StoreError> {
        let owner = owner.user().cloned();
        let work = work!(|session, owner| queries::list(session, owner.as_ref(), page));
        self.server.read_of(owner.as_ref(), work).await
    }

    async fn count(&self, owner: Owner<'_>) -> Result<u64, StoreError> {
        let owner = owner.user().cloned();
        let work = work!(|session, owner| queries::count(session, owner.as_ref()));
        self.server.read_of(owner.as_ref(), work).await
    }

    async fn update(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        change: &Change,
    ) -> Result<Option<TokenRecord>, StoreError> {
        let owner = owner.user().cloned();
        let takes_away = change.revoked_at.is_some() || matches!(change.disabled_at, Some(Some(_)));
        let work = work!(|session, owner, change| queries::update(session, owner.as_ref(), id, &change));
        match takes_away {
            true => self.server.write_surely_of(owner, work).await,
            false => self.server.write_of(owner.as_ref(), work).await,
        }
    }

    async fn rotate(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        rotation: &Rotation,
    ) -> Result<Option<TokenRecord>, StoreError> {
        let owner = owner.user().cloned();
        let work = work!(|session, owner, rotation| queries::rotate(session, owner.as_ref(), id, &rotation));
        self.server.write_of(owner.as_ref(), work).await
    }

    async fn revoke_all(&self, owner: &UserId, at: UnixTime) -> Result<Vec<TokenDigest>, StoreError> {
        let work = work!(|session, owner| queries::revoke_all(session, &owner, at));
        self.server.write_surely_of(Some(owner.clone()), work).await
    }

    async fn revoke(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        at: UnixTime,
        reach: Reach,
    ) -> Result<Option<Revoked>, StoreError> {
        let owner = owner.user().cloned();
        let work = work!(|session, owner| family::revoke(session, owner.as_ref(), id, at, reach));
        self.server.write_surely_of(owner, work).await
    }

    async fn insert_making_room(&self, record: &TokenRecord, room: &Room) -> Result<Vec<Ended>, StoreError> {
        let work = work!(|session, record, room| family::insert_making_room(session, &record, &room));
        self.server.write(work).await
    }

    async fn record_usage(&self, batch: &[Usage]) -> Result<(), StoreError> {
        let batch: Arc<[Usage]> = Arc::from(batch);
        if batch.is_empty() {
            return Ok(());
        }
        let at_once = usage::is_one_statement(&batch);
        let work = work!(|session, batch| usage::record(session, &batch));
        if at_once { self.server.read(work).await } else { self.server.write(work).await }
    }

    async fn denials(&self, now: UnixTime) -> Result<Denials, StoreError> {
        self.server.read(work!(|session| users::denials(session, now))).await
    }

    async fn revoke_jwt(&self, revocation: &JwtRevocation, now: UnixTime) -> Result<(), StoreError> {
        let work = work!(|session, revocation| users::revoke_jwt(session, &revocation, now));
        self.server.write_surely(work).await
    }

    async fn revoke_jwts_of(&self, user: &UserId, at: UnixTime) -> Result<(), StoreError> {
        self.server.write_surely(work!(|session, user| users::revoke_jwts_of(session, &user, at))).await
    }

    async fn set_user_state(&self, state: &UserState) -> Result<(), StoreError> {
        let gives_back = state.is_active();
        let work = work!(|session, state| users::set_state(session, &state));
        if gives_back { self.server.write(work).await } else { self.server.write_surely(work).await }
    }

    async fn offboard(&self, user: &UserId, at: UnixTime) -> Result<Vec<TokenDigest>, StoreError> {
        let work = work!(|session, user| users::offboard(session, &user, at));
        self.server.write_surely_of(Some(user.clone()), work).await
    }

    async fn purge(&self, _: &AdminProof, purge: &Purge) -> Result<Purged, StoreError> {
        let look = self.server.read(work!(|session, purge| upkeep::look(session, &purge))).await?;
        let (ended, mut removed) = (Arc::new(look.ended), 0);
        if !ended.is_empty() {
            removed = self.server.write(work!(|session, ended| upkeep::remove(session, &ended))).await?;
        }
        Ok(Purged::new(look.looked_at, removed, look.next))
    }

    async fn claim_warnings(&self, _: &AdminProof, warnings: &Warnings) -> Result<Claimed, StoreError> {
        self.server.write(work!(|session, warnings| upkeep::claim_warnings(session, &warnings))).await
    }

    async fn health(&self) -> Result<(), StoreError> {
        self.server.read(work!(|session| queries::probe(session))).await
    }

    async fn changes(&self, since: Option<ChangeCursor>) -> Result<Changes, StoreError> {
        self.server.ready_in_time().await?;
        self.feed.after(&self.server.target, since).await.map_err(|failure| failure.error)
    }
}

#[async_trait]
impl AuditStore for PostgresStore {
    async fn append(&self, events: &[Event]) -> Result<ChainHead, StoreError> {
        let events: Arc<[Event]> = Arc::from(events);
        self.server.write_surely(work!(|session, events| audit::append(session, &events))).await
    }

    async fn entries_after(&self, number: u64, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        self.server.read(work!(|session| audit::entries_after(session, number, limit))).await
    }

    async fn search(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, StoreError> {
        self.server.read(work!(|session, query| audit::search(session, &query))).await
    }

    async fn chain_ends(&self) -> Result<ChainEnds, StoreError> {
        self.server.read(work!(|session| audit::chain_ends(session))).await
    }

    async fn delete_before(&self, before: UnixTime, limit: u32) -> Result<u64, StoreError> {
        self.server.write(work!(|session| audit::delete_before(session, before, limit))).await
    }
}
