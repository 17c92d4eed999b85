//! API keys and the tokens of an identity provider in one service: a person's keys and tokens have one owner.
//!
//! Run with `OIDC_ISSUER=https://login.example OIDC_AUDIENCE=https://api.example cargo run --example jwt_oidc`.
//! Without the two variables it brings an issuer of its own, on this machine, and prints a token of it.

use std::net::SocketAddr;

use axum::{Router, routing::get};
use keyward::{
    AuthLayer, Principal, TokenManager, api,
    auth::{AnyOf, ApiKeyAuth},
    jwt::JwtAuth,
    store::MemoryStore,
    testing::FakeIssuer,
};

#[tokio::main]
#[expect(clippy::disallowed_methods, reason = "an example reads its settings from the environment")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let demo = FakeIssuer::start().await;
    let issuer = std::env::var("OIDC_ISSUER").unwrap_or_else(|_| demo.issuer());
    let audience = std::env::var("OIDC_AUDIENCE").unwrap_or_else(|_| FakeIssuer::AUDIENCE.to_owned());

    let tokens = TokenManager::new(MemoryStore::new());
    // Fetches the keys now, and fails with one sentence if it cannot.
    let jwt = JwtAuth::oidc(&issuer, &audience).missing_scope_means_all().await?;
    let app = Router::new()
        .route("/hello", get(hello))
        .nest("/api/keys", api::own_tokens(tokens.clone()))
        .layer(AuthLayer::new(AnyOf::new([ApiKeyAuth::new(&tokens).into(), jwt.clone().into()])));

    if issuer == demo.issuer() {
        let token = demo.token(serde_json::json!({ "sub": "alice", "email": "alice@example.org" }));
        println!("curl -H 'Authorization: Bearer {token}' http://127.0.0.1:3000/hello");
    }
    tokio::spawn(tokens.run(std::future::pending())); // counts uses, follows other processes
    tokio::spawn(jwt.run(std::future::pending())); // fetches keys ahead of need
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}

#[derive(serde::Deserialize)]
struct Profile {
    email: String,
}

async fn hello(me: Principal) -> String {
    match me.claims::<Profile>() {
        Ok(profile) => format!("hello {} <{}>\n", me.user_id(), profile.email),
        Err(_) => format!("hello {}\n", me.user_id()),
    }
}
