//! The isolation check over keyward's own routes and over a resource of an application, and that it finds
//! every way of forgetting an owner.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

#[path = "support/postgres.rs"]
mod postgres;
mod support;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get, patch, post},
};
use keyward::{
    AuthLayer, Checked, NotOwner, Owned, Principal, TokenManager, UserId,
    api::{self, ApiError, JsonBody},
    auth::ApiKeyAuth,
    event::Alert,
    manage::NewToken,
    store::{MemoryStore, SqliteStore, TokenStore},
    testing::{Isolation, Leak, RecordingSink, assert_isolated},
};
use serde_json::{Value, json};
use support::user;

async fn key(tokens: &TokenManager, owner: &str) -> String {
    tokens.create(&user(owner), NewToken::named("first")).await.unwrap().key.expose().to_owned()
}

/// The routes behind the layer, and the keys of two users.
async fn service(tokens: &TokenManager, routes: Router) -> (Router, String, String) {
    let app = routes.layer(AuthLayer::new(ApiKeyAuth::new(tokens)));
    (app, key(tokens, "alice").await, key(tokens, "bob").await)
}

fn create_key() -> Isolation {
    Isolation::new("POST /api/keys", r#"{"name":"MARKER"}"#, "/id")
}

const ROUTES_OF_ONE_KEY: [(&str, Option<&str>); 6] = [
    ("GET /api/keys/{id}", None),
    ("PATCH /api/keys/{id}", Some(r#"{"name":"taken over"}"#)),
    ("PATCH /api/keys/{id}", Some(r#"{"enabled":false}"#)),
    ("POST /api/keys/{id}/rotate", Some(r#"{"overlap_seconds":0}"#)),
    ("POST /api/keys/{id}/rotate", None),
    ("DELETE /api/keys/{id}", None),
];

fn key_routes() -> Isolation {
    let all = ROUTES_OF_ONE_KEY.into_iter().fold(create_key(), |all, (route, body)| match body {
        Some(body) => all.route_with_body(route, body),
        None => all.route(route),
    });
    all.list("GET /api/keys")
        .list("GET /api/keys?limit=200")
        .list("GET /api/keys?status=active")
        .list("GET /api/keys/debug/ownership")
}

#[tokio::test]
async fn the_key_routes_are_isolated() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = SqliteStore::open(folder.path().join("tokens.db")).await.unwrap();
    let mut stores: Vec<(&str, Arc<dyn TokenStore>)> =
        vec![("memory", Arc::new(MemoryStore::new())), ("sqlite", Arc::new(sqlite))];
    let database = postgres::Database::new();
    if let Some(database) = &database {
        stores.push(("postgres", Arc::new(database.open().await)));
    }
    for (name, store) in stores {
        let events = RecordingSink::default();
        let tokens = TokenManager::builder(store).with_audit(events.clone()).build();
        let routes = api::OwnTokens::new(tokens.clone()).debug_ownership(true).into_router();
        let (app, alice, bob) = service(&tokens, Router::new().nest("/api/keys", routes)).await;
        assert_isolated(app.clone(), &alice, &bob, &key_routes()).await;
        // One about each key, in both directions: the other routes about it are the same target.
        assert_eq!(events.alerts(), [Alert::ForeignAccess; 2], "{name}");
        for (route, body) in ROUTES_OF_ONE_KEY {
            events.clear();
            let alone = create_key();
            let alone = match body {
                Some(body) => alone.route_with_body(route, body),
                None => alone.route(route),
            };
            assert_isolated(app.clone(), &alice, &bob, &alone).await;
            assert_eq!(events.alerts(), [Alert::ForeignAccess; 2], "{name}: {route} {body:?}");
        }
        events.clear();
        assert_isolated(app, &alice, &bob, &create_key().list("GET /api/keys")).await;
        assert_eq!(events.alerts(), [], "{name}: a list asks for nobody else's");
    }
}

/// What a router of jobs forgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forgets {
    Nothing,
    TheOwnerOnGet,
    TheOwnerOnDelete,
    TheOwnerOnPatch,
    TheOwnerInTheList,
    /// 403 for somebody else's, 404 for what is not there.
    ToLookAbsent,
    /// The same status, another sentence.
    TheSentence,
    /// The same answer, another header.
    TheHeaders,
    /// Answers 404, and deletes.
    ToStop,
    /// The list that deletes everything.
    TheOwnerOnDeleteAll,
}

#[derive(Clone, Debug)]
struct Job {
    owner: UserId,
    name: String,
}

impl Owned for Job {
    const KIND: &'static str = "job";

    fn owner(&self) -> &UserId {
        &self.owner
    }
}

#[derive(Clone)]
struct Jobs {
    stored: Arc<Mutex<BTreeMap<u64, Job>>>,
    forgets: Forgets,
}

impl Jobs {
    fn router(forgets: Forgets) -> Router {
        Router::new()
            .route("/jobs", post(create).get(list).delete(delete_all))
            .route("/jobs/{id}", get(show))
            .route("/jobs/{id}", delete(cancel))
            .route("/jobs/{id}", patch(rename))
            .with_state(Self { stored: Arc::default(), forgets })
    }

    fn find(&self, id: u64) -> Option<Job> {
        self.stored.lock().unwrap().get(&id).cloned()
    }

    /// The caller's job, unless `unchecked` is what this router forgets.
    fn reach(&self, me: &Principal, id: u64, unchecked: Forgets) -> Result<Job, Refused> {
        match self.find(id) {
            Some(job) if self.forgets == unchecked => Ok(job),
            Some(job) if job.owner != *me.user_id() => Err(Refused(self.forgets)),
            found => me.check(found).map(Checked::into_inner).map_err(|_| Refused(Forgets::Nothing)),
        }
    }
}

/// The answer about somebody else's job.
struct Refused(Forgets);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let sentence = |status, text| ApiError::new(status, text).into_response();
        match self.0 {
            Forgets::ToLookAbsent => sentence(StatusCode::FORBIDDEN, "Not yours."),
            Forgets::TheSentence => sentence(StatusCode::NOT_FOUND, "There is no such job of yours."),
            Forgets::TheHeaders => ([("x-owner", "somebody")], NotOwner::new()).into_response(),
            _ => NotOwner::new().into_response(),
        }
    }
}

#[derive(serde::Deserialize)]
struct NewJob {
    name: String,
}

fn shown(id: u64, job: &Job) -> Value {
    json!({ "id": id, "name": job.name, "user_id": job.owner })
}

async fn create(owner: UserId, State(jobs): State<Jobs>, body: JsonBody<NewJob>) -> Response {
    let mut stored = jobs.stored.lock().unwrap();
    let id = 1000 + stored.len() as u64;
    let job = Job { owner, name: body.0.name };
    let answer = shown(id, &job);
    stored.insert(id, job);
    (StatusCode::CREATED, Json(answer)).into_response()
}

async fn list(me: Principal, State(jobs): State<Jobs>) -> Json<Value> {
    let all = jobs.stored.lock().unwrap().clone();
    let visible = all
        .iter()
        .filter(|(_, job)| jobs.forgets == Forgets::TheOwnerInTheList || job.owner == *me.user_id());
    Json(visible.map(|(id, job)| shown(*id, job)).collect())
}

async fn show(me: Principal, State(jobs): State<Jobs>, Path(id): Path<u64>) -> Result<Json<Value>, Refused> {
    jobs.reach(&me, id, Forgets::TheOwnerOnGet).map(|job| Json(shown(id, &job)))
}

async fn cancel(me: Principal, State(jobs): State<Jobs>, Path(id): Path<u64>) -> Result<StatusCode, Refused> {
    let reached = jobs.reach(&me, id, Forgets::TheOwnerOnDelete);
    if reached.is_ok() || jobs.forgets == Forgets::ToStop {
        jobs.stored.lock().unwrap().remove(&id);
    }
    reached.map(|_| StatusCode::NO_CONTENT)
}

async fn rename(
    me: Principal,
    State(jobs): State<Jobs>,
    Path(id): Path<u64>,
    body: JsonBody<NewJob>,
) -> Result<StatusCode, Refused> {
    let job = jobs.reach(&me, id, Forgets::TheOwnerOnPatch)?;
    jobs.stored.lock().unwrap().insert(id, Job { name: body.0.name, ..job });
    Ok(StatusCode::NO_CONTENT)
}

async fn delete_all(me: Principal, State(jobs): State<Jobs>) -> StatusCode {
    let all = jobs.forgets == Forgets::TheOwnerOnDeleteAll;
    jobs.stored.lock().unwrap().retain(|_, job| !all && job.owner != *me.user_id());
    StatusCode::NO_CONTENT
}

fn job_routes() -> Isolation {
    Isolation::new("POST /jobs", r#"{"name":"MARKER"}"#, "/id")
        .route("GET /jobs/{id}")
        .route_with_body("PATCH /jobs/{id}", r#"{"name":"mine now"}"#)
        .route("DELETE /jobs/{id}")
        .list("GET /jobs")
        .list("DELETE /jobs")
}

async fn leaks(forgets: Forgets) -> Vec<Leak> {
    let tokens = TokenManager::builder(MemoryStore::new()).with_audit(RecordingSink::default()).build();
    let (app, alice, bob) = service(&tokens, Jobs::router(forgets)).await;
    job_routes().leaks(app, &alice, &bob).await
}

#[tokio::test]
async fn a_router_that_forgets_nothing_is_isolated() {
    assert_eq!(leaks(Forgets::Nothing).await, []);
}

#[tokio::test]
async fn every_way_of_forgetting_is_found() {
    for (forgets, route, what) in [
        (Forgets::TheOwnerOnGet, "GET /jobs/{id}", "a stranger got 200"),
        (Forgets::TheOwnerOnPatch, "PATCH /jobs/{id}", "a stranger got 204"),
        (Forgets::TheOwnerOnPatch, "PATCH /jobs/{id}", "what the owner sees changed"),
        (Forgets::TheOwnerOnDelete, "DELETE /jobs/{id}", "a stranger got 204"),
        (Forgets::TheOwnerOnDelete, "DELETE /jobs/{id}", "what the owner sees changed"),
        (Forgets::TheOwnerInTheList, "GET /jobs", "a stranger's list holds it"),
        (Forgets::TheOwnerOnDeleteAll, "DELETE /jobs", "what the owner sees changed"),
        (Forgets::ToLookAbsent, "GET /jobs/{id}", "somebody else's is told from none at all: 403"),
        (Forgets::ToLookAbsent, "DELETE /jobs/{id}", "somebody else's is told from none at all: 403"),
        (Forgets::TheSentence, "PATCH /jobs/{id}", "somebody else's is told from none at all: 404"),
        (Forgets::TheHeaders, "GET /jobs/{id}", "somebody else's is told from none at all: 404"),
        (Forgets::ToStop, "DELETE /jobs/{id}", "what the owner sees changed"),
    ] {
        let found = leaks(forgets).await;
        let named = found.iter().any(|leak| leak.route == route && leak.what.starts_with(what));
        assert!(named, "{forgets:?} on {route} ({what}) was not found: {found:#?}");
    }
}

#[tokio::test]
async fn a_check_that_could_not_run_is_no_success() {
    let tokens = TokenManager::new(MemoryStore::new());
    let (app, alice, bob) = service(&tokens, Jobs::router(Forgets::Nothing)).await;
    for (name, isolation, alice, bob) in [
        ("a route that creates nothing", Isolation::new("POST /nothing", "{}", "/id"), &*alice, &*bob),
        (
            "a pointer that leads nowhere",
            Isolation::new("POST /jobs", r#"{"name":"x"}"#, "/job"),
            &alice,
            &bob,
        ),
        ("a body that is refused", Isolation::new("POST /jobs", "{}", "/id"), &alice, &bob),
        ("a key that does not work", job_routes(), "made up", &bob),
        ("a stranger's key that does not work", job_routes(), &alice, "made up"),
        ("a route that is not there", job_routes().route("GET /job/{id}"), &alice, &bob),
        ("a list that is not there", job_routes().list("GET /job"), &alice, &bob),
        ("the same user twice", job_routes(), &alice, &alice),
    ] {
        let leaks = isolation.leaks(app.clone(), alice, bob).await;
        assert!(!leaks.is_empty(), "{name}: passes without having checked anything");
    }
}

#[tokio::test]
#[should_panic(expected = "leaks between two users:\n  GET /jobs/{id}: a stranger got 200")]
async fn the_assertion_names_the_leaks() {
    let tokens = TokenManager::new(MemoryStore::new());
    let (app, alice, bob) = service(&tokens, Jobs::router(Forgets::TheOwnerOnGet)).await;
    assert_isolated(app, &alice, &bob, &job_routes()).await;
}
