//! What was read, from where, and what was wrong with it.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use super::found::one_line;

/// Where the value of a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Source {
    /// The environment variable of this name.
    Variable(String),
    /// A line of the settings file.
    File {
        /// As it was given.
        path: PathBuf,
        /// The first is 1.
        line: usize,
    },
    /// The service's own default.
    Default,
    /// It is not set and has no default.
    Unset,
}

impl Source {
    pub(super) fn line(&self) -> Option<usize> {
        match self {
            Self::File { line, .. } => Some(*line),
            Self::Variable(_) | Self::Default | Self::Unset => None,
        }
    }
}

/// As in `environment variable SHOP_LISTEN` or `shop.toml, line 3`.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Self::Default => f.write_str("default"),
            Self::Unset => f.write_str("not set"),
        }
    }
}

/// One setting in a [`Report`].
#[derive(Clone, Debug)]
pub struct Entry {
    pub(super) key: &'static str,
    pub(super) variable: String,
    /// What the variable would be called if it were not given another name, as people expect.
    pub(super) usual: String,
    pub(super) is_secret: bool,
    pub(super) value: Option<String>,
    pub(super) source: Source,
}

impl Entry {
    /// The key in the file, such as `jwt.issuer`.
    #[must_use]
    pub fn key(&self) -> &str {
        self.key
    }

    /// The name of the variable.
    #[must_use]
    pub fn variable(&self) -> &str {
        &self.variable
    }

    /// The value as text; `…` for a secret, and without the password of a URL. `None` if it is not set.
    #[must_use]
    pub fn value(&self) -> Option<&str> {
        self.value.as_deref()
    }

    /// Whether the value is masked.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        self.is_secret
    }

    /// Where the value comes from.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The setting by the name that whoever set it used.
    pub(super) fn subject(&self) -> String {
        match &self.source {
            Source::Variable(name) => format!("environment variable {name}"),
            Source::File { .. } => format!("{} ({})", self.key, self.source),
            Source::Default | Source::Unset => {
                format!("{} (environment variable {})", self.key, self.variable)
            }
        }
    }
}

/// Every setting with its source, and what is odd but harmless.
///
/// Printed, it is a table of keys, values and sources, without the warnings:
///
/// ```
/// use keyward::config::Sources;
///
/// let sources = Sources::new("SHOP_").with_variables([("SHOP_API_KEY", "kw_live_1secret")]);
/// let (_, report) = sources.read(|config| {
///     Some((config.value("port").or(3000_u16), config.secret("api_key").optional()))
/// })?;
/// assert_eq!(
///     report.to_string(),
///     "port     3000  default\n\
///      api_key  …     environment variable SHOP_API_KEY\n"
/// );
/// # Ok::<(), keyward::config::ConfigErrors>(())
/// ```
#[derive(Clone, Debug)]
pub struct Report {
    pub(super) entries: Vec<Entry>,
    pub(super) warnings: Vec<String>,
}

impl Report {
    /// The settings in the order in which they were read.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// One sentence each, to be logged: unknown variables, a file with secrets that everybody can read.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |entry: &Entry| entry.value.clone().unwrap_or_default();
        let width = |text: &str| text.chars().count();
        let keys = self.entries.iter().map(|entry| width(entry.key)).max().unwrap_or(0);
        let values = self.entries.iter().map(|entry| width(&shown(entry))).max().unwrap_or(0);
        for entry in &self.entries {
            writeln!(f, "{:keys$}  {:values$}  {}", entry.key, shown(entry), entry.source)?;
        }
        Ok(())
    }
}

/// All that is wrong with the settings: one sentence each, those about the file first and by line.
///
/// Printed, it also holds the warnings, since a misspelt variable is often what is behind a mistake. No value
/// of a secret or of an unknown key is in it.
///
/// ```
/// use keyward::config::Sources;
///
/// let sources = Sources::new("SHOP_").with_variables([("SHOP_WORKERS", "many"), ("SHOP_DEBUG", "yes")]);
/// let errors = sources
///     .read(|config| Some((config.number("workers", 1..=64).or(4_u16), config.switch("debug").or(false))))
///     .unwrap_err();
/// assert_eq!(
///     errors.to_string(),
///     "2 settings are wrong:\n\
///      - environment variable SHOP_DEBUG: must be `true` or `false`\n\
///      - environment variable SHOP_WORKERS: must be a whole number from 1 to 64"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    sentences: Vec<String>,
    warnings: Vec<String>,
}

impl ConfigErrors {
    /// The mistakes, at least one.
    #[must_use]
    pub fn sentences(&self) -> &[String] {
        &self.sentences
    }

    /// What would be warnings if there were no mistake.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.sentences {
            [only] => f.write_str(only)?,
            several => {
                write!(f, "{} settings are wrong:", several.len())?;
                several.iter().try_for_each(|sentence| write!(f, "\n- {sentence}"))?;
            }
        }
        self.warnings.iter().try_for_each(|warning| write!(f, "\nwarning: {warning}"))
    }
}

impl std::error::Error for ConfigErrors {}

/// How many mistakes are told, and how many warnings: a file of something else has one in each line.
const MOST: usize = 50;

/// Mistakes and warnings so far.
#[derive(Default)]
pub(super) struct Problems {
    /// By line of the file; those without one are about something else.
    mistakes: BTreeMap<(bool, usize), Vec<String>>,
    warnings: Vec<String>,
}

impl Problems {
    pub(super) fn mistake(&mut self, line: Option<usize>, sentence: &str) {
        let place = (line.is_none(), line.unwrap_or_default());
        self.mistakes.entry(place).or_default().push(one_line(sentence));
    }

    pub(super) fn warn(&mut self, sentence: &str) {
        self.warnings.push(one_line(sentence));
    }

    /// The settings and the warnings, if nothing is wrong.
    pub(super) fn finish<S>(self, settings: Option<S>) -> Result<(S, Vec<String>), ConfigErrors> {
        let mut sentences = Vec::new();
        for mut of_line in self.mistakes.into_values() {
            of_line.sort();
            of_line.dedup();
            sentences.append(&mut of_line);
        }
        let mut warnings = self.warnings;
        for list in [&mut sentences, &mut warnings] {
            let more = list.len().saturating_sub(MOST);
            list.truncate(MOST);
            list.extend((more > 0).then(|| format!("… and {more} more")));
        }
        match settings {
            Some(settings) if sentences.is_empty() => return Ok((settings, warnings)),
            None if sentences.is_empty() => {
                sentences.push("the settings were refused without a reason".to_owned())
            }
            _ => {}
        }
        Err(ConfigErrors { sentences, warnings })
    }
}
