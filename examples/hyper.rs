//! The layer around a bare hyper service, without a framework.
//!
//! Run with `cargo run --example hyper`, then call it with the key that it prints.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http1};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use keyward::{
    AuthLayer, Principal, TokenManager, UserId, auth::ApiKeyAuth, manage::NewToken, net::PeerAddr,
    store::MemoryStore,
};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, service_fn};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tokens = TokenManager::new(MemoryStore::new());
    let alice = tokens.create(&UserId::new("alice")?, NewToken::named("laptop")).await?;
    let auth = AuthLayer::new(ApiKeyAuth::new(&tokens));
    tokio::spawn(tokens.run(std::future::pending()));

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("curl -H 'Authorization: Bearer {}' http://127.0.0.1:3000/", alice.key.expose());
    loop {
        let (stream, peer) = listener.accept().await?;
        let service = ServiceBuilder::new()
            .map_request(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(PeerAddr(peer));
                request
            })
            .layer(auth.clone())
            .service(service_fn(hello));
        tokio::spawn(async move {
            let connection = http1::Builder::new();
            let served = connection.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
            if let Err(error) = served.await {
                eprintln!("a connection from {peer} ended: {error}");
            }
        });
    }
}

async fn hello(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let user = request.extensions().get::<Principal>().map_or("nobody", |me| me.user_id().as_str());
    Ok(Response::new(Full::from(format!("hello {user}\n"))))
}
