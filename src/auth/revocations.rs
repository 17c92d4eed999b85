//! Withdrawing what is not stored: JWTs, static tokens, and all other credentials of a user.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    error::{AuthError, AuthErrorKind, Refusal},
    id::UserId,
    store::TokenLookup,
    time::UnixTime,
};

/// What an authenticator of credentials that are not stored tokens asks: was this one withdrawn?
///
/// A [`TokenLookup`] answers from what its store and its
/// [`UserDirectory`](crate::store::UserDirectory) say. Ask in this order: `generation`, `refresh` if there was none,
/// `good_until`, `learn` if there was none, `check`; a verdict that is kept is good for as long as `generation`
/// stays what it was before, and not beyond `good_until`.
pub trait Revocations: fmt::Debug + Send + Sync + 'static {
    /// A number that changes whenever an answer may have changed, and that no other source of this program has:
    /// authenticators that share what they verified compare it. `None` when [`refresh`](Self::refresh)
    /// must be awaited first.
    fn generation(&self, now: UnixTime) -> Option<u64>;

    /// Judges from memory.
    ///
    /// # Errors
    /// [`Refusal::UserInactive`] or [`Refusal::Revoked`].
    fn check(&self, subject: &Subject<'_>) -> Result<(), Refusal>;

    /// A number that only this source of answers has, in whichever `Arc`; `None` if it has none.
    fn source(&self) -> Option<u64> {
        None
    }

    /// Brings the answers up to date. It fails only if there never were any: otherwise the last ones are
    /// used while the store is down.
    fn refresh(&self) -> RevocationRefresh;

    /// Until when what is known of `user` may be used; `None` when [`learn`](Self::learn) must be awaited first. By
    /// default there is no end.
    fn good_until(&self, user: &UserId, now: UnixTime) -> Option<UnixTime> {
        let _ = (user, now);
        Some(UnixTime::MAX)
    }

    /// Finds out about `user` what cannot be said of all at once. By default there is nothing to find out.
    fn learn(&self, user: &UserId) -> RevocationRefresh {
        let _ = user;
        Box::pin(std::future::ready(Ok(())))
    }
}

/// The way to up-to-date answers.
pub type RevocationRefresh = Pin<Box<dyn Future<Output = Result<(), AuthError>> + Send>>;

/// Whose credential is judged, and which one.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Subject<'a> {
    /// Whose it is.
    pub user: &'a UserId,
    /// The JWT, if it is one.
    pub jwt: Option<JwtSubject<'a>>,
}

impl<'a> Subject<'a> {
    /// A credential of `user`.
    #[must_use]
    pub const fn new(user: &'a UserId, jwt: Option<JwtSubject<'a>>) -> Self {
        Self { user, jwt }
    }
}

/// What names a JWT.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct JwtSubject<'a> {
    /// The claim `iss`.
    pub issuer: &'a str,
    /// The claim `jti`. A JWT without it can only be withdrawn with all others of its user.
    pub jwt_id: Option<&'a str>,
    /// The claim `iat`.
    pub issued_at: Option<UnixTime>,
}

impl<'a> JwtSubject<'a> {
    /// The JWT with these claims.
    #[must_use]
    pub const fn new(issuer: &'a str, jwt_id: Option<&'a str>, issued_at: Option<UnixTime>) -> Self {
        Self { issuer, jwt_id, issued_at }
    }
}

/// Keeps whom an authenticator asks from being two: what one of them denies the other may not know.
#[derive(Debug, Default)]
pub(crate) struct Adoption {
    /// It was said by name, and stays.
    pub(crate) named: bool,
    torn: AtomicBool,
}

impl Clone for Adoption {
    fn clone(&self) -> Self {
        Self { named: self.named, torn: AtomicBool::new(self.is_torn()) }
    }
}

impl Adoption {
    /// Of an authenticator that was, or was not, told by name whom to ask.
    #[cfg(feature = "_jwt")]
    pub(crate) fn new(named: bool) -> Self {
        Self { named, ..Self::default() }
    }

    /// Notes that `offered` was offered to an authenticator that asks `asked`.
    pub(crate) fn offer(&self, asked: &Arc<dyn Revocations>, offered: &Arc<dyn Revocations>) {
        let same_source = asked.source().is_some_and(|source| offered.source() == Some(source));
        if !self.named && !same_source && !Arc::ptr_eq(asked, offered) {
            self.torn.store(true, Ordering::Relaxed);
            tracing::error!(
                "one authenticator stands beside the keys of two stores, by an `Arc` or a clone of an `AnyOf`, so it \
                 cannot tell whose suspended users count; it answers 500 now: give each `AnyOf` its own clone"
            );
        }
    }

    /// Whether it must refuse everybody.
    #[inline]
    pub(crate) fn is_torn(&self) -> bool {
        self.torn.load(Ordering::Relaxed)
    }
}

impl Revocations for TokenLookup {
    fn source(&self) -> Option<u64> {
        Some(self.inner().denied.source())
    }

    fn generation(&self, now: UnixTime) -> Option<u64> {
        self.inner().denied.generation(now)
    }

    fn check(&self, subject: &Subject<'_>) -> Result<(), Refusal> {
        let jwt = subject.jwt.map(|jwt| (jwt.issuer, jwt.jwt_id, jwt.issued_at));
        self.inner().require_unwithdrawn(subject.user, jwt)
    }

    fn refresh(&self) -> RevocationRefresh {
        let lookup = self.clone();
        Box::pin(async move {
            let inner = lookup.inner();
            match inner.know_denials().await {
                Err(_) if !inner.denied.is_known() => {
                    Err(AuthError::because(AuthErrorKind::Unavailable, Refusal::StoreUnavailable))
                }
                _ => Ok(()),
            }
        })
    }

    fn good_until(&self, user: &UserId, now: UnixTime) -> Option<UnixTime> {
        match &self.inner().directory {
            None => Some(UnixTime::MAX),
            Some(directory) => directory.known(user, now).map(|standing| standing.until),
        }
    }

    fn learn(&self, user: &UserId) -> RevocationRefresh {
        let (lookup, user) = (self.clone(), user.clone());
        Box::pin(async move {
            let unheard = |_| AuthError::because(AuthErrorKind::Unavailable, Refusal::DirectoryUnavailable);
            lookup.inner().standing(&user).await.map(drop).map_err(unheard)
        })
    }
}
