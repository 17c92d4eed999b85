//! Starts the example service as a process of its own, and talks to it over plain sockets.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, and uses its part of this"
)]

#[path = "../support/postgres.rs"]
pub(crate) mod postgres;

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex, OnceLock, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use keyward::store::{PostgresStore, SqliteStore, TokenStore};
use serde_json::Value;

/// An emergency key, and its SHA-256.
pub(crate) const GLASS: &str = "b7c1f0a4e29d4b6f8e35a7d90c1b2f3e4d5a69788796a5b4c3d2e1f00f1e2d3c";
pub(crate) const GLASS_SHA256: (&str, &str) =
    ("KEYWARD_EMERGENCY_KEY_SHA256", "fffd16ac7e7fc1e3972875f3e86983877f10970f2ba852d160387898ebcb1079");

/// A running service. Dropped, it is killed.
pub(crate) struct Service {
    child: Arc<Mutex<Child>>,
    address: String,
    /// Empty if this start printed none.
    pub(crate) admin_key: String,
    log: Arc<Log>,
}

#[derive(Debug, Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    grown: Condvar,
}

/// What a process left when it ended.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// An answer, without the headers that differ from request to request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<String>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn text(&self, member: &str) -> String {
        self.json()[member].as_str().unwrap_or_else(|| panic!("no {member}: {self:?}")).to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> String {
        let wanted = self.headers.iter().filter_map(|line| line.split_once(": "));
        wanted.filter(|(found, _)| *found == name).map(|(_, value)| value.to_owned()).collect()
    }
}

/// A folder for one test.
pub(crate) fn scratch() -> Arc<tempfile::TempDir> {
    // It outlives the service that runs in it, since the test's process does not end before.
    let folder = Arc::new(tempfile::tempdir().unwrap());
    FOLDERS.lock().unwrap().push(folder.clone());
    folder
}

static FOLDERS: Mutex<Vec<Arc<tempfile::TempDir>>> = Mutex::new(Vec::new());

/// A number from the environment.
#[expect(clippy::disallowed_methods, reason = "lets a longer run be asked for")]
pub(crate) fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// The example's program, which `cargo test` builds beside this test.
fn program() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let program = here.parent().and_then(Path::parent).unwrap().join("examples/key_service");
    assert!(
        program.exists(),
        "run the whole of `cargo test`, which builds the example {}",
        program.display()
    );
    program
}

/// Whether the services keep their keys on a PostgreSQL server, which is asked for by the environment, and not in a
/// file.
#[expect(clippy::disallowed_methods, reason = "lets the same tests run on another store")]
pub(crate) fn is_on_postgres() -> bool {
    std::env::var("KEYWARD_TEST_SERVICE_STORE").is_ok_and(|store| store == "postgres")
}

/// The database of the services in `folder`, if it is no file.
fn database(folder: &Path) -> Option<String> {
    static SERVER: OnceLock<postgres::Server> = OnceLock::new();
    static DATABASES: Mutex<Option<HashMap<PathBuf, String>>> = Mutex::new(None);
    if !is_on_postgres() {
        return None;
    }
    let server = SERVER.get_or_init(|| postgres::Server::start("trust", &[]).expect("a server is installed"));
    let mut databases = DATABASES.lock().unwrap();
    let databases = databases.get_or_insert_default();
    let name = format!("keys_{}", databases.len());
    let url = databases.entry(folder.to_owned()).or_insert_with(|| server.make_database(&name));
    Some(url.clone())
}

/// What the services in `folder` store their keys in.
pub(crate) async fn open_store(folder: &Path) -> Arc<dyn TokenStore> {
    match database(folder) {
        Some(url) => Arc::new(PostgresStore::open(&url).await.unwrap()),
        None => Arc::new(SqliteStore::open(folder.join("keyward.db")).await.unwrap()),
    }
}

/// The service's program in `folder`, without settings of this test's own environment.
fn command(folder: &Path, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program());
    let own = ["API_TOKENS", "RUST_LOG", "KEYWARD_ADMIN_USERS", "KEYWARD_DATABASE_URL", "KEYWARD_BOOTSTRAP"];
    for name in own.into_iter().chain([
        "KEYWARD_CONFIG",
        "KEYWARD_REDIS_URL",
        "KEYWARD_TEST_POSTGRES_URL",
        "KEYWARD_TEST_SERVICE_STORE",
    ]) {
        command.env_remove(name);
    }
    command.envs(database(folder).map(|url| ("KEYWARD_DATABASE_URL", url)));
    command.current_dir(folder).env("KEYWARD_LISTEN", "127.0.0.1:0").envs(settings.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn spawn(folder: &Path, settings: &[(&str, &str)]) -> Child {
    command(folder, settings).spawn().unwrap()
}

impl From<std::process::Output> for Output {
    fn from(output: std::process::Output) -> Self {
        let [stdout, stderr] =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        Self { code: output.status.code(), stdout, stderr }
    }
}

impl Service {
    /// Starts it in `folder` and waits until it listens.
    pub(crate) fn start(folder: &Path, settings: &[(&str, &str)]) -> Self {
        let mut child = spawn(folder, settings);
        let log = Arc::new(Log::default());
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let collected = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                collected.lines.lock().unwrap().push(line);
                collected.grown.notify_all();
            }
        });
        let (mut admin_key, mut address) = (String::new(), None);
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        for line in &mut lines {
            if let Some(key) = line.strip_prefix("admin key: ") {
                admin_key = key.to_owned();
            } else if let Some(at) = line.strip_prefix("listening on http://") {
                address = Some(at.to_owned());
                break;
            }
        }
        let printed = log.clone();
        std::thread::spawn(move || {
            for line in lines {
                printed.lines.lock().unwrap().push(line);
                printed.grown.notify_all();
            }
        });
        let address = address.unwrap_or_else(|| panic!("it did not start: {:?}", log.lines.lock().unwrap()));
        Self { child: Arc::new(Mutex::new(child)), address, admin_key, log }
    }

    /// Sends it a request with these headers alone.
    pub(crate) fn with_headers(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.with_body(method, path, headers, b"")
    }

    /// The same with a body.
    pub(crate) fn with_body(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        self.write(method, path, &lines, body).unwrap().expect("the service answers")
    }

    /// Starts it with settings that it must refuse, and waits for its end.
    pub(crate) fn refused(folder: &Path, settings: &[(&str, &str)]) -> Output {
        spawn(folder, settings).wait_with_output().unwrap().into()
    }

    /// What it answers to arguments, such as `--print-config`.
    pub(crate) fn run(folder: &Path, settings: &[(&str, &str)], arguments: &[&str]) -> Output {
        command(folder, settings).args(arguments).output().unwrap().into()
    }

    /// Tells it to end, and waits.
    pub(crate) fn stop(self) -> Output {
        let id = self.child.lock().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        let code = self.child.lock().unwrap().wait().unwrap().code();
        Output { code, stdout: String::new(), stderr: self.log.lines.lock().unwrap().join("\n") }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// How many bytes of memory it has at the moment, where the system tells.
    pub(crate) fn resident_bytes(&self) -> Option<u64> {
        let id = self.child.lock().unwrap().id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
    }

    /// Kills it (SIGKILL) after `delay`, in the middle of whatever it does then.
    pub(crate) fn kill_after(&self, delay: Duration) -> JoinHandle<()> {
        let child = self.child.clone();
        let (started, start) = mpsc::channel::<()>();
        let killer = std::thread::spawn(move || {
            // Nothing is sent: the wait ends when the time is over.
            let _ = start.recv_timeout(delay);
            let mut child = child.lock().unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
        });
        std::mem::forget(started);
        killer
    }

    /// Whether a line of its log holds all of these.
    pub(crate) fn has_logged(&self, parts: &[&str]) -> bool {
        self.log.lines.lock().unwrap().iter().any(|line| parts.iter().all(|part| line.contains(part)))
    }

    /// How many alerts of this kind it has logged.
    pub(crate) fn alerts(&self, kind: &str) -> usize {
        count_alerts(&self.log.lines.lock().unwrap(), kind)
    }

    /// The lines with this text that it has logged so far.
    pub(crate) fn logged(&self, text: &str) -> Vec<String> {
        self.log.lines.lock().unwrap().iter().filter(|line| line.contains(text)).cloned().collect()
    }

    /// Waits for a line with all of these texts.
    pub(crate) fn wait_for_line(&self, texts: &[&str]) {
        let lines = self.log.lines.lock().unwrap();
        let is_it = |line: &String| texts.iter().all(|text| line.contains(text));
        let missing = |lines: &mut Vec<String>| !lines.iter().any(is_it);
        let (lines, waited) =
            self.log.grown.wait_timeout_while(lines, Duration::from_secs(5), missing).unwrap();
        assert!(!waited.timed_out(), "no line with {texts:?} among {lines:?}");
    }

    /// Waits until it has logged exactly so many alerts of this kind.
    pub(crate) fn wait_for_alerts(&self, kind: &str, expected: usize) {
        let lines = self.log.lines.lock().unwrap();
        let missing = |lines: &mut Vec<String>| count_alerts(lines, kind) < expected;
        let waited = self.log.grown.wait_timeout_while(lines, Duration::from_secs(5), missing).unwrap();
        assert_eq!(count_alerts(&waited.0, kind), expected, "{kind}: {:?}", waited.0);
    }

    pub(crate) fn get(&self, path: &str, key: &str) -> Answer {
        self.send("GET", path, key, None)
    }

    pub(crate) fn post(&self, path: &str, key: &str, body: Value) -> Answer {
        self.send("POST", path, key, Some(body))
    }

    pub(crate) fn send(&self, method: &str, path: &str, key: &str, body: Option<Value>) -> Answer {
        self.try_send(method, path, key, body).expect("the service answers")
    }

    /// The answer; `None` if the service is gone.
    pub(crate) fn try_send(
        &self,
        method: &str,
        path: &str,
        key: &str,
        body: Option<Value>,
    ) -> Option<Answer> {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        self.exchange(method, path, key, body.as_bytes(), "application/json").ok().flatten()
    }

    pub(crate) fn raw(&self, method: &str, path: &str, key: &str, body: &[u8], kind: &str) -> Answer {
        self.exchange(method, path, key, body, kind).unwrap().expect("the service answers")
    }

    fn exchange(
        &self,
        method: &str,
        path: &str,
        key: &str,
        body: &[u8],
        kind: &str,
    ) -> std::io::Result<Option<Answer>> {
        let key = match key {
            "" => String::new(),
            key if key.starts_with("Bearer ") => format!("Authorization: {key}\r\n"),
            key => format!("X-API-Key: {key}\r\n"),
        };
        self.write(method, path, &format!("{key}Content-Type: {kind}\r\n"), body)
    }

    fn write(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> std::io::Result<Option<Answer>> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: test\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        // A refusal may come before the whole body is read; then writing fails and the answer is there.
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        if answer.is_empty() {
            read?;
        }
        Ok(parse(&String::from_utf8_lossy(&answer)))
    }
}

fn parse(answer: &str) -> Option<Answer> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let varying = |line: &&str| !line.starts_with("date: ") && !line.starts_with("x-request-id: ");
    let headers: Vec<String> = lines.filter(varying).map(str::to_owned).collect();
    let length = headers.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    // An answer that was cut off is no answer.
    if length.is_some_and(|length| body.len() < length) {
        return None;
    }
    Some(Answer { status, headers, body: body.to_owned() })
}

fn count_alerts(lines: &[String], kind: &str) -> usize {
    lines
        .iter()
        .filter(|line| line.contains("WARN") && line.contains("security alert") && line.contains(kind))
        .count()
}

impl Drop for Service {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }
}
