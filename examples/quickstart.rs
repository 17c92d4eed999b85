//! The README's ten lines as a program.
//!
//! Run with `cargo run --example quickstart`, then call it with the key that it prints.

use std::net::SocketAddr;

use axum::{Router, routing::get};
use keyward::{
    AuthLayer, Principal, RequireLayer, TokenManager, UserId, api,
    auth::ApiKeyAuth,
    manage::{ListQuery, NewToken},
    store::SqliteStore,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tokens = TokenManager::new(SqliteStore::open("quickstart.db").await?);
    let app = Router::new()
        .route("/hello", get(hello).layer(RequireLayer::scope("hello:read")))
        .nest("/api/keys", api::own_tokens(tokens.clone()))
        .layer(AuthLayer::new(ApiKeyAuth::new(&tokens)));

    let alice = UserId::new("alice")?;
    if tokens.list(&alice, ListQuery::default()).await?.tokens.is_empty() {
        let issued = tokens.create(&alice, NewToken::named("laptop")).await?;
        println!("curl -H 'X-API-Key: {}' http://127.0.0.1:3000/hello", issued.key.expose());
    }

    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let background = tokio::spawn(tokens.run(async { drop(stopped.await) }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    let shutdown = async { drop(tokio::signal::ctrl_c().await) };
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app).with_graceful_shutdown(shutdown).await?;
    drop(stop);
    Ok(background.await?)
}

async fn hello(me: Principal) -> String {
    format!("hello {}\n", me.user_id())
}
