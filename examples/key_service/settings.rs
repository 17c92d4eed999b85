//! The service's settings: from the environment, then `keyward.toml`, then the defaults here.

use std::{collections::HashSet, fmt, fs, num::NonZeroU32, path::PathBuf, str::FromStr, time::Duration};

use keyward::{
    ConfigError, UserId,
    auth::EmergencyAuth,
    config::{Reader, Secret, Sources},
    jwt::{Algorithm, JwtAuth, KeySet, VerifyingKey},
    limit::FailureLimit,
    net::{ForwardedHeader, IpList, TrustedProxies},
    redis::Redis,
    store::{PostgresOptions, StaticList},
    time::UnixTime,
};

/// Where they come from, in the service's working directory.
pub(crate) fn sources() -> Sources {
    Sources::new("KEYWARD_").with_file("keyward.toml")
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) listen: String,
    pub(crate) database: Database,
    /// Where several instances meet.
    pub(crate) redis: Option<Redis>,
    pub(crate) static_tokens: Option<StaticList>,
    pub(crate) admin_users: HashSet<UserId>,
    pub(crate) trusted_proxies: Option<TrustedProxies>,
    pub(crate) failure_limit: Option<FailureLimit>,
    pub(crate) debug_ownership: bool,
    /// Whether unusual use of keys raises alerts.
    pub(crate) watch: bool,
    /// For how long the audit log is kept; for ever if there is none.
    pub(crate) audit_retention: Option<Duration>,
    /// For how many hours from its first use on networks and programs of a key are learnt.
    pub(crate) watch_learning_hours: u32,
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
#[derive(Clone, Debug)]
pub(crate) struct JwtSettings {
    pub(crate) secret: Option<Secret>,
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
    File(KeySet),
}

#[derive(Clone, Debug)]
pub(crate) enum Database {
    Memory,
    Sqlite(PathBuf),
    Postgres(Box<PostgresOptions>),
}

impl Settings {
    #[expect(clippy::unnecessary_wraps, reason = "nothing is required here")]
    pub(crate) fn read(config: &mut Reader) -> Option<Self> {
        let static_tokens = config.secret(("api_tokens", "API_TOKENS"));
        let static_tokens = static_tokens.and_then(|list| StaticList::parse(list.expose())).optional();
        let redis = read_redis(config);
        Some(Self {
            static_tokens,
            listen: config.value("listen").and_then(check_listen).or("127.0.0.1:3000".to_owned()),
            // Another database than was meant would be empty, and open to whoever reads its first key.
            database: config.value("database_url").refuse_empty().or(Database::Sqlite("keyward.db".into())),
            admin_users: config.list("admin_users").or_empty().into_iter().collect(),
            trusted_proxies: read_proxies(config),
            failure_limit: read_failure_limit(config, redis.as_ref()),
            redis,
            debug_ownership: config.switch("debug_ownership").or(false),
            watch: config.switch("watch").or(true),
            audit_retention: read_audit_retention(config),
            watch_learning_hours: config.number("watch_learning_hours", 0..=8760).or(0),
            bootstrap: config.value("bootstrap").refuse_empty().or(BootstrapMode::Admin),
            emergency: read_emergency(config),
            jwt: JwtSettings::read(config),
        })
    }
}

/// The name of a host may turn out not to be known only later.
fn check_listen(text: String) -> Result<String, &'static str> {
    let is_right = text.rsplit_once(':').is_some_and(|(host, port)| {
        let bare = host.strip_prefix('[').map_or(host, |rest| rest.strip_suffix(']').unwrap_or_default());
        let is_host = !bare.is_empty() && bare.contains(':') == (bare != host);
        is_host && !bare.contains(char::is_whitespace) && port.parse::<u16>().is_ok()
    });
    if is_right { Ok(text) } else { Err("must be an address and a port, such as `127.0.0.1:3000`") }
}

fn read_audit_retention(config: &mut Reader) -> Option<Duration> {
    match config.number("audit_retention_days", 0..=36_500_u32).or(90) {
        0 => None,
        days => Some(Duration::from_secs(u64::from(days) * 86_400)),
    }
}

/// One that is set and empty would be several instances that do not know of each other.
fn read_redis(config: &mut Reader) -> Option<Redis> {
    let url = config.secret("redis_url").refuse_empty();
    url.and_then(|url| Redis::open(url.expose().trim())).optional()
}

fn read_failure_limit(config: &mut Reader, redis: Option<&Redis>) -> Option<FailureLimit> {
    let failures = NonZeroU32::new(config.number("max_failures_per_minute", 0..=u32::MAX).or(100))?;
    let limit = FailureLimit::per_minute(failures);
    Some(redis.into_iter().fold(limit, |limit, redis| limit.with_shared_limits(redis.limits())))
}

fn read_proxies(config: &mut Reader) -> Option<TrustedProxies> {
    let header = config.value("client_ip_header").or(ForwardedHeader::default());
    let proxies = config.list::<String>("trusted_proxies").and_then(TrustedProxies::new).optional();
    if config.is_set("client_ip_header") && !config.is_set("trusted_proxies") {
        let sentence = "needs KEYWARD_TRUSTED_PROXIES, since anybody can send such a header";
        config.refuse(["client_ip_header"], sentence);
    }
    proxies.map(|proxies| proxies.with_header(header))
}

/// An address or time that is set and empty is a mistake: it would open more than was meant.
fn read_emergency(config: &mut Reader) -> Option<EmergencyAuth> {
    let key = config.secret("emergency.key_sha256");
    let key = key.and_then(|hash| EmergencyAuth::new(hash.expose().trim())).optional();
    let addresses = config.list::<String>("emergency.ips").refuse_empty();
    let addresses = addresses.and_then(IpList::new).optional();
    let until: Option<UnixTime> = config.value("emergency.until").refuse_empty().optional();
    for alone in ["emergency.ips", "emergency.until"] {
        if config.is_set(alone) && !config.is_set("emergency.key_sha256") {
            config.refuse([alone], "needs KEYWARD_EMERGENCY_KEY_SHA256");
        }
    }
    let key = addresses.into_iter().fold(key?, EmergencyAuth::with_allowed_ips);
    Some(until.into_iter().fold(key, |key, end| key.with_window(UnixTime::EPOCH, end)))
}

impl JwtSettings {
    fn read(config: &mut Reader) -> Self {
        let is_strong =
            |secret: Secret| VerifyingKey::hmac(Algorithm::HS256, secret.expose()).map(|_| secret);
        let seconds = Duration::from_secs;
        let audience: Option<String> = config.value(("jwt.audience", "JWT_AUDIENCE")).optional();
        let settings = Self {
            secret: config.secret(("jwt.secret", "JWT_SECRET")).and_then(is_strong).optional(),
            issuer: config.value(("jwt.issuer", "JWT_ISSUER")).optional(),
            lifetime: seconds(60 * config.number(("jwt.ttl_minutes", "JWT_TTL_MINUTES"), 1..=1440).or(60)),
            leeway: seconds(config.number("jwt.leeway_seconds", 0..=300).or(60)),
            keys: KeySource::read(config, audience.clone()),
            audience,
            cool_down: seconds(config.number("jwks.cooldown_seconds", 1..=86_400).or(30)),
            dev_login: config.switch(("enable_login", "ENABLE_LOGIN")).or(false),
        };
        let is_forced = config.switch("allow_dev_login_in_release").or(false);
        if settings.dev_login && !cfg!(debug_assertions) && !is_forced {
            config.refuse(
                ["enable_login", "allow_dev_login_in_release"],
                "lets anybody log in as anybody, so a release build refuses it; unset it, or set \
                 KEYWARD_ALLOW_DEV_LOGIN_IN_RELEASE=true",
            );
        }
        settings.check(config);
        settings
    }

    /// Half a setting would look like protection and be none.
    fn check(&self, config: &mut Reader) {
        let is_set = |keys: &[&'static str]| keys.iter().copied().find(|key| config.is_set(key));
        let local = is_set(&["jwt.secret", "jwks.url", "jwks.file"]);
        let local = local.or(self.dev_login.then_some("enable_login"));
        let keys = is_set(&["jwt.secret", "oidc.issuer", "jwks.url", "jwks.file"]);
        let mentioned = is_set(&NEED_KEYS);
        let has_issuer = config.is_set("jwt.issuer");
        if self.dev_login && !config.is_set("jwt.secret") {
            let sentence =
                "needs JWT_SECRET to sign with; set it, such as to the output of `openssl rand -base64 48`";
            config.refuse(["enable_login"], sentence);
        }
        if let Some(local) = local.filter(|_| self.issuer.is_none() || self.audience.is_none()) {
            config
                .refuse([local, "jwt.issuer", "jwt.audience"], "needs JWT_ISSUER and JWT_AUDIENCE; set both");
        }
        match (mentioned, keys) {
            (Some(mentioned), None) => config.refuse(
                [mentioned],
                "needs keys: set JWT_SECRET, KEYWARD_OIDC_ISSUER, KEYWARD_JWKS_URL or KEYWARD_JWKS_FILE",
            ),
            (_, Some("oidc.issuer")) if has_issuer && local.is_none() => config.refuse(
                ["jwt.issuer"],
                "is the issuer of JWT_SECRET and of a key set; unset it, since the tokens of \
                 KEYWARD_OIDC_ISSUER name that one",
            ),
            _ => {}
        }
    }
}

/// What means nothing without keys.
const NEED_KEYS: [&str; 6] = [
    "jwt.issuer",
    "jwt.audience",
    "jwt.ttl_minutes",
    "jwt.leeway_seconds",
    "oidc.audience",
    "jwks.cooldown_seconds",
];

impl KeySource {
    /// An identity provider without an audience of its own uses `audience`.
    fn read(config: &mut Reader, audience: Option<String>) -> Option<Self> {
        // Whether they can be asked at all does not depend on what else is set.
        let is_issuer = |url: String| JwtAuth::oidc(&url, "any").build().map(|_| url);
        let is_key_set = |url: String| JwtAuth::jwks(&url).issuer("any").audience("any").build().map(|_| url);
        let issuer = config.value("oidc.issuer").and_then(is_issuer).optional();
        let audience = config.value("oidc.audience").optional().or(audience);
        let url = config.value("jwks.url").and_then(is_key_set).optional();
        let file = config.value("jwks.file").and_then(read_keys).optional();
        let keys = ["oidc.issuer", "jwks.url", "jwks.file"];
        let mut set = keys.into_iter().filter(|key| config.is_set(key));
        if let (Some(_), Some(second)) = (set.next(), set.next()) {
            let sentence = "set only one of KEYWARD_OIDC_ISSUER, KEYWARD_JWKS_URL and KEYWARD_JWKS_FILE";
            config.refuse([second], sentence);
        }
        if let Some(issuer) = issuer {
            if audience.is_none() {
                config
                    .refuse(["oidc.issuer", "oidc.audience"], "needs KEYWARD_OIDC_AUDIENCE or JWT_AUDIENCE");
            }
            return Some(Self::Oidc { issuer, audience: audience? });
        }
        url.map(Self::Url).or(file.map(Self::File))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what a setting gives")]
fn read_keys(path: PathBuf) -> Result<KeySet, String> {
    let unreadable = |error| format!("{} cannot be read: {error}", path.display());
    let keys = KeySet::from_jwks(fs::read(&path).map_err(unreadable)?);
    keys.map_err(|error| format!("{}: {error}", path.display()))
}

impl FromStr for Database {
    type Err = ConfigError;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        match url.split_once(':') {
            Some(("memory", "")) => Ok(Self::Memory),
            Some(("sqlite", path)) if !path.trim_start_matches('/').is_empty() => {
                Ok(Self::Sqlite(path.strip_prefix("//").unwrap_or(path).into()))
            }
            Some(("postgres" | "postgresql", _)) => {
                PostgresOptions::new(url).map(|options| Self::Postgres(Box::new(options)))
            }
            _ => Err(ConfigError::new(
                "must be `sqlite:PATH`, `postgres://user:password@host/database` or `memory:`",
            )),
        }
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory:"),
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            // Where it is, without the password.
            Self::Postgres(options) => write!(f, "{options:?}"),
        }
    }
}

impl FromStr for BootstrapMode {
    type Err = &'static str;

    fn from_str(mode: &str) -> Result<Self, Self::Err> {
        match mode {
            "admin" => Ok(Self::Admin),
            "register" => Ok(Self::Register),
            "public" => Ok(Self::Public),
            _ => Err("must be `admin`, `register` or `public`"),
        }
    }
}

impl fmt::Display for BootstrapMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admin => "admin",
            Self::Register => "register",
            Self::Public => "public",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        let sources = Sources::new("KEYWARD_").with_variables(pairs.iter().copied());
        sources.read(Settings::read).map(|(settings, _)| settings).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_needs_to_be_set() {
        let settings = read(&[]).unwrap();
        assert_eq!(settings.listen, "127.0.0.1:3000");
        assert!(matches!(settings.database, Database::Sqlite(path) if path.ends_with("keyward.db")));
        assert!(settings.static_tokens.is_none() && !settings.debug_ownership);
        assert!(settings.failure_limit.is_some() && settings.watch);
        assert!(!read(&[("KEYWARD_WATCH", "false")]).unwrap().watch);
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
    fn wrong_values_are_refused_by_name() {
        for (name, value) in [
            ("KEYWARD_DATABASE_URL", "mysql://localhost"),
            ("KEYWARD_DATABASE_URL", "postgres://db.example.com/keys?sslmode=prefer"),
            ("KEYWARD_DATABASE_URL", "sqlite:"),
            ("KEYWARD_DATABASE_URL", ""),
            ("KEYWARD_REDIS_URL", "localhost:6379"),
            ("KEYWARD_REDIS_URL", "http://localhost"),
            ("KEYWARD_REDIS_URL", ""),
            ("API_TOKENS", "admin:short"),
            ("API_TOKENS", ""),
            ("KEYWARD_ADMIN_USERS", "a\u{7}b"),
            ("KEYWARD_TRUSTED_PROXIES", "0.0.0.0/0"),
            ("KEYWARD_TRUSTED_PROXIES", "proxy.example"),
            ("KEYWARD_CLIENT_IP_HEADER", "Host"),
            ("KEYWARD_DEBUG_OWNERSHIP", "yes"),
            ("KEYWARD_MAX_FAILURES_PER_MINUTE", "-1"),
            ("KEYWARD_MAX_FAILURES_PER_MINUTE", "many"),
            ("KEYWARD_WATCH", "often"),
            ("KEYWARD_AUDIT_RETENTION_DAYS", "a year"),
            ("KEYWARD_AUDIT_RETENTION_DAYS", "-1"),
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
