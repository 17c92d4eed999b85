//! The audit events of operations.

use std::net::IpAddr;

use crate::{
    event::{Event, EventKind},
    id::{TokenId, UserId},
    manage::{Actor, TokenError, TokenManager},
};

/// The audit event of an operation. Dropped before it is done it says that nobody knows the outcome: the
/// client is gone, and the store may do what it was told.
pub(super) struct Report<'a> {
    pub(super) manager: &'a TokenManager,
    pub(super) actor: Actor<'a>,
    /// What was asked for.
    pub(super) attempted: EventKind,
    pub(super) token: Option<TokenId>,
    pub(super) client_ip: Option<IpAddr>,
    pub(super) done: bool,
}

impl Report<'_> {
    pub(super) fn done(mut self, kind: EventKind, owner: Option<&UserId>, token: Option<TokenId>) {
        self.done = true;
        let event = event(self.actor, kind, owner, token).at_ip(self.client_ip);
        let not_done = matches!(kind, EventKind::OperationRefused(_) | EventKind::OperationFailed);
        let attempted = not_done.then(|| self.attempted.name());
        let reasons: Vec<_> = attempted.into_iter().chain(self.actor.reason()).collect();
        self.manager.inner().audit.emit(match reasons.is_empty() {
            true => event,
            false => event.because(&reasons.join(": ")),
        });
    }
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        if !self.done {
            let event = event(self.actor, EventKind::OperationFailed, None, self.token).at_ip(self.client_ip);
            let why = format!("{}: given up by the caller; the outcome is not known", self.attempted.name());
            self.manager.inner().audit.emit(event.because(&why));
        }
    }
}

/// An event about `actor`.
pub(super) fn event(
    actor: Actor<'_>,
    kind: EventKind,
    owner: Option<&UserId>,
    token: Option<TokenId>,
) -> Event {
    let email = actor.presented().and_then(crate::Principal::email);
    let event = Event::new(kind).by(actor.user()).with_email(email).token(token).at_ip(actor.client_ip());
    match owner {
        Some(owner) => event.owned_by(owner),
        None => event,
    }
}

/// What to report of an operation that was not done.
pub(super) fn failure(error: &TokenError) -> EventKind {
    error.refusal().map_or(EventKind::OperationFailed, EventKind::OperationRefused)
}
