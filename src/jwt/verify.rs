//! From a token's text to a verdict: what can be said at once, and what must be awaited first.

use std::{
    fmt,
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};

use super::{
    cache::{Entry, VerifiedTokens},
    claims::{Accepted, Claims, Header, Rules},
    compact::{Compact, Parts},
    json::Object,
    key::KeySet,
    remote::{Demand, KeysState, Refreshed, RemoteKeys},
    users::UserIds,
};
use crate::{
    auth::{Adoption, JwtSubject, RequestHead, Revocations, Subject},
    count,
    error::{AuthError, AuthErrorKind, Refusal},
    event::{Audit, Episodes},
    id::UserId,
    principal::{AuthMethod, Credential, JwtClaims, Principal, RoleDirectory},
    secret::TokenDigest,
    time::{Clock, UnixTime},
};

/// Its turn, keys, revocations and a user, and once more what grew old meanwhile.
const MOST_NEEDS: usize = 6;

/// How long the roles are believed that a directory gave a user.
const ROLES_KEPT: Duration = Duration::from_secs(60);

/// No generation of revocations: whoever compares asks again.
const NEVER_JUDGED: u64 = u64::MAX;

/// How long a [`UserMapper`](super::UserMapper) may take.
const MAPPER_TIMEOUT: Duration = Duration::from_millis(4500);

/// Checks that the sender possesses what a token is bound to, such as a client certificate (RFC 8705). Without
/// one, tokens that are bound (claim `cnf`) are refused. A token that is bound to a key by its thumbprint (`jkt`,
/// RFC 9449) is always refused: what is presented as a bearer token must not be accepted (section 7.2 there).
pub trait ConfirmationVerifier: fmt::Debug + Send + Sync + 'static {
    /// Whether the request proves possession of what `confirmation`, the JSON of the claim `cnf`, names.
    /// Asked for each request.
    fn is_confirmed(&self, confirmation: &str, head: &RequestHead<'_>) -> bool;
}

/// One issuer: what its tokens must say, and the keys that make them genuine.
#[derive(Clone)]
pub(super) struct Trust {
    pub(super) rules: Rules,
    pub(super) fixed: Option<KeySet>,
    pub(super) remote: Option<RemoteKeys<KeySet>>,
    pub(super) users: UserIds,
    /// Beginnings of user ids that belong to other issuers.
    pub(super) foreign: Vec<Box<str>>,
    pub(super) confirmation: Option<Arc<dyn ConfirmationVerifier>>,
    /// Roles that users have beside those of their tokens.
    pub(super) directory: Option<Arc<dyn RoleDirectory>>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("rules", &self.rules)
            .field("users", &self.users)
            .finish_non_exhaustive()
    }
}

/// All of an authenticator. Clones share what is behind the `Arc`s.
#[derive(Clone)]
pub(super) struct Verifier {
    pub(super) trusts: Arc<[Trust]>,
    pub(super) max_token_bytes: usize,
    pub(super) verified: Arc<VerifiedTokens>,
    pub(super) cache_bytes: usize,
    /// Each clone's own, until it is filled: two stores may know different users.
    pub(super) revocations: OnceLock<Arc<dyn Revocations>>,
    pub(super) adoption: Adoption,
    /// Which revoked tokens are presented, and were told of.
    pub(super) episodes: Arc<Episodes>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) audit: Audit,
}

/// The verdict over one token, or what it needs first.
pub(super) enum Step {
    Done(Result<Arc<Credential>, AuthError>),
    Wait(Need),
}

/// What must be awaited before a token can be judged.
pub(super) enum Need {
    /// Its turn, for which the layer lets it wait.
    Turn,
    /// The keys of this issuer.
    Keys(usize, Demand),
    /// What was withdrawn.
    Revocations,
    /// Whether this user of a token that is genuine may do anything.
    Standing(Box<(Genuine, UserId)>),
    /// The user of a token that is genuine.
    User(Box<Genuine>),
}

/// A token with a good signature and good claims.
pub(super) struct Genuine {
    trust: usize,
    key: TokenDigest,
    keys_epoch: u64,
    accepted: Accepted,
}

/// What was awaited for a token already.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waited {
    /// What came of fetching keys.
    keys: Option<Refreshed>,
    revocations: bool,
}

/// What the keys of an issuer say.
enum Keyed {
    By(TokenDigest),
    Wait(Demand),
}

impl Verifier {
    /// The verdict over a token that was verified before, if nothing has changed since.
    #[inline]
    pub(super) fn seen_before(
        &self,
        token: &[u8],
        head: &RequestHead<'_>,
        now: UnixTime,
    ) -> Option<Result<Principal, AuthError>> {
        self.verified.find(token, |entry| {
            let credential = &entry.credential;
            let fresh = credential.fresh_from <= now && now < credential.fresh_until;
            let trust = self.trusts.get(entry.trust)?;
            if !fresh || !trust.still_knows(entry, now) {
                return None;
            }
            if let Some(revocations) = self.revocations.get() {
                let generation = revocations.generation(now)?;
                if entry.revocations.load(Ordering::Relaxed) != generation {
                    // An authenticator beside another store may have found it good for longer.
                    if revocations.good_until(&credential.user, now)? < credential.fresh_until {
                        return None;
                    }
                    if let Err(error) = is_withdrawn(&**revocations, credential) {
                        return Some(Err(error));
                    }
                    entry.revocations.store(generation, Ordering::Relaxed);
                }
            }
            Some(trust.admit(credential, head))
        })
    }

    /// Whether this very token was verified before.
    pub(super) fn knows(&self, token: &[u8]) -> bool {
        self.verified.find(token, |_| Some(())).is_some()
    }

    /// Verifies a token as far as that is possible without waiting.
    pub(super) fn verify(&self, parts: &Parts<'_>, now: UnixTime, waited: Waited) -> Step {
        let timer = count::Timer::start();
        let genuine = match self.authenticate(parts, now, waited.keys) {
            Ok(Ok(genuine)) => genuine,
            // Nothing was verified yet.
            Ok(Err(need)) => return Step::Wait(need),
            Err(error) => {
                timer.observe_verification();
                return Step::Done(Err(error));
            }
        };
        timer.observe_verification();
        // Only who has a genuine token makes the store be asked.
        let generation = self.generation(now);
        if generation.is_none() && !waited.revocations {
            return Step::Wait(Need::Revocations);
        }
        match self.trusts.get(genuine.trust).map(|trust| trust.user_of(&genuine.accepted.jwt)) {
            Some(Ok(Some(user))) => match self.good_until(&user, now) {
                None => Step::Wait(Need::Standing(Box::new((genuine, user)))),
                until => Step::Done(self.finish(parts.token, genuine, user, (generation, until))),
            },
            Some(Ok(None)) => Step::Wait(Need::User(Box::new(genuine))),
            Some(Err(reason)) => Step::Done(Err(AuthError::invalid(reason))),
            None => Step::Done(Err(AuthError::invalid(Refusal::Issuer))),
        }
    }

    /// What the revocations are at now; `None` if they are older than their bound.
    fn generation(&self, now: UnixTime) -> Option<u64> {
        self.revocations.get().map_or(Some(NEVER_JUDGED), |revocations| revocations.generation(now))
    }

    /// Until when what is known of `user` counts; `None` if it must be asked anew.
    fn good_until(&self, user: &UserId, now: UnixTime) -> Option<UnixTime> {
        let revocations = self.revocations.get();
        revocations.map_or(Some(UnixTime::MAX), |revocations| revocations.good_until(user, now))
    }

    /// The verdict over a token that needs something first. It needs each thing once.
    pub(super) async fn verdict(&self, token: &[u8], need: Need) -> Result<Arc<Credential>, AuthError> {
        let (mut need, mut waited) = (need, Waited::default());
        for _ in 0..MOST_NEEDS {
            match self.satisfy(token, need, &mut waited).await {
                Step::Done(verdict) => return verdict,
                Step::Wait(next) => need = next,
            }
        }
        Err(AuthError::because(AuthErrorKind::Unavailable, Refusal::KeysUnavailable))
    }

    async fn satisfy(&self, token: &[u8], need: Need, waited: &mut Waited) -> Step {
        match need {
            Need::Keys(trust, demand) => {
                if let Some(remote) = self.trusts.get(trust).and_then(|trust| trust.remote.as_ref()) {
                    waited.keys = Some(remote.refresh(demand).await);
                }
            }
            Need::Revocations => {
                if let Some(revocations) = self.revocations.get()
                    && let Err(error) = revocations.refresh().await
                {
                    return Step::Done(Err(error));
                }
                waited.revocations = true;
            }
            Need::Standing(genuine) => {
                let (genuine, user) = *genuine;
                return Step::Done(self.conclude(token, genuine, user).await);
            }
            Need::User(genuine) => return Step::Done(self.map_user(token, *genuine).await),
            Need::Turn => {}
        }
        match Parts::of(token) {
            Some(parts) => self.verify(&parts, self.clock.now(), *waited),
            None => Step::Done(Err(AuthError::invalid(Refusal::Malformed))),
        }
    }

    async fn map_user(&self, token: &[u8], genuine: Genuine) -> Result<Arc<Credential>, AuthError> {
        let Some(trust) = self.trusts.get(genuine.trust) else {
            return Err(AuthError::invalid(Refusal::Issuer));
        };
        let UserIds::Mapped(mapper) = &trust.users else { return Err(AuthError::invalid(Refusal::Subject)) };
        let user = tokio::time::timeout(MAPPER_TIMEOUT, mapper.user_id(&genuine.accepted.jwt)).await;
        let late = |_| AuthError::because(AuthErrorKind::Unavailable, Refusal::UserLookup);
        let user = user.map_err(late)??.ok_or_else(|| AuthError::invalid(Refusal::Subject))?;
        self.conclude(token, genuine, user).await
    }

    /// Finds out what is not known of the user. It may have been a while since the token was found genuine:
    /// nothing that was true then is taken for granted.
    async fn conclude(
        &self,
        token: &[u8],
        genuine: Genuine,
        user: UserId,
    ) -> Result<Arc<Credential>, AuthError> {
        if let Some(revocations) = self.revocations.get() {
            revocations.learn(&user).await?;
        }
        let generation = self.generation(self.clock.now());
        if let (None, Some(revocations)) = (generation, self.revocations.get()) {
            revocations.refresh().await?;
        }
        let now = self.clock.now();
        let leeway = self.trusts.get(genuine.trust).map_or(Duration::ZERO, |trust| trust.rules.leeway);
        if now >= genuine.accepted.jwt.expires_at().saturating_add(leeway) {
            return Err(AuthError::invalid(Refusal::Expired));
        }
        let until = self.good_until(&user, now);
        self.finish(token, genuine, user, (generation, until))
    }

    /// Reads, judges and verifies, in this order: what costs least comes first.
    fn authenticate(
        &self,
        parts: &Parts<'_>,
        now: UnixTime,
        waited: Option<Refreshed>,
    ) -> Result<Result<Genuine, Need>, AuthError> {
        let refused = AuthError::invalid;
        if parts.token.len() > self.max_token_bytes {
            return Err(refused(Refusal::Malformed));
        }
        let compact = Compact::decode(parts).map_err(|_| refused(Refusal::Malformed))?;
        let header = Object::parse(compact.header()).map_err(|_| refused(Refusal::Malformed))?;
        let header = Header::read(&header).map_err(refused)?;
        let claims = Object::parse(compact.payload()).map_err(|_| refused(Refusal::Malformed))?;
        let claims = Claims::read(claims).map_err(refused)?;
        let issuer = claims.issuer.as_deref();
        let found = self.trusts.iter().enumerate().find(|(_, trust)| trust.rules.is_issued_by(issuer));
        let (index, trust) = found.ok_or_else(|| refused(Refusal::Issuer))?;
        let accepted = trust.rules.check(&header, &claims, now).map_err(refused)?;
        if claims.is_bound() && (trust.confirmation.is_none() || claims.is_bound_to_key()) {
            return Err(refused(Refusal::Unconfirmed));
        }
        let keys_epoch = trust.keys_epoch();
        Ok(match trust.find_key(&header, &compact, now, waited)? {
            Keyed::By(key) => Ok(Genuine { trust: index, key, keys_epoch, accepted }),
            Keyed::Wait(demand) => Err(Need::Keys(index, demand)),
        })
    }

    /// A genuine token of `user` becomes a credential, unless it was withdrawn. What is known of the user must
    /// still count, unless it was asked for just now.
    fn finish(
        &self,
        token: &[u8],
        genuine: Genuine,
        user: UserId,
        (generation, until): (Option<u64>, Option<UnixTime>),
    ) -> Result<Arc<Credential>, AuthError> {
        // No issuer may speak for those.
        if user.is_reserved() {
            return Err(AuthError::invalid(Refusal::Subject));
        }
        let Accepted { jwt, valid_from, scopes, mut roles } = genuine.accepted;
        let mut fresh_until = jwt.expires_at();
        let directory = self.trusts.get(genuine.trust).and_then(|trust| trust.directory.as_ref());
        if let Some(directory) = directory {
            roles = roles.union(&directory.roles_of(&user));
            fresh_until = fresh_until.min(self.clock.now().saturating_add(ROLES_KEPT));
        }
        let builder = Principal::builder(AuthMethod::Jwt, user).scopes(scopes).roles(roles);
        let builder = builder.audit(self.audit.clone());
        let fresh_until = fresh_until.min(until.unwrap_or(valid_from));
        let credential = Arc::new(builder.into_jwt_credential(valid_from..fresh_until, jwt));
        if let Some(revocations) = self.revocations.get() {
            is_withdrawn(&**revocations, &credential)?;
        }
        if self.verified.has_place_for(token) {
            let epochs = (genuine.keys_epoch, generation.unwrap_or(NEVER_JUDGED));
            let by = (genuine.trust, genuine.key);
            self.verified.insert(Entry::new(token, credential.clone(), by, epochs));
        }
        Ok(credential)
    }

    /// Admits a request with a credential that was verified just now.
    pub(super) fn admit(
        &self,
        credential: &Arc<Credential>,
        head: &RequestHead<'_>,
    ) -> Result<Principal, AuthError> {
        let issuer = credential.jwt().map(JwtClaims::issuer);
        let trust = self.trusts.iter().find(|trust| trust.rules.is_issued_by(issuer));
        trust.map_or_else(|| Err(AuthError::invalid(Refusal::Issuer)), |trust| trust.admit(credential, head))
    }

    /// Whether a proof of possession may be asked for, so that the request's head is needed to the end.
    pub(super) fn needs_head(&self) -> bool {
        self.trusts.iter().any(|trust| trust.confirmation.is_some())
    }
}

fn is_withdrawn(revocations: &dyn Revocations, credential: &Credential) -> Result<(), AuthError> {
    let Some(jwt) = credential.jwt() else { return Ok(()) };
    let of = JwtSubject::new(jwt.issuer(), jwt.jwt_id(), jwt.issued_at());
    let subject = Subject::new(&credential.user, Some(of));
    revocations
        .check(&subject)
        .map_err(|reason| AuthError::invalid(reason).about(None, Some(&credential.user)))
}

impl Trust {
    #[inline]
    fn keys_epoch(&self) -> u64 {
        self.remote.as_ref().map_or(0, RemoteKeys::epoch)
    }

    /// Whether the key of a verified token is still one of this issuer's.
    #[inline]
    fn still_knows(&self, entry: &Entry, now: UnixTime) -> bool {
        let Some(remote) = &self.remote else { return true };
        let epoch = remote.epoch();
        // While the set is due, known tokens go the long way too: otherwise nobody would fetch it.
        let is_fresh = remote.state(now) == KeysState::Fresh;
        if entry.keys_epoch.load(Ordering::Relaxed) == epoch && is_fresh {
            return true;
        }
        let is_fixed = self.fixed.as_ref().is_some_and(|keys| keys.contains(&entry.key));
        let is_current = is_fresh && remote.current().is_some_and(|current| current.set.contains(&entry.key));
        if is_fixed || is_current {
            entry.keys_epoch.store(epoch, Ordering::Relaxed);
        }
        is_fixed || is_current
    }

    fn admit(&self, credential: &Arc<Credential>, head: &RequestHead<'_>) -> Result<Principal, AuthError> {
        if let Some(confirmation) = credential.jwt().and_then(JwtClaims::confirmation) {
            let verifier = self.confirmation.as_ref();
            if !verifier.is_some_and(|verifier| verifier.is_confirmed(confirmation, head)) {
                let error = AuthError::invalid(Refusal::Unconfirmed);
                return Err(error.about(None, Some(&credential.user)));
            }
        }
        Ok(Principal::new(credential.clone(), head.client_ip))
    }

    /// The user of a token, `None` if a mapper must be asked.
    fn user_of(&self, jwt: &JwtClaims) -> Result<Option<UserId>, Refusal> {
        let id = match &self.users {
            UserIds::Mapped(_) => return Ok(None),
            UserIds::Subject => jwt.subject().to_owned(),
            UserIds::Namespaced => format!("{}#{}", jwt.issuer(), jwt.subject()),
        };
        if self.foreign.iter().any(|prefix| id.starts_with(&**prefix)) {
            return Err(Refusal::Subject);
        }
        UserId::new(id).map(Some).map_err(|_| Refusal::Subject)
    }

    /// The key that verifies the token. Which keys are tried is decided by their own algorithms; the
    /// header's only has to be the same.
    fn find_key(
        &self,
        header: &Header<'_>,
        compact: &Compact<'_>,
        now: UnixTime,
        waited: Option<Refreshed>,
    ) -> Result<Keyed, AuthError> {
        let mut reason = Refusal::Algorithm;
        if let Some(keys) = &self.fixed {
            match keys.verify(header, compact) {
                Ok(key) => return Ok(Keyed::By(key)),
                Err(refusal) => reason = refusal,
            }
        }
        let Some(remote) = &self.remote else { return Err(AuthError::invalid(reason)) };
        let unavailable = || AuthError::because(AuthErrorKind::Unavailable, Refusal::KeysUnavailable);
        match remote.state(now) {
            KeysState::Fresh => {}
            KeysState::Due if waited.is_some() => {}
            KeysState::Unusable if waited.is_some() => return Err(unavailable()),
            KeysState::Due | KeysState::Unusable => return Ok(Keyed::Wait(Demand::Due)),
        }
        let current = remote.current().ok_or_else(unavailable)?;
        // Keys without a name are tried for every name, and say nothing of a key that is new.
        let is_unknown = header.kid.as_deref().is_some_and(|kid| !current.set.knows_kid(kid));
        match current.set.verify(header, compact) {
            Ok(key) => Ok(Keyed::By(key)),
            Err(_) if is_unknown => {
                let kid = TokenDigest::of(header.kid.as_deref().unwrap_or_default().as_bytes()).prefix();
                match waited {
                    // It was fetched for this very token, so the key does not exist.
                    Some(Refreshed::New) => remote.note_unknown(kid, now),
                    Some(Refreshed::Old | Refreshed::Failed) => {}
                    None if remote.is_known_unknown(kid, now) => {}
                    None => return Ok(Keyed::Wait(Demand::UnknownKid)),
                }
                Err(if remote.last_failed() {
                    unavailable()
                } else {
                    AuthError::invalid(Refusal::UnknownKey)
                })
            }
            Err(refusal) => Err(AuthError::invalid(refusal)),
        }
    }
}

impl KeySet {
    fn verify(&self, header: &Header<'_>, compact: &Compact<'_>) -> Result<TokenDigest, Refusal> {
        let mut reason = match &header.kid {
            Some(kid) if !self.knows_kid(kid) && self.has_kids() => Refusal::UnknownKey,
            _ => Refusal::Algorithm,
        };
        for key in self.candidates(&header.alg, header.kid.as_deref()) {
            if key.verify(compact.signing_input, compact.signature()) {
                return Ok(*key.identity());
            }
            reason = Refusal::BadSignature;
        }
        Err(reason)
    }
}
