//! The key for the day on which nothing else works.

use std::{fmt, sync::Arc};

use crate::{
    auth::{Authenticator, RequestHead, Verdict},
    error::{AuthError, AuthErrorKind, ConfigError, Refusal, Scheme},
    event::{Alert, Audit, Event},
    id::{UserId, is_printable},
    net::IpList,
    principal::{ADMIN_ROLE, AuthMethod, Credential, EMERGENCY_USER, Principal},
    scope::RoleSet,
    secret::{TokenDigest, distinct},
    time::{Clock, SystemClock, UnixTime},
};

/// Shorter texts can be guessed, so they are no emergency key, whatever their hash.
const MIN_BYTES: usize = 32;

/// The longest text that is hashed.
const MAX_BYTES: usize = 1024;

/// Where the caller says why.
const REASON: &str = "x-emergency-reason";

/// What is hashed by mistake: nothing at all, and the end of a line.
const NOTHING: [&[u8]; 2] = [b"", b"\n"];

/// Accepts one emergency key ("break glass"), of which only the SHA-256 is in the configuration: in
/// `X-API-Key` and as bearer token.
///
/// It asks no store and nobody's state, so it works while all else is down. The request acts as the user
/// `keyward:emergency` ([`EMERGENCY_USER`]) with the role `admin` and every scope: it can look, revoke, suspend,
/// offboard and restore, but make, rotate and change no key. Each use raises [`Alert::EmergencyUse`], a refused
/// one [`Alert::EmergencyRefused`].
///
/// The caller must say why in the header `X-Emergency-Reason`, in 1 to 200 printable characters of UTF-8, none of
/// them of the key; otherwise the answer is 403, as from an address that is not allowed: the key is good, and
/// another one would not help. Outside its window it is answered as any other unacceptable credential, 401.
///
/// Make a key and its hash so, and keep the key where two people must go together:
///
/// ```sh
/// KEY=$(openssl rand -hex 32)
/// printf %s "$KEY" | sha256sum    # without the end of a line, which `echo` would add
/// ```
///
/// Give it the last place in an [`AnyOf`](crate::auth::AnyOf), since each text that others leave is hashed here.
/// What others claim by its shape never gets so far: it must neither look like a JWT nor begin like the API keys.
///
/// ```
/// use keyward::{AuthLayer, TokenManager, net::IpList};
/// use keyward::auth::{AnyOf, ApiKeyAuth, EmergencyAuth};
/// use keyward::store::MemoryStore;
///
/// let tokens = TokenManager::new(MemoryStore::new());
/// let hash = "21abf6af0e35d8d9b5d1fb20e8aef4c16a23eeb0e4ccd0e7ac3a1a1a0d7be8b6";
/// let emergency = EmergencyAuth::new(hash)?
///     .with_allowed_ips(IpList::new(["10.0.0.0/8"])?)
///     .with_audit(tokens.audit());
/// let auth: AuthLayer = AuthLayer::new(AnyOf::new([ApiKeyAuth::new(&tokens).into(), emergency.into()]));
/// # let _ = auth;
/// assert!(EmergencyAuth::new("the key itself").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct EmergencyAuth {
    digest: TokenDigest,
    allowed_ips: Option<IpList>,
    window: Option<(UnixTime, UnixTime)>,
    credential: Arc<Credential>,
    audit: Audit,
    clock: Arc<dyn Clock>,
}

impl EmergencyAuth {
    /// Accepts the key with this SHA-256, in 64 hexadecimal digits: at any time and from anywhere until told
    /// otherwise.
    ///
    /// # Errors
    /// When it is anything else, the hash of nothing, or a placeholder such as zeros.
    pub fn new(sha256: &str) -> Result<Self, ConfigError> {
        let digest = parse_digest(sha256).ok_or_else(|| {
            ConfigError::new(
                "the emergency key is configured by its SHA-256 in 64 hexadecimal digits: \
                 the output of `printf %s \"$KEY\" | sha256sum` without the dash",
            )
        })?;
        if NOTHING.iter().any(|text| TokenDigest::of(text) == digest) {
            return Err(ConfigError::new(
                "the emergency key's SHA-256 is that of an empty text; hash the key with `printf %s \"$KEY\" | sha256sum`",
            ));
        }
        if distinct(digest.as_bytes()) < 8 {
            return Err(ConfigError::new("the emergency key's SHA-256 is a placeholder; put in a real one"));
        }
        let roles = RoleSet::new([ADMIN_ROLE])
            .map_err(|_| ConfigError::new("the role of the emergency key is no role"))?;
        let user = UserId::from_valid(EMERGENCY_USER.to_owned());
        let builder = Principal::builder(AuthMethod::Emergency, user).roles(roles);
        Ok(Self {
            digest,
            allowed_ips: None,
            window: None,
            credential: Arc::new(builder.into_credential(digest)),
            audit: Audit::default(),
            clock: Arc::new(SystemClock),
        })
    }

    /// From where it may be used; from anywhere by default. An unknown address is none of them.
    #[must_use]
    pub fn with_allowed_ips(mut self, allowed_ips: IpList) -> Self {
        self.allowed_ips = Some(allowed_ips);
        self
    }

    /// From when on and until when it works, the end not included; always by default. An end that is not after
    /// the beginning switches it off.
    #[must_use]
    pub fn with_window(mut self, from: UnixTime, until: UnixTime) -> Self {
        self.window = Some((from, until));
        self
    }

    /// Where its alerts go, and what is reported of those who use it; [`tracing`] by default.
    #[must_use]
    pub fn with_audit(mut self, audit: Audit) -> Self {
        let Credential { user, roles, .. } = &*self.credential;
        let builder = Principal::builder(AuthMethod::Emergency, user.clone()).roles(roles.clone());
        self.credential = Arc::new(builder.audit(audit.clone()).into_credential(self.digest));
        self.audit = audit;
        self
    }

    /// By which clock its window is judged; the system's by default.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Why the request is made; or why it is refused, though the key is right.
    fn judge<'a>(&self, head: &RequestHead<'a>) -> Result<&'a str, (AuthErrorKind, Refusal)> {
        let now = self.clock.now();
        match self.window {
            Some((from, _)) if now < from => return Err((AuthErrorKind::Invalid, Refusal::NotYetValid)),
            Some((_, until)) if until <= now => return Err((AuthErrorKind::Invalid, Refusal::Expired)),
            _ => {}
        }
        if let Some(list) = &self.allowed_ips
            && !head.client_ip.is_some_and(|ip| list.contains(ip))
        {
            return Err((AuthErrorKind::Forbidden, Refusal::ClientIp));
        }
        read_reason(head).ok_or((AuthErrorKind::Forbidden, Refusal::MissingReason))
    }

    fn admit(&self, head: &RequestHead<'_>) -> Result<Principal, AuthError> {
        let judged = self.judge(head);
        let user = &self.credential.user;
        let (alert, reason) = match judged {
            Ok(reason) => (Alert::EmergencyUse, reason),
            Err((_, refusal)) => (Alert::EmergencyRefused, refusal.as_str()),
        };
        let event = Event::alert(alert).by(user).at_ip(head.client_ip).in_request(head.request_id());
        self.audit.emit(event.because(reason));
        match judged {
            Ok(_) => Ok(Principal::new(self.credential.clone(), head.client_ip)),
            Err((kind, refusal)) => {
                Err(AuthError::because(kind, refusal).by(Scheme::Emergency).about(None, Some(user)))
            }
        }
    }
}

impl fmt::Debug for EmergencyAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmergencyAuth")
            .field("allowed_ips", &self.allowed_ips)
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}

impl Authenticator for EmergencyAuth {
    fn authenticate(&self, head: &RequestHead<'_>) -> Verdict {
        let Some(presented) = head.presented else { return Verdict::Abstain };
        let key = presented.unchecked_bytes();
        if !(MIN_BYTES..=MAX_BYTES).contains(&key.len()) || TokenDigest::of(key) != self.digest {
            return Verdict::Abstain;
        }
        Verdict::Decided(self.admit(head))
    }

    fn audit(&self) -> Audit {
        self.audit.clone()
    }
}

fn parse_digest(text: &str) -> Option<TokenDigest> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let mut bytes = [0; 32];
    if pairs.len() != bytes.len() || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(TokenDigest::from_bytes(bytes))
}

/// The one reason that is given, if it can stand in a log.
fn read_reason<'a>(head: &RequestHead<'a>) -> Option<&'a str> {
    let mut lines = head.headers.get_all(REASON).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    let reason = std::str::from_utf8(line.as_bytes()).ok()?.trim();
    let fits = (1..=200).contains(&reason.chars().count()) && is_printable(reason);
    (fits && !head.shares_text_with_credential(reason)).then_some(reason)
}
