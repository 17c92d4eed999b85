//! The connections of the service: how many at once, and how long one may take to say what it wants.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::{TcpListener, TcpStream},
    pin,
    sync::Semaphore,
};
use tower::ServiceExt;

/// How long nothing is accepted after that has failed, for want of file handles for example.
const PAUSE: Duration = Duration::from_secs(1);

/// What one client, or all together, can take of the server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// So many connections are open at most. Others wait in the queue of the system.
    pub(crate) connections: usize,
    /// How long a connection may take for the head of a request, and so also how long it may be idle.
    pub(crate) head: Duration,
}

impl Default for Bounds {
    /// Fewer connections than the 1024 files that a process may usually have open.
    fn default() -> Self {
        Self { connections: 800, head: Duration::from_secs(10) }
    }
}

/// Serves `app` until `stop` is done, and then the requests that have begun.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Router,
    bounds: Bounds,
    stop: impl Future<Output = ()>,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(bounds.head);
    let room = Arc::new(Semaphore::new(bounds.connections));
    let open = GracefulShutdown::new();
    pin!(stop);
    loop {
        let accepted = async {
            let place = room.clone().acquire_owned().await;
            (place, accept(&listener).await)
        };
        let (place, (stream, peer)) = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = accepted => accepted,
        };
        let app = app.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            app.clone().oneshot(request.map(Body::new))
        });
        let connection = open.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // What goes wrong on a connection is its client's affair.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    open.shutdown().await;
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::{Notify, oneshot},
    };

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

    async fn start(
        bounds: Bounds,
        app: Router,
    ) -> (SocketAddr, oneshot::Sender<()>, impl Future<Output = ()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(serve(listener, app, bounds, async { drop(stopped.await) }));
        (address, stop, async { serving.await.unwrap() })
    }

    async fn connect(address: SocketAddr, text: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(text).await.unwrap();
        stream
    }

    async fn read(mut stream: TcpStream) -> String {
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text).await;
        String::from_utf8(text).unwrap()
    }

    fn whoever() -> Router {
        Router::new()
            .route("/", get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.ip().to_string()))
    }

    #[tokio::test]
    async fn heads_that_never_end_do_not_keep_others_out() {
        let bounds = Bounds { connections: 8, head: Duration::from_millis(300) };
        let (address, _stop, _) = start(bounds, whoever()).await;
        let mut slow = Vec::new();
        for beginning in [&b""[..], b"GET / HTTP/1.1\r\nHost: x\r\nX-A: "].into_iter().cycle().take(20) {
            slow.push(connect(address, beginning).await);
        }
        let answered = async { read(connect(address, REQUEST).await).await };
        let answer = tokio::time::timeout(Duration::from_secs(20), answered).await.expect("it gets its turn");
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("127.0.0.1"), "{answer}");
        for stream in slow {
            let ended = tokio::time::timeout(Duration::from_secs(20), read(stream)).await;
            let text = ended.expect("it is closed");
            assert!(text.is_empty() || text.starts_with("HTTP/1.1 408"), "{text}");
        }
    }

    #[tokio::test]
    async fn no_more_connections_are_open_than_allowed() {
        let bounds = Bounds { connections: 1, head: Duration::from_secs(60) };
        let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let wait = {
            let (begun, go_on) = (begun.clone(), go_on.clone());
            async move || {
                begun.notify_one();
                go_on.notified().await;
                "done"
            }
        };
        let app = whoever().route("/wait", get(wait));
        let (address, stop, serving) = start(bounds, app).await;
        let first = connect(address, b"GET /wait HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        begun.notified().await;
        let mut second = tokio::spawn(read(connect(address, REQUEST).await));
        let early = tokio::time::timeout(Duration::from_millis(200), &mut second).await;
        assert!(early.is_err(), "there is no room for it");
        go_on.notify_one();
        assert!(read(first).await.ends_with("done"));
        assert!(second.await.unwrap().starts_with("HTTP/1.1 200 OK"));

        let last = connect(address, b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await;
        begun.notified().await;
        drop(stop);
        let mut serving = Box::pin(serving);
        let early = tokio::time::timeout(Duration::from_millis(50), &mut serving).await;
        assert!(early.is_err(), "a request that has begun is answered");
        go_on.notify_one();
        assert!(read(last).await.ends_with("done"), "and its connection is closed");
        serving.await;
        assert!(TcpStream::connect(address).await.is_err());
    }
}
