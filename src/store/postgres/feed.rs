//! What others changed: the change log, read whenever a notification comes and at intervals.

use std::{
    collections::{HashMap, VecDeque},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Mutex, Notify},
    task::JoinHandle,
};
use tokio_postgres::{Client, Row, Statement};

use super::{
    failure::Failure,
    link::Target,
    log::{DENIALS_CHANGED, KEPT, channel},
    rows::get,
};
use crate::{
    secret::TokenDigest,
    store::{ChangeCursor, Changes, StoreErrorKind},
};

/// How many changes are remembered for those who ask later, and how many are read at once.
const LENGTH: usize = 10_000;

/// All changes of transactions that may have been open at the last look, but those that were seen. In the order
/// of their numbers some might be missed: a transaction can end after a later one. The first look, at 0, finds what is
/// not to be taken for news by the second. Not by the index of the times: that would be all changes of ten minutes.
pub(super) const NEWS: &str = "
    WITH head AS (
        SELECT pg_snapshot_xmin(pg_current_snapshot())::text::int8 AS horizon,
               (extract(epoch FROM clock_timestamp()) * 1000)::int8 AS now,
               (extract(epoch FROM pg_postmaster_start_time()) * 1000)::int8 AS born
    )
    SELECT head.horizon, head.now, head.born, c.n, c.transaction, c.at, c.digest
    FROM head LEFT JOIN changes AS c
        ON c.transaction >= CASE WHEN $1::int8 = 0 THEN head.horizon ELSE $1 END AND c.at + 0 >= head.now - $2
        AND NOT EXISTS (SELECT FROM unnest($3::int8[]) AS seen WHERE seen = c.n)
    LIMIT $4";

/// Follows the change log, for all who wait for changes.
#[derive(Debug, Default)]
pub(super) struct Feed {
    followed: Mutex<Followed>,
    woken: Arc<Notify>,
}

impl Feed {
    /// What changed since, once something did.
    pub(super) async fn after(
        &self,
        target: &Target,
        since: Option<ChangeCursor>,
    ) -> Result<Changes, Failure> {
        loop {
            let mut woken = pin!(self.woken.notified());
            woken.as_mut().enable();
            {
                let mut followed = self.followed.lock().await;
                followed.look(target, &self.woken).await?;
                if let Some(changes) = followed.log.after(since) {
                    return Ok(changes);
                }
            }
            // Whether or not there are notifications: they may be lost on the way.
            let _ = tokio::time::timeout(target.watch_interval, woken).await;
        }
    }
}

#[derive(Debug, Default)]
struct Followed {
    listener: Option<Listener>,
    position: Position,
    log: Log,
}

impl Followed {
    async fn look(&mut self, target: &Target, woken: &Arc<Notify>) -> Result<(), Failure> {
        if let Some(listener) = &self.listener {
            match limited(target.timeout, listener.news(&self.position)).await {
                Ok(rows) => return self.take(&rows),
                // It may be the connection alone.
                Err(_) => self.listener = None,
            }
        }
        let listener = limited(target.timeout, Listener::connect(target, woken)).await?;
        let rows = limited(target.timeout, listener.news(&self.position)).await?;
        self.listener = Some(listener);
        self.take(&rows)
    }

    fn take(&mut self, rows: &[Row]) -> Result<(), Failure> {
        let Some(head) = rows.first() else { return Ok(()) };
        let (horizon, now, born) = (get(head, 0)?, get(head, 1)?, get(head, 2)?);
        let is_first = self.position.horizon == 0;
        let continues = self.position.continues_at(horizon, now, born) && rows.len() < LENGTH;
        for row in rows {
            let Some(n) = get::<Option<i64>>(row, 3)? else { continue };
            self.position.seen.insert(n, (get(row, 4)?, get(row, 5)?));
            if is_first {
                continue;
            }
            let digest = <[u8; 32]>::try_from(get::<&[u8]>(row, 6)?).ok();
            match digest.filter(|_| continues) {
                Some(digest) => self.log.add(digest),
                None => self.log.forget(),
            }
        }
        if !continues {
            self.log.forget();
        }
        self.position.move_to(horizon, now, born);
        Ok(())
    }
}

/// How far the log was read.
#[derive(Debug, Default)]
struct Position {
    /// Every transaction with a smaller number had ended; 0 before the first look.
    horizon: i64,
    /// When that was, by the server's clock.
    at: i64,
    /// When the server was started.
    born: i64,
    /// The changes that were seen though they are not of such a transaction: their numbers, those of their
    /// transactions, and their times.
    seen: HashMap<i64, (i64, i64)>,
}

impl Position {
    /// Whether nothing can be missing: it is the same server, which forgot no change meanwhile.
    fn continues_at(&self, horizon: i64, now: i64, born: i64) -> bool {
        let soon = now.checked_sub(self.at).is_some_and(|passed| (0..KEPT / 2).contains(&passed));
        self.horizon == 0 || (horizon >= self.horizon && born == self.born && soon)
    }

    fn move_to(&mut self, horizon: i64, now: i64, born: i64) {
        self.seen.retain(|_, (transaction, at)| *transaction >= horizon && *at >= now.saturating_sub(KEPT));
        (self.horizon, self.at, self.born) = (horizon, now, born);
    }
}

/// The changes in the order in which they were found here.
#[derive(Debug, Default)]
struct Log {
    newest: u64,
    changes: VecDeque<[u8; 32]>,
}

impl Log {
    fn add(&mut self, digest: [u8; 32]) {
        self.newest += 1;
        self.changes.push_back(digest);
        if self.changes.len() > LENGTH {
            self.changes.pop_front();
        }
    }

    /// Makes everybody expect that anything has changed.
    fn forget(&mut self) {
        self.newest += 1;
        self.changes.clear();
    }

    fn after(&self, since: Option<ChangeCursor>) -> Option<Changes> {
        let cursor = ChangeCursor(self.newest);
        let Some(since) = since else { return Some(Changes::of(cursor, Vec::new())) };
        let known = self.newest.checked_sub(since.0).and_then(|count| usize::try_from(count).ok());
        let Some(count) = known.filter(|count| *count <= self.changes.len()) else {
            return Some(Changes::unknown(cursor));
        };
        if count == 0 {
            return None;
        }
        let news: Vec<_> = self.changes.iter().skip(self.changes.len() - count).copied().collect();
        let denials = news.contains(&DENIALS_CHANGED);
        let tokens = news.into_iter().filter(|digest| *digest != DENIALS_CHANGED);
        let changes = Changes::of(cursor, tokens.map(TokenDigest::from_bytes).collect());
        Some(Changes { denials, ..changes })
    }
}

/// A connection of its own, so that no other call keeps this one waiting.
#[derive(Debug)]
struct Listener {
    client: Client,
    news: Statement,
    task: JoinHandle<()>,
}

impl Listener {
    async fn connect(target: &Target, woken: &Arc<Notify>) -> Result<Self, Failure> {
        let woken = Arc::clone(woken);
        let connecting = target.connector.listen(&target.config, move || woken.notify_waiters());
        let (client, task) = connecting.await?;
        client.batch_execute(&target.settings()).await?;
        // Refused where connections are shared, and then there are the intervals.
        let _ = client.batch_execute(&format!("LISTEN \"{}\"", channel(&target.schema))).await;
        let news = client.prepare(NEWS).await?;
        Ok(Self { client, news, task })
    }

    async fn news(&self, position: &Position) -> Result<Vec<Row>, Failure> {
        let seen: Vec<i64> = position.seen.keys().copied().collect();
        Ok(self.client.query(&self.news, &[&position.horizon, &KEPT, &seen, &(LENGTH as i64)]).await?)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn limited<T>(limit: Duration, future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = || Failure::new(StoreErrorKind::Unavailable, "PostgreSQL did not answer in time");
    tokio::time::timeout(limit, future).await.unwrap_or_else(|_| Err(late()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(log: &Log, since: u64) -> Option<Option<usize>> {
        let changes = log.after(Some(ChangeCursor(since)))?;
        Some(changes.digests.map(|digests| digests.len()))
    }

    #[test]
    fn what_is_not_remembered_may_be_anything() {
        let mut log = Log::default();
        assert_eq!(count(&log, 0), None);
        (0..LENGTH + 5).for_each(|_| log.add([1; 32]));
        let newest = log.newest;
        assert_eq!(count(&log, newest), None, "nothing new");
        assert_eq!(count(&log, newest - 3), Some(Some(3)));
        assert_eq!(count(&log, 5), Some(Some(LENGTH)));
        assert_eq!(count(&log, 4), Some(None), "longer ago than it goes back");
        assert_eq!(count(&log, newest + 1), Some(None), "of another process");
        log.forget();
        assert_eq!(count(&log, newest), Some(None));
        assert_eq!(count(&log, log.newest), None);
        log.add(DENIALS_CHANGED);
        let changes = log.after(Some(ChangeCursor(log.newest - 1))).unwrap();
        assert!(changes.denials && changes.digests.is_some_and(|digests| digests.is_empty()));
    }

    #[test]
    fn a_look_continues_the_one_before_on_the_same_server_soon_after_it() {
        let mut position = Position::default();
        assert!(position.continues_at(100, 1_000, 7), "the first");
        position.move_to(100, 1_000, 7);
        for (name, horizon, now, born, continues) in [
            ("at once", 100, 1_000, 7, true),
            ("later", 200, 1_000 + KEPT / 2 - 1, 7, true),
            ("too late", 200, 1_000 + KEPT / 2, 7, false),
            ("a clock set back", 200, 999, 7, false),
            ("a server started anew", 200, 1_001, 8, false),
            ("an older state of the database", 99, 1_001, 7, false),
        ] {
            assert_eq!(position.continues_at(horizon, now, born), continues, "{name}");
        }
        position.seen.extend([(1, (100, 1_000)), (2, (150, 1_000)), (3, (250, 1_000))]);
        position.move_to(150, 1_500, 7);
        assert_eq!(position.seen.len(), 2, "those of transactions that may still be open");
        position.move_to(150, 1_001 + KEPT, 7);
        assert!(position.seen.is_empty(), "those that are not in the log any more");
    }
}
