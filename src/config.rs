//! Settings from the environment, a file and defaults, in this order: each with where it came from, secrets
//! masked, and all mistakes told at once.
//!
//! A service says once, in code, what it reads and of which type. Everything else follows: the name of the
//! variable, the place in the file, what is refused and in which words.
//!
//! ```
//! use std::net::SocketAddr;
//! use keyward::config::{Reader, Secret, Sources};
//!
//! #[derive(Debug)]
//! struct Settings {
//!     listen: SocketAddr,
//!     workers: u16,
//!     admins: Vec<String>,
//!     signing_key: Option<Secret>,
//! }
//!
//! impl Settings {
//!     fn read(config: &mut Reader) -> Option<Self> {
//!         Some(Self {
//!             listen: config.value("listen").or(([127, 0, 0, 1], 3000).into()), // SHOP_LISTEN
//!             workers: config.number("workers", 1..=64).or(4),
//!             admins: config.list("admins").or_empty(), // SHOP_ADMINS=alice,bob or admins = ["alice", "bob"]
//!             signing_key: config.secret("signing.key").optional(), // SHOP_SIGNING_KEY or [signing] key = "…"
//!         })
//!     }
//! }
//!
//! # let variables = [("SHOP_WORKERS", "8"), ("SHOP_SIGNING_KEY", "open sesame")];
//! let sources = Sources::new("SHOP_").with_file("shop.toml"); // need not exist; SHOP_CONFIG names another
//! # let sources = sources.with_variables(variables);
//! let (settings, report) = sources.read(Settings::read)?;
//! println!("{report}"); // each value with its source; of secrets only whether they are set
//! # assert_eq!((settings.listen.port(), settings.workers, settings.admins.len()), (3000, 8, 0));
//! # let table = report.to_string();
//! # assert!(!table.contains("sesame") && !format!("{settings:?}").contains("sesame"), "{table}");
//! # assert!(table.contains("environment variable SHOP_WORKERS") && table.contains("default"), "{table}");
//! # Ok::<(), keyward::config::ConfigErrors>(())
//! ```
//!
//! # Rules
//!
//! * **Names.** The key `signing.key` is `key` in the file's table `[signing]`, and the variable of the prefix and
//!   `SIGNING_KEY`. A variable of another name goes beside the key: `("jwt.secret", "JWT_SECRET")`.
//! * **Order.** A variable wins over the file, the file over the default. An empty variable, or one of white
//!   space, is as good as none, unless it should be a secret or [`Setting::refuse_empty`] says otherwise: then it is a
//!   mistake. An empty text in the file always is.
//! * **File.** TOML 1.1 of at most 1 MiB. It may be absent, unless the variable of the prefix and `CONFIG` names it. An
//!   unknown key refuses to start, with the nearest name that is known.
//! * **Unknown variables** with the prefix are warnings, since others may share an environment.
//! * **Mistakes** are collected, and the settings are only handed out if there is none. What a wrong setting
//!   reads as until then does not matter.
//! * **Secrets**, read by [`Reader::secret`], appear nowhere; values of unknown keys do not either. A file with
//!   a secret in it that everybody on the machine can read is a warning.

mod file;
mod found;
mod nearest;
mod reader;
mod report;
mod setting;

use std::{collections::BTreeMap, ffi::OsString, fmt, path::PathBuf};

pub use self::{
    reader::Reader,
    report::{ConfigErrors, Entry, Report, Source},
    setting::{Name, Secret, Setting},
};

/// Where settings come from.
///
/// ```
/// use keyward::config::Sources;
///
/// let sources = Sources::new("SHOP_").with_variables([("SHOP_COLOUR", "red"), ("SHOP_COLOR", "blue")]);
/// let (colour, report) = sources.read(|config| Some(config.value("colour").or("green".to_owned())))?;
/// assert_eq!(colour, "red");
/// assert_eq!(
///     report.warnings(),
///     ["environment variable SHOP_COLOR: not known, so without effect; the nearest is SHOP_COLOUR"]
/// );
/// # Ok::<(), keyward::config::ConfigErrors>(())
/// ```
#[derive(Clone)]
pub struct Sources {
    prefix: String,
    file: Option<PathBuf>,
    variables: Option<BTreeMap<OsString, OsString>>,
}

impl Sources {
    /// The variables of the environment that begin with `prefix`, such as `SHOP_`, and no file.
    ///
    /// With an empty prefix no variable is unknown.
    #[must_use]
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), file: None, variables: None }
    }

    /// Also reads this file, if there is one. A relative path starts at the working directory.
    ///
    /// The variable of the prefix and `CONFIG`, such as `SHOP_CONFIG`, names another file, which must exist.
    #[must_use]
    pub fn with_file(self, path: impl Into<PathBuf>) -> Self {
        Self { file: Some(path.into()), ..self }
    }

    /// Takes these variables instead of those of the process, which are then not looked at.
    #[must_use]
    pub fn with_variables<N: Into<OsString>, V: Into<OsString>>(
        self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        Self { variables: Some(variables.collect()), ..self }
    }

    /// Reads the settings with `read`, which asks for each of them, always and in the order of the report.
    ///
    /// It returns `None` only for a [required](Setting::required) setting that is missing. Ask for all
    /// settings before the first `?`, so that all mistakes are found.
    ///
    /// # Errors
    /// All mistakes: values that are not what was asked for, what [`Reader::refuse`] was told, a file that
    /// cannot be read or is not TOML, and its unknown keys.
    pub fn read<S>(self, read: impl FnOnce(&mut Reader) -> Option<S>) -> Result<(S, Report), ConfigErrors> {
        let variables = self.variables.unwrap_or_else(variables_of_process);
        let mut reader = Reader::new(self.prefix, variables);
        if let Some(path) = self.file {
            reader.read_file(path);
        }
        let settings = read(&mut reader);
        reader.finish(settings)
    }
}

/// Without the variables, which hold secrets.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { prefix, file, variables: _ } = self;
        f.debug_struct("Sources").field("prefix", prefix).field("file", file).finish_non_exhaustive()
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place of this crate that reads the environment")]
fn variables_of_process() -> BTreeMap<OsString, OsString> {
    std::env::vars_os().collect()
}
