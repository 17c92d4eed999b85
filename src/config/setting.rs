//! One setting: its name, and what it is if it is not set.

use std::fmt;

use zeroize::Zeroizing;

use super::reader::Reader;

/// What a setting is called: a key of the file, in words of `a-z`, `0-9` and `_` with dots between tables; and the
/// variable, if it is not the prefix and the key in capitals.
///
/// ```
/// use keyward::config::Sources;
///
/// let sources = Sources::new("SHOP_").with_variables([("DATABASE_URL", "sqlite:shop.db")]);
/// let (url, _) = sources.read(|config| config.value::<String>(("database_url", "DATABASE_URL")).required())?;
/// assert_eq!(url, "sqlite:shop.db");
/// # Ok::<(), keyward::config::ConfigErrors>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Name {
    pub(super) key: &'static str,
    pub(super) variable: Option<&'static str>,
}

impl From<&'static str> for Name {
    fn from(key: &'static str) -> Self {
        Self { key, variable: None }
    }
}

impl From<(&'static str, &'static str)> for Name {
    fn from((key, variable): (&'static str, &'static str)) -> Self {
        Self { key, variable: Some(variable) }
    }
}

/// A text that must not be seen: `Debug` does not show it, and it is wiped from memory when dropped.
///
/// ```
/// let secret = keyward::config::Secret::from("open sesame".to_owned());
/// assert_eq!((format!("{secret:?}"), secret.expose()), ("Secret(…)".to_owned(), "open sesame"));
/// ```
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The text, which is not to be logged or sent.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A setting that was found or not: say what it is if it is not set.
///
/// ```
/// use std::time::Duration;
/// use keyward::config::Sources;
///
/// let sources = Sources::new("SHOP_").with_variables([("SHOP_TIMEOUT_SECONDS", "5")]);
/// let (timeout, _) = sources.read(|config| {
///     Some(Duration::from_secs(config.number("timeout_seconds", 1..=60).or(30)))
/// })?;
/// assert_eq!(timeout, Duration::from_secs(5));
/// # Ok::<(), keyward::config::ConfigErrors>(())
/// ```
#[must_use = "say what it is if it is not set: `or`, `or_shown`, `or_empty`, `optional` or `required`"]
pub struct Setting<'r, T> {
    pub(super) reader: &'r mut Reader,
    pub(super) key: &'static str,
    /// `None` if it is not set, or wrong.
    pub(super) value: Option<T>,
}

impl<'r, T> Setting<'r, T> {
    /// This value if it is not set.
    pub fn or(self, default: T) -> T
    where
        T: fmt::Display,
    {
        self.value.unwrap_or_else(|| {
            self.reader.note_default(self.key, &default.to_string());
            default
        })
    }

    /// This value if it is not set, which the report shows as `shown`: for what has no `Display`, such as a path or a
    /// list.
    ///
    /// ```
    /// use std::path::PathBuf;
    /// use keyward::config::Sources;
    ///
    /// let (_, report) = Sources::new("SHOP_").with_variables([("", ""); 0]).read(|config| {
    ///     let folder = config.value::<PathBuf>("data").or_shown("shop-data".into(), "shop-data");
    ///     Some((folder, config.list::<String>("hosts").or_shown(vec!["localhost".to_owned()], "localhost")))
    /// })?;
    /// assert_eq!(report.to_string(), "data   shop-data  default\nhosts  localhost  default\n");
    /// # Ok::<(), keyward::config::ConfigErrors>(())
    /// ```
    pub fn or_shown(self, default: T, shown: impl fmt::Display) -> T {
        self.value.unwrap_or_else(|| {
            self.reader.note_default(self.key, &shown.to_string());
            default
        })
    }

    /// `None` if it is not set.
    #[must_use]
    pub fn optional(self) -> Option<T> {
        self.value
    }

    /// Refuses to start if it is not set. Put a `?` behind it once all settings were asked for: those after it are not
    /// checked if it is missing.
    #[must_use]
    pub fn required(self) -> Option<T> {
        if self.value.is_none() && !self.reader.is_set(self.key) {
            self.reader.refuse_missing(self.key);
        }
        self.value
    }

    /// Refuses an empty variable, instead of taking it for none, and an empty list in the file. For what narrows
    /// something down: without it, more would be allowed than was meant.
    ///
    /// ```
    /// use std::net::IpAddr;
    /// use keyward::config::Sources;
    ///
    /// let sources = Sources::new("SHOP_").with_variables([("SHOP_ONLY_FROM", "")]);
    /// let errors = sources.read(|config| Some(config.list::<IpAddr>("only_from").refuse_empty().optional()));
    /// assert_eq!(
    ///     errors.unwrap_err().to_string(),
    ///     "environment variable SHOP_ONLY_FROM: empty; unset it, or give it a value"
    /// );
    ///
    /// // As a shell leaves it of "$OFFICE,$VPN" where neither is set.
    /// let sources = Sources::new("SHOP_").with_variables([("SHOP_ONLY_FROM", ",")]);
    /// assert!(sources.read(|config| Some(config.list::<IpAddr>("only_from").refuse_empty().optional())).is_err());
    /// ```
    pub fn refuse_empty(self) -> Self {
        let is_refused = self.reader.refuse_empty(self.key);
        Self { value: self.value.filter(|_| !is_refused), ..self }
    }

    /// Makes something else of it, or says in an error why not, without repeating a secret.
    ///
    /// ```
    /// use keyward::{config::Sources, store::StaticList};
    ///
    /// let sources = Sources::new("SHOP_").with_variables([("SHOP_API_TOKENS", "ops:short")]);
    /// let errors = sources
    ///     .read(|config| {
    ///         let tokens = config.secret("api_tokens").and_then(|list| StaticList::parse(list.expose()));
    ///         Some(tokens.optional())
    ///     })
    ///     .unwrap_err();
    /// assert!(errors.to_string().starts_with("environment variable SHOP_API_TOKENS: entry 1 of"));
    /// ```
    pub fn and_then<U, E: fmt::Display>(self, make: impl FnOnce(T) -> Result<U, E>) -> Setting<'r, U> {
        let Self { reader, key, value } = self;
        let value = value.and_then(|value| match make(value) {
            Ok(value) => Some(value),
            Err(error) => {
                reader.mistake(key, &error);
                None
            }
        });
        Setting { reader, key, value }
    }
}

impl<T> Setting<'_, Vec<T>> {
    /// No value if it is not set.
    #[must_use]
    pub fn or_empty(self) -> Vec<T> {
        self.value.unwrap_or_else(|| {
            self.reader.note_default(self.key, "");
            Vec::new()
        })
    }
}

/// Without the value, which may be a secret.
impl<T> fmt::Debug for Setting<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setting").field("key", &self.key).finish_non_exhaustive()
    }
}
