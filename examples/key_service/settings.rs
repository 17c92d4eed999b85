//! The service's settings, from the environment.

use std::{collections::HashSet, path::PathBuf};

use keyward::{
    ConfigError, UserId,
    net::{ForwardedHeader, TrustedProxies},
    store::StaticList,
};

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) listen: String,
    pub(crate) database: Database,
    pub(crate) static_tokens: Option<StaticList>,
    pub(crate) admin_users: HashSet<UserId>,
    pub(crate) trusted_proxies: Option<TrustedProxies>,
    pub(crate) debug_ownership: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Database {
    Memory,
    Sqlite(PathBuf),
}

/// Every variable that is read here.
const KNOWN: [&str; 7] = [
    "KEYWARD_LISTEN",
    "KEYWARD_DATABASE_URL",
    "KEYWARD_ADMIN_USERS",
    "KEYWARD_TRUSTED_PROXIES",
    "KEYWARD_CLIENT_IP_HEADER",
    "KEYWARD_DEBUG_OWNERSHIP",
    "KEYWARD_BOOTSTRAP",
];

impl Settings {
    /// Reads the environment, and says of a wrong value which variable it is and what to change.
    #[expect(clippy::disallowed_methods, reason = "the one place of this service that reads the environment")]
    pub(crate) fn from_env() -> Result<Self, ConfigError> {
        for (name, _) in std::env::vars_os() {
            if let Some(nearest) = name.to_str().and_then(nearest_to_unknown) {
                tracing::warn!(name = ?name, nearest, "this variable is not known here and has no effect");
            }
        }
        Self::read(|name| match std::env::var(name) {
            Ok(value) => Ok(Some(value)),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => {
                Err(ConfigError::new(format!("{name} is not valid UTF-8")))
            }
        })
    }

    fn read(get: impl Fn(&str) -> Result<Option<String>, ConfigError>) -> Result<Self, ConfigError> {
        let admins = get("KEYWARD_ADMIN_USERS")?.unwrap_or_default();
        if !matches!(get("KEYWARD_BOOTSTRAP")?.as_deref(), None | Some("admin")) {
            return Err(ConfigError::new("KEYWARD_BOOTSTRAP must be `admin`, the only mode of this version"));
        }
        let database = get("KEYWARD_DATABASE_URL")?.unwrap_or_else(|| "sqlite:keyward.db".to_owned());
        let static_tokens = get("API_TOKENS")?.map(|list| StaticList::parse(&list)).transpose();
        Ok(Self {
            listen: get("KEYWARD_LISTEN")?.unwrap_or_else(|| "127.0.0.1:3000".to_owned()),
            database: parse_database(&database)?,
            static_tokens: static_tokens.map_err(|error| ConfigError::new(format!("API_TOKENS: {error}")))?,
            admin_users: admins
                .split(',')
                .map(str::trim)
                .filter(|user| !user.is_empty())
                .map(parse_user)
                .collect::<Result<_, _>>()?,
            trusted_proxies: parse_proxies(
                get("KEYWARD_TRUSTED_PROXIES")?,
                get("KEYWARD_CLIENT_IP_HEADER")?,
            )?,
            debug_ownership: parse_switch(
                "KEYWARD_DEBUG_OWNERSHIP",
                get("KEYWARD_DEBUG_OWNERSHIP")?.as_deref(),
            )?,
        })
    }
}

/// For a variable that looks like one of ours and is none, the one that was probably meant.
fn nearest_to_unknown(name: &str) -> Option<&'static str> {
    if !name.starts_with("KEYWARD_") || KNOWN.contains(&name) {
        return None;
    }
    KNOWN.into_iter().min_by_key(|known| strsim::levenshtein(known, name))
}

fn parse_database(url: &str) -> Result<Database, ConfigError> {
    match url.split_once(':') {
        Some(("memory", "")) => Ok(Database::Memory),
        Some(("sqlite", path)) if !path.trim_start_matches('/').is_empty() => {
            Ok(Database::Sqlite(path.strip_prefix("//").unwrap_or(path).into()))
        }
        _ => Err(ConfigError::new("KEYWARD_DATABASE_URL must be `sqlite:PATH` or `memory:`")),
    }
}

fn parse_user(user: &str) -> Result<UserId, ConfigError> {
    UserId::new(user).map_err(|error| ConfigError::new(format!("KEYWARD_ADMIN_USERS: {error}")))
}

fn parse_proxies(
    list: Option<String>,
    header: Option<String>,
) -> Result<Option<TrustedProxies>, ConfigError> {
    let header = header.filter(|header| !header.is_empty()).map(|header| header.parse::<ForwardedHeader>());
    let header =
        header.transpose().map_err(|error| ConfigError::new(format!("KEYWARD_CLIENT_IP_HEADER: {error}")))?;
    let Some(list) = list.filter(|list| !list.trim().is_empty()) else { return Ok(None) };
    let proxies = TrustedProxies::new(list.split(',').map(str::trim));
    let proxies = proxies.map_err(|error| ConfigError::new(format!("KEYWARD_TRUSTED_PROXIES: {error}")))?;
    Ok(Some(proxies.with_header(header.unwrap_or_default())))
}

fn parse_switch(name: &str, value: Option<&str>) -> Result<bool, ConfigError> {
    match value {
        Some("true" | "1") => Ok(true),
        None | Some("" | "false" | "0") => Ok(false),
        Some(_) => Err(ConfigError::new(format!("{name} must be `true` or `false`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        let value =
            |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Settings::read(|name| Ok(value(name))).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_needs_to_be_set() {
        let settings = read(&[]).unwrap();
        assert_eq!(settings.listen, "127.0.0.1:3000");
        assert!(matches!(settings.database, Database::Sqlite(path) if path.ends_with("keyward.db")));
        assert!(settings.static_tokens.is_none() && !settings.debug_ownership);
    }

    #[test]
    fn a_mistyped_variable_is_told_with_the_nearest_name() {
        assert_eq!(nearest_to_unknown("KEYWARD_LISTENS"), Some("KEYWARD_LISTEN"));
        assert_eq!(nearest_to_unknown("KEYWARD_ADMIN_USER"), Some("KEYWARD_ADMIN_USERS"));
        assert_eq!(nearest_to_unknown("KEYWARD_LISTEN"), None);
        assert_eq!(nearest_to_unknown("PATH"), None);
    }

    #[test]
    fn wrong_values_are_refused_by_name() {
        for (name, value) in [
            ("KEYWARD_DATABASE_URL", "postgres://localhost"),
            ("KEYWARD_DATABASE_URL", "sqlite:"),
            ("KEYWARD_DATABASE_URL", ""),
            ("API_TOKENS", "admin:short"),
            ("API_TOKENS", ""),
            ("KEYWARD_ADMIN_USERS", "a\u{7}b"),
            ("KEYWARD_TRUSTED_PROXIES", "0.0.0.0/0"),
            ("KEYWARD_TRUSTED_PROXIES", "proxy.example"),
            ("KEYWARD_CLIENT_IP_HEADER", "Host"),
            ("KEYWARD_DEBUG_OWNERSHIP", "yes"),
            ("KEYWARD_BOOTSTRAP", "public"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(error.contains(name), "{name}={value}: {error}");
        }
    }
}
