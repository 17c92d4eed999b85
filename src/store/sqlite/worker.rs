//! The threads that own the connections.

use std::{
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{
    failure::Failure,
    link::{FileId, Link, Target},
    queue::Queue,
};
use crate::store::{StoreError, StoreErrorKind};

/// How long after a failure it is not tried again to open the file for the first time.
const FIRST_RETRY: Duration = Duration::from_millis(250);

/// How long a reader may go on with a file that was deleted or replaced.
const READER_CHECK: Duration = Duration::from_millis(250);

type Job = Box<dyn FnOnce(&mut Worker) + Send>;

/// What a thread's connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Writer,
    Reader,
    Watcher,
    Upkeep,
}

/// What becomes of a job that nobody waits for any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Abandoned {
    Skip,
    Do,
}

/// Threads of one role and the queue that they take their jobs from. They end when it is dropped.
#[derive(Debug)]
pub(super) struct Crew {
    role: Role,
    queue: Arc<Queue<Job>>,
}

impl Crew {
    pub(super) fn start(role: Role, size: usize, file: &Arc<SharedFile>) -> Result<Self, StoreError> {
        let crew = Self { role, queue: Arc::new(Queue::new()) };
        for number in 0..size {
            crew.spawn(number, file).map_err(|error| {
                StoreError::new(StoreErrorKind::Unavailable, format!("no thread could be started: {error}"))
            })?;
        }
        Ok(crew)
    }

    fn spawn(&self, number: usize, file: &Arc<SharedFile>) -> io::Result<()> {
        let slot = Arc::new(Slot::default());
        lock(&file.slots).push(Arc::clone(&slot));
        let mut worker = Worker { role: self.role, file: Arc::clone(file), slot, checked: None };
        let queue = Arc::clone(&self.queue);
        let name = match self.role {
            Role::Writer => "keyward-sqlite-write".to_owned(),
            Role::Reader => format!("keyward-sqlite-read-{number}"),
            Role::Watcher => "keyward-sqlite-watch".to_owned(),
            Role::Upkeep => "keyward-sqlite-upkeep".to_owned(),
        };
        thread::Builder::new().name(name).spawn(move || {
            while let Some(job) = queue.pop() {
                worker.take(job);
            }
            worker.leave();
        })?;
        Ok(())
    }

    /// Has one of the threads do `work` with its connection, unless the caller gives up before its turn
    /// comes: nobody would learn the key of a token that is stored then.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.call_link(|link| work(&mut link.connection)).await
    }

    /// Like [`call`](Self::call), also if the caller gives up, and before what others have asked for: what takes
    /// rights away is done, however many keys somebody makes.
    pub(super) async fn call_surely<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.send(Abandoned::Do, move |worker| worker.run(|link| work(&mut link.connection))).await
    }

    pub(super) async fn call_link<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Link) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.send(Abandoned::Skip, move |worker| worker.run(work)).await
    }

    async fn send<T: Send + 'static>(
        &self,
        abandoned: Abandoned,
        run: impl FnOnce(&mut Worker) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |worker| {
            if abandoned == Abandoned::Do || !reply.is_closed() {
                let _ = reply.send(run(worker));
            }
        });
        match abandoned {
            Abandoned::Do => self.queue.push_urgent(job)?,
            Abandoned::Skip => self.queue.push(job)?,
        }
        answer.await.unwrap_or_else(|_| {
            Err(StoreError::new(StoreErrorKind::Unavailable, "an internal error ended the call"))
        })
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.queue.close();
    }
}

type Slot = Mutex<Option<Link>>;

/// What all threads of a store have in common: the file, and each other's connections to it.
#[derive(Debug)]
pub(super) struct SharedFile {
    pub(super) target: Target,
    /// Whether the file is checked for damage when it is opened first.
    check: bool,
    first: Mutex<First>,
    slots: Mutex<Vec<Arc<Slot>>>,
    opened: Mutex<Opened>,
}

/// Whether the file has been opened in this process.
#[derive(Debug, Default)]
enum First {
    #[default]
    NotYet,
    /// When it could not be, and why.
    Failed(Instant, StoreError),
    Done,
}

#[derive(Debug, Default)]
struct Opened {
    links: u64,
    epoch: u64,
    last: Option<(FileId, Option<SystemTime>)>,
}

impl SharedFile {
    pub(super) fn new(target: Target, check: bool) -> Self {
        Self { target, check, first: Mutex::default(), slots: Mutex::default(), opened: Mutex::default() }
    }

    /// A connection to the file. The first one makes it and brings it up to date; while that fails it is tried
    /// by one thread at a time, and not all the time.
    fn open(&self) -> Result<Link, Failure> {
        let mut first = lock(&self.first);
        match &*first {
            First::Done => {
                drop(first);
                return Link::reopen(&self.target);
            }
            First::Failed(at, error) if monotonic_now().duration_since(*at) < FIRST_RETRY => {
                return Err(error.clone().into());
            }
            First::NotYet | First::Failed(..) => {}
        }
        let opened = Link::create(&self.target, self.check);
        *first = match &opened {
            Ok(_) => First::Done,
            Err(failure) => First::Failed(monotonic_now(), failure.error.clone()),
        };
        opened
    }

    fn count_in(&self, link: &mut Link) {
        let mut opened = lock(&self.opened);
        opened.links += 1;
        if opened.last.replace(link.born).is_some_and(|before| before != link.born) {
            opened.epoch += 1;
        }
        (link.number, link.epoch) = (opened.links, opened.epoch);
    }

    /// Closes the connections to a file that is no longer at the path. All at once, since the log and
    /// the shared memory beside the path must never serve two databases.
    fn retire(&self) -> Result<(), StoreError> {
        let slots = lock(&self.slots);
        let mut links: Vec<_> = slots.iter().map(|slot| lock(slot)).collect();
        let mut stale: Vec<_> =
            links.iter_mut().filter(|link| link.as_ref().is_some_and(|link| !link.is_current())).collect();
        if stale.is_empty() {
            return Ok(());
        }
        let left = stale.iter().filter_map(|link| link.as_ref()).map(Link::leave);
        if left.fold(false, |any, left| any | left) {
            tracing::warn!(path = %self.target.path.display(), "the database file was deleted or replaced");
            stale.iter_mut().for_each(|link| ***link = None);
            return Ok(());
        }
        Err(self.moved())
    }

    fn moved(&self) -> StoreError {
        let sentence = format!("{} was deleted or replaced", self.target.path.display());
        StoreError::new(StoreErrorKind::Unavailable, sentence)
    }
}

/// One thread's side of its connection.
pub(super) struct Worker {
    role: Role,
    file: Arc<SharedFile>,
    slot: Arc<Slot>,
    checked: Option<Instant>,
}

impl Worker {
    fn take(&mut self, job: Job) {
        if catch_unwind(AssertUnwindSafe(|| job(self))).is_err() {
            // What receives the log may panic as well, and this thread must live.
            let _ = catch_unwind(|| tracing::error!("a call of the SQLite store panicked"));
            // In whatever state it is.
            *lock(&self.slot) = None;
        }
    }

    fn run<T>(&mut self, work: impl FnOnce(&mut Link) -> Result<T, Failure>) -> Result<T, StoreError> {
        self.retire_if_moved()?;
        let mut slot = lock(&self.slot);
        let link = match &mut *slot {
            Some(link) => link,
            empty => {
                let link = self.file.open().and_then(|link| self.prepare(link)).map_err(|f| f.error)?;
                empty.insert(link)
            }
        };
        let done = work(link);
        let moved = self.role == Role::Writer && !link.is_current();
        let usable = link.connection.is_autocommit() && !done.as_ref().is_err_and(|failure| failure.reopen);
        if !usable {
            *slot = None;
        }
        if moved && done.is_ok() {
            return Err(self.file.moved());
        }
        done.map_err(|failure| failure.error)
    }

    fn prepare(&self, mut link: Link) -> Result<Link, Failure> {
        if self.role != Role::Writer {
            link.connection.execute_batch("PRAGMA query_only = ON")?;
        }
        self.file.count_in(&mut link);
        Ok(link)
    }

    fn retire_if_moved(&mut self) -> Result<(), StoreError> {
        if self.role == Role::Reader {
            let now = monotonic_now();
            if self.checked.is_some_and(|checked| now.duration_since(checked) < READER_CHECK) {
                return Ok(());
            }
            self.checked = Some(now);
        }
        let moved = lock(&self.slot).as_ref().is_some_and(|link| !link.is_current());
        if moved { self.file.retire() } else { Ok(()) }
    }

    fn leave(self) {
        let link = mem::take(&mut *lock(&self.slot));
        drop(link);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::disallowed_methods, reason = "bounds how often the file is looked at; decides nothing")]
fn monotonic_now() -> Instant {
    Instant::now()
}
