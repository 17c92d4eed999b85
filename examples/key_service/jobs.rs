//! Jobs: a resource that belongs to one user, kept in memory.

use std::{
    collections::BTreeMap,
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

#[derive(Clone, Debug, Default)]
pub(crate) struct Jobs(Arc<Mutex<BTreeMap<Uuid, Job>>>);

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
        Ok(jobs.lock().get(&id).cloned())
    }
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Uuid, Job>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, job: Job) {
        let mut jobs = self.lock();
        let own: Vec<_> =
            jobs.values().filter(|other| other.user_id == job.user_id).map(|job| job.id).collect();
        if own.len() >= JOBS_PER_USER {
            own.first().map(|oldest| jobs.remove(oldest));
        }
        jobs.insert(job.id, job);
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
    jobs.insert(job.clone());
    Ok((StatusCode::CREATED, Json(job)).into_response())
}

/// The caller's jobs, newest first. What is not theirs would be dropped, with an alert.
pub(crate) async fn list(me: Principal, State(jobs): State<Jobs>) -> Response {
    let own: Vec<_> =
        jobs.lock().values().rev().filter(|job| job.user_id == *me.user_id()).cloned().collect();
    let own: Vec<_> = me.verify_all(own).into_iter().map(Checked::into_inner).collect();
    Json(serde_json::json!({ "jobs": own })).into_response()
}

pub(crate) async fn show(job: Checked<Job>) -> Json<Job> {
    Json(job.into_inner())
}

pub(crate) async fn cancel(State(jobs): State<Jobs>, job: Checked<Job>) -> StatusCode {
    jobs.lock().remove(&job.id);
    StatusCode::NO_CONTENT
}
