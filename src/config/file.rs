//! The settings file: what stands in it, and in which line.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::report::Source;

/// The longest file that is read, in bytes.
const LONGEST: u64 = 1024 * 1024;

/// What was read of a file.
#[derive(Default)]
pub(super) struct File {
    path: PathBuf,
    items: Table,
    /// Everybody on this machine may read it.
    is_open: bool,
    /// What is not TOML, by line.
    faults: Vec<(usize, String)>,
    /// The first line that should begin a table and does not: nobody knows where the keys below it belong.
    lost_from: Option<usize>,
}

pub(super) type Table = BTreeMap<String, Item>;

/// A value with its line, of which the first is 1.
pub(super) struct Item {
    pub(super) line: usize,
    pub(super) value: Value,
}

/// A value as far as settings tell them apart.
pub(super) enum Value {
    Text(String),
    /// In decimal digits.
    Integer(String),
    Boolean(bool),
    /// A fraction, a date or a time, as it is written.
    Other(String),
    List(Vec<Item>),
    Table(Table),
}

impl File {
    /// Reads the file at `path`; an empty one, if there is none and there need not be one.
    pub(super) fn open(path: &Path, must_exist: bool) -> Result<Self, String> {
        let file = match fs::File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => {
                return Ok(Self::default());
            }
            file => file.map_err(|error| format!("cannot be opened: {error}"))?,
        };
        let is_open = file.metadata().is_ok_and(|metadata| anybody_may_read(&metadata));
        let mut bytes = Vec::new();
        let read = file.take(LONGEST + 1).read_to_end(&mut bytes);
        read.map_err(|error| format!("cannot be read: {error}"))?;
        if bytes.len() as u64 > LONGEST {
            return Err("longer than 1 MiB, which cannot be a settings file".to_owned());
        }
        let text = String::from_utf8(bytes).map_err(|_| "not valid UTF-8".to_owned())?;
        Ok(Self { path: path.to_owned(), is_open, ..Self::parse(&text) })
    }

    fn parse(text: &str) -> Self {
        let lines = Lines::new(text);
        let (table, errors) = DeTable::parse_recoverable(text);
        // The error's own text repeats the line, which may hold a secret; its message does not.
        let fault = |error: &toml::de::Error| {
            let start = error.span().map_or(text.len(), |span| span.start);
            (lines.of(start), error.message().replace('\n', " "))
        };
        let faults: Vec<_> = errors.iter().map(fault).collect();
        let is_header = |line: &usize| lines.text(*line, text).trim_start().starts_with('[');
        let lost_from = faults.iter().map(|(line, _)| *line).filter(is_header).min();
        Self { items: lines.table(table.into_inner()), faults, lost_from, ..Self::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    pub(super) fn faults(&self) -> &[(usize, String)] {
        &self.faults
    }

    /// Whether something is not TOML that may be the reason for anything odd in this line.
    pub(super) fn is_doubtful(&self, line: usize) -> bool {
        self.lost_from.is_some_and(|from| from < line) || self.faults.iter().any(|(fault, _)| *fault == line)
    }

    /// What stands at a key such as `jwt.secret`.
    pub(super) fn get(&self, key: &str) -> Option<&Item> {
        let mut segments = key.split('.');
        let first = self.items.get(segments.next()?)?;
        segments.try_fold(first, |item, segment| match &item.value {
            Value::Table(table) => table.get(segment),
            _ => None,
        })
    }

    /// Where a line of this file is.
    pub(super) fn source(&self, line: usize) -> Source {
        Source::File { path: self.path.clone(), line }
    }

    /// The paths that lead to none of `keys`.
    pub(super) fn unknown(&self, keys: &BTreeSet<&str>) -> Vec<Unknown> {
        let mut unknown = Vec::new();
        collect_unknown(&self.items, "", keys, &mut unknown);
        unknown
    }
}

/// A path that was not asked for.
pub(super) struct Unknown {
    pub(super) line: usize,
    pub(super) path: String,
    pub(super) kind: UnknownKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum UnknownKind {
    Value,
    Table,
    /// A value with the name of a table.
    NoTable,
}

fn collect_unknown(table: &Table, above: &str, keys: &BTreeSet<&str>, unknown: &mut Vec<Unknown>) {
    for (name, item) in table {
        let path = format!("{above}{name}");
        let inside = format!("{path}.");
        // A quoted name with a dot in it looks like a path and is none.
        let is_name = !name.contains('.');
        let is_table = is_name && keys.iter().any(|key| key.starts_with(&inside));
        match &item.value {
            _ if is_name && keys.contains(&*path) => {}
            Value::Table(table) if is_table => collect_unknown(table, &inside, keys, unknown),
            _ if is_table => unknown.push(Unknown { line: item.line, path, kind: UnknownKind::NoTable }),
            Value::Table(_) => unknown.push(Unknown { line: item.line, path, kind: UnknownKind::Table }),
            _ => unknown.push(Unknown { line: item.line, path, kind: UnknownKind::Value }),
        }
    }
}

/// Finds lines by position: where each begins.
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Self {
        Self(std::iter::once(0).chain(text.match_indices('\n').map(|(end, _)| end + 1)).collect())
    }

    fn of(&self, position: usize) -> usize {
        self.0.partition_point(|start| *start <= position)
    }

    fn text<'t>(&self, line: usize, text: &'t str) -> &'t str {
        let start = line.checked_sub(1).and_then(|at| self.0.get(at));
        start.and_then(|start| text.get(*start..)).unwrap_or_default()
    }

    fn table(&self, table: DeTable<'_>) -> Table {
        let items = table.into_iter().map(|(name, value)| {
            let line = self.of(name.span().start);
            (name.into_inner().into_owned(), Item { line, value: self.value(value) })
        });
        items.collect()
    }

    fn value(&self, value: Spanned<DeValue<'_>>) -> Value {
        match value.into_inner() {
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Integer(number) => {
                let decimal = i128::from_str_radix(number.as_str(), number.radix());
                // What is too long for any number stays as it is, and is no number to anybody.
                Value::Integer(decimal.map_or_else(|_| number.to_string(), |number| number.to_string()))
            }
            DeValue::Float(number) => Value::Other(number.to_string()),
            DeValue::Datetime(time) => Value::Other(time.to_string()),
            DeValue::Boolean(boolean) => Value::Boolean(boolean),
            DeValue::Array(items) => Value::List(items.into_iter().map(|item| self.item(item)).collect()),
            DeValue::Table(table) => Value::Table(self.table(table)),
        }
    }

    fn item(&self, value: Spanned<DeValue<'_>>) -> Item {
        Item { line: self.of(value.span().start), value: self.value(value) }
    }
}

#[cfg(unix)]
fn anybody_may_read(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    metadata.is_file() && metadata.mode() & 0o004 != 0
}

#[cfg(not(unix))]
fn anybody_may_read(_: &fs::Metadata) -> bool {
    false
}
