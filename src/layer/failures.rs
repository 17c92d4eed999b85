//! What becomes of a request whose address fails too often.

use std::{
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll, ready},
};

use crate::{
    auth::{Attempt, PendingVerdict, RequestHead},
    error::{AuthError, AuthErrorKind, Refusal},
    event::{Alert, Event},
    layer::auth::Shared,
    limit::{Entry, Over, Turn, Waited, too_many},
    principal::Principal,
};

/// A refusal that was counted, if it is a failure.
pub(super) struct Counted {
    pub(super) error: AuthError,
    pub(super) client_ip: Option<IpAddr>,
}

/// A verdict that is awaited.
pub(super) struct Waiting {
    verdict: PendingVerdict,
    client_ip: Option<IpAddr>,
    turn: Option<Turn>,
    /// Whether what it comes to is counted by then.
    is_counted: bool,
}

impl Waiting {
    /// Lets `verdict` cost what it costs, unless its address must wait or has failed too often.
    pub(super) fn begin(
        shared: &Arc<Shared>,
        verdict: PendingVerdict,
        head: &RequestHead<'_>,
    ) -> Result<Self, AuthError> {
        let client_ip = head.client_ip;
        let free = Self { verdict, client_ip, turn: None, is_counted: false };
        let Some(failures) = &shared.failures else { return Ok(free) };
        if head.attempt.is_some_and(Attempt::is_known) {
            return Ok(free);
        }
        match failures.enter(client_ip, shared.audit.now()) {
            Entry::Granted(turn) => Ok(Self { turn: Some(turn), ..free }),
            Entry::Full => {
                Ok(Self { verdict: shared.clone().in_line(free), client_ip, turn: None, is_counted: true })
            }
            Entry::Refused(over) => Err(shared.over(over, client_ip)),
        }
    }

    pub(super) fn poll(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Poll<Result<Principal, Counted>> {
        let verdict = ready!(self.verdict.as_mut().poll(cx));
        let client_ip = self.client_ip;
        Poll::Ready(match (verdict, self.turn.take()) {
            (Ok(principal), turn) => {
                turn.into_iter().for_each(Turn::passed);
                Ok(principal)
            }
            (Err(error), _) if self.is_counted => Err(Counted { error, client_ip }),
            (Err(error), Some(turn)) => {
                Err(Counted { error: shared.settle(turn, error, client_ip), client_ip })
            }
            (Err(error), None) => Err(shared.count_failure(error, client_ip)),
        })
    }
}

impl Shared {
    /// Counts a refusal that is a failure; one too many gets another answer.
    pub(super) fn count_failure(&self, error: AuthError, client_ip: Option<IpAddr>) -> Counted {
        let error = match &self.failures {
            Some(failures) if is_failure(&error) => {
                let counted = failures.fail(client_ip, self.audit.now());
                self.instead_of(error, counted, client_ip)
            }
            _ => error,
        };
        Counted { error, client_ip }
    }

    /// Ends the turn of a credential that was refused.
    fn settle(&self, turn: Turn, error: AuthError, client_ip: Option<IpAddr>) -> AuthError {
        if is_failure(&error) {
            let counted = turn.failed(self.audit.now());
            return self.instead_of(error, counted, client_ip);
        }
        turn.passed();
        error
    }

    fn instead_of(
        &self,
        error: AuthError,
        counted: Result<(), Over>,
        client_ip: Option<IpAddr>,
    ) -> AuthError {
        match counted {
            Ok(()) => error,
            Err(over) => self.over(over, client_ip).by(error.scheme()).about(error.token(), error.owner()),
        }
    }

    /// The answer to an address that failed too often; the first one raises an alert.
    fn over(&self, over: Over, client_ip: Option<IpAddr>) -> AuthError {
        if over.is_first {
            self.audit.emit(Event::alert(Alert::BruteForce).at_ip(client_ip));
        }
        too_many(over.wait)
    }

    /// Waits for others of the same address, and then for the verdict.
    fn in_line(self: Arc<Self>, waiting: Waiting) -> PendingVerdict {
        let Waiting { verdict, client_ip, .. } = waiting;
        Box::pin(async move {
            let Some(failures) = &self.failures else { return verdict.await };
            let turn =
                failures.wait(client_ip, || self.audit.now()).await.map_err(|waited| match waited {
                    Waited::Over(over) => self.over(over, client_ip),
                    Waited::InVain => AuthError::because(AuthErrorKind::Unavailable, Refusal::TooManyAtOnce),
                })?;
            match verdict.await {
                Ok(principal) => {
                    turn.passed();
                    Ok(principal)
                }
                Err(error) => Err(self.settle(turn, error, client_ip)),
            }
        })
    }
}

/// Whether it is the answer to a wrong credential.
fn is_failure(error: &AuthError) -> bool {
    error.kind() == AuthErrorKind::Invalid
}
