//! Redis servers for tests: the one of this machine, and ones of their own that may be stopped and killed.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "helpers of tests, of which each test uses its part"
)]

use std::{
    env,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use keyward::redis::Redis;
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
};

const DEFAULT_URL: &str = "redis://127.0.0.1:6379";

/// Says that a test is skipped, which must not happen where nobody reads it.
pub(crate) fn skip(why: &str) {
    assert!(env::var_os("CI").is_none(), "{why}: install redis-server, or set KEYWARD_TEST_REDIS_URL");
    eprintln!("skipped: {why}");
}

/// A handle to some server with keys of its own, for tests that leave the server alone.
pub(crate) async fn shared() -> Option<(Redis, Option<Server>)> {
    let named = env::var("KEYWARD_TEST_REDIS_URL").ok();
    let url = named.clone().unwrap_or_else(|| DEFAULT_URL.to_owned());
    let redis = Redis::open(&url).unwrap();
    match redis.ready().await {
        Ok(()) => return Some((own_keys(redis), None)),
        Err(error) => assert!(named.is_none(), "KEYWARD_TEST_REDIS_URL: {error}"),
    }
    let server = Server::start().await?;
    Some((server.open(), Some(server)))
}

/// With a prefix that nobody else has.
pub(crate) fn own_keys(redis: Redis) -> Redis {
    let patience = Duration::from_millis(1000);
    let redis = redis.with_prefix(&format!("keyward-test:{}:", uuid::Uuid::now_v7())).unwrap();
    redis.with_timeout(patience).unwrap()
}

/// A server of this test's own.
pub(crate) struct Server {
    folder: TempDir,
    process: Child,
    options: Vec<String>,
}

impl Server {
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(&[]).await
    }

    /// With other settings than the defaults.
    pub(crate) async fn start_with(options: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options: Vec<_> = options.iter().map(|&option| option.to_owned()).collect();
        let Some(process) = spawn(&folder, &options) else {
            skip("there is no redis-server");
            return None;
        };
        let server = Self { folder, process, options };
        server.answers().await;
        Some(server)
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    pub(crate) fn open(&self) -> Redis {
        own_keys(Redis::open(&self.url()).unwrap())
    }

    /// Waits until it answers.
    async fn answers(&self) {
        let begun = Instant::now();
        while !["PONG", "NOAUTH Authentication required."].contains(&&*self.command(&["ping"])) {
            assert!(begun.elapsed() < Duration::from_secs(20), "the Redis server does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What the server says to a command.
    pub(crate) fn command(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli").arg("-s").arg(self.socket()).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// How often a command was called.
    pub(crate) fn calls(&self, command: &str) -> u64 {
        let statistics = self.command(&["info", "commandstats"]);
        let prefix = format!("cmdstat_{command}:calls=");
        let line = statistics.lines().find_map(|line| line.strip_prefix(&prefix));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        let _ = std::fs::remove_file(self.socket());
    }

    pub(crate) async fn restart(&mut self) {
        self.process = spawn(&self.folder, &self.options).unwrap();
        self.answers().await;
    }

    /// Stops it in the middle of everything, or lets it go on.
    pub(crate) fn freeze(&self, frozen: bool) {
        let signal = if frozen { "-STOP" } else { "-CONT" };
        assert!(
            Command::new("kill").arg(signal).arg(self.process.id().to_string()).status().unwrap().success()
        );
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What becomes of what is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Open,
    /// Connections are closed, and new ones at once.
    Cut,
    /// Connections stay, and everything on them is lost, as by a firewall that has forgotten them.
    Swallow,
}

/// A way to a server, which can be cut while others still reach it.
pub(crate) struct Way {
    pub(crate) address: std::net::SocketAddr,
    mode: watch::Sender<Mode>,
}

impl Way {
    pub(crate) async fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, told) = watch::channel(Mode::Open);
        let socket = server.socket();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connect(client, socket.clone(), told.clone()));
            }
        });
        Self { address, mode }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn connect(client: TcpStream, socket: PathBuf, told: watch::Receiver<Mode>) {
    if *told.borrow() == Mode::Cut {
        return;
    }
    let Ok(server) = UnixStream::connect(socket).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut cut = told.clone();
    tokio::select! {
        () = pump(from_client, to_server, told.clone()) => {}
        () = pump(from_server, to_client, told) => {}
        _ = cut.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    told: watch::Receiver<Mode>,
) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let open = *told.borrow() == Mode::Open;
        if open && to.write_all(buffer.get(..length).unwrap()).await.is_err() {
            return;
        }
    }
}

fn spawn(folder: &TempDir, options: &[String]) -> Option<Child> {
    let mut command = Command::new("redis-server");
    command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket", "redis.sock"]);
    command.args(options).current_dir(folder.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().ok()
}
