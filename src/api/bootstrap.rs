//! How somebody without any credential comes to a first key.

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, State},
    http::{Method, request::Parts},
    middleware,
    response::Response,
    routing::{MethodRouter, post},
};

use crate::{
    api::{
        ApiError, JsonBody, MAX_BODY, created, in_request,
        request::{CreateBody, RegisterBody},
        view::Issued,
    },
    auth::RequestHead,
    error::{AuthError, AuthErrorKind, Refusal},
    id::UserId,
    layer::{Mode, require_scope},
    limit::{Gcra, RateLimit, Suspect, nanos},
    manage::TokenManager,
    net::{ClientIp, Peer},
    principal::Principal,
    time::UnixTime,
};

/// So many addresses are remembered at most.
const MOST_ADDRESSES: usize = 10_000;

/// How somebody without any credential comes to a first key.
///
/// One of three, for a whole service: hand it to [`OwnTokens::with_bootstrap`](super::OwnTokens::with_bootstrap)
/// and to [`registration`].
///
/// ```
/// use axum::Router;
/// use keyward::{AuthLayer, TokenManager, auth::ApiKeyAuth, store::MemoryStore};
/// use keyward::api::{self, Admission, Bootstrap, OwnTokens};
///
/// let tokens = TokenManager::new(MemoryStore::new());
/// let bootstrap = Bootstrap::Register(Admission::new());
/// let keys = OwnTokens::new(tokens.clone()).with_bootstrap(bootstrap.clone());
/// let app: Router = Router::new()
///     .nest("/api/keys", keys.into_router())
///     .layer(AuthLayer::new(ApiKeyAuth::new(&tokens)).with_mode(bootstrap.mode_at("/api/keys")))
///     .nest("/auth", api::registration(tokens, &bootstrap)); // POST /auth/register, without a credential
/// # let _ = app;
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Bootstrap {
    /// From an administrator. Nobody comes in by themselves; the default.
    #[default]
    AdminOnly,
    /// They register, under a name that nobody had before: [`registration`].
    Register(Admission),
    /// They ask for one, under an id that is made for them: `POST` of the key routes without a credential. With
    /// a credential it goes on making a key for the caller.
    Public(Admission),
}

impl Bootstrap {
    /// `admin`, `register` or `public`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::AdminOnly => "admin",
            Self::Register(_) => "register",
            Self::Public(_) => "public",
        }
    }

    /// For [`AuthLayer::with_mode`](crate::AuthLayer::with_mode): in [`Public`](Self::Public), `POST` of the key
    /// routes that are mounted at `mount` needs no credential. Everything else does, whatever the mode. It goes
    /// by the route that the router has chosen, not by the text of the path.
    pub fn mode_at(&self, mount: &str) -> impl Fn(&RequestHead<'_>) -> Mode + Send + Sync + 'static {
        let open = matches!(self, Self::Public(_)).then(|| mount.to_owned());
        move |head| {
            let route = head.extensions.get::<MatchedPath>().map(MatchedPath::as_str);
            match &open {
                Some(open) if head.method == Method::POST && route == Some(open) => Mode::Optional,
                _ => Mode::Required,
            }
        }
    }
}

/// How many may come in by themselves, and under which names they may not.
///
/// By default 5 in a minute from one address, and 60 in a minute in total; IPv6 addresses count by their /64, and
/// all unknown ones as one. Whoever comes too early is answered with 429 and `Retry-After`. Each attempt counts
/// that could have succeeded by its form. The counts are this process's own, and shared by clones.
///
/// ```
/// use std::time::Duration;
/// use keyward::{api::Admission, limit::RateLimit};
///
/// let hourly = |requests| RateLimit::new(requests, Duration::from_secs(3600));
/// let admission = Admission::new()
///     .with_limits(hourly(2)?, hourly(100)?)
///     .with_taken(|user| user.as_str() == "support"); // nobody can register as this one
/// # let _ = admission;
/// # Ok::<(), keyward::ConfigError>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct Admission {
    client_ip: Arc<dyn ClientIp>,
    taken: Option<Arc<IsTaken>>,
    gate: Arc<Gate>,
}

type IsTaken = dyn Fn(&UserId) -> bool + Send + Sync;

impl Admission {
    /// With the default limits.
    pub fn new() -> Self {
        let gate = Gate::new(RateLimit::per_minute(5), RateLimit::per_minute(60));
        Self { client_ip: Arc::new(Peer), taken: None, gate: Arc::new(gate) }
    }

    /// How many from one address, and how many in total.
    pub fn with_limits(mut self, per_address: RateLimit, in_total: RateLimit) -> Self {
        self.gate = Arc::new(Gate::new(per_address, in_total));
        self
    }

    /// Where the client's address comes from; the connection itself by default. Behind proxies say what the
    /// [layer](crate::AuthLayer::with_client_ip) is told, or all clients count as one.
    pub fn with_client_ip(mut self, source: impl ClientIp) -> Self {
        self.client_ip = Arc::new(source);
        self
    }

    /// Which names are taken by users of whom the store knows nothing: those of static tokens, say, or of an
    /// identity provider. None by default; see [`TokenManager::register`] for those that always are.
    pub fn with_taken(mut self, taken: impl Fn(&UserId) -> bool + Send + Sync + 'static) -> Self {
        self.taken = Some(Arc::new(taken));
        self
    }

    /// Counts an attempt, and says where it comes from.
    fn admit(&self, parts: &Parts, tokens: &TokenManager) -> Result<Option<IpAddr>, ApiError> {
        let ip = self.client_ip.client_ip(&parts.headers, &parts.extensions);
        self.gate.pass(ip, tokens.now()).map_err(|wait| {
            tokens.refuse_newcomer(Refusal::RateLimited, ip);
            AuthError::because(AuthErrorKind::TooManyRequests, Refusal::RateLimited).retry_in(wait)
        })?;
        Ok(ip)
    }
}

impl Default for Admission {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").field("client_ip", &self.client_ip).finish_non_exhaustive()
    }
}

/// What routes without a credential need.
type Desk = (TokenManager, Admission);

/// `POST /register` for [`Bootstrap::Register`]; no route at all otherwise. Mount it outside of any
/// [`AuthLayer`](crate::AuthLayer), since nobody who comes here has a credential.
///
/// The body is `{"user_id", "email"?}`. The answer is 201 with the first key, which may do everything that the
/// user may; the e-mail address is kept in its metadata. It is 409 for a name that is or was anybody's:
/// see [`TokenManager::register`] and [`Admission::with_taken`].
///
/// Of users who only have JWTs nothing is known here. Where JWTs give users their subject as their id, whoever
/// registers first under such a name becomes that user: keep those names apart with `with_taken`. Beside a
/// [user directory](crate::manage::TokenManagerBuilder::with_user_directory) every name is taken.
pub fn registration<S: Clone + Send + Sync + 'static>(
    tokens: TokenManager,
    bootstrap: &Bootstrap,
) -> Router<S> {
    match bootstrap {
        Bootstrap::Register(admission) => Router::new()
            .route("/register", post(register))
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .layer(middleware::from_fn(in_request))
            .with_state((tokens, admission.clone())),
        Bootstrap::AdminOnly | Bootstrap::Public(_) => Router::new(),
    }
}

/// `POST` of the key routes where anybody may have a key.
pub(super) fn public_creation<S: Clone + Send + Sync + 'static>(
    tokens: TokenManager,
    admission: &Admission,
) -> MethodRouter<S> {
    post(create_for_anybody).with_state((tokens, admission.clone()))
}

async fn register(
    State((tokens, admission)): State<Desk>,
    parts: Parts,
    body: JsonBody<RegisterBody>,
) -> Result<Response, ApiError> {
    let (user, new) = body.0.into_newcomer()?;
    let ip = admission.admit(&parts, &tokens)?;
    if admission.taken.as_ref().is_some_and(|taken| taken(&user)) {
        tokens.refuse_newcomer(Refusal::UserExists, ip);
        return Err(crate::manage::TokenError::UserExists.into());
    }
    let issued = tokens.register(&user, new.with_created_ip(ip)).await?;
    Ok(created(&Issued::new(&tokens, &issued)))
}

async fn create_for_anybody(
    me: Option<Principal>,
    State((tokens, admission)): State<Desk>,
    parts: Parts,
    body: JsonBody<CreateBody>,
) -> Result<Response, ApiError> {
    if let Some(me) = &me {
        require_scope(me, &RequestHead::from_parts(&parts), "keys:write")?;
    }
    let new = body.0.into_new_token()?;
    let issued = match me {
        Some(me) => tokens.create(&me, new).await?,
        None => {
            let ip = admission.admit(&parts, &tokens)?;
            tokens.register_anybody(new.with_created_ip(ip)).await?
        }
    };
    Ok(created(&Issued::new(&tokens, &issued)))
}

/// Counts those who come in, from each address and in total.
#[derive(Debug)]
struct Gate {
    per_address: Gcra,
    in_total: Gcra,
    came: Mutex<Came>,
}

#[derive(Debug, Default)]
struct Came {
    in_total: i64,
    by_address: HashMap<Suspect, i64>,
}

impl Gate {
    fn new(per_address: RateLimit, in_total: RateLimit) -> Self {
        let (per_address, in_total) = (Gcra::new(per_address), Gcra::new(in_total));
        Self { per_address, in_total, came: Mutex::default() }
    }

    /// Lets one more pass, or says how long they must wait.
    fn pass(&self, ip: Option<IpAddr>, now: UnixTime) -> Result<(), Duration> {
        let (address, now) = (Suspect::of(ip), nanos(now));
        let mut came = self.came.lock().unwrap_or_else(PoisonError::into_inner);
        let own = self.per_address.decide(came.by_address.get(&address).copied().unwrap_or(now), now);
        let total = self.in_total.decide(came.in_total, now);
        if let Some(refused) = [own, total].into_iter().find(|decision| !decision.allowed) {
            // What a refusal notes is that the clock was set back.
            came.by_address.entry(address).and_modify(|state| *state = own.state.min(*state));
            came.in_total = total.state.min(came.in_total);
            return Err(Duration::from_nanos(refused.level.retry_in.unsigned_abs()));
        }
        if came.by_address.len() >= MOST_ADDRESSES && !came.by_address.contains_key(&address) {
            came.by_address.retain(|_, state| self.per_address.level(*state, now).full_in > 0);
            if came.by_address.len() >= MOST_ADDRESSES {
                return Err(Duration::from_secs(1));
            }
        }
        came.by_address.insert(address, own.state);
        came.in_total = total.state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(seconds: i64) -> UnixTime {
        UnixTime::from_millis(1_767_225_600_000 + seconds * 1000)
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn each_address_has_its_own_limit_and_all_have_one_together() {
        let gate = Gate::new(RateLimit::per_minute(5), RateLimit::per_minute(12));
        let passed = |address: &str, seconds| gate.pass(ip(address), at(seconds));
        for _ in 0..5 {
            passed("192.0.2.1", 0).unwrap();
        }
        assert_eq!(passed("192.0.2.1", 0), Err(Duration::from_secs(12)));
        assert_eq!(passed("::ffff:192.0.2.1", 2), Err(Duration::from_secs(10)), "the same one");
        for n in 0..5 {
            passed(&format!("2001:db8::{n}"), 2).unwrap();
        }
        assert!(passed("2001:db8::ffff:ffff:ffff:ffff", 2).is_err(), "the same network");
        passed("2001:db8:0:1::", 2).unwrap();
        passed("192.0.2.1", 12).unwrap();
        assert!(passed("192.0.2.1", 12).is_err());
        for n in 0..2 {
            passed(&format!("198.51.100.{n}"), 12).unwrap();
        }
        assert!(passed("198.51.100.9", 12).is_err(), "too many in total");
        assert!(passed("198.51.100.9", 17).is_ok());
    }

    #[test]
    fn unknown_addresses_count_as_one() {
        let gate = Gate::new(RateLimit::per_minute(1), RateLimit::per_minute(60));
        gate.pass(None, at(0)).unwrap();
        assert!(gate.pass(None, at(30)).is_err());
        gate.pass(ip("192.0.2.1"), at(30)).unwrap();
    }

    #[test]
    fn memory_is_bounded_and_a_clock_that_is_set_back_keeps_nobody_out() {
        let gate = Gate::new(RateLimit::per_minute(1), RateLimit::per_minute(u32::MAX));
        let address = |n: usize| Some(IpAddr::V4((n as u32).into()));
        for n in 0..2 * MOST_ADDRESSES {
            assert_eq!(gate.pass(address(n), at(1000)).is_ok(), n < MOST_ADDRESSES, "{n}");
        }
        assert_eq!(gate.came.lock().unwrap().by_address.len(), MOST_ADDRESSES);
        for n in 0..2 * MOST_ADDRESSES {
            assert!(gate.pass(address(n), at(if n < MOST_ADDRESSES { 1061 } else { 1122 })).is_ok());
        }
        gate.pass(address(0), at(5000)).unwrap();
        assert_eq!(gate.pass(address(0), at(0)), Err(MINUTE), "as if it had come just now");
        assert_eq!(gate.pass(address(0), at(60)), Ok(()));
    }
}
