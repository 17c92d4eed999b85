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
            return Ok(if failures.is_shared() { free.told_to_others(shared, None) } else { free });
        }
        match failures.enter(client_ip, shared.audit.now()) {
            Entry::Granted(turn) if failures.is_shared() => Ok(free.told_to_others(shared, Some(turn))),
            Entry::Granted(turn) => Ok(Self { turn: Some(turn), ..free }),
            Entry::Full => {
                Ok(Self { verdict: shared.clone().in_line(free), client_ip, turn: None, is_counted: true })
            }
            Entry::Refused(over) => Err(shared.over(over, client_ip)),
        }
    }

    /// Has a failure counted for other processes as well.
    fn told_to_others(self, shared: &Arc<Shared>, turn: Option<Turn>) -> Self {
        let Self { verdict, client_ip, .. } = self;
        let shared = shared.clone();
        let verdict = Box::pin(async move { shared.settle_together(turn, verdict.await, client_ip).await });
        Self { verdict, client_ip, turn: None, is_counted: true }
    }

    /// A refusal that this process has counted, and others are told of.
    pub(super) fn telling(shared: &Arc<Shared>, error: AuthError, client_ip: Option<IpAddr>) -> Self {
        let shared = shared.clone();
        let verdict = Box::pin(async move { Err(shared.tell_others(error, client_ip).await) });
        Self { verdict, client_ip, turn: None, is_counted: true }
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

    /// Ends the turn of a credential, and has its failure counted for other processes as well.
    async fn settle_together(
        &self,
        turn: Option<Turn>,
        verdict: Result<Principal, AuthError>,
        client_ip: Option<IpAddr>,
    ) -> Result<Principal, AuthError> {
        let error = match verdict {
            Err(error) if is_failure(&error) => error,
            verdict => {
                turn.into_iter().for_each(Turn::passed);
                return verdict;
            }
        };
        let now = self.audit.now();
        let counted = match (turn, &self.failures) {
            (Some(turn), _) => turn.failed(now),
            (None, Some(failures)) => failures.fail(client_ip, now),
            (None, None) => Ok(()),
        };
        Err(match counted {
            Ok(()) => self.tell_others(error, client_ip).await,
            over => self.instead_of(error, over, client_ip),
        })
    }

    async fn tell_others(&self, error: AuthError, client_ip: Option<IpAddr>) -> AuthError {
        let Some(failures) = &self.failures else { return error };
        let counted = failures.fail_together(client_ip, self.audit.now()).await;
        self.instead_of(error, counted, client_ip)
    }

    /// What to do about a refusal that needs no waiting, unless it is a failure that others are to be told of.
    pub(super) fn count_at_once(
        self: &Arc<Self>,
        error: AuthError,
        client_ip: Option<IpAddr>,
    ) -> Result<AuthError, Waiting> {
        match &self.failures {
            Some(failures) if failures.is_shared() && is_failure(&error) => {
                match failures.fail(client_ip, self.audit.now()) {
                    Ok(()) => Err(Waiting::telling(self, error, client_ip)),
                    over => Ok(self.instead_of(error, over, client_ip)),
                }
            }
            _ => Ok(error),
        }
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
                verdict => self.settle_together(Some(turn), verdict, client_ip).await,
            }
        })
    }
}

/// Whether it is the answer to a wrong credential.
fn is_failure(error: &AuthError) -> bool {
    error.kind() == AuthErrorKind::Invalid
}
