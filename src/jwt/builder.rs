//! How a [`JwtAuth`] is set up: a builder that cannot forget the issuer or the audience.

use std::{
    fmt,
    future::{Future, IntoFuture},
    marker::PhantomData,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    JwtAuth, Provider,
    cache::VerifiedTokens,
    claims::{ClaimPath, Rules, TokenType},
    fetch::HttpFetch,
    jwk,
    key::{Algorithm, KeySet, VerifyingKey},
    loader::{Parse, Source},
    names::{IntoAudience, IntoIssuer},
    remote::{RemoteKeys, RemoteSettings},
    several::check_users,
    users::UserIds,
    verify::{ConfirmationVerifier, Trust, Verifier},
};
use crate::{
    auth::{Adoption, Revocations},
    error::ConfigError,
    event::{Alert, Audit, Event},
    principal::RoleDirectory,
    time::{Clock, SystemClock},
};

/// The longest leeway that can be set: "no more than a few minutes" (RFC 7519, section 4.1.4).
const MAX_LEEWAY: Duration = Duration::from_secs(300);

/// A builder in which this has been said.
#[derive(Debug)]
#[non_exhaustive]
pub struct Said;

/// A builder in which this has not been said yet: it cannot build.
#[derive(Debug)]
#[non_exhaustive]
pub struct Unsaid;

/// Sets up a [`JwtAuth`]. It starts with keys, and builds when issuer and audience were said.
///
/// A setting that cannot be right is reported by [`build`](Self::build).
///
/// ```
/// use std::time::Duration;
/// use keyward::jwt::JwtAuth;
///
/// let secret = "7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4N-example-only";
/// let jwt = JwtAuth::hs256(secret)
///     .issuer("https://login.example")
///     .audience("https://api.example")
///     .with_leeway(Duration::from_secs(10))
///     .with_roles_claim("roles")
///     .build()?;
/// # let _ = jwt;
/// # Ok::<(), keyward::ConfigError>(())
/// ```
///
/// Without an issuer or an audience it does not compile:
///
/// ```compile_fail,E0599
/// # use keyward::jwt::JwtAuth;
/// JwtAuth::hs256("secret").issuer("https://login.example").build(); // no method `build`
/// ```
/// ```compile_fail,E0599
/// # use keyward::jwt::JwtAuth;
/// JwtAuth::hs256("secret").audience("https://api.example").build(); // no method `build`
/// ```
#[must_use]
pub struct JwtBuilder<I = Unsaid, A = Unsaid> {
    settings: Settings,
    said: PhantomData<fn() -> (I, A)>,
}

struct Settings {
    rules: Rules,
    keys: Vec<VerifyingKey>,
    source: Option<Source>,
    cool_down: Duration,
    max_stale: Duration,
    rsa_algorithm: Algorithm,
    fetch: Option<Arc<dyn HttpFetch>>,
    users: UserIds,
    confirmation: Option<Arc<dyn ConfirmationVerifier>>,
    directory: Option<Arc<dyn RoleDirectory>>,
    max_token_bytes: usize,
    cache_bytes: usize,
    revocations: Option<Arc<dyn Revocations>>,
    clock: Arc<dyn Clock>,
    audit: Option<Audit>,
    /// The first thing that was wrong.
    error: Option<ConfigError>,
}

impl Settings {
    /// Keeps the first error.
    fn refuse(&mut self, error: ConfigError) {
        self.error.get_or_insert(error);
    }
}

impl<I, A> fmt::Debug for JwtBuilder<I, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtBuilder").field("rules", &self.settings.rules).finish_non_exhaustive()
    }
}

impl JwtBuilder {
    pub(super) fn new() -> Self {
        let settings = Settings {
            rules: Rules::new(),
            keys: Vec::new(),
            source: None,
            cool_down: Duration::from_secs(30),
            max_stale: Duration::from_secs(24 * 3600),
            rsa_algorithm: Algorithm::RS256,
            fetch: None,
            users: UserIds::Subject,
            confirmation: None,
            directory: None,
            max_token_bytes: 8 * 1024,
            cache_bytes: 32 << 20,
            revocations: None,
            clock: Arc::new(SystemClock),
            audit: None,
            error: None,
        };
        Self { settings, said: PhantomData }
    }
}

impl JwtBuilder<Said, Said> {
    pub(super) fn from_provider(provider: Provider) -> Self {
        let (issuer, jwks_url) = (provider.issuer.clone(), provider.jwks_url.clone());
        let mut builder = JwtBuilder::new().into_said();
        builder.settings.rules = provider.into_rules();
        match jwks_url {
            Some(url) => builder.and_jwks(&url),
            None => builder.and_discovery(&issuer),
        }
    }
}

impl<I, A> JwtBuilder<I, A> {
    fn into_said<J, B>(self) -> JwtBuilder<J, B> {
        JwtBuilder { settings: self.settings, said: PhantomData }
    }

    fn change(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    fn refuse_unless(self, good: bool, sentence: &'static str) -> Self {
        if good { self } else { self.change(|settings| settings.refuse(ConfigError::new(sentence))) }
    }

    /// Who must have issued a token: its claim `iss` is one text, equal to this byte for byte.
    pub fn issuer(self, issuer: impl IntoIssuer) -> JwtBuilder<Said, A> {
        let issuer = issuer.into_issuer();
        let good = issuer.as_deref().is_none_or(|issuer| !issuer.trim().is_empty());
        let builder = self.change(|settings| settings.rules.issuer = issuer);
        builder.refuse_unless(good, "the issuer is empty: give what the tokens' `iss` says").into_said()
    }

    /// Whom a token must be for: its claim `aud` names one of these.
    pub fn audience(self, audience: impl IntoAudience) -> JwtBuilder<I, Said> {
        let audiences = audience.into_audience();
        let good = audiences.as_deref().is_none_or(|audiences| {
            !audiences.is_empty() && audiences.iter().all(|audience| !audience.trim().is_empty())
        });
        let builder = self.change(|settings| settings.rules.audiences = audiences);
        let sentence = "the audience is empty: give the name of this service that the tokens' `aud` holds";
        builder.refuse_unless(good, sentence).into_said()
    }

    /// Accepts a further key, for rotation: the old secret and the new one at once.
    pub fn and_key(self, key: Result<VerifyingKey, ConfigError>) -> Self {
        self.change(|settings| match key {
            Ok(key) => settings.keys.push(key),
            Err(error) => settings.refuse(error),
        })
    }

    /// Accepts further keys.
    pub fn and_keys(self, keys: &KeySet) -> Self {
        self.change(|settings| settings.keys.extend(keys.iter().cloned()))
    }

    /// Also fetches keys from `url`, a JSON Web Key Set (RFC 7517): HTTPS, or HTTP on this very machine.
    pub fn and_jwks(self, url: &str) -> Self {
        self.with_source(Source::key_set(url))
    }

    /// Also fetches keys from where the issuer's metadata says (OpenID Connect Discovery 1.0).
    pub fn and_discovery(self, issuer: &str) -> Self {
        self.with_source(Source::issuer(issuer))
    }

    fn with_source(self, source: Result<Source, ConfigError>) -> Self {
        let several = self.settings.source.is_some();
        let builder = self.change(|settings| match source {
            Ok(source) => settings.source = Some(source),
            Err(error) => settings.refuse(error),
        });
        builder.refuse_unless(!several, "an issuer's keys can be fetched from one place only")
    }

    /// How far clocks may be apart; 60 seconds by default, 300 at most.
    pub fn with_leeway(self, leeway: Duration) -> Self {
        let builder = self.change(|settings| settings.rules.leeway = leeway);
        builder.refuse_unless(
            leeway <= MAX_LEEWAY,
            "the leeway is more than 300 seconds; set the clocks instead",
        )
    }

    /// Refuses tokens that are good for longer than this; 24 hours by default.
    pub fn with_max_lifetime(self, lifetime: Duration) -> Self {
        let builder = self.change(|settings| settings.rules.max_lifetime = Some(lifetime));
        builder.refuse_unless(!lifetime.is_zero(), "the longest lifetime of a token is zero; give a duration")
    }

    /// Accepts tokens however long they are good for: one that leaks may then be good for ever.
    pub fn with_any_lifetime(self) -> Self {
        self.change(|settings| settings.rules.max_lifetime = None)
    }

    /// Accepts only access tokens after RFC 9068: `typ` is `at+jwt`, and `client_id`, `iat` and `jti` are
    /// there. By default `JWT` and no `typ` are good as well.
    pub fn require_access_token(self) -> Self {
        self.change(|settings| settings.rules.token_type = TokenType::AccessToken)
    }

    /// Also accepts ID tokens, off by default: they are made for the client that logged a user in.
    pub fn accept_id_tokens(self) -> Self {
        self.change(|settings| settings.rules.id_tokens = true)
    }

    /// Requires that the claim at `path` is exactly this text.
    pub fn require_claim(self, path: impl Into<ClaimPath>, text: &str) -> Self {
        self.change(|settings| settings.rules.required.push((path.into(), text.into())))
    }

    /// Which claim names the audience; `aud` by default.
    pub fn with_audience_claim(self, path: impl Into<ClaimPath>) -> Self {
        self.change(|settings| settings.rules.audience_claim = path.into())
    }

    /// Which claim holds the scopes, as a text with spaces or as a list; `scope` by default. Names with an
    /// asterisk are left out: they would be patterns here.
    pub fn with_scopes_claim(self, path: impl Into<ClaimPath>) -> Self {
        self.change(|settings| settings.rules.scopes = path.into())
    }

    /// A token without the scopes' claim may do everything; by default it may do nothing that needs a scope.
    pub fn missing_scope_means_all(self) -> Self {
        self.change(|settings| settings.rules.missing_scope_means_all = true)
    }

    /// Which claim holds the roles; none by default, and tokens then carry no roles.
    pub fn with_roles_claim(self, path: impl Into<ClaimPath>) -> Self {
        self.change(|settings| settings.rules.roles = Some(path.into()))
    }

    /// Which roles users have beside those that their tokens name; none by default. Asked when a token is first
    /// seen, and again once a minute while it is used.
    pub fn with_roles(self, directory: impl RoleDirectory) -> Self {
        self.change(|settings| settings.directory = Some(Arc::new(directory)))
    }

    /// Which algorithm RSA keys of a key set have that do not say so themselves; `RS256` by default. It is
    /// never taken from a token.
    pub fn with_rsa_algorithm(self, algorithm: Algorithm) -> Self {
        let builder = self.change(|settings| settings.rsa_algorithm = algorithm);
        builder.refuse_unless(algorithm.is_rsa(), "the algorithm of RSA keys is one of RS256 to PS512")
    }

    /// Which user a token stands for; its subject by default.
    pub fn with_user_ids(self, users: UserIds) -> Self {
        self.change(|settings| settings.users = users)
    }

    /// Who checks that the sender of a bound token possesses what it is bound to. Without one, bound tokens
    /// are refused.
    pub fn with_confirmation(self, verifier: impl ConfirmationVerifier) -> Self {
        self.change(|settings| settings.confirmation = Some(Arc::new(verifier)))
    }

    /// The longest token that is looked at, in bytes; 8192 by default, 16384 at most.
    pub fn with_max_token_bytes(self, bytes: usize) -> Self {
        let builder = self.change(|settings| settings.max_token_bytes = bytes);
        let good = (256..=16 * 1024).contains(&bytes);
        builder.refuse_unless(good, "the longest token must be between 256 and 16384 bytes")
    }

    /// How much memory verified tokens may take, in bytes, roughly; 32 MiB by default, which is some 17 000
    /// tokens. Zero verifies each token each time.
    pub fn with_cache_bytes(self, bytes: usize) -> Self {
        self.change(|settings| settings.cache_bytes = bytes)
    }

    /// Who knows which tokens and users were withdrawn. In an [`AnyOf`](crate::auth::AnyOf) beside
    /// [`ApiKeyAuth`](crate::auth::ApiKeyAuth) it is the store of the keys, without being told.
    pub fn with_revocations(self, revocations: impl Revocations) -> Self {
        self.change(|settings| settings.revocations = Some(Arc::new(revocations)))
    }

    /// How often a key set may be fetched because of a key that it lacks, or again after a failure; every
    /// 30 seconds by default.
    pub fn with_cool_down(self, cool_down: Duration) -> Self {
        let builder = self.change(|settings| settings.cool_down = cool_down);
        let long_enough = cool_down >= Duration::from_secs(1);
        builder.refuse_unless(long_enough, "the cool-down between two fetches of keys is at least one second")
    }

    /// How long a key set is used while it cannot be fetched again; 24 hours by default. Then answers are 503.
    pub fn with_max_stale(self, bound: Duration) -> Self {
        let builder = self.change(|settings| settings.max_stale = bound);
        let long_enough = bound >= Duration::from_secs(60);
        builder.refuse_unless(long_enough, "a key set must be used for at least a minute: nothing would work")
    }

    /// The HTTP client that fetches metadata and keys; with the feature `jwks` one is there.
    pub fn with_fetch(self, fetch: impl HttpFetch) -> Self {
        self.change(|settings| settings.fetch = Some(Arc::new(fetch)))
    }

    /// The clock; the system's by default.
    pub fn with_clock(self, clock: impl Clock) -> Self {
        self.change(|settings| settings.clock = Arc::new(clock))
    }

    /// Where events about these callers go; [`tracing`] by default.
    pub fn with_audit(self, audit: Audit) -> Self {
        self.change(|settings| settings.audit = Some(audit))
    }
}

impl JwtBuilder<Said, Said> {
    /// The authenticator. It fetches nothing yet: until its keys are there, answers are 503. Await the
    /// builder instead to start only with keys.
    ///
    /// # Errors
    /// The first setting that cannot be right, in one sentence.
    pub fn build(self) -> Result<JwtAuth, ConfigError> {
        let Settings { rules, keys, source, fetch, error, audit, clock, .. } = self.settings;
        if let Some(error) = error {
            return Err(error);
        }
        if keys.is_empty() && source.is_none() {
            return Err(ConfigError::new("there is no key to verify tokens with; give one, or a key set"));
        }
        let audit = audit.unwrap_or_default();
        let remote = match source {
            None => None,
            Some(source) => {
                let fetch = fetch.or_else(default_fetch).ok_or_else(|| {
                    ConfigError::new(
                        "there is no HTTP client: give one by `with_fetch`, or turn on the feature `jwks`",
                    )
                })?;
                let mut settings = RemoteSettings::new(clock.clone(), audit.clone());
                (settings.cool_down, settings.max_stale) = (self.settings.cool_down, self.settings.max_stale);
                let parse = parse_keys(self.settings.rsa_algorithm, audit.clone());
                Some(RemoteKeys::new(source, fetch, parse, settings))
            }
        };
        let trust = Trust {
            rules,
            fixed: if keys.is_empty() { None } else { Some(KeySet::new(keys)?) },
            remote,
            users: self.settings.users,
            foreign: Vec::new(),
            confirmation: self.settings.confirmation,
            directory: self.settings.directory,
        };
        check_users(std::slice::from_ref(&trust))?;
        let adoption = Adoption::new(self.settings.revocations.is_some());
        let revocations = OnceLock::new();
        if let Some(chosen) = self.settings.revocations {
            let _ = revocations.set(chosen);
        }
        Ok(JwtAuth::from_verifier(Verifier {
            trusts: Arc::new([trust]),
            max_token_bytes: self.settings.max_token_bytes,
            verified: Arc::new(VerifiedTokens::new(self.settings.cache_bytes, random_seed()?)),
            cache_bytes: self.settings.cache_bytes,
            revocations,
            adoption,
            clock,
            audit,
            episodes: Arc::default(),
        }))
    }
}

/// Reads an issuer's key set. A symmetric key in it would be known to everybody: it is left out, with an
/// alert.
fn parse_keys(rsa: Algorithm, audit: Audit) -> Parse<KeySet> {
    let alerted = AtomicBool::new(false);
    Box::new(move |body| {
        let parsed = jwk::parse_remote_set(body, rsa).map_err(|error| error.to_string())?;
        if parsed.symmetric > 0 && !alerted.swap(true, Ordering::Relaxed) {
            audit.emit(Event::alert(Alert::KeyRefused).because("the key set holds a symmetric key"));
        }
        for (kid, reason) in &parsed.skipped {
            tracing::debug!(kid = kid.as_deref(), reason, "a key of an issuer's set is not used");
        }
        parsed.set.ok_or_else(|| "the key set holds no usable key".to_owned())
    })
}

/// Builds and fetches the keys at once: fails if they cannot be had.
impl IntoFuture for JwtBuilder<Said, Said> {
    type Output = Result<JwtAuth, ConfigError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let auth = self.build()?;
            auth.fetch_keys().await?;
            Ok(auth)
        })
    }
}

pub(super) fn random_seed() -> Result<[u64; 2], ConfigError> {
    let mut seed = [0; 2];
    for half in &mut seed {
        // An even factor would lose what it is multiplied with.
        *half = 1 | getrandom::u64().map_err(|_| {
            ConfigError::new("the operating system gives no random numbers; keyward needs them")
        })?;
    }
    Ok(seed)
}

#[cfg(feature = "jwks")]
fn default_fetch() -> Option<Arc<dyn HttpFetch>> {
    super::https::HttpsFetch::new().ok().map(|fetch| Arc::new(fetch) as _)
}

#[cfg(not(feature = "jwks"))]
fn default_fetch() -> Option<Arc<dyn HttpFetch>> {
    None
}
