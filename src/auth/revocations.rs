//! Withdrawing credentials that are not stored tokens.

use std::{fmt, pin::Pin};

use crate::{
    error::{AuthError, Refusal},
    id::UserId,
    time::UnixTime,
};

/// What an authenticator of credentials that are not stored tokens asks: was this one withdrawn?
pub trait Revocations: fmt::Debug + Send + Sync + 'static {
    /// A number that changes whenever an answer may have changed; `None` when [`refresh`](Self::refresh)
    /// must be awaited first.
    fn generation(&self, now: UnixTime) -> Option<u64>;

    /// Judges from memory.
    ///
    /// # Errors
    /// Why it was withdrawn.
    fn check(&self, subject: &Subject<'_>) -> Result<(), Refusal>;

    /// Brings the answers up to date. Fails only if there never were any.
    fn refresh(&self) -> RevocationRefresh;
}

/// Answers that are on their way.
pub type RevocationRefresh = Pin<Box<dyn Future<Output = Result<(), AuthError>> + Send>>;

/// A credential that may have been withdrawn.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Subject<'a> {
    /// Its user.
    pub user: &'a UserId,
    /// What it says, if it is a JWT.
    pub jwt: Option<JwtSubject<'a>>,
}

impl<'a> Subject<'a> {
    /// A credential of `user` that is no JWT.
    #[must_use]
    pub const fn new(user: &'a UserId) -> Self {
        Self { user, jwt: None }
    }

    /// A JWT of `user`.
    #[must_use]
    pub const fn jwt(user: &'a UserId, jwt: JwtSubject<'a>) -> Self {
        Self { user, jwt: Some(jwt) }
    }
}

/// What a JWT can be withdrawn by.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct JwtSubject<'a> {
    /// Its issuer.
    pub issuer: &'a str,
    /// Its own id, if it has one.
    pub jwt_id: Option<&'a str>,
    /// When it was issued, if it says so.
    pub issued_at: Option<UnixTime>,
}

impl<'a> JwtSubject<'a> {
    /// A JWT of this issuer.
    #[must_use]
    pub const fn new(issuer: &'a str) -> Self {
        Self { issuer, jwt_id: None, issued_at: None }
    }
}
