//! Connections, and how work is done on one of them.

use std::{
    fmt, mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;
use tokio_postgres::{Row, types::ToSql};

use super::{failure::Failure, link::Target, schema, wall};
use crate::{
    id::UserId,
    store::{StoreError, StoreErrorKind},
};

/// How often work is begun anew that was broken off before it changed anything.
const ATTEMPTS: usize = 3;

/// How long bringing the tables up to date may take when the store is opened.
const MIGRATION_LIMIT: Duration = Duration::from_secs(600);

pub(super) type Work<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;
pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Takes a closure for work on any session, which the compiler does not find out by itself.
pub(super) fn work<T, W>(work: W) -> W
where
    W: for<'a> Fn(&'a Session) -> Work<'a, T> + Send + Sync,
{
    work
}

/// The database, as all calls share it.
pub(super) struct Server {
    pub(super) target: Target,
    pool: Pool,
    /// Whether the tables were found or made.
    ready: OnceCell<()>,
    /// Counts entries of the change log.
    logged: Arc<AtomicU32>,
}

impl Server {
    pub(super) fn new(mut target: Target) -> Result<Self, StoreError> {
        if target.config.get_connect_timeout().is_none() {
            // One host of several that does not answer leaves time for the others.
            let hosts = target.config.get_hosts().len().max(target.config.get_hostaddrs().len()).max(1);
            target.config.connect_timeout(target.timeout / 2 / u32::try_from(hosts).unwrap_or(u32::MAX));
        }
        let settings = target.settings();
        let manager = Manager::from_connect(
            target.config.clone(),
            target.connector.clone(),
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let pool = Pool::builder(manager)
            .max_size(target.connections)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(target.timeout / 2))
            .create_timeout(Some(target.timeout / 2))
            .recycle_timeout(Some(target.timeout / 2))
            .post_create(Hook::async_fn(move |client, _| {
                let settings = settings.clone();
                Box::pin(async move { client.batch_execute(&settings).await.map_err(HookError::Backend) })
            }))
            .build()
            .map_err(|error| StoreError::new(StoreErrorKind::Unavailable, error))?;
        // The first entry of each process tidies up: many may write only a few.
        let logged = Arc::new(AtomicU32::new(0));
        Ok(Self { target, pool, ready: OnceCell::new(), logged })
    }

    /// Connects, and brings the tables up to date.
    pub(super) async fn open(&self) -> Result<(), StoreError> {
        let opened = tokio::time::timeout(MIGRATION_LIMIT, self.ready());
        opened.await.unwrap_or_else(|_| Err(too_slow())).map_err(|failure| failure.error)
    }

    /// The same within the time that a call has, and at once from then on.
    pub(super) async fn ready_in_time(&self) -> Result<(), StoreError> {
        let ready = tokio::time::timeout(self.target.timeout, self.ready()).await;
        ready.unwrap_or_else(|_| Err(too_slow())).map_err(|failure| failure.error)
    }

    async fn ready(&self) -> Result<(), Failure> {
        let migrate = || async {
            let mut session = self.session().await?;
            let mut done = schema::migrate(&session, &self.target.schema).await;
            if done.is_ok() && self.target.row_security {
                done = wall::raise(&session).await;
            }
            if done.is_ok() {
                session.keep();
            }
            done
        };
        self.ready.get_or_try_init(migrate).await.copied()
    }

    async fn session(&self) -> Result<Session, Failure> {
        let client = self.pool.get().await?;
        let (schema, logged) = (self.target.schema.clone(), Arc::clone(&self.logged));
        Ok(Session { client: Some(client), schema, logged, reusable: false })
    }

    /// Has `work` done on a connection. What it does beyond one statement may be seen in parts.
    pub(super) async fn read<T>(
        &self,
        work: impl for<'a> Fn(&'a Session) -> Work<'a, T> + Send + Sync,
    ) -> Result<T, StoreError> {
        self.attempt(|mut session| {
            let work = &work;
            async move {
                let done = work(&session).await;
                if !done.as_ref().is_err_and(|failure: &Failure| failure.retry) {
                    session.keep();
                }
                done
            }
        })
        .await
    }

    /// Like [`read`](Self::read), for one user or for all. With row-level security, for nobody else's.
    pub(super) async fn read_of<T>(
        &self,
        owner: Option<&UserId>,
        work: impl for<'a> Fn(&'a Session) -> Work<'a, T> + Send + Sync,
    ) -> Result<T, StoreError> {
        match owner.filter(|_| self.target.row_security) {
            Some(_) => self.write_of(owner, work).await,
            None => self.read(work).await,
        }
    }

    /// Has `work` done in a transaction. It is begun anew when the connection turns out to be dead, or when
    /// others were in its way, but not once it may have been committed. If the caller gives up it is undone: nobody
    /// would learn the key of a token that is stored then.
    pub(super) async fn write<T>(
        &self,
        work: impl for<'a> Fn(&'a Session) -> Work<'a, T> + Send + Sync,
    ) -> Result<T, StoreError> {
        self.write_of(None, work).await
    }

    /// The same for one user or for all. With row-level security, with nobody else's.
    pub(super) async fn write_of<T>(
        &self,
        owner: Option<&UserId>,
        work: impl for<'a> Fn(&'a Session) -> Work<'a, T> + Send + Sync,
    ) -> Result<T, StoreError> {
        let scope = owner.filter(|_| self.target.row_security);
        self.attempt(|session| session.transact(scope, &work)).await
    }

    /// Like [`write`](Self::write), also if the caller gives up: what takes rights away is done.
    pub(super) async fn write_surely<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl for<'a> Fn(&'a Session) -> Work<'a, T> + Send + Sync + 'static,
    ) -> Result<T, StoreError> {
        self.write_surely_of(None, work).await
    }

    /// The same as [`write_of`](Self::write_of).
    pub(super) async fn write_surely_of<T: Send + 'static>(
        self: &Arc<Self>,
        owner: Option<UserId>,
        work: impl for<'a> Fn(&'a Session) -> Work<'a, T> + Send + Sync + 'static,
    ) -> Result<T, StoreError> {
        let server = Arc::clone(self);
        let done = tokio::spawn(async move { server.write_of(owner.as_ref(), work).await });
        done.await.unwrap_or_else(|_| {
            Err(StoreError::new(StoreErrorKind::Unavailable, "an internal error ended the call"))
        })
    }

    async fn attempt<T, F>(&self, once: impl Fn(Session) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let attempts = async {
            self.ready().await?;
            let mut left = ATTEMPTS;
            loop {
                left -= 1;
                match once(self.session().await?).await {
                    Err(failure) if failure.retry && left > 0 => {}
                    done => return done,
                }
            }
        };
        let done = tokio::time::timeout(self.target.timeout, attempts).await;
        done.unwrap_or_else(|_| Err(too_slow())).map_err(|failure| failure.error)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.target.fmt(f)
    }
}

/// A connection that is in use.
pub(super) struct Session {
    client: Option<Object>,
    pub(super) schema: Arc<str>,
    logged: Arc<AtomicU32>,
    /// Whether nothing is left on it of what it was used for.
    reusable: bool,
}

impl Session {
    pub(super) async fn query(&self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, Failure> {
        let client = self.client()?;
        let statement = client.prepare_cached(sql).await?;
        Ok(client.query(&statement, params).await?)
    }

    pub(super) async fn maybe(&self, sql: &str, params: Params<'_>) -> Result<Option<Row>, Failure> {
        Ok(self.query(sql, params).await?.into_iter().next())
    }

    pub(super) async fn one(&self, sql: &str, params: Params<'_>) -> Result<Row, Failure> {
        let row = self.maybe(sql, params).await?;
        row.ok_or_else(|| {
            Failure::new(StoreErrorKind::Corrupt, "a row of keyward's is missing; restore a backup")
        })
    }

    pub(super) async fn execute(&self, sql: &str, params: Params<'_>) -> Result<u64, Failure> {
        let client = self.client()?;
        let statement = client.prepare_cached(sql).await?;
        Ok(client.execute(&statement, params).await?)
    }

    pub(super) async fn batch(&self, sql: &str) -> Result<(), Failure> {
        Ok(self.client()?.batch_execute(sql).await?)
    }

    /// Waits until no other transaction holds the lock of this name, and holds it until the end of this one. What
    /// is read after that is what the others left.
    pub(super) async fn lock(&self, kind: &str, name: &str) -> Result<(), Failure> {
        let key = lock_key(&self.schema, kind, name);
        self.query("SELECT pg_advisory_xact_lock($1)", &[&key]).await.map(drop)
    }

    /// Whether it is this entry's turn to delete old ones from the change log.
    pub(super) fn tidies(&self, every: u32) -> bool {
        self.logged.fetch_add(1, Ordering::Relaxed).is_multiple_of(every)
    }

    async fn transact<T>(
        mut self,
        scope: Option<&UserId>,
        work: impl for<'a> Fn(&'a Self) -> Work<'a, T>,
    ) -> Result<T, Failure> {
        self.batch("BEGIN").await?;
        let narrowed = match scope {
            Some(user) => wall::narrow(&self, user).await,
            None => Ok(()),
        };
        let done = match narrowed {
            Ok(()) => work(&self).await,
            Err(failure) => Err(failure),
        };
        let ended = self.batch(if done.is_ok() { "COMMIT" } else { "ROLLBACK" }).await;
        if ended.is_ok() {
            self.keep();
        }
        match (done, ended) {
            (Ok(_), Err(failure)) => Err(failure.for_good()),
            (done, _) => done,
        }
    }

    fn client(&self) -> Result<&Object, Failure> {
        self.client
            .as_ref()
            .ok_or_else(|| Failure::new(StoreErrorKind::Unavailable, "the connection is gone"))
    }

    /// Lets the connection be used again.
    fn keep(&mut self) {
        self.reusable = true;
    }
}

/// A connection on which something may still go on is closed.
impl Drop for Session {
    fn drop(&mut self) {
        let client = mem::take(&mut self.client);
        if !self.reusable {
            client.map(Object::take);
        }
    }
}

/// The number of an advisory lock; the application may use others.
fn lock_key(schema: &str, kind: &str, name: &str) -> i64 {
    let mut hash = Sha256::new_with_prefix("keyward");
    for text in [schema, kind, name] {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(hash.finalize());
    i64::from_le_bytes([a, b, c, d, e, f, g, h])
}

fn too_slow() -> Failure {
    Failure::new(StoreErrorKind::Unavailable, "PostgreSQL did not answer in time")
}
