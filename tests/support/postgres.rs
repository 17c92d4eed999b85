//! Real PostgreSQL for tests: the server that the environment names, else one on the default port of this machine,
//! else one that is made from the installed programs. With none of these a test says that it was skipped, and fails
//! where `CI=true`.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "helpers of tests, of which each test uses its part"
)]

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use keyward::store::{PostgresOptions, PostgresStore};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

const VARIABLE: &str = "KEYWARD_TEST_POSTGRES_URL";
const LOCAL: &str = "postgres://postgres@127.0.0.1:5432/postgres";

/// A schema of its own on a server, dropped in the end.
pub(crate) struct Database {
    pub(crate) url: String,
    pub(crate) schema: String,
}

impl Database {
    /// One on the server that all tests share; `None` if there is none.
    pub(crate) fn new() -> Option<Self> {
        static URL: OnceLock<Option<String>> = OnceLock::new();
        URL.get_or_init(shared_server).as_deref().map(Self::at)
    }

    pub(crate) fn at(url: &str) -> Self {
        static SCHEMAS: AtomicU32 = AtomicU32::new(0);
        let number = SCHEMAS.fetch_add(1, Ordering::Relaxed);
        let schema = format!("keyward_test_{}_{number}", std::process::id());
        Self { url: url.to_owned(), schema }
    }

    /// The same schema for a user who may make it, and who is neither a superuser nor exempt from row-level security.
    pub(crate) async fn for_a_user_without_exemption(&self) -> Self {
        let (login, database) = (&self.schema, self.url.rsplit('/').next().unwrap());
        self.client_anywhere()
            .await
            .batch_execute(&format!(
                "CREATE ROLE {login} LOGIN PASSWORD 'right' NOSUPERUSER NOBYPASSRLS; \
                 GRANT CREATE ON DATABASE {} TO {login}",
                database.split('?').next().unwrap()
            ))
            .await
            .unwrap();
        let (scheme, rest) = self.url.split_once("://").unwrap();
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        Self { url: format!("{scheme}://{login}:right@{host}"), schema: login.clone() }
    }

    pub(crate) fn options(&self) -> PostgresOptions {
        PostgresOptions::new(&self.url).unwrap().with_schema(&self.schema).unwrap()
    }

    pub(crate) async fn open(&self) -> PostgresStore {
        self.options().open().await.unwrap()
    }

    /// A store with nothing in it.
    pub(crate) async fn fresh(&self) -> PostgresStore {
        let store = self.options().with_connections(4).open().await.unwrap();
        self.clear().await;
        store
    }

    /// Leaves nothing in it.
    pub(crate) async fn clear(&self) {
        self.run(
            "DELETE FROM tokens; DELETE FROM owners; DELETE FROM users; DELETE FROM revoked_jwts; \
             DELETE FROM changes; DELETE FROM audit; UPDATE audit_chain SET anchor = 0, head = 0, \
             anchor_hash = decode(repeat('00', 32), 'hex'), head_hash = decode(repeat('00', 32), 'hex')",
        )
        .await;
    }

    async fn client_anywhere(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// A connection that sees the schema.
    pub(crate) async fn client(&self) -> Client {
        let client = self.client_anywhere().await;
        client.batch_execute(&format!("SET search_path = {}", self.schema)).await.unwrap();
        client
    }

    pub(crate) async fn run(&self, sql: &str) {
        self.client().await.batch_execute(sql).await.unwrap();
    }

    /// The first value of the first row.
    pub(crate) async fn value(&self, sql: &str) -> String {
        let rows = self.client().await.simple_query(sql).await.unwrap();
        let row = rows.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        row.unwrap().get(0).unwrap_or_default().to_owned()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let sql = format!("SET client_min_messages = warning; DROP SCHEMA IF EXISTS {} CASCADE", self.schema);
        let url = self.url.clone();
        // With a runtime of its own: that of the test may be about to end.
        let _ = std::thread::spawn(move || blocking(&url, &[sql])).join();
    }
}

/// Whether the statements could be run, one after the other.
fn blocking(url: &str, sql: &[String]) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let work = async {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.ok()?;
        let connection = tokio::spawn(connection);
        for sql in sql {
            client.batch_execute(sql).await.ok()?;
        }
        drop(client);
        connection.await.ok()
    };
    runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(20), work).await.ok().flatten() })
        .is_some()
}

fn answers(url: &str) -> bool {
    let url = url.to_owned();
    std::thread::spawn(move || blocking(&url, &["SELECT 1".to_owned()])).join().unwrap()
}

fn shared_server() -> Option<String> {
    if let Ok(url) = std::env::var(VARIABLE) {
        assert!(answers(&url), "the server of {VARIABLE} does not answer");
        return Some(url);
    }
    if answers(LOCAL) {
        return Some(LOCAL.to_owned());
    }
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    let server = SERVER.get_or_init(|| Server::start("trust", &[]));
    server.as_ref().map(|server| server.url("postgres", "localhost"))
}

/// A server of this test's own, to be stopped, killed and looked into. It ends with the test, however that ends.
pub(crate) struct Server {
    directory: TempDir,
    programs: PathBuf,
    port: u16,
    options: String,
    /// Stops the server once its standard input is closed.
    janitor: Child,
}

impl Server {
    /// A running server that lets users in by this method; `None` if none is installed.
    pub(crate) fn start(method: &str, settings: &[&str]) -> Option<Self> {
        let Some(programs) = programs() else {
            skipped("no PostgreSQL server answers, and none is installed");
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = directory.path().to_str().unwrap().to_owned();
        if is_root() {
            assert!(Command::new("chown").args(["postgres", &path]).status().unwrap().success());
        }
        let mut options = format!("-p {port} -k {path} -c listen_addresses=127.0.0.1 -c fsync=off");
        settings.iter().for_each(|setting| options.push_str(&format!(" -c {setting}")));
        let stop = format!(
            "cat; {} {}/pg_ctl -D {path}/data -m immediate stop >/dev/null 2>&1; rm -rf {path}",
            if is_root() { "runuser -u postgres --" } else { "" },
            programs.display()
        );
        let janitor = Command::new("sh")
            .args(["-c", &stop])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { directory, programs, port, options, janitor };
        fs::write(server.path("password"), "right").unwrap();
        let data = server.path("data");
        let password = format!("--pwfile={}", server.path("password").display());
        let auth = format!("--auth={method}");
        let arguments = [
            "-D",
            data.to_str().unwrap(),
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
            &auth,
            &password,
        ];
        server.program("initdb", &arguments);
        server.resume();
        Some(server)
    }

    pub(crate) fn url(&self, user: &str, host: &str) -> String {
        format!("postgres://{user}@{host}:{}/postgres", self.port)
    }

    pub(crate) fn database(&self) -> Database {
        Database::at(&self.url("postgres", "127.0.0.1"))
    }

    /// A database with this name, with nothing in it.
    pub(crate) fn make_database(&self, name: &str) -> String {
        let (url, make) = (self.url("postgres", "127.0.0.1"), [format!("CREATE DATABASE {name}")]);
        let made = std::thread::spawn(move || blocking(&url, &make));
        assert!(made.join().unwrap(), "no database {name} can be made");
        format!("postgres://postgres@127.0.0.1:{}/{name}", self.port)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What the server has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    /// `immediate` is as if it was killed.
    pub(crate) fn stop(&self, mode: &str) {
        self.control(&["-m", mode, "stop"]);
    }

    pub(crate) fn resume(&self) {
        self.resume_with("");
    }

    /// The same, with more options of the program.
    pub(crate) fn resume_with(&self, more: &str) {
        let (log, options) = (self.path("log"), format!("{} {more}", self.options));
        self.control(&["-w", "-t", "60", "-l", log.to_str().unwrap(), "-o", &options, "start"]);
    }

    /// A file that only the server may read.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        if is_root() {
            assert!(Command::new("chown").arg("postgres").arg(&path).status().unwrap().success());
        }
    }

    fn control(&self, arguments: &[&str]) {
        let data = self.path("data");
        self.program("pg_ctl", &[&["-D", data.to_str().unwrap()], arguments].concat());
    }

    fn program(&self, name: &str, arguments: &[&str]) {
        let program = self.programs.join(name);
        let mut command = match is_root() {
            true => {
                let mut command = Command::new("runuser");
                command.args(["-u", "postgres", "--"]).arg(program);
                command
            }
            false => Command::new(program),
        };
        let output = command.args(arguments).current_dir("/").stdin(Stdio::null()).stderr(Stdio::null());
        assert!(output.stdout(Stdio::null()).status().unwrap().success(), "{name} {arguments:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        let _ = self.janitor.wait();
    }
}

/// Says why a test does nothing.
pub(crate) fn skipped(why: &str) {
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{why}");
    eprintln!("skipped: {why}");
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout == b"0\n")
}

/// The directory of the newest server that is installed.
fn programs() -> Option<PathBuf> {
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut places: Vec<_> = debian.flatten().map(|version| version.path().join("bin")).collect();
    places.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    places.extend(std::env::split_paths(&path));
    places.into_iter().rev().find(|place| Path::is_file(&place.join("initdb")))
}
