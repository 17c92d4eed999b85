//! The service's settings, from the environment.

use std::{collections::HashSet, fmt, num::NonZeroU32, ops::RangeInclusive, path::PathBuf, time::Duration};

use keyward::{
    ConfigError, UserId,
    auth::EmergencyAuth,
    limit::FailureLimit,
    net::{ForwardedHeader, IpList, TrustedProxies},
    store::{PostgresOptions, StaticList},
    time::UnixTime,
};

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) listen: String,
    pub(crate) database: Database,
    pub(crate) static_tokens: Option<StaticList>,
    pub(crate) admin_users: HashSet<UserId>,
    pub(crate) trusted_proxies: Option<TrustedProxies>,
    pub(crate) failure_limit: Option<FailureLimit>,
    pub(crate) debug_ownership: bool,
    pub(crate) bootstrap: BootstrapMode,
    /// With one the service starts even without its store.
    pub(crate) emergency: Option<EmergencyAuth>,
    pub(crate) jwt: JwtSettings,
}

/// How somebody without any credential comes to a first key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BootstrapMode {
    Admin,
    Register,
    Public,
}

/// What the service believes of JSON Web Tokens; nothing, by default.
#[derive(Clone, Default)]
pub(crate) struct JwtSettings {
    pub(crate) secret: Option<String>,
    pub(crate) issuer: Option<String>,
    pub(crate) audience: Option<String>,
    pub(crate) lifetime: Duration,
    pub(crate) leeway: Duration,
    pub(crate) keys: Option<KeySource>,
    pub(crate) cool_down: Duration,
    pub(crate) dev_login: bool,
}

/// Where public keys come from.
#[derive(Clone, Debug)]
pub(crate) enum KeySource {
    Oidc { issuer: String, audience: String },
    Url(String),
    File(PathBuf),
}

/// Without the secret.
impl fmt::Debug for JwtSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSettings")
            .field("issuer", &self.issuer)
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Database {
    Memory,
    Sqlite(PathBuf),
    /// Shows no password.
    Postgres(Box<PostgresOptions>),
}

/// What means nothing without keys.
const NEED_KEYS: [&str; 6] = [
    "JWT_ISSUER",
    "JWT_AUDIENCE",
    "JWT_TTL_MINUTES",
    "KEYWARD_JWT_LEEWAY_SECONDS",
    "KEYWARD_OIDC_AUDIENCE",
    "KEYWARD_JWKS_COOLDOWN_SECONDS",
];

/// Every variable that is read here.
const KNOWN: [&str; 18] = [
    "KEYWARD_LISTEN",
    "KEYWARD_DATABASE_URL",
    "KEYWARD_ADMIN_USERS",
    "KEYWARD_TRUSTED_PROXIES",
    "KEYWARD_CLIENT_IP_HEADER",
    "KEYWARD_DEBUG_OWNERSHIP",
    "KEYWARD_MAX_FAILURES_PER_MINUTE",
    "KEYWARD_BOOTSTRAP",
    "KEYWARD_EMERGENCY_KEY_SHA256",
    "KEYWARD_EMERGENCY_IPS",
    "KEYWARD_EMERGENCY_UNTIL",
    "KEYWARD_JWT_LEEWAY_SECONDS",
    "KEYWARD_OIDC_ISSUER",
    "KEYWARD_OIDC_AUDIENCE",
    "KEYWARD_JWKS_URL",
    "KEYWARD_JWKS_FILE",
    "KEYWARD_JWKS_COOLDOWN_SECONDS",
    "KEYWARD_ALLOW_DEV_LOGIN_IN_RELEASE",
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
            failure_limit: parse_failures(get("KEYWARD_MAX_FAILURES_PER_MINUTE")?)?,
            debug_ownership: parse_switch(
                "KEYWARD_DEBUG_OWNERSHIP",
                get("KEYWARD_DEBUG_OWNERSHIP")?.as_deref(),
            )?,
            bootstrap: parse_bootstrap(get("KEYWARD_BOOTSTRAP")?.as_deref())?,
            emergency: parse_emergency(&get)?,
            jwt: JwtSettings::read(&get)?,
        })
    }
}

impl JwtSettings {
    fn read(get: &impl Fn(&str) -> Result<Option<String>, ConfigError>) -> Result<Self, ConfigError> {
        let filled = |name: &str| get(name).map(|value| value.filter(|value| !value.trim().is_empty()));
        let switch = |name: &str| parse_switch(name, get(name)?.as_deref());
        let settings = Self {
            secret: get("JWT_SECRET")?,
            issuer: filled("JWT_ISSUER")?,
            audience: filled("JWT_AUDIENCE")?,
            lifetime: parse_number("JWT_TTL_MINUTES", filled("JWT_TTL_MINUTES")?, 60, 1..=1440)?
                .saturating_mul(60),
            leeway: parse_number(
                "KEYWARD_JWT_LEEWAY_SECONDS",
                filled("KEYWARD_JWT_LEEWAY_SECONDS")?,
                60,
                0..=300,
            )?,
            keys: Self::read_keys(&filled)?,
            cool_down: parse_number(
                "KEYWARD_JWKS_COOLDOWN_SECONDS",
                filled("KEYWARD_JWKS_COOLDOWN_SECONDS")?,
                30,
                1..=86_400,
            )?,
            dev_login: switch("ENABLE_LOGIN")?,
        };
        let forced = switch("KEYWARD_ALLOW_DEV_LOGIN_IN_RELEASE")?;
        if settings.dev_login && !cfg!(debug_assertions) && !forced {
            return Err(ConfigError::new(
                "ENABLE_LOGIN lets anybody log in as anybody, so a release build refuses it; unset it, or set \
                 KEYWARD_ALLOW_DEV_LOGIN_IN_RELEASE=true",
            ));
        }
        let mut mentioned = None;
        for name in NEED_KEYS {
            if filled(name)?.is_some() {
                mentioned = mentioned.or(Some(name));
            }
        }
        settings.check(mentioned)?;
        Ok(settings)
    }

    fn read_keys(
        filled: &impl Fn(&str) -> Result<Option<String>, ConfigError>,
    ) -> Result<Option<KeySource>, ConfigError> {
        let (oidc, url) = (filled("KEYWARD_OIDC_ISSUER")?, filled("KEYWARD_JWKS_URL")?);
        match (oidc, url, filled("KEYWARD_JWKS_FILE")?) {
            (None, None, None) => Ok(None),
            (Some(issuer), None, None) => {
                let own = filled("KEYWARD_OIDC_AUDIENCE")?;
                let audience = own.map_or_else(|| filled("JWT_AUDIENCE"), |audience| Ok(Some(audience)))?;
                let audience = audience.ok_or_else(|| {
                    ConfigError::new("KEYWARD_OIDC_ISSUER needs KEYWARD_OIDC_AUDIENCE or JWT_AUDIENCE")
                })?;
                Ok(Some(KeySource::Oidc { issuer, audience }))
            }
            (None, Some(url), None) => Ok(Some(KeySource::Url(url))),
            (None, None, Some(path)) => Ok(Some(KeySource::File(path.into()))),
            _ => Err(ConfigError::new(
                "set only one of KEYWARD_OIDC_ISSUER, KEYWARD_JWKS_URL and KEYWARD_JWKS_FILE",
            )),
        }
    }

    /// Half a setting would look like protection and be none.
    fn check(&self, mentioned: Option<&str>) -> Result<(), ConfigError> {
        let named = self.issuer.is_some() && self.audience.is_some();
        let needs_names = self.secret.is_some()
            || self.dev_login
            || matches!(self.keys, Some(KeySource::Url(_) | KeySource::File(_)));
        if self.dev_login && self.secret.is_none() {
            return Err(ConfigError::new(
                "ENABLE_LOGIN needs JWT_SECRET to sign with; set it, such as to the output of `openssl rand -base64 48`",
            ));
        }
        if needs_names && !named {
            return Err(ConfigError::new("JSON Web Tokens need JWT_ISSUER and JWT_AUDIENCE; set both"));
        }
        if let (Some(name), None, None) = (mentioned, &self.secret, &self.keys) {
            return Err(ConfigError::new(format!(
                "{name} needs keys: set JWT_SECRET, KEYWARD_OIDC_ISSUER, KEYWARD_JWKS_URL or KEYWARD_JWKS_FILE"
            )));
        }
        if self.issuer.is_some() && !needs_names {
            return Err(ConfigError::new(
                "JWT_ISSUER is the issuer of JWT_SECRET and of a key set; unset it, since the tokens of \
                 KEYWARD_OIDC_ISSUER name that one",
            ));
        }
        Ok(())
    }
}

/// Zero is no limit.
fn parse_failures(value: Option<String>) -> Result<Option<FailureLimit>, ConfigError> {
    let Some(value) = value.filter(|value| !value.trim().is_empty()) else {
        return Ok(Some(FailureLimit::default()));
    };
    let failures: u32 = value.trim().parse().map_err(|_| {
        ConfigError::new("KEYWARD_MAX_FAILURES_PER_MINUTE must be a whole number, or 0 for no limit")
    })?;
    Ok(NonZeroU32::new(failures).map(FailureLimit::per_minute))
}

fn parse_number(
    name: &str,
    value: Option<String>,
    default: u32,
    range: RangeInclusive<u32>,
) -> Result<Duration, ConfigError> {
    let Some(value) = value else { return Ok(Duration::from_secs(default.into())) };
    let number: Option<u32> = value.trim().parse().ok().filter(|number| range.contains(number));
    let number = number.ok_or_else(|| {
        let (least, most) = range.into_inner();
        ConfigError::new(format!("{name} must be a whole number from {least} to {most}"))
    })?;
    Ok(Duration::from_secs(number.into()))
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
        Some(("postgres" | "postgresql", _)) => PostgresOptions::new(url)
            .map(|options| Database::Postgres(Box::new(options)))
            .map_err(|error| ConfigError::new(format!("KEYWARD_DATABASE_URL: {error}"))),
        _ => Err(ConfigError::new(
            "KEYWARD_DATABASE_URL must be `sqlite:PATH`, `postgres://user:password@host/database` or `memory:`",
        )),
    }
}

fn parse_user(user: &str) -> Result<UserId, ConfigError> {
    UserId::new(user).map_err(|error| ConfigError::new(format!("KEYWARD_ADMIN_USERS: {error}")))
}

fn parse_bootstrap(mode: Option<&str>) -> Result<BootstrapMode, ConfigError> {
    match mode {
        None | Some("admin") => Ok(BootstrapMode::Admin),
        Some("register") => Ok(BootstrapMode::Register),
        Some("public") => Ok(BootstrapMode::Public),
        Some(_) => Err(ConfigError::new("KEYWARD_BOOTSTRAP must be `admin`, `register` or `public`")),
    }
}

/// A value that is set and empty is a mistake here: it would open more than was meant, or nothing at all.
fn parse_emergency(
    get: &impl Fn(&str) -> Result<Option<String>, ConfigError>,
) -> Result<Option<EmergencyAuth>, ConfigError> {
    let wrong = |name: &str, why: &dyn fmt::Display| ConfigError::new(format!("{name}: {why}"));
    let (ips, until) = ("KEYWARD_EMERGENCY_IPS", "KEYWARD_EMERGENCY_UNTIL");
    let Some(hash) = get("KEYWARD_EMERGENCY_KEY_SHA256")? else {
        let alone = [ips, until].into_iter().find(|name| !matches!(get(name), Ok(None)));
        return alone.map_or(Ok(None), |name| Err(wrong(name, &"it needs KEYWARD_EMERGENCY_KEY_SHA256")));
    };
    let key = EmergencyAuth::new(hash.trim());
    let mut key = key.map_err(|error| wrong("KEYWARD_EMERGENCY_KEY_SHA256", &error))?;
    if let Some(list) = get(ips)? {
        let list = IpList::new(list.split(',').map(str::trim)).map_err(|error| wrong(ips, &error))?;
        key = key.with_allowed_ips(list);
    }
    if let Some(end) = get(until)? {
        let end: UnixTime = end.trim().parse().map_err(|error| wrong(until, &error))?;
        key = key.with_window(UnixTime::EPOCH, end);
    }
    Ok(Some(key))
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
        assert!(settings.failure_limit.is_some());
        assert!(read(&[("KEYWARD_MAX_FAILURES_PER_MINUTE", "0")]).unwrap().failure_limit.is_none());
    }

    const HASH: (&str, &str) =
        ("KEYWARD_EMERGENCY_KEY_SHA256", "bd913ff68243d41b9611b2690dfbf2b0f6e42ea14536a98232af60e9f64ffdaa");

    #[test]
    fn an_emergency_key_is_read_whole_or_refused() {
        assert!(read(&[HASH]).unwrap().emergency.is_some());
        let (ips, until) = ("KEYWARD_EMERGENCY_IPS", "KEYWARD_EMERGENCY_UNTIL");
        assert!(read(&[HASH, (ips, "10.0.0.0/8, ::1"), (until, "2030-01-01T00:00:00Z")]).is_ok());
        for (name, value) in [
            (ips, ""),
            (ips, "10.0.0.1/8"),
            (ips, "office"),
            (until, ""),
            (until, "soon"),
            (until, "2030-01-01"),
        ] {
            let error = read(&[HASH, (name, value)]).unwrap_err();
            assert!(error.contains(name), "{name}={value}: {error}");
        }
    }

    #[test]
    fn the_way_to_a_first_key_is_one_of_three() {
        assert_eq!(read(&[]).unwrap().bootstrap, BootstrapMode::Admin);
        for (text, mode) in [
            ("admin", BootstrapMode::Admin),
            ("register", BootstrapMode::Register),
            ("public", BootstrapMode::Public),
        ] {
            assert_eq!(read(&[("KEYWARD_BOOTSTRAP", text)]).unwrap().bootstrap, mode);
        }
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
            ("KEYWARD_DATABASE_URL", "mysql://localhost"),
            ("KEYWARD_DATABASE_URL", "postgres://db.example.com/keys?sslmode=prefer"),
            ("KEYWARD_DATABASE_URL", "sqlite:"),
            ("KEYWARD_DATABASE_URL", ""),
            ("API_TOKENS", "admin:short"),
            ("API_TOKENS", ""),
            ("KEYWARD_ADMIN_USERS", "a\u{7}b"),
            ("KEYWARD_TRUSTED_PROXIES", "0.0.0.0/0"),
            ("KEYWARD_TRUSTED_PROXIES", "proxy.example"),
            ("KEYWARD_CLIENT_IP_HEADER", "Host"),
            ("KEYWARD_DEBUG_OWNERSHIP", "yes"),
            ("KEYWARD_MAX_FAILURES_PER_MINUTE", "-1"),
            ("KEYWARD_MAX_FAILURES_PER_MINUTE", "many"),
            ("KEYWARD_BOOTSTRAP", "anybody"),
            ("KEYWARD_BOOTSTRAP", ""),
            ("KEYWARD_EMERGENCY_KEY_SHA256", ""),
            ("KEYWARD_EMERGENCY_KEY_SHA256", "break the glass"),
            (
                "KEYWARD_EMERGENCY_KEY_SHA256",
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
            ("KEYWARD_EMERGENCY_IPS", "10.0.0.0/8"),
            ("KEYWARD_EMERGENCY_UNTIL", "2030-01-01T00:00:00Z"),
            ("JWT_SECRET", "7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4N"),
            ("JWT_ISSUER", "https://login.example"),
            ("JWT_TTL_MINUTES", "5"),
            ("JWT_TTL_MINUTES", "1441"),
            ("KEYWARD_JWT_LEEWAY_SECONDS", "60"),
            ("KEYWARD_JWT_LEEWAY_SECONDS", "301"),
            ("KEYWARD_OIDC_AUDIENCE", "https://api.example"),
            ("KEYWARD_JWKS_COOLDOWN_SECONDS", "5"),
            ("JWT_TTL_MINUTES", "soon"),
            ("ENABLE_LOGIN", "true"),
            ("ENABLE_LOGIN", "maybe"),
            ("KEYWARD_OIDC_ISSUER", "https://login.example"),
            ("KEYWARD_JWKS_URL", "https://login.example/keys"),
            ("KEYWARD_JWKS_FILE", "keys.json"),
            ("KEYWARD_JWT_LEEWAY_SECONDS", "-1"),
            ("KEYWARD_JWKS_COOLDOWN_SECONDS", "0"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(error.contains(name) || error.contains("JWT_ISSUER"), "{name}={value}: {error}");
        }
    }
}
