//! The embedded store: one SQLite file.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;

use self::{
    link::Target,
    worker::{Crew, Role, SharedFile},
};
use crate::{
    event::Event,
    id::{TokenId, UserId},
    principal::AdminProof,
    secret::TokenDigest,
    store::{
        AuditEntry, AuditQuery, AuditStore, ChainEnds, ChainHead, Change, ChangeCursor, Changes, Claimed,
        Denials, Ended, JwtRevocation, Owner, Page, Purge, Purged, Reach, Revoked, Room, Rotation,
        StoreError, StoreErrorKind, TokenStore, Usage, UserState, Warnings,
        transfer::{Exported, Imported, Item, Position, Section},
    },
    time::UnixTime,
    token::TokenRecord,
};

mod audit;
mod contents;
mod failure;
mod family;
mod link;
mod queries;
mod queue;
mod rows;
mod schema;
#[cfg(test)]
mod tests;
mod upkeep;
mod users;
mod worker;

/// How many bits of a cursor number the change; those above number the file.
const SEQUENCE_BITS: u32 = 48;

/// Keeps tokens in an SQLite file on a local disk, which several processes may share.
///
/// A change is on the disk when the call returns; of what [`record_usage`](TokenStore::record_usage)
/// adds, a power failure may take the last seconds. The file is made with access for its user only. A
/// file that is deleted, replaced, damaged or locked makes calls fail, and is used again once it is in
/// order; a deleted file is never made anew while the store is open. All threads are named
/// `keyward-sqlite-…` and end when the store is dropped.
///
/// To restore a backup, stop all processes, remove the files that end in `-wal` and `-shm`, and put the
/// backup into place. Never copy over the file, or out of it, while a process has it open; `VACUUM INTO`
/// of the `sqlite3` tool makes a copy at any time.
///
/// ```
/// use keyward::store::{SqliteStore, TokenStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// let store = SqliteStore::open(directory.path().join("tokens.db")).await?;
/// store.health().await?;
/// # Ok(())
/// # }
/// ```
pub struct SqliteStore {
    file: Arc<SharedFile>,
    writer: Crew,
    readers: Crew,
    watcher: Crew,
    upkeep: Crew,
    watch_interval: Duration,
}

impl SqliteStore {
    /// Opens the file at `path` with the default [options](SqliteOptions), and makes it if there is none.
    ///
    /// # Errors
    /// As [`SqliteOptions::open`].
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        SqliteOptions::new(path).open().await
    }
}

/// How to open a [`SqliteStore`].
///
/// ```
/// use std::time::Duration;
/// use keyward::store::SqliteOptions;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("tokens.db");
/// let store = SqliteOptions::new(path).with_readers(4).with_busy_timeout(Duration::from_secs(1)).open().await?;
/// # drop(store);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    path: PathBuf,
    readers: usize,
    busy_timeout: Duration,
    check_on_open: bool,
    watch_interval: Duration,
}

impl SqliteOptions {
    /// The default options for the file at `path`. Its directory must exist.
    #[must_use]
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            readers: 2,
            busy_timeout: Duration::from_secs(2),
            check_on_open: true,
            watch_interval: Duration::from_millis(200),
        }
    }

    /// How many threads read, each with a connection of its own: 1 to 64, 2 by default.
    #[must_use]
    pub fn with_readers(mut self, readers: usize) -> Self {
        self.readers = readers.clamp(1, 64);
        self
    }

    /// How long a call waits while another process holds the lock: 2 seconds by default.
    #[must_use]
    pub fn with_busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// Whether the whole file is checked for damage when it is opened, which takes about a second for
    /// each gigabyte: on by default.
    #[must_use]
    pub fn with_check_on_open(mut self, check: bool) -> Self {
        self.check_on_open = check;
        self
    }

    /// How often [`changes`](TokenStore::changes) looks for what other processes wrote: every 200
    /// milliseconds by default.
    #[must_use]
    pub fn with_watch_interval(mut self, interval: Duration) -> Self {
        self.watch_interval = interval;
        self
    }

    /// Opens the file, makes it if there is none, and brings its tables to the current version.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unavailable`] when the file cannot be opened or written, is locked, or is open
    /// to every user of the machine; [`StoreErrorKind::Corrupt`] when it is damaged or no database;
    /// [`StoreErrorKind::Incompatible`] when it belongs to another application or a newer keyward, or
    /// SQLite is older than 3.51.3.
    pub async fn open(self) -> Result<SqliteStore, StoreError> {
        let store = self.open_late()?;
        store.writer.call(|_| Ok(())).await?;
        Ok(store)
    }

    /// A store whose file is opened by the first call that needs it, for a service that must start without its
    /// store: with an [`EmergencyAuth`](crate::auth::EmergencyAuth), say. Calls fail as [`open`](Self::open)
    /// would until the file is in order, which is tried four times a second at most; nothing needs to be started
    /// anew then.
    ///
    /// ```
    /// use keyward::{TokenManager, store::SqliteOptions};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tokens = TokenManager::new(SqliteOptions::new("/not/mounted/yet/keys.db").open_late()?);
    /// assert!(tokens.health().await.is_err()); // and fine from when it is mounted
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StoreErrorKind::Unavailable`] when the path can be none, or no thread could be started.
    pub fn open_late(self) -> Result<SqliteStore, StoreError> {
        let path = std::path::absolute(&self.path).map_err(|error| {
            let sentence = format!("the database path {} cannot be used: {error}", self.path.display());
            StoreError::new(StoreErrorKind::Unavailable, sentence)
        })?;
        let target = Target { path, busy_timeout: self.busy_timeout };
        let file = Arc::new(SharedFile::new(target, self.check_on_open));
        let writer = Crew::start(Role::Writer, 1, &file)?;
        let readers = Crew::start(Role::Reader, self.readers, &file)?;
        let watcher = Crew::start(Role::Watcher, 1, &file)?;
        let upkeep = Crew::start(Role::Upkeep, 1, &file)?;
        Ok(SqliteStore { file, writer, readers, watcher, upkeep, watch_interval: self.watch_interval })
    }
}

#[async_trait]
impl TokenStore for SqliteStore {
    async fn insert(&self, record: &TokenRecord, limit: Option<u32>) -> Result<(), StoreError> {
        let record = record.clone();
        self.writer.call(move |connection| queries::insert(connection, &record, limit)).await
    }

    async fn register(&self, record: &TokenRecord) -> Result<(), StoreError> {
        let record = record.clone();
        self.writer.call(move |connection| queries::register(connection, &record)).await
    }

    async fn find(&self, digest: &TokenDigest) -> Result<Option<TokenRecord>, StoreError> {
        let digest = *digest;
        self.readers.call(move |connection| queries::find(connection, &digest)).await
    }

    async fn get(&self, owner: Owner<'_>, id: TokenId) -> Result<Option<TokenRecord>, StoreError> {
        let owner = owner.user().cloned();
        self.readers.call(move |connection| queries::get(connection, owner.as_ref(), id)).await
    }

    async fn list(&self, owner: Owner<'_>, page: Page) -> Result<Vec<TokenRecord>, StoreError> {
        let owner = owner.user().cloned();
        self.readers.call(move |connection| queries::list(connection, owner.as_ref(), page)).await
    }

    async fn count(&self, owner: Owner<'_>) -> Result<u64, StoreError> {
        let owner = owner.user().cloned();
        self.readers.call(move |connection| queries::count(connection, owner.as_ref())).await
    }

    async fn update(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        change: &Change,
    ) -> Result<Option<TokenRecord>, StoreError> {
        let (owner, change) = (owner.user().cloned(), change.clone());
        let takes_away = change.revoked_at.is_some() || matches!(change.disabled_at, Some(Some(_)));
        let work = move |connection: &mut _| queries::update(connection, owner.as_ref(), id, &change);
        if takes_away { self.writer.call_surely(work).await } else { self.writer.call(work).await }
    }

    async fn rotate(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        rotation: &Rotation,
    ) -> Result<Option<TokenRecord>, StoreError> {
        let (owner, rotation) = (owner.user().cloned(), rotation.clone());
        self.writer.call(move |connection| queries::rotate(connection, owner.as_ref(), id, &rotation)).await
    }

    async fn revoke_all(&self, owner: &UserId, at: UnixTime) -> Result<Vec<TokenDigest>, StoreError> {
        let owner = owner.clone();
        self.writer.call_surely(move |connection| queries::revoke_all(connection, &owner, at)).await
    }

    async fn revoke(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        at: UnixTime,
        reach: Reach,
    ) -> Result<Option<Revoked>, StoreError> {
        let owner = owner.user().cloned();
        let work = move |connection: &mut _| family::revoke(connection, owner.as_ref(), id, at, reach);
        self.writer.call_surely(work).await
    }

    async fn insert_making_room(&self, record: &TokenRecord, room: &Room) -> Result<Vec<Ended>, StoreError> {
        let (record, room) = (record.clone(), room.clone());
        let work = move |connection: &mut _| family::insert_making_room(connection, &record, &room);
        self.writer.call(work).await
    }

    async fn record_usage(&self, batch: &[Usage]) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        let batch = batch.to_vec();
        self.writer.call(move |connection| queries::record_usage(connection, &batch)).await
    }

    async fn denials(&self, now: UnixTime) -> Result<Denials, StoreError> {
        self.readers.call(move |connection| users::denials(connection, now)).await
    }

    async fn revoke_jwt(&self, revocation: &JwtRevocation, now: UnixTime) -> Result<(), StoreError> {
        let revocation = *revocation;
        self.writer.call_surely(move |connection| users::revoke_jwt(connection, &revocation, now)).await
    }

    async fn revoke_jwts_of(&self, user: &UserId, at: UnixTime) -> Result<(), StoreError> {
        let user = user.clone();
        self.writer.call_surely(move |connection| users::revoke_jwts_of(connection, &user, at)).await
    }

    async fn set_user_state(&self, state: &UserState) -> Result<(), StoreError> {
        let state = state.clone();
        let gives_back = state.is_active();
        let work = move |connection: &mut _| users::set_state(connection, &state);
        if gives_back { self.writer.call(work).await } else { self.writer.call_surely(work).await }
    }

    async fn offboard(&self, user: &UserId, at: UnixTime) -> Result<Vec<TokenDigest>, StoreError> {
        let user = user.clone();
        self.writer.call_surely(move |connection| users::offboard(connection, &user, at)).await
    }

    async fn purge(&self, _: &AdminProof, purge: &Purge) -> Result<Purged, StoreError> {
        let purge = purge.clone();
        // What takes long is done beside the threads that others wait for.
        let look = self.upkeep.call(move |connection| upkeep::look(connection, &purge)).await?;
        let (ended, mut removed) = (look.ended, 0);
        if !ended.is_empty() {
            removed = self.writer.call(move |connection| upkeep::remove(connection, &ended)).await?;
            self.upkeep.call(|connection| upkeep::save_log(connection)).await?;
        }
        Ok(Purged::new(look.looked_at, removed, look.next))
    }

    async fn claim_warnings(&self, _: &AdminProof, warnings: &Warnings) -> Result<Claimed, StoreError> {
        let warnings = warnings.clone();
        self.writer.call(move |connection| upkeep::claim_warnings(connection, &warnings)).await
    }

    async fn export(
        &self,
        _: &AdminProof,
        section: Section,
        after: Option<&Position>,
        limit: u32,
    ) -> Result<Exported, StoreError> {
        let after = after.map(|position| position.as_bytes().to_vec());
        let work = move |connection: &mut _| contents::export(connection, section, after.as_deref(), limit);
        self.upkeep.call(work).await
    }

    async fn import(&self, _: &AdminProof, items: &[Item]) -> Result<Vec<Imported>, StoreError> {
        let items = items.to_vec();
        self.writer.call(move |connection| contents::import(connection, &items)).await
    }

    async fn health(&self) -> Result<(), StoreError> {
        self.readers.call(|connection| queries::data_version(connection)).await?;
        self.writer.call(queries::probe).await
    }

    async fn changes(&self, since: Option<ChangeCursor>) -> Result<Changes, StoreError> {
        let mut seen = None;
        loop {
            let (version, changes) = self.look_for_changes(since, seen).await?;
            if let Some(changes) = changes {
                return Ok(changes);
            }
            seen = Some(version);
            tokio::time::sleep(self.watch_interval).await;
        }
    }
}

#[async_trait]
impl AuditStore for SqliteStore {
    async fn append(&self, events: &[Event]) -> Result<ChainHead, StoreError> {
        let events = events.to_vec();
        self.writer.call_surely(move |connection| audit::append(connection, &events)).await
    }

    async fn entries_after(&self, number: u64, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        self.readers.call(move |connection| audit::entries_after(connection, number, limit)).await
    }

    async fn search(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, StoreError> {
        let query = query.clone();
        self.readers.call(move |connection| audit::search(connection, &query)).await
    }

    async fn chain_ends(&self) -> Result<ChainEnds, StoreError> {
        self.readers.call(|connection| audit::chain_ends(connection)).await
    }

    async fn delete_before(&self, before: UnixTime, limit: u32) -> Result<u64, StoreError> {
        self.writer.call(move |connection| audit::delete_before(connection, before, limit)).await
    }

    async fn append_entries(&self, after: &ChainHead, entries: &[AuditEntry]) -> Result<(), StoreError> {
        let (after, entries) = (*after, entries.to_vec());
        self.writer.call(move |connection| audit::append_entries(connection, &after, &entries)).await
    }
}

impl SqliteStore {
    /// The state of the file, and what changed unless it is still in the state `seen`. All on one
    /// connection, since the version means nothing to another.
    async fn look_for_changes(
        &self,
        since: Option<ChangeCursor>,
        seen: Option<(u64, i64)>,
    ) -> Result<((u64, i64), Option<Changes>), StoreError> {
        let work = move |link: &mut link::Link| {
            let state = (link.number, queries::data_version(&link.connection)?);
            if seen == Some(state) {
                return Ok((state, None));
            }
            let epoch = link.epoch;
            let same_file = since.is_none_or(|cursor| cursor.0 >> SEQUENCE_BITS == epoch);
            let sequence = since.map(|cursor| cursor.0 & ((1 << SEQUENCE_BITS) - 1));
            let tail = queries::log_after(&link.connection, sequence)?;
            let cursor = ChangeCursor((epoch << SEQUENCE_BITS) | tail.newest);
            let changes = match tail.digests.filter(|_| same_file) {
                None => Some(Changes::unknown(cursor)),
                Some(digests) if digests.is_empty() && !tail.denials && since.is_some() => None,
                Some(digests) => Some(Changes { denials: tail.denials, ..Changes::of(cursor, digests) }),
            };
            Ok((state, changes))
        };
        self.watcher.call_link(work).await
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.file.target.path).finish_non_exhaustive()
    }
}
