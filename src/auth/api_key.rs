//! API keys that keyward issued.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use crate::{
    auth::{Authenticator, RequestHead, Revocations, Verdict, credential_lines, mentions},
    count::{self, Cache},
    error::{AuthError, AuthErrorKind, Refusal, Scheme},
    event::Audit,
    id::is_printable,
    limit::{Exceeded, Limiter},
    principal::{Credential, Principal},
    secret::without_secrets,
    store::{TokenLookup, cache::Cached},
    time::UnixTime,
    token::{KeyFormat, Shape},
    watch::{agent_words, fingerprint},
};

/// For how long before its expiry responses say when a key expires.
const EXPIRY_NOTICE: Duration = Duration::from_secs(30 * 86_400);

static X_KEY_EXPIRES: HeaderName = HeaderName::from_static("x-key-expires");
static X_KEY_GRACE_UNTIL: HeaderName = HeaderName::from_static("x-key-grace-until");

/// Accepts API keys: in `X-API-Key` and as bearer tokens.
///
/// A key with a wrong checksum is refused without a digest, one with another prefix is left to others. A
/// key in the cache is decided at once: its expiry, its addresses and the method are judged for each
/// request. Only an unknown or stale one asks the store.
///
/// For 30 days before a key expires, or one that it ends with, responses carry `X-Key-Expires` with the time (RFC
/// 3339, UTC); in its grace period also `X-Key-Grace-Until`. A header that the service sets itself stays as it is.
///
/// A key with limits is answered 429 beyond them, and told where they stand in `RateLimit`; see
/// [`limit`](crate::limit).
///
/// ```
/// use keyward::{AuthLayer, TokenManager, auth::ApiKeyAuth, store::MemoryStore};
///
/// let tokens = TokenManager::new(MemoryStore::new());
/// let auth: AuthLayer = AuthLayer::new(ApiKeyAuth::new(&tokens));
/// # let _ = auth;
/// ```
#[derive(Clone, Debug)]
pub struct ApiKeyAuth {
    lookup: TokenLookup,
}

impl ApiKeyAuth {
    /// Accepts the keys of a [`TokenManager`](crate::TokenManager).
    #[must_use]
    pub fn new(tokens: impl Into<TokenLookup>) -> Self {
        Self { lookup: tokens.into() }
    }
}

impl Authenticator for ApiKeyAuth {
    #[inline]
    fn authenticate(&self, head: &RequestHead<'_>) -> Verdict {
        let Some(presented) = head.presented else { return Verdict::Abstain };
        let key = presented.unchecked_bytes();
        match self.lookup.shape(key) {
            Shape::Foreign => return Verdict::Abstain,
            Shape::Broken => {
                return Verdict::Decided(Err(AuthError::invalid(Refusal::BadChecksum).by(Scheme::ApiKey)));
            }
            Shape::WellFormed => {}
        }
        let digest = self.lookup.digest(key);
        let now = self.lookup.now();
        match self.lookup.cached(&digest, now) {
            Cached::Live(credential) => {
                count::hit(Cache::ApiKey);
                let admitted = self.admit(credential, now, head.client_ip, head.method);
                if self.lookup.watches_agents()
                    && let Ok(principal) = &admitted
                {
                    self.meet_agent(principal.credential(), head, now);
                }
                Verdict::Decided(admitted)
            }
            Cached::Dead(dead) => {
                count::hit(Cache::Refused);
                Verdict::Decided(Err(self.lookup.refuse(&dead, head.client_ip).by(Scheme::ApiKey)))
            }
            Cached::Miss => {
                count::missed(Cache::ApiKey);
                if self.lookup.knows(&digest) {
                    head.note_known();
                }
                let (auth, client_ip, method) = (self.clone(), head.client_ip, head.method.clone());
                let agent = self.lookup.watches_agents().then(|| AgentText::of(head));
                Verdict::Pending(Box::pin(async move {
                    let credential = auth.lookup.load(digest, client_ip).await;
                    let credential = credential.map_err(|error| error.by(Scheme::ApiKey))?;
                    let now = auth.lookup.now();
                    let principal = auth.admit(credential, now, client_ip, &method)?;
                    if let Some(agent) = agent {
                        auth.note_agent(principal.credential(), &agent, client_ip, now);
                    }
                    Ok(principal)
                }))
            }
        }
    }

    fn audit(&self) -> Audit {
        self.lookup.inner().audit.clone()
    }

    fn revocations(&self) -> Option<Arc<dyn Revocations>> {
        Some(Arc::new(self.lookup.clone()))
    }
}

impl ApiKeyAuth {
    /// Judges what can differ from request to request, and counts the use.
    #[inline]
    fn admit(
        &self,
        credential: Arc<Credential>,
        now: UnixTime,
        client_ip: Option<IpAddr>,
        method: &Method,
    ) -> Result<Principal, AuthError> {
        if credential.read_only && !method.is_safe() {
            return Err(about(&credential, AuthErrorKind::Invalid, Refusal::ReadOnly));
        }
        let mut told = None;
        if let Some(extra) = &credential.extra {
            if let Some(list) = &extra.allowed_ips
                && !client_ip.is_some_and(|ip| list.contains(ip))
            {
                return Err(about(&credential, AuthErrorKind::Forbidden, Refusal::ClientIp));
            }
            if let Some(limiter) = &extra.limiter {
                told = Some(count_request(&credential, limiter, now)?);
            }
        }
        self.lookup.count_use(&credential, now, client_ip);
        let is_ending = credential.ends_at() <= now.saturating_add(EXPIRY_NOTICE);
        let mut principal = Principal::telling(credential, client_ip, told);
        if is_ending {
            tell_end(&mut principal);
        }
        Ok(principal)
    }
}

/// What a request says of the program that presents a key, and what must not be told of it. It is a copy that costs
/// next to nothing: what is found in it is looked for only when the key turns out to be a good one.
struct AgentText {
    /// None is a program of its own.
    text: Option<HeaderValue>,
    presented: Box<str>,
    credentials: Vec<HeaderValue>,
}

impl AgentText {
    #[cold]
    fn of(head: &RequestHead<'_>) -> Self {
        Self {
            text: head.headers.get(header::USER_AGENT).cloned(),
            presented: head.presented.map_or("", |presented| presented.token()).into(),
            credentials: credential_lines(head.headers).cloned().collect(),
        }
    }

    fn bytes(&self) -> &[u8] {
        self.text.as_ref().map_or(b"", HeaderValue::as_bytes)
    }

    /// As much of it as may be told.
    fn told(&self, format: &KeyFormat) -> String {
        let text = self.bytes();
        if text.len() > mentions::MAX_TEXT {
            return "not told, since it is too long".to_owned();
        }
        let text = String::from_utf8_lossy(text);
        let hides = mentions::shares_text(&self.presented, self.credentials.iter(), &text);
        match hides || format.finds_key(&text) {
            true => "not told, since a credential is in it".to_owned(),
            false if text.trim().is_empty() => "none".to_owned(),
            false => excerpt(&text),
        }
    }
}

impl ApiKeyAuth {
    #[inline]
    fn meet_agent(&self, credential: &Credential, head: &RequestHead<'_>, now: UnixTime) {
        if let Some(tracker) = credential.tracker()
            && !tracker.is_same_agent(fingerprint(user_agent(head)))
        {
            self.note_agent(credential, &AgentText::of(head), head.client_ip, now);
        }
    }

    #[cold]
    fn note_agent(
        &self,
        credential: &Credential,
        agent: &AgentText,
        client_ip: Option<IpAddr>,
        now: UnixTime,
    ) {
        let text = agent.bytes();
        let excerpt = || agent.told(&self.lookup.inner().format);
        self.lookup.meet(credential, (fingerprint(text), agent_words(text)), excerpt, client_ip, now);
    }
}

/// What a client says of its program. One that says nothing is a program of its own, so that nobody escapes notice by
/// silence.
#[inline]
fn user_agent<'a>(head: &RequestHead<'a>) -> &'a [u8] {
    head.headers.get(header::USER_AGENT).map_or(b"", HeaderValue::as_bytes)
}

/// The beginning of a text that a client chose, without what may be a secret: long words are cut.
fn excerpt(text: &str) -> String {
    let words = text.split_whitespace().map(|word| match word.char_indices().nth(40) {
        Some(_) => word.chars().take(4).chain(['…']).collect(),
        None => without_secrets(word),
    });
    let text = words.collect::<Vec<_>>().join(" ");
    text.chars().filter(|c| is_printable(c.encode_utf8(&mut [0; 4]))).take(64).collect()
}

/// Tells the caller that the key will not work much longer.
#[cold]
fn tell_end(principal: &mut Principal) {
    let credential = principal.credential();
    let grace_until = credential.extra.as_ref().and_then(|extra| extra.grace_until);
    let told = [(&X_KEY_EXPIRES, Some(credential.ends_at())), (&X_KEY_GRACE_UNTIL, grace_until)];
    for (name, time) in told {
        if let Some(value) = time.and_then(|time| HeaderValue::try_from(time.to_string()).ok()) {
            principal.tell(name.clone(), value);
        }
    }
}

/// Counts a request that is limited. Gives what the response shall tell of the limits.
#[inline(never)]
fn count_request(
    credential: &Credential,
    limiter: &Limiter,
    now: UnixTime,
) -> Result<Box<HeaderMap>, AuthError> {
    match limiter.admit(now) {
        Ok(told) => Ok(Box::new(told.into_map())),
        Err(Exceeded { reason, retry_after, told }) => {
            let error = about(credential, AuthErrorKind::TooManyRequests, reason);
            Err(error.retry_in(retry_after).with_headers(told.into_map()))
        }
    }
}

#[cold]
fn about(credential: &Credential, kind: AuthErrorKind, reason: Refusal) -> AuthError {
    AuthError::because(kind, reason).by(Scheme::ApiKey).about(credential.token, Some(&credential.user))
}
