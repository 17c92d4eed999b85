//! Events as lines of the log.

use super::{AuditSink, Event, EventKind, TRACING_TARGET};
use crate::error::Refusal;

/// Writes events as [`tracing`] events with the target [`TRACING_TARGET`]; the default sink.
///
/// Alerts are at WARN with the message `security alert`, what failed and expiries that come near at WARN, refusals and changes at INFO,
/// reads and granted requests at DEBUG. The field names are stable:
///
/// | field | holds |
/// |---|---|
/// | `event.name` | [`EventKind::name`] |
/// | `error.type` | [`Refusal::as_str`] of a refusal |
/// | `actor.id`, `actor.email`, `user.id` | who did it, and whose it was |
/// | `token.id` | the token |
/// | `client.address` | the client's address |
/// | `request.id` | the request's id |
/// | `reason` | the reason of an administrator, or details |
/// | `count` | [`Event::count`] |
/// | `user_agent` | the beginning of a new program's `User-Agent` |
///
/// Texts are written with escapes, so that no name can start a new line.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has no settings")]
pub struct TracingSink;

impl AuditSink for TracingSink {
    fn record(&self, event: &Event) {
        macro_rules! write_line {
            ($level:ident, $message:literal) => {
                tracing::event!(
                    target: TRACING_TARGET,
                    tracing::Level::$level,
                    event.name = event.kind.name(),
                    error.type = event.kind.refusal().map(Refusal::as_str),
                    actor.id = event.actor.as_ref().map(tracing::field::debug),
                    actor.email = event.actor_email.as_deref().map(tracing::field::debug),
                    user.id = event.owner.as_ref().map(tracing::field::debug),
                    token.id = event.token.as_ref().map(tracing::field::display),
                    client.address = event.client_ip.as_ref().map(tracing::field::display),
                    request.id = event.request_id.as_deref().map(tracing::field::debug),
                    reason = event.reason.as_deref().map(tracing::field::debug),
                    count = event.count(),
                    user_agent = event.user_agent.as_deref().map(tracing::field::debug),
                    $message
                )
            };
        }
        match event.kind {
            kind if kind.is_alert() => write_line!(WARN, "security alert"),
            EventKind::OperationFailed | EventKind::AuditDropped { .. } | EventKind::TokenExpiring(_) => {
                write_line!(WARN, "audit");
            }
            EventKind::TokenRead
            | EventKind::TokensListed
            | EventKind::UserRead
            | EventKind::AuditRead
            | EventKind::AccessGranted => {
                write_line!(DEBUG, "audit");
            }
            _ => write_line!(INFO, "audit"),
        }
    }
}
