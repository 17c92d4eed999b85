//! Jobs: a resource that belongs to one user, kept in memory.

use std::{
    collections::{BTreeSet, HashMap},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use keyward::{
    Checked, Owned, Principal, UserId,
    api::{ApiError, JsonBody},
    extract::LoadOwned,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A user keeps so many jobs; an older one makes room for a new one.
const JOBS_PER_USER: usize = 1000;

/// All users together keep so many. One of the user who has the most makes room, so that many users with many
/// jobs push out each other's and not those of somebody with few.
const JOBS: usize = 20_000;

#[derive(Clone, Debug, Default)]
pub(crate) struct Jobs(Arc<Mutex<Stored>>);

#[derive(Debug, Default)]
struct Stored {
    jobs: HashMap<Uuid, Job>,
    /// The ids of each user's jobs, oldest first.
    own: HashMap<UserId, BTreeSet<Uuid>>,
}

impl Stored {
    fn insert(&mut self, job: Job) {
        let count = self.own.get(&job.user_id).map_or(0, BTreeSet::len);
        if count >= JOBS_PER_USER {
            self.remove_oldest(&job.user_id.clone());
        } else if self.jobs.len() >= JOBS {
            let most = self.own.iter().max_by_key(|(_, own)| own.len()).map(|(user, _)| user.clone());
            most.into_iter().for_each(|user| self.remove_oldest(&user));
        }
        self.own.entry(job.user_id.clone()).or_default().insert(job.id);
        self.jobs.insert(job.id, job);
    }

    fn remove_oldest(&mut self, user: &UserId) {
        let oldest = self.own.get(user).and_then(BTreeSet::first).copied();
        oldest.into_iter().for_each(|id| self.remove(id));
    }

    fn remove(&mut self, id: Uuid) {
        let Some(job) = self.jobs.remove(&id) else { return };
        if let Some(own) = self.own.get_mut(&job.user_id) {
            own.remove(&id);
            if own.is_empty() {
                self.own.remove(&job.user_id);
            }
        }
    }

    /// The user's jobs, newest first.
    fn of(&self, user: &UserId) -> Vec<Job> {
        let ids = self.own.get(user).into_iter().flatten().rev();
        ids.filter_map(|id| self.jobs.get(id)).cloned().collect()
    }
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Job {
    id: Uuid,
    name: String,
    user_id: UserId,
    status: &'static str,
}

impl Owned for Job {
    const KIND: &'static str = "job";

    fn owner(&self) -> &UserId {
        &self.user_id
    }
}

impl LoadOwned<Jobs> for Job {
    type Key = Uuid;
    type Error = Infallible;

    async fn load(jobs: &Jobs, id: Uuid) -> Result<Option<Self>, Infallible> {
        Ok(jobs.lock().jobs.get(&id).cloned())
    }
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, Stored> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewJob {
    name: String,
}

pub(crate) async fn create(
    owner: UserId,
    State(jobs): State<Jobs>,
    body: JsonBody<NewJob>,
) -> Result<Response, ApiError> {
    let name = body.0.name;
    if name.trim().is_empty() || name.chars().count() > 200 || name.chars().any(char::is_control) {
        return Err(ApiError::bad_request("`name` is 1 to 200 printable characters."));
    }
    let job = Job { id: Uuid::now_v7(), name, user_id: owner, status: "queued" };
    jobs.lock().insert(job.clone());
    Ok((StatusCode::CREATED, Json(job)).into_response())
}

/// The caller's jobs, newest first. What is not theirs would be dropped, with an alert.
pub(crate) async fn list(me: Principal, State(jobs): State<Jobs>) -> Response {
    let own = jobs.lock().of(me.user_id());
    let own: Vec<_> = me.verify_all(own).into_iter().map(Checked::into_inner).collect();
    Json(serde_json::json!({ "jobs": own })).into_response()
}

pub(crate) async fn show(job: Checked<Job>) -> Json<Job> {
    Json(job.into_inner())
}

pub(crate) async fn cancel(State(jobs): State<Jobs>, job: Checked<Job>) -> StatusCode {
    jobs.lock().remove(job.id);
    StatusCode::NO_CONTENT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(user: &str, number: u128) -> Job {
        let user_id = UserId::new(user).unwrap();
        Job { id: Uuid::from_u128(number), name: number.to_string(), user_id, status: "queued" }
    }

    #[test]
    fn many_users_with_many_jobs_push_out_their_own() {
        let mut stored = Stored::default();
        stored.insert(job("alice", 0));
        for number in 1..=50_000 {
            stored.insert(job(&format!("public:{}", number % 40), number));
        }
        assert_eq!(stored.jobs.len(), JOBS);
        assert_eq!(stored.own.values().map(BTreeSet::len).sum::<usize>(), JOBS);
        assert_eq!(stored.of(&UserId::new("alice").unwrap()).len(), 1);
        let newest = stored.of(&UserId::new("public:1").unwrap());
        assert!((499..=500).contains(&newest.len()), "{}", newest.len());
        assert_eq!(newest[0].name, "49961", "the newest stay, newest first");
    }

    #[test]
    fn a_user_keeps_the_newest_thousand_and_what_is_cancelled_leaves_nothing() {
        let mut stored = Stored::default();
        (0..1500).for_each(|number| stored.insert(job("alice", number)));
        let own = stored.of(&UserId::new("alice").unwrap());
        assert_eq!((own.len(), &*own[0].name, &*own[999].name), (JOBS_PER_USER, "1499", "500"));
        own.into_iter().for_each(|job| stored.remove(job.id));
        stored.remove(Uuid::from_u128(7));
        assert!(stored.jobs.is_empty() && stored.own.is_empty());
    }
}
