//! Making a principal.

use std::{net::IpAddr, sync::Arc};

#[cfg(feature = "_jwt")]
use crate::principal::{Extra, JwtClaims};
use crate::{
    event::Audit,
    id::UserId,
    principal::{AuthMethod, Credential, Principal, Uses},
    scope::{Grant, RoleSet},
    secret::TokenDigest,
    time::UnixTime,
};

/// Makes a [`Principal`] in an authenticator of your own; see [`Principal::builder`].
#[must_use]
#[derive(Debug)]
pub struct PrincipalBuilder {
    credential: Credential,
    client_ip: Option<IpAddr>,
}

impl PrincipalBuilder {
    pub(super) fn new(method: AuthMethod, user: UserId) -> Self {
        Self {
            credential: Credential {
                digest: TokenDigest::from_bytes([0; 32]),
                user,
                token: None,
                scopes: Grant::All,
                roles: RoleSet::empty(),
                all_roles: false,
                audit: Audit::default(),
                method,
                read_only: false,
                revision: 0,
                fresh_from: UnixTime::EPOCH,
                fresh_until: UnixTime::MAX,
                expires_at: UnixTime::MAX,
                hard_end: UnixTime::MAX,
                rolling: None,
                extra: None,
                uses: Uses::default(),
            },
            client_ip: None,
        }
    }

    /// The scopes of the credential; everything by default.
    pub fn scopes(mut self, scopes: Grant) -> Self {
        self.credential.scopes = scopes;
        self
    }

    /// The roles of the credential; none by default.
    pub fn roles(mut self, roles: RoleSet) -> Self {
        self.credential.roles = roles;
        self
    }

    /// When the credential expires; never by default.
    pub fn expires_at(mut self, at: UnixTime) -> Self {
        self.credential.expires_at = at;
        self
    }

    /// The client's address; unknown by default.
    pub fn client_ip(mut self, ip: Option<IpAddr>) -> Self {
        self.client_ip = ip;
        self
    }

    /// Where this principal's alerts go; [`tracing`] by default.
    pub fn audit(mut self, audit: Audit) -> Self {
        self.credential.audit = audit;
        self
    }

    /// The credential of a verified JWT, which need not be looked at again during `fresh`.
    #[cfg(feature = "_jwt")]
    pub(crate) fn into_jwt_credential(self, fresh: std::ops::Range<UnixTime>, jwt: JwtClaims) -> Credential {
        Credential {
            fresh_from: fresh.start,
            fresh_until: fresh.end,
            expires_at: jwt.expires_at(),
            extra: Extra { jwt: Some(jwt), ..Extra::default() }.boxed(),
            ..self.credential
        }
    }

    /// The credential itself, found by `digest`, with whatever roles its user has.
    pub(crate) fn into_credential(self, digest: TokenDigest) -> Credential {
        Credential { digest, all_roles: true, ..self.credential }
    }

    /// The principal.
    #[must_use]
    pub fn build(self) -> Principal {
        Principal::new(Arc::new(self.credential), self.client_ip)
    }
}
