//! The company's own source of users, and what it said of each lately.

use std::{
    collections::HashMap,
    error::Error as StdError,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;

use crate::{
    event::{Alert, Audit, Event},
    id::UserId,
    store::UserStatus,
    time::{Clock, UnixTime},
};

/// An answer that takes longer is a failure.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Whoever went away after waiting so long has seen a failure: one that works answers sooner.
const SLOW: Duration = Duration::from_secs(1);

/// How long nothing is asked about a user after a failure.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// About so many users are remembered.
const MOST_USERS: usize = 100_000;

/// Says whether users may do anything, by a source of the application's own: a directory, a table of staff.
///
/// It is asked about the owner of a credential, an API key, a JWT or a static token, when nothing was heard of
/// them for a while (see [`with_user_directory`](crate::manage::TokenManagerBuilder::with_user_directory)), not
/// for each request. What [`suspend`](crate::TokenManager::suspend) and
/// [`offboard`](crate::TokenManager::offboard) say counts besides: a credential works if both allow it.
///
/// ```
/// use std::{collections::HashSet, error::Error};
/// use keyward::{TokenManager, UserId, store::{MemoryStore, UserDirectory, UserStatus, async_trait}};
///
/// #[derive(Debug)]
/// struct Staff(HashSet<String>); // a client of the real one
///
/// #[async_trait]
/// impl UserDirectory for Staff {
///     async fn status(&self, user: &UserId) -> Result<Option<UserStatus>, Box<dyn Error + Send + Sync>> {
///         Ok(self.0.contains(user.as_str()).then_some(UserStatus::Active))
///     }
/// }
///
/// let staff = Staff(["alice".to_owned()].into());
/// let tokens = TokenManager::builder(MemoryStore::new()).with_user_directory(staff).build();
/// # let _ = tokens;
/// ```
#[async_trait]
pub trait UserDirectory: fmt::Debug + Send + Sync + 'static {
    /// The status of `user`. Only [`UserStatus::Active`] lets them in; `None` is for an id that nobody has, and
    /// refuses as well. So answer `Active` for those whom it is not yours to judge, such as services. It is never asked
    /// about ids that begin with `keyward:`, `static:` or `public:`, which are no company's.
    ///
    /// It has two seconds, and is asked about one user once at a time, about several at once.
    ///
    /// # Errors
    /// When it cannot be found out at the moment; the text goes into an alert.
    async fn status(&self, user: &UserId) -> Result<Option<UserStatus>, Box<dyn StdError + Send + Sync>>;
}

/// A directory, and what it said.
pub(crate) struct Directory {
    source: Box<dyn UserDirectory>,
    /// For how long an answer is not asked for again.
    fresh: Duration,
    /// For how long it is used while there is no new one.
    bound: Duration,
    users: Mutex<Users>,
    down: AtomicBool,
}

/// Two generations: when the newer one is full, the older one is forgotten.
#[derive(Default)]
struct Users {
    newer: HashMap<UserId, Arc<Heard>>,
    older: HashMap<UserId, Arc<Heard>>,
}

/// What was heard of one user.
#[derive(Debug, Default)]
struct Heard {
    last: Mutex<Last>,
    /// Held while the directory is asked.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Last {
    /// Whether the user may do anything, as of when.
    answer: Option<(bool, UnixTime)>,
    failed_at: Option<UnixTime>,
    /// Since when it is asked without an outcome, by one or by several who went away one after another.
    asked_since: Option<UnixTime>,
}

/// A question to the directory. Whoever asks may go away before there is an answer.
struct Question<'a> {
    heard: &'a Heard,
    clock: &'a dyn Clock,
    asked_at: UnixTime,
    over: bool,
}

impl<'a> Question<'a> {
    fn ask(heard: &'a Heard, clock: &'a dyn Clock) -> Self {
        let asked_at = clock.now();
        lock(&heard.last).asked_since.get_or_insert(asked_at);
        Self { heard, clock, asked_at, over: false }
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        let now = self.clock.now();
        if !self.over && now.since(self.asked_at) >= SLOW {
            let mut last = lock(&self.heard.last);
            *last = Last { failed_at: Some(now), asked_since: None, ..*last };
        }
    }
}

/// Whether a user may do anything, and until when that may be taken for granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) active: bool,
    pub(crate) until: UnixTime,
}

impl Standing {
    /// Where nobody is asked.
    pub(crate) const ALWAYS: Self = Self { active: true, until: UnixTime::MAX };
}

/// The directory does not answer, and what it said before is too old.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unheard;

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory")
            .field("source", &self.source)
            .field("fresh", &self.fresh)
            .field("bound", &self.bound)
            .finish_non_exhaustive()
    }
}

impl Directory {
    pub(crate) fn new(source: Box<dyn UserDirectory>, fresh: Duration, bound: Duration) -> Self {
        Self { source, fresh, bound, users: Mutex::default(), down: AtomicBool::new(false) }
    }

    /// What can be said of `user` without asking anybody; `None` if [`ask`](Self::ask) must be awaited first.
    pub(crate) fn known(&self, user: &UserId, now: UnixTime) -> Option<Standing> {
        if user.is_reserved() {
            return Some(Standing::ALWAYS);
        }
        let heard = lock(&self.users).find(user)?;
        let is_asked = heard.asking.try_lock().is_err();
        self.settled(heard.last(), now, is_asked)?.ok()
    }

    /// Whether `user` was active when the directory spoke of them last. It must be known whether that counts.
    pub(crate) fn was_active(&self, user: &UserId) -> bool {
        let heard = lock(&self.users).find(user);
        user.is_reserved() || heard.is_some_and(|heard| heard.last().answer.is_some_and(|(active, _)| active))
    }

    /// What can be said of `user`, after asking if need be: once for all who want to know.
    pub(crate) async fn ask(
        &self,
        user: &UserId,
        clock: &dyn Clock,
        audit: &Audit,
    ) -> Result<Standing, Unheard> {
        if user.is_reserved() {
            return Ok(Standing::ALWAYS);
        }
        let heard = lock(&self.users).find_or_add(user);
        let ask = async {
            let _one_at_a_time = heard.asking.lock().await;
            // Somebody may have asked meanwhile.
            match self.settled(heard.last(), clock.now(), false) {
                Some(outcome) => outcome,
                None => self.ask_source(user, &heard, clock, audit).await,
            }
        };
        match tokio::time::timeout(2 * ANSWER_TIMEOUT, ask).await {
            Ok(outcome) => outcome,
            Err(_) => self.settled(heard.last(), clock.now(), true).unwrap_or(Err(Unheard)),
        }
    }

    async fn ask_source(
        &self,
        user: &UserId,
        heard: &Heard,
        clock: &dyn Clock,
        audit: &Audit,
    ) -> Result<Standing, Unheard> {
        let mut question = Question::ask(heard, clock);
        let asked_at = question.asked_at;
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.source.status(user)).await;
        question.over = true;
        let answer = answer.unwrap_or_else(|_| Err("no answer in time".into()));
        self.watch(answer.as_ref().err().map(|error| &**error), audit);
        let mut last = lock(&heard.last);
        match answer {
            Ok(status) => {
                let active = status == Some(UserStatus::Active);
                *last = Last { answer: Some((active, asked_at)), ..Last::default() };
                Ok(Standing { active, until: asked_at.saturating_add(self.fresh) })
            }
            Err(_) => {
                *last = Last { failed_at: Some(clock.now()), asked_since: None, ..*last };
                self.last_resort(*last, clock.now())
            }
        }
    }

    /// What `last` says without asking anew: a fresh answer, or one within the bound while it cannot be asked, or
    /// is being asked already. That is only for as long as an answer may take: whoever hangs up before each one
    /// must not live on the last.
    fn settled(&self, last: Last, now: UnixTime, is_asked: bool) -> Option<Result<Standing, Unheard>> {
        if let Some((active, at)) = last.answer
            && is_within(at, self.fresh, now)
        {
            return Some(Ok(Standing { active, until: at.saturating_add(self.fresh) }));
        }
        let failed = last.failed_at.is_some_and(|at| is_within(at, RETRY_AFTER, now));
        let is_asked = is_asked && last.asked_since.is_none_or(|at| is_within(at, ANSWER_TIMEOUT, now));
        match self.last_resort(last, now) {
            Ok(standing) if failed || is_asked => Some(Ok(standing)),
            Err(unheard) if failed => Some(Err(unheard)),
            _ => None,
        }
    }

    /// What was said last, unless it is too old; for a moment, since a new answer may come at any time.
    fn last_resort(&self, last: Last, now: UnixTime) -> Result<Standing, Unheard> {
        let (active, at) = last.answer.filter(|(_, at)| is_within(*at, self.bound, now)).ok_or(Unheard)?;
        let until = now.saturating_add(RETRY_AFTER).min(at.saturating_add(self.bound));
        Ok(Standing { active, until })
    }

    /// Raises an alert when the directory stops or starts to answer.
    fn watch(&self, failure: Option<&(dyn StdError + Send + Sync)>, audit: &Audit) {
        let down = failure.is_some();
        if self.down.load(Ordering::Relaxed) != down && self.down.swap(down, Ordering::Relaxed) != down {
            audit.emit(match failure {
                Some(error) => Event::alert(Alert::DirectoryUnavailable).because(&error.to_string()),
                None => Event::alert(Alert::DirectoryRecovered),
            });
        }
    }
}

impl Heard {
    fn last(&self) -> Last {
        *lock(&self.last)
    }
}

impl Users {
    fn find(&mut self, user: &UserId) -> Option<Arc<Heard>> {
        if let Some(heard) = self.newer.get(user) {
            return Some(heard.clone());
        }
        let heard = self.older.remove(user)?;
        self.add(user, heard.clone());
        Some(heard)
    }

    fn find_or_add(&mut self, user: &UserId) -> Arc<Heard> {
        self.find(user).unwrap_or_else(|| {
            let heard = Arc::<Heard>::default();
            self.add(user, heard.clone());
            heard
        })
    }

    fn add(&mut self, user: &UserId, heard: Arc<Heard>) {
        if self.newer.len() >= MOST_USERS / 2 {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(user.clone(), heard);
    }
}

/// Whether `now` is less than `bound` after `at`, and not before it.
fn is_within(at: UnixTime, bound: Duration, now: UnixTime) -> bool {
    at <= now && now < at.saturating_add(bound)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_who_comes_again_stays_known() {
        let mut users = Users::default();
        let regular = UserId::new("regular").unwrap();
        let known = users.find_or_add(&regular);
        for n in 0..3 * MOST_USERS {
            users.find_or_add(&UserId::new(format!("user {n}")).unwrap());
            if n % (MOST_USERS / 4) == 0 {
                assert!(Arc::ptr_eq(&users.find(&regular).unwrap(), &known));
            }
            assert!(users.newer.len() + users.older.len() <= MOST_USERS);
        }
        assert!(users.find(&UserId::new("user 7").unwrap()).is_none());
    }
}
