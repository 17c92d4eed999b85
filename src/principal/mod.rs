//! Who a request acts as, and the proofs that follow from it: [`Principal`], [`Checked`], [`AdminProof`].

use std::{fmt, net::IpAddr, ops::Deref, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    error::{AuthError, AuthErrorKind, NotOwner, Refusal, Scheme},
    event::{Alert, Audit, Event, EventKind},
    id::{TokenId, UserId},
    scope::{Grant, RoleSet},
    time::UnixTime,
};

mod builder;
mod claims;
mod credential;

pub use builder::PrincipalBuilder;
#[cfg(feature = "_jwt")]
pub(crate) use claims::JwtTexts;
pub use claims::{InvalidClaims, JwtClaims};
pub(crate) use credential::{Credential, Extra, UseCount, Uses};

/// The role that [`Principal::admin`] asks for.
pub const ADMIN_ROLE: &str = "admin";

/// Whom a request with the emergency key acts as. No token can be made for this user.
pub const EMERGENCY_USER: &str = "keyward:emergency";

/// The authenticated caller of a request, as the layer left it in the request's extensions.
///
/// It comes from the layer alone: no header, no body and no handler can make one for a request. (An
/// [`Authenticator`](crate::auth::Authenticator) of your own makes it with [`Principal::builder`].)
/// Cloning is one atomic increment. With the feature `axum` it is an extractor.
///
/// ```
/// use keyward::{Owned, Principal, UserId, principal::AuthMethod};
///
/// struct Job { owner: UserId }
/// impl Owned for Job {
///     const KIND: &'static str = "job";
///     fn owner(&self) -> &UserId { &self.owner }
/// }
///
/// # let (alice, bob) = (UserId::new("alice")?, UserId::new("bob")?);
/// let me = Principal::builder(AuthMethod::ApiKey, alice.clone()).build();
/// assert!(me.check(Job { owner: alice }).is_ok());
/// assert!(me.check(Job { owner: bob }).is_err()); // and a security alert is on its way
/// # Ok::<(), keyward::id::InvalidUserId>(())
/// ```
#[derive(Clone)]
pub struct Principal {
    credential: Arc<Credential>,
    client_ip: Option<IpAddr>,
    /// What the response shall tell the caller of their credential; the layer takes it out.
    response_headers: Option<Box<HeaderMap>>,
}

/// How a credential was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AuthMethod {
    /// An API key that keyward issued.
    ApiKey,
    /// A JSON Web Token.
    Jwt,
    /// An entry of a static list.
    Static,
    /// The emergency key.
    Emergency,
    /// A scheme of the application's own.
    Custom,
}

impl AuthMethod {
    /// `api_key`, `jwt`, `static`, `emergency` or `custom`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.scheme().as_str()
    }

    pub(crate) const fn scheme(self) -> Scheme {
        match self {
            Self::ApiKey => Scheme::ApiKey,
            Self::Jwt => Scheme::Jwt,
            Self::Static => Scheme::Static,
            Self::Emergency => Scheme::Emergency,
            Self::Custom => Scheme::Custom,
        }
    }
}

impl Principal {
    /// Starts a principal for an authenticator of your own: `user` was verified by `method`. It has
    /// every scope and no role until told otherwise.
    pub fn builder(method: AuthMethod, user: UserId) -> PrincipalBuilder {
        PrincipalBuilder::new(method, user)
    }

    #[inline]
    pub(crate) fn new(credential: Arc<Credential>, client_ip: Option<IpAddr>) -> Self {
        Self { credential, client_ip, response_headers: None }
    }

    /// A principal whose response shall also say this.
    #[inline]
    pub(crate) fn telling(
        credential: Arc<Credential>,
        client_ip: Option<IpAddr>,
        response_headers: Option<Box<HeaderMap>>,
    ) -> Self {
        Self { credential, client_ip, response_headers }
    }

    /// Adds a header to the response. What the service itself says in it stays.
    #[cold]
    pub(crate) fn tell(&mut self, name: HeaderName, value: HeaderValue) {
        self.response_headers.get_or_insert_default().insert(name, value);
    }

    #[inline]
    pub(crate) fn take_response_headers(&mut self) -> Option<Box<HeaderMap>> {
        self.response_headers.take()
    }

    /// The user that the request acts as, and who owns what it creates.
    #[must_use]
    #[inline]
    pub fn user_id(&self) -> &UserId {
        &self.credential.user
    }

    /// How the credential was verified.
    #[must_use]
    pub fn method(&self) -> AuthMethod {
        self.credential.method
    }

    /// The stored token that was presented; `None` for credentials that are not stored tokens.
    #[must_use]
    pub fn token_id(&self) -> Option<TokenId> {
        self.credential.token
    }

    /// The scopes of the credential.
    #[must_use]
    pub fn scopes(&self) -> &Grant {
        &self.credential.scopes
    }

    /// Whether the credential has `scope`, by name or by wildcard.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        self.credential.scopes.allows(scope)
    }

    /// The roles that the credential carries and its user still has.
    #[must_use]
    pub fn roles(&self) -> &RoleSet {
        &self.credential.roles
    }

    /// Whether the credential carries `role`.
    #[must_use]
    pub fn has_role(&self, role: &str) -> bool {
        self.credential.roles.contains(role)
    }

    /// When the credential expires, if it does; an API key that ends with others, when the first of them does.
    #[must_use]
    pub fn expires_at(&self) -> Option<UnixTime> {
        Some(self.credential.ends_at()).filter(|at| *at < UnixTime::MAX)
    }

    /// What the JWT that was presented says: its issuer, its subject and the rest. `None` for other
    /// credentials.
    #[must_use]
    pub fn jwt(&self) -> Option<&JwtClaims> {
        self.credential.jwt()
    }

    /// The claims of the JWT that was presented, in a type of your own; see [`JwtClaims`]. With the feature
    /// `axum`, `extract::Claims` is the extractor of them.
    ///
    /// # Errors
    /// [`InvalidClaims`] when the credential is no JWT, or lacks what `T` needs.
    pub fn claims<T: serde::de::DeserializeOwned>(&self) -> Result<T, InvalidClaims> {
        self.jwt().ok_or(InvalidClaims)?.parse()
    }

    /// The client's address, if it is known.
    #[must_use]
    pub fn client_ip(&self) -> Option<IpAddr> {
        self.client_ip
    }

    /// Whether the credential is in its grace period and good for safe methods only.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.credential.read_only
    }

    /// Makes sure that `resource` belongs to this user. `None` stands for a resource that was not found.
    ///
    /// # Errors
    /// [`NotOwner`] when there is no resource, or it is somebody else's: then an alert
    /// ([`Alert::ForeignAccess`]) has been raised as well, or counted if there was one a moment ago.
    pub fn check<F: Findable>(&self, resource: F) -> Result<Checked<F::Resource>, NotOwner> {
        let resource = resource.found().ok_or(NotOwner)?;
        if resource.owner() == self.user_id() {
            return Ok(Checked(resource));
        }
        let event = self.event(EventKind::Alert(Alert::ForeignAccess));
        self.audit().emit(event.owned_by(resource.owner()).because(F::Resource::KIND));
        Err(NotOwner)
    }

    /// Keeps of `resources` what belongs to this user. Others are dropped, each with an alert
    /// ([`Alert::ForeignRecord`]): a query that should have been limited to the user was not.
    pub fn verify_all<T: Owned>(&self, resources: impl IntoIterator<Item = T>) -> Vec<Checked<T>> {
        let mut own = Vec::new();
        for resource in resources {
            if resource.owner() == self.user_id() {
                own.push(Checked(resource));
            } else {
                let event = self.event(EventKind::Alert(Alert::ForeignRecord));
                self.audit().emit(event.owned_by(resource.owner()).because(T::KIND));
            }
        }
        own
    }

    /// The proof that this caller is an administrator, for acting on what is not theirs. It is audited
    /// at once, with `reason`.
    ///
    /// # Errors
    /// [`AuthErrorKind::Forbidden`] when the credential does not carry the role `admin`.
    pub fn admin(&self, reason: impl AsRef<str>) -> Result<AdminProof, AuthError> {
        if !self.has_role(ADMIN_ROLE) {
            return Err(AuthError::because(AuthErrorKind::Forbidden, Refusal::MissingRole)
                .about(self.token_id(), Some(self.user_id())));
        }
        let reason = limit_reason(reason.as_ref());
        self.audit().emit(self.event(EventKind::AdminOverride).because(&reason));
        Ok(AdminProof { actor: self.user_id().clone(), reason, principal: Some(self.clone()) })
    }

    /// An event about this caller.
    pub(crate) fn event(&self, kind: EventKind) -> Event {
        Event::new(kind)
            .by(self.user_id())
            .with_email(self.email())
            .token(self.token_id())
            .at_ip(self.client_ip)
    }

    /// The e-mail address that the issuer of this caller's JWT vouches for.
    pub(crate) fn email(&self) -> Option<Box<str>> {
        self.jwt()?.email()
    }

    pub(crate) fn audit(&self) -> &Audit {
        &self.credential.audit
    }

    pub(crate) fn credential(&self) -> &Credential {
        &self.credential
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal")
            .field("user_id", self.user_id())
            .field("method", &self.method())
            .field("token_id", &self.token_id())
            .field("scopes", self.scopes())
            .field("roles", self.roles())
            .finish_non_exhaustive()
    }
}

/// A resource that belongs to one user.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say whom it belongs to",
    note = "implement `keyward::Owned` for it: its kind, for alerts, and its owner's `UserId`"
)]
pub trait Owned {
    /// What such a resource is called in alerts, for example `job`.
    const KIND: &'static str;

    /// The user that it belongs to.
    fn owner(&self) -> &UserId;
}

/// What [`Principal::check`] takes: a resource, or an `Option` of one for what may not exist. It is
/// implemented for all that is [`Owned`].
pub trait Findable {
    /// The resource.
    type Resource: Owned;

    /// The resource, if there is one.
    fn found(self) -> Option<Self::Resource>;
}

impl<T: Owned> Findable for T {
    type Resource = T;

    fn found(self) -> Option<T> {
        Some(self)
    }
}

impl<T: Owned> Findable for Option<T> {
    type Resource = T;

    fn found(self) -> Self {
        self
    }
}

/// A resource that was found to belong to the caller. Only a check makes one, so a function that takes
/// `Checked<Job>` cannot be called with somebody else's job.
///
/// ```compile_fail
/// fn forge<T>(resource: T) -> keyward::Checked<T> {
///     keyward::Checked(resource) // the field is private
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked<T>(T);

impl<T> Checked<T> {
    /// The resource itself.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Checked<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// The proof that an administrator acts, and why. A store cannot be asked for tokens of all users
/// without one.
///
/// ```
/// use keyward::AdminProof;
///
/// let proof = AdminProof::operator("backup job", "nightly count")?;
/// assert_eq!(proof.reason(), "nightly count");
/// # Ok::<(), keyward::id::InvalidUserId>(())
/// ```
#[derive(Clone, Debug)]
pub struct AdminProof {
    actor: UserId,
    reason: Box<str>,
    /// Who presented a credential for it; an operator presents none.
    principal: Option<Principal>,
}

impl AdminProof {
    /// The proof of somebody who operates the program itself: a command line, a maintenance task, a
    /// test. Its use is audited under `name` with `reason`.
    ///
    /// # Errors
    /// When `name` could not be a user id.
    pub fn operator(name: &str, reason: &str) -> Result<Self, crate::id::InvalidUserId> {
        Ok(Self { actor: UserId::new(name)?, reason: limit_reason(reason), principal: None })
    }

    /// keyward's own look at a store, to tell a foreign token from an absent one.
    pub(crate) fn internal(reason: &str) -> Self {
        let actor = UserId::from_valid("keyward:system".to_owned());
        Self { actor, reason: reason.into(), principal: None }
    }

    /// Who acts.
    #[must_use]
    pub fn actor(&self) -> &UserId {
        &self.actor
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    pub(crate) fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }
}

/// At most 200 characters, none of which could forge a log line.
fn limit_reason(reason: &str) -> Box<str> {
    reason.chars().filter(|c| !crate::id::is_unprintable(*c)).take(200).collect::<String>().into()
}

/// Says which roles a user has at the moment, for example from a list of administrators.
///
/// With one in place a credential's roles are limited to it: a key never carries a role that its owner
/// no longer has.
///
/// ```
/// use keyward::{UserId, principal::RoleDirectory, scope::RoleSet};
///
/// let admins = |user: &UserId| match user.as_str() {
///     "alice" => RoleSet::new(["admin"]).unwrap_or_else(|_| RoleSet::empty()),
///     _ => RoleSet::empty(),
/// };
/// assert!(admins.roles_of(&UserId::new("alice")?).contains("admin"));
/// # Ok::<(), keyward::id::InvalidUserId>(())
/// ```
pub trait RoleDirectory: Send + Sync + 'static {
    /// The roles of `user`. Called when a credential is loaded, not for each request.
    fn roles_of(&self, user: &UserId) -> RoleSet;
}

impl<F: Fn(&UserId) -> RoleSet + Send + Sync + 'static> RoleDirectory for F {
    fn roles_of(&self, user: &UserId) -> RoleSet {
        self(user)
    }
}

/// The roles that a credential of `user` with `grant` carries: what the directory gives the user, within
/// the grant; without a directory what the grant itself names.
pub(crate) fn effective_roles(
    directory: Option<&dyn RoleDirectory>,
    user: &UserId,
    grant: &Grant<RoleSet>,
) -> RoleSet {
    match (directory.map(|directory| directory.roles_of(user)), grant) {
        (Some(held), Grant::All) => held,
        (Some(held), Grant::Only(granted)) => held.intersection(granted),
        (None, Grant::Only(granted)) => granted.clone(),
        (None, Grant::All) => RoleSet::empty(),
    }
}

/// Left in the extensions of a request that an optional layer let through without a credential, so that
/// extractors can tell "nobody" from "no layer".
#[derive(Clone, Copy, Debug)]
pub(crate) struct Anonymous;
