//! Rotation that people dare to finish.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::time::Duration;

use axum::Router;
use keyward::{
    AuthLayer, TokenManager, api,
    auth::ApiKeyAuth,
    error::Refusal,
    event::{Alert, EventKind},
    manage::{Finish, IssuedToken, NewToken, TokenError},
    store::MemoryStore,
    token::TokenStatus,
};
use support::{World, request, send, start, user};

const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3600);
const MOMENT: Duration = Duration::from_millis(1);

impl World {
    /// A key and its successor, which overlap for a month.
    async fn pair(&self) -> [IssuedToken; 2] {
        let old = self.tokens.create(&user("alice"), NewToken::named("laptop")).await.unwrap();
        let new = self.tokens.rotate(&user("alice"), old.record.id, Some(30 * DAY)).await.unwrap();
        [old, new]
    }

    async fn finish(&self, key: &IssuedToken, finish: Finish) -> Result<bool, TokenError> {
        let finished = self.tokens.finish_rotation(&user("alice"), key.record.id, finish).await?;
        Ok(finished.still_used)
    }
}

#[tokio::test]
async fn a_rotation_is_not_finished_while_the_old_key_is_used() {
    let world = World::new();
    let [old, new] = world.pair().await;
    assert!(world.gate.accepts(&old).await && world.gate.accepts(&new).await);
    assert!(matches!(world.finish(&old, Finish::default()).await, Err(TokenError::StillUsed)));
    assert!(world.events.kinds().contains(&EventKind::OperationRefused(Refusal::StillUsed)));
    world.clock.advance(HOUR - MOMENT);
    assert!(matches!(world.finish(&old, Finish::default()).await, Err(TokenError::StillUsed)));
    let shown = world.tokens.get(&user("alice"), old.record.id).await.unwrap();
    assert_eq!(
        (shown.last_used, shown.successor),
        (Some(start()), Some(new.record.id)),
        "who, when and what next"
    );
    world.tokens.flush().await.unwrap();
    assert!(world.gate.accepts(&old).await, "it still works");
    world.clock.advance(MOMENT);
    let soon = Finish::UnlessUsedWithin(2 * MOMENT);
    assert!(
        matches!(world.finish(&old, soon).await, Err(TokenError::StillUsed)),
        "a use that is not written yet"
    );
    world.clock.advance(HOUR);
    assert!(matches!(world.finish(&old, Finish::default()).await, Ok(false)), "an hour later");
    assert!(!world.gate.accepts(&old).await && world.gate.accepts(&new).await, "and at once it does not");
    assert!(world.events.kinds().contains(&EventKind::RotationFinished));
    let shown = world.tokens.get(&user("alice"), old.record.id).await.unwrap();
    assert_eq!(world.tokens.status(&shown), TokenStatus::Rotated, "it was replaced, not revoked");
}

#[tokio::test]
async fn a_use_before_the_rotation_counts_as_well() {
    let world = World::new();
    let old = world.tokens.create(&user("alice"), NewToken::named("laptop")).await.unwrap();
    assert!(world.gate.accepts(&old).await);
    world.tokens.flush().await.unwrap();
    world.clock.advance(MOMENT);
    world.tokens.rotate(&user("alice"), old.record.id, Some(DAY)).await.unwrap();
    assert!(
        matches!(world.finish(&old, Finish::default()).await, Err(TokenError::StillUsed)),
        "nobody has changed yet"
    );
    let soon = Finish::UnlessUsedWithin(MOMENT);
    assert!(matches!(world.finish(&old, soon).await, Ok(false)), "by choice");
}

#[tokio::test]
async fn a_rotation_can_be_finished_anyway_and_says_that_somebody_will_miss_the_key() {
    let world = World::new();
    let [old, new] = world.pair().await;
    assert!(world.gate.accepts(&old).await);
    let finished = world.tokens.finish_rotation(&user("alice"), old.record.id, Finish::Anyway).await.unwrap();
    assert!(finished.still_used);
    assert_eq!((finished.record.last_used, finished.record.request_count), (Some(start()), 1));
    assert_eq!(finished.record.expires_at, Some(start()));
    assert!(!world.gate.accepts(&old).await && world.gate.accepts(&new).await);
    assert!(!world.events.alerts().contains(&Alert::RevokedTokenUsed), "a straggler is no thief");
    for finish in [Finish::default(), Finish::Anyway] {
        assert!(world.finish(&old, finish).await.is_ok(), "what is finished is finished");
    }
    world.tokens.flush().await.unwrap();
    let stored = world.tokens.get(&user("alice"), old.record.id).await.unwrap();
    assert_eq!(stored.request_count, 1, "no use is lost");
}

#[tokio::test]
async fn only_what_was_replaced_can_be_finished_and_only_by_its_owner() {
    let world = World::new();
    let [old, new] = world.pair().await;
    for finish in [Finish::default(), Finish::Anyway] {
        assert!(matches!(world.finish(&new, finish).await, Err(TokenError::Conflict)));
        let foreign = world.tokens.finish_rotation(&user("bob"), old.record.id, finish).await;
        assert!(matches!(foreign, Err(TokenError::NotFound)));
    }
    assert_eq!(world.events.alerts(), [Alert::ForeignAccess], "of one caller and token, once");
    assert!(world.gate.accepts(&old).await && world.gate.accepts(&new).await);
    world.store.set_down(true);
    assert!(matches!(world.finish(&old, Finish::Anyway).await, Err(TokenError::Store(_))));
}

#[tokio::test]
async fn a_replaced_key_is_not_renewed_after_its_end() {
    let world = World::new();
    let [old, _] = world.pair().await;
    for _ in 0..3 {
        assert!(world.gate.accepts(&old).await);
        world.clock.advance(9 * DAY);
    }
    world.finish(&old, Finish::Anyway).await.unwrap();
    let end = world.tokens.get(&user("alice"), old.record.id).await.unwrap().expires_at;
    world.tokens.flush().await.unwrap();
    assert_eq!(world.tokens.get(&user("alice"), old.record.id).await.unwrap().expires_at, end);
}

#[tokio::test]
async fn finishing_over_http() {
    let tokens = TokenManager::new(MemoryStore::new());
    let app = Router::new()
        .nest("/api/keys", api::own_tokens(tokens.clone()))
        .layer(AuthLayer::new(ApiKeyAuth::new(&tokens)));
    let old = tokens.create(&user("alice"), NewToken::named("laptop")).await.unwrap();
    let path = format!("/api/keys/{}", old.record.id);
    let ask = async |method: &str, path: &str, key: &str, body: &str| {
        send(&app, request(method, path, key, body)).await
    };
    let next = ask("POST", &format!("{path}/rotate"), old.key.expose(), "{}").await;
    let key = next.text("key");
    let finish = format!("{path}/finish-rotation");
    let refused = ask("POST", &finish, &key, "{}").await;
    assert_eq!(refused.status, 409);
    let text = String::from_utf8_lossy(&refused.body).into_owned();
    assert!(
        text.contains("still used") && !text.contains("alice") && !text.contains(&old.record.id.to_string())
    );
    let shown = ask("GET", &path, &key, "").await;
    assert!(shown.json()["last_used"].is_string() && shown.text("successor_id") == next.text("id"));
    for body in [r#"{"force": "yes"}"#, r#"{"now": true}"#, "[]"] {
        assert_eq!(ask("POST", &finish, &key, body).await.status, 400, "{body}");
    }
    let done = ask("POST", &finish, &key, r#"{"force": true}"#).await;
    assert_eq!((done.status.as_u16(), &done.json()["still_used"]), (200, &serde_json::json!(true)));
    assert_eq!(done.text("status"), "rotated");
    assert_eq!(ask("GET", &path, old.key.expose(), "").await.status, 401);
    let successor = format!("/api/keys/{}/finish-rotation", next.text("id"));
    assert_eq!(ask("POST", &successor, &key, "{}").await.status, 409, "it has no successor");
    let absent = "/api/keys/019a9d5a-7c00-7abc-8def-0123456789ab/finish-rotation";
    assert_eq!(ask("POST", absent, &key, "{}").await.status, 404);
}
