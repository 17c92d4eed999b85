//! Asks for one setting after the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fmt,
    ops::RangeInclusive,
    path::PathBuf,
    str::FromStr,
};

use super::{
    file::{File, Unknown, UnknownKind, Value},
    found::{Found, MASKED, plain_value},
    nearest::{is_close, nearest},
    report::{ConfigErrors, Entry, Problems, Report, Source},
    setting::{Name, Secret, Setting},
};

/// Reads settings, and keeps what is wrong with them until [`Sources::read`](super::Sources::read) tells it.
///
/// ```
/// use keyward::config::{Reader, Sources};
///
/// fn read(config: &mut Reader) -> Option<(bool, Option<String>)> {
///     let mail = config.switch("mail.enabled").or(false);
///     let from = config.value("mail.from").optional();
///     if mail && from.is_none() {
///         config.refuse(["mail.enabled", "mail.from"], "needs a sender; set SHOP_MAIL_FROM");
///     }
///     Some((mail, from))
/// }
///
/// let errors = Sources::new("SHOP_").with_variables([("SHOP_MAIL_ENABLED", "true")]).read(read).unwrap_err();
/// assert_eq!(
///     errors.sentences(),
///     ["environment variable SHOP_MAIL_ENABLED: needs a sender; set SHOP_MAIL_FROM"]
/// );
/// ```
pub struct Reader {
    prefix: String,
    variables: BTreeMap<OsString, OsString>,
    file: File,
    /// What was asked for so far.
    entries: Vec<Entry>,
    wrong: BTreeSet<&'static str>,
    /// Whether the file was understood. If not, what is missing may stand there.
    is_file_known: bool,
    problems: Problems,
}

impl Reader {
    pub(super) fn new(prefix: String, variables: BTreeMap<OsString, OsString>) -> Self {
        Self {
            prefix,
            variables,
            file: File::default(),
            is_file_known: true,
            entries: Vec::new(),
            wrong: BTreeSet::new(),
            problems: Problems::default(),
        }
    }

    /// One value: in the file a text, number, boolean or time; in the environment without white space around it.
    ///
    /// What `FromStr` says of a wrong value is repeated, so a secret is no case for this.
    pub fn value<T: FromStr<Err: fmt::Display>>(&mut self, name: impl Into<Name>) -> Setting<'_, T> {
        self.ask(name.into(), Kind::One, |found| {
            let text = found.one_value()?;
            text.parse().map_err(|error| format!("{error}"))
        })
    }

    /// A whole number within these bounds; in the file, one without quotes.
    pub fn number<N>(&mut self, name: impl Into<Name>, range: RangeInclusive<N>) -> Setting<'_, N>
    where
        N: fmt::Display + PartialOrd + TryFrom<i128>,
    {
        self.ask(name.into(), Kind::One, |found| {
            let text = match found {
                Found::Variable(text) => Some(text.trim()),
                Found::File(Value::Integer(text)) => Some(&**text),
                _ => None,
            };
            let number = text.and_then(|text| N::try_from(text.parse::<i128>().ok()?).ok());
            let (least, most) = (range.start(), range.end());
            let must_be = || format!("must be a whole number from {least} to {most}");
            number.filter(|number| range.contains(number)).ok_or_else(must_be)
        })
    }

    /// `true` or `false` and nothing else; in the file, without quotes.
    pub fn switch(&mut self, name: impl Into<Name>) -> Setting<'_, bool> {
        self.ask(name.into(), Kind::One, |found| match found {
            Found::File(Value::Boolean(value)) => Ok(*value),
            Found::Variable(text) if text.trim() == "true" => Ok(true),
            Found::Variable(text) if text.trim() == "false" => Ok(false),
            _ => Err("must be `true` or `false`".to_owned()),
        })
    }

    /// Several values: in the file an array of texts or numbers, or, as in the environment, a text with commas.
    ///
    /// White space around each, and empty ones between commas, are dropped.
    pub fn list<T: FromStr<Err: fmt::Display>>(&mut self, name: impl Into<Name>) -> Setting<'_, Vec<T>> {
        self.ask(name.into(), Kind::List, |found| {
            let parse =
                |(at, text): (usize, &str)| text.parse().map_err(|error| format!("value {at}: {error}"));
            (1..).zip(found.several_values()?).map(parse).collect()
        })
    }

    /// A text, exactly as it is written, that is never shown. An empty one is a mistake.
    pub fn secret(&mut self, name: impl Into<Name>) -> Setting<'_, Secret> {
        self.ask(name.into(), Kind::Secret, |found| match found {
            Found::Variable(text) => Ok(text.to_owned().into()),
            Found::File(Value::Text(text)) => Ok(text.clone().into()),
            _ => Err("must be a text in quotes".to_owned()),
        })
    }

    /// Refuses what is wrong with several settings together, such as one that needs another.
    ///
    /// `sentence` is told after the name of the first of `keys`, as in "needs a sender; set …". If one of the others is
    /// wrong by itself, nothing is told, since this may only follow from that; name the first once more if it may follow
    /// from a wrong value of that one.
    pub fn refuse<const N: usize>(&mut self, keys: [&'static str; N], sentence: impl fmt::Display) {
        if keys.iter().skip(1).any(|key| self.wrong.contains(key)) {
            return;
        }
        let Some(first) = keys.first() else {
            return self.problems.mistake(None, &sentence.to_string());
        };
        self.mistake(first, &sentence);
    }

    /// Whether a variable or the file sets it, rightly or not; only after it was asked for.
    #[must_use]
    pub fn is_set(&self, key: &str) -> bool {
        let entry = self.entries.iter().find(|entry| entry.key == key);
        entry.is_some_and(|entry| matches!(entry.source, Source::Variable(_) | Source::File { .. }))
    }

    /// Reads the file that a variable names, or the one at `path`, if there is one.
    pub(super) fn read_file(&mut self, path: PathBuf) {
        let named: Option<PathBuf> = self.value(FILE).optional();
        let (path, must_exist) = named.map_or((path, false), |named| (named, true));
        match File::open(&path, must_exist) {
            Ok(file) => self.file = file,
            Err(problem) => {
                self.problems.mistake(None, &format!("settings file {}: {problem}", path.display()));
                self.is_file_known = false;
            }
        }
        for (line, message) in self.file.faults() {
            let sentence = format!("{}, line {line}: not TOML: {message}", path.display());
            self.problems.mistake(Some(*line), &sentence);
            self.is_file_known = false;
        }
    }

    fn ask<T>(
        &mut self,
        name: Name,
        kind: Kind,
        parse: impl FnOnce(Found<'_>) -> Result<T, String>,
    ) -> Setting<'_, T> {
        let (key, is_list, is_secret) = (name.key, kind == Kind::List, kind == Kind::Secret);
        let usual = self.variable_of(key);
        let variable = name.variable.map_or_else(|| usual.clone(), str::to_owned);
        let (source, value, result) = match self.find(key, &variable, kind) {
            None => (Source::Unset, None, Ok(None)),
            Some((source, found)) if found.is_empty(is_list) => (source, None, Err(empty(is_secret))),
            Some((source, Found::NotText)) => (source, None, Err("not valid UTF-8".to_owned())),
            Some((source, found)) => {
                let value = if is_secret { MASKED.to_owned() } else { found.shown(is_list) };
                (source, Some(value), parse(found).map(Some))
            }
        };
        let entry = Entry { key, variable, usual, is_secret, value, source };
        match self.entries.iter_mut().find(|entry| entry.key == key) {
            Some(asked_before) => *asked_before = entry,
            None => self.entries.push(entry),
        }
        let value = result.unwrap_or_else(|problem| {
            self.mistake(key, &problem);
            None
        });
        Setting { reader: self, key, value }
    }

    /// The variable, unless it is empty and that means nothing; or what the file says.
    fn find(&self, key: &str, variable: &str, kind: Kind) -> Option<(Source, Found<'_>)> {
        let found = self.variables.get(OsStr::new(variable)).map(|text| Found::variable(text));
        let counts = |found: &Found<'_>| kind == Kind::Secret || !found.is_empty(kind == Kind::List);
        if let Some(found) = found.filter(counts) {
            return Some((Source::Variable(variable.to_owned()), found));
        }
        let item = self.file.get(key)?;
        Some((self.file.source(item.line), Found::File(&item.value)))
    }

    fn variable_of(&self, key: &str) -> String {
        format!("{}{}", self.prefix, key.replace('.', "_").to_ascii_uppercase())
    }

    pub(super) fn note_default(&mut self, key: &str, text: &str) {
        let entry = self.entries.iter_mut().find(|entry| entry.key == key);
        if let Some(entry) = entry.filter(|entry| entry.source == Source::Unset) {
            entry.source = Source::Default;
            entry.value = Some(if entry.is_secret { MASKED.to_owned() } else { plain_value(text) });
        }
    }

    /// Turns to the variable, if it is there and empty, or to a list without a value in the file.
    pub(super) fn refuse_empty(&mut self, key: &'static str) -> bool {
        let entry = self.entries.iter_mut().find(|entry| entry.key == key);
        let Some(entry) = entry.filter(|entry| !matches!(entry.source, Source::Variable(_))) else {
            return false;
        };
        if self.variables.contains_key(OsStr::new(&entry.variable)) {
            entry.source = Source::Variable(entry.variable.clone());
        } else if entry.source.line().is_none() || entry.value.as_deref() != Some("") {
            return false;
        }
        self.mistake(key, &empty(false));
        true
    }

    pub(super) fn refuse_missing(&mut self, key: &'static str) {
        // It may stand in what could not be read.
        if self.is_file_known {
            self.mistake(key, &"missing; set one of the two");
        }
    }

    /// `problem` goes on where the setting's name and source end.
    pub(super) fn mistake(&mut self, key: &'static str, problem: &dyn fmt::Display) {
        self.wrong.insert(key);
        let entry = self.entries.iter().find(|entry| entry.key == key);
        let subject = entry.map_or_else(|| (*key).to_owned(), Entry::subject);
        let line = entry.and_then(|entry| entry.source.line());
        // What is no TOML was told, and may be the reason.
        if line.is_none_or(|line| !self.file.is_doubtful(line)) {
            self.problems.mistake(line, &format!("{subject}: {problem}"));
        }
    }

    pub(super) fn finish<S>(mut self, settings: Option<S>) -> Result<(S, Report), ConfigErrors> {
        self.refuse_unknown_keys(settings.is_some());
        self.warn_of_unknown_variables(settings.is_some());
        self.warn_of_open_file();
        let (settings, warnings) = self.problems.finish(settings)?;
        Ok((settings, Report { entries: self.entries, warnings }))
    }

    /// Whether `name` is unknown for sure. If the reading `is_whole` it is; else only if it looks like what is missing,
    /// since nobody knows what would have been asked for.
    fn is_unknown(&self, is_whole: bool, name: &str) -> bool {
        let is_missing = |entry: &&Entry| self.wrong.contains(entry.key) && entry.source == Source::Unset;
        let is_meant = |entry: &Entry| is_close(name, entry.key) || is_close(name, &entry.variable);
        is_whole || self.entries.iter().filter(is_missing).any(is_meant)
    }

    fn refuse_unknown_keys(&mut self, is_whole: bool) {
        let entries: Vec<_> = self.entries.iter().filter(|entry| entry.key != FILE).collect();
        let keys: BTreeSet<_> = entries.iter().map(|entry| entry.key).collect();
        let tables: BTreeSet<_> = keys.iter().flat_map(|key| tables_of(key)).collect();
        for Unknown { line, path, kind } in self.file.unknown(&keys) {
            if kind != UnknownKind::NoTable && !self.is_unknown(is_whole, &path) {
                continue;
            }
            // People also write the variable's name into the file, and then mean its key.
            let names = entries
                .iter()
                .flat_map(|entry| [entry.key, &entry.variable, &entry.usual].map(|name| (name, entry.key)));
            let nearest = match kind {
                UnknownKind::Table => {
                    nearest(&path, tables.iter().map(|table| (*table, ()))).map(table_header)
                }
                _ => nearest(&path, names).map(|(_, key)| key.to_owned()),
            };
            let problem = match nearest {
                _ if kind == UnknownKind::NoTable => format!("must be a table, such as `[{path}]`"),
                Some(nearest) => format!("not known; the nearest is {nearest}"),
                None => "not known".to_owned(),
            };
            if !self.file.is_doubtful(line) {
                let sentence = format!("{} ({}): {problem}", plain_name(&path), self.file.source(line));
                self.problems.mistake(Some(line), &sentence);
            }
        }
    }

    fn warn_of_unknown_variables(&mut self, is_whole: bool) {
        if self.prefix.is_empty() {
            return;
        }
        let known: BTreeSet<_> = self.entries.iter().map(|entry| &*entry.variable).collect();
        for name in self.variables.keys() {
            let name = name.to_string_lossy();
            let start = name.get(..self.prefix.len()).unwrap_or_default();
            if !start.eq_ignore_ascii_case(&self.prefix) || known.contains(&*name) {
                continue;
            }
            if !self.is_unknown(is_whole, &name) {
                continue;
            }
            let names = self.entries.iter().flat_map(|entry| {
                // With the prefix people also write those that have none, and then mean the one without.
                [&*entry.variable, &entry.usual].map(|name| (name, &*entry.variable))
            });
            let nearest = nearest(&name, names).map(|(_, known)| format!("; the nearest is {known}"));
            self.problems.warn(&format!(
                "environment variable {}: not known, so without effect{}",
                plain_name(&name),
                nearest.unwrap_or_default()
            ));
        }
    }

    fn warn_of_open_file(&mut self) {
        let in_file = |entry: &&Entry| entry.is_secret && matches!(entry.source, Source::File { .. });
        if let Some(entry) = self.entries.iter().find(in_file).filter(|_| self.file.is_open()) {
            let path = self.file.path().display();
            self.problems.warn(&format!(
                "settings file {path}: holds the secret {}, and everybody on this machine can read it; run `chmod o-r {path}`",
                entry.key
            ));
        }
    }
}

fn empty(is_secret: bool) -> String {
    let what = if is_secret { ", such as the output of `openssl rand -hex 32`" } else { "" };
    format!("empty; unset it, or give it a value{what}")
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    One,
    List,
    Secret,
}

/// The setting that names the file. It cannot stand in the file.
const FILE: &str = "config";

/// The tables in which a key stands, such as `a` and `a.b` for `a.b.c`.
fn tables_of(key: &str) -> impl Iterator<Item = &str> {
    key.match_indices('.').filter_map(|(at, _)| key.get(..at))
}

fn table_header((table, ()): (&str, ())) -> String {
    format!("[{table}]")
}

/// A name that somebody else chose, for a message: short, without control characters, and without what could be a
/// secret in the wrong place.
fn plain_name(name: &str) -> String {
    let words = name.split_inclusive(|c: char| !c.is_alphanumeric());
    let cut = words.map(|word| if word.len() > 20 { "…" } else { word });
    cut.collect::<String>().chars().take(80).flat_map(char::escape_debug).collect()
}

/// For debugging: not what was read.
impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}
