//! One connection, and the file that it was opened on.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rusqlite::{Connection, OpenFlags, config::DbConfig};

use super::{failure::Failure, schema};
use crate::store::{StoreError, StoreErrorKind};

/// POSIX drops all locks of a process on a file when it closes any descriptor of that file, so nothing
/// here may close one of its own while SQLite opens the same file.
static FILES: Mutex<()> = Mutex::new(());

/// 3.51.3: earlier ones can corrupt a database in WAL mode that has several connections.
const OLDEST_SQLITE: i32 = 3_051_003;

/// One page of the smallest size. What is shorter, SQLite takes for empty and writes over.
const SMALLEST: u64 = 512;

/// What a connection is opened with.
#[derive(Debug)]
pub(super) struct Target {
    /// Absolute.
    pub(super) path: PathBuf,
    pub(super) busy_timeout: Duration,
}

/// A connection and what it is connected to.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) connection: Connection,
    path: PathBuf,
    main: FileId,
    wal_path: PathBuf,
    wal: Option<FileId>,
    /// When the file came to be: tells apart two files of which the second took over the first one's number.
    pub(super) born: (FileId, Option<SystemTime>),
    /// Tells it from the other links of the store.
    pub(super) number: u64,
    /// Which file at the path it leads to: 0 is the first, 1 the one that replaced it.
    pub(super) epoch: u64,
}

impl Link {
    /// Opens the file for the first time in this process: makes it if there is none, and brings its
    /// tables to the current version.
    pub(super) fn create(target: &Target, check: bool) -> Result<Self, Failure> {
        if rusqlite::version_number() < OLDEST_SQLITE {
            return Err(Failure::new(
                StoreErrorKind::Incompatible,
                format!(
                    "SQLite {} can corrupt the database; link 3.51.3 or newer, such as by the feature `sqlite-bundled`",
                    rusqlite::version()
                ),
            ));
        }
        make_file(&target.path)?;
        Self::connect(target, |connection| {
            schema::check_migratable(connection)?;
            if check {
                quick_check(connection, &target.path)?;
            }
            enter_wal(connection, target.busy_timeout)?;
            schema::migrate(connection)
        })
    }

    /// Opens the file again. A file that is missing or not migrated stays an error.
    pub(super) fn reopen(target: &Target) -> Result<Self, Failure> {
        Self::connect(target, |connection| {
            schema::check_current(connection)?;
            enter_wal(connection, target.busy_timeout)
        })
    }

    fn connect(
        target: &Target,
        prepare: impl FnOnce(&mut Connection) -> Result<(), Failure>,
    ) -> Result<Self, Failure> {
        let path = &target.path;
        let before = check_file(path)?;
        let resolved = path.canonicalize().map_err(|error| refused(path, &error))?;
        let mut connection = open(&resolved).map_err(|failure| about(path, failure))?;
        configure(&connection, target).and_then(|()| prepare(&mut connection)).map_err(|f| about(path, f))?;
        let mut wal_path = resolved.into_os_string();
        wal_path.push("-wal");
        let wal_path = PathBuf::from(wal_path);
        let wal = FileId::of(&wal_path);
        let main = FileId::from(&before);
        if !main.is_at(path) {
            return Err(unavailable(path, "was replaced at this moment; try again"));
        }
        let born = (main, before.created().ok());
        Ok(Self { connection, path: path.clone(), main, wal_path, wal, born, number: 0, epoch: 0 })
    }

    /// Whether the path still leads to the file, and the write-ahead log, that this connection has open.
    pub(super) fn is_current(&self) -> bool {
        self.main.is_at(&self.path) && self.wal.is_none_or(|wal| wal.is_at(&self.wal_path))
    }

    /// Saves what the write-ahead log of a deleted or replaced file still holds into that file, and takes
    /// the log away: the next file at the path must not be read together with it.
    ///
    /// `false` if nothing could be saved and the file may come back.
    pub(super) fn leave(&self) -> bool {
        if self.wal.is_some_and(|wal| !wal.is_at(&self.wal_path) && self.wal_path.exists()) {
            // Somebody else has moved on already; what is in our log was never acknowledged.
            let _ = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
            return true;
        }
        let busy =
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        let replaced = self.path.exists() && !self.main.is_at(&self.path);
        let saved = matches!(busy, Ok(0));
        let ours = self.wal.is_some_and(|wal| wal.is_at(&self.wal_path));
        if (saved || replaced) && ours && !self.main.is_at(&self.path) {
            let _ = fs::remove_file(&self.wal_path);
            let _ = fs::remove_file(shm_of(&self.wal_path));
        }
        saved || replaced
    }
}

fn shm_of(wal_path: &Path) -> PathBuf {
    let mut path = wal_path.to_path_buf();
    if let Some(name) = wal_path.to_str().and_then(|wal| wal.strip_suffix("-wal")) {
        path = format!("{name}-shm").into();
    }
    path
}

/// Makes an empty file that nobody else can read, unless there is one.
fn make_file(path: &Path) -> Result<(), Failure> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let _guard = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    match options.open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(refused(path, &error)),
    }
}

fn check_file(path: &Path) -> Result<fs::Metadata, Failure> {
    let metadata = fs::metadata(path).map_err(|error| refused(path, &error))?;
    if !metadata.is_file() {
        return Err(unavailable(path, "is no file; name the database file itself"));
    }
    if (1..SMALLEST).contains(&metadata.len()) {
        let sentence = format!("{} is not an SQLite database", path.display());
        return Err(Failure::new(StoreErrorKind::Corrupt, sentence));
    }
    #[cfg(unix)]
    if std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o007 != 0 {
        let advice = format!("is open to every user of this machine; run `chmod o-rwx {}`", path.display());
        return Err(unavailable(path, &advice));
    }
    Ok(metadata)
}

fn open(path: &Path) -> Result<Connection, Failure> {
    let _guard = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Ok(Connection::open_with_flags(path, flags)?)
}

fn configure(connection: &Connection, target: &Target) -> Result<(), Failure> {
    connection.busy_timeout(target.busy_timeout)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    // Otherwise a statement may be compiled anew for each value that is bound.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection
        .execute_batch("PRAGMA foreign_keys = ON; PRAGMA synchronous = FULL; PRAGMA cell_size_check = ON")?;
    if connection.is_readonly("main")? {
        return Err(unavailable(&target.path, "cannot be written; give this user write access to it"));
    }
    Ok(())
}

/// The switch takes an exclusive lock and does not always wait for it, so this does.
fn enter_wal(connection: &Connection, patience: Duration) -> Result<(), Failure> {
    const STEP: Duration = Duration::from_millis(10);
    let mut waited = Duration::ZERO;
    loop {
        let mode = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0));
        match mode {
            Ok(mode) if mode == "wal" => break,
            Ok(_) => {
                let sentence = "the file system cannot share memory, which WAL mode needs; use a local disk";
                return Err(Failure::new(StoreErrorKind::Incompatible, sentence));
            }
            Err(error) if waited >= patience => return Err(error.into()),
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {
                std::thread::sleep(STEP);
                waited += STEP;
            }
            Err(error) => return Err(error.into()),
        }
    }
    // A first read opens the log, and from then on the connection holds the lock that keeps it there.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))?;
    Ok(())
}

fn quick_check(connection: &Connection, path: &Path) -> Result<(), Failure> {
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found == "ok" {
        return Ok(());
    }
    let sentence = format!("{} is damaged; restore a backup ({found})", path.display());
    Err(Failure::new(StoreErrorKind::Corrupt, sentence))
}

fn unavailable(path: &Path, predicate: &str) -> Failure {
    Failure::new(StoreErrorKind::Unavailable, format!("{} {predicate}", path.display()))
}

fn refused(path: &Path, error: &io::Error) -> Failure {
    unavailable(path, &format!("cannot be opened: {error}"))
}

/// Names the file in an error of SQLite.
fn about(path: &Path, failure: Failure) -> Failure {
    let Failure { error, reopen } = failure;
    let path = path.display().to_string();
    let sentence = match std::error::Error::source(&error) {
        Some(source) if source.to_string().contains(&path) => return Failure { error, reopen },
        Some(source) => format!("{path}: {source}"),
        None => path,
    };
    Failure { error: StoreError::new(error.kind(), sentence), reopen }
}

/// Which file it is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    #[cfg(unix)]
    device: u64,
    #[cfg(unix)]
    inode: u64,
}

impl FileId {
    fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().as_ref().map(Self::from)
    }

    #[cfg(unix)]
    fn is_at(self, path: &Path) -> bool {
        Self::of(path) == Some(self)
    }

    /// Elsewhere an open file cannot be deleted or replaced.
    #[cfg(not(unix))]
    fn is_at(self, _: &Path) -> bool {
        true
    }
}

impl From<&fs::Metadata> for FileId {
    #[cfg(unix)]
    fn from(metadata: &fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self { device: metadata.dev(), inode: metadata.ino() }
    }

    #[cfg(not(unix))]
    fn from(_: &fs::Metadata) -> Self {
        Self {}
    }
}
