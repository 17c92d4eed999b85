//! What happened, for those who must know: typed [`Event`]s and the [`AuditSink`] that receives them.
//!
//! Several sinks at once are a tuple, `(TracingSink, other)`, or a `Vec` of boxes. The module
//! [`audit`](crate::audit) keeps events in a store, and sends them elsewhere.

use std::{
    fmt,
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    error::Refusal,
    id::{TokenId, UserId},
    secret::without_secrets,
    time::{Clock, SystemClock, UnixTime},
};

mod alert;
mod episodes;
mod fan_out;
mod foreign;
mod json;
mod note;
#[cfg(feature = "api")]
mod request;
mod tracing_sink;

pub use alert::Alert;
pub(crate) use episodes::Episodes;
use foreign::ForeignAccesses;
#[cfg(feature = "api")]
pub(crate) use request::InRequest;
pub use tracing_sink::TracingSink;

/// The target of every line that [`TracingSink`] writes; use it in filters, such as
/// `RUST_LOG=info,keyward::audit=debug`.
pub const TRACING_TARGET: &str = "keyward::audit";

/// One thing that happened to a token, a request or a right. It never holds a secret.
///
/// As JSON it has these members, all of them always, in this order; what is not known is `null`:
///
/// | member | holds |
/// |---|---|
/// | `at` | when, in RFC 3339 and UTC |
/// | `event` | [`EventKind::name`] |
/// | `alert` | [`EventKind::is_alert`] |
/// | `outcome` | `success`, `refused` or `failed` |
/// | `actor`, `actor_email` | who did it |
/// | `user_id` | whose it was |
/// | `token_id`, `client_ip`, `request_id` | with which token, from where, in which request |
/// | `refusal` | [`Refusal::as_str`] of a refusal |
/// | `reason` | the reason of an administrator, or details |
/// | `count` | [`Event::count`] |
/// | `known` | of something new, beside how many known ones: [`Alert::known`] |
/// | `usual` | of a spike, the requests of the busiest hour: [`Alert::usual`] |
/// | `within_seconds` | of a shared token, the time that was looked at: [`Alert::within_seconds`] |
/// | `user_agent` | the beginning of a new program's `User-Agent` |
///
/// ```
/// use keyward::event::{AuditSink, Event, EventKind};
///
/// #[derive(Debug)]
/// struct Alerts;
/// impl AuditSink for Alerts {
///     fn record(&self, event: &Event) {
///         if event.kind.is_alert() {
///             eprintln!("{} by {:?} from {:?}", event.kind.name(), event.actor, event.client_ip);
///         }
///     }
/// }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Event {
    /// When it happened.
    pub at: UnixTime,
    /// What happened.
    pub kind: EventKind,
    /// Who did it, if known.
    pub actor: Option<UserId>,
    /// The e-mail address of who did it, if the issuer of their JWT says one and does not say that it is
    /// unverified.
    pub actor_email: Option<Box<str>>,
    /// Whose token or resource it was, if known.
    pub owner: Option<UserId>,
    /// The token that it was about, or that was presented.
    pub token: Option<TokenId>,
    /// The client's address, if known.
    pub client_ip: Option<IpAddr>,
    /// The request's id, as in the header `X-Request-Id`.
    pub request_id: Option<Box<str>>,
    /// Why: the reason that an administrator gave, or details such as the kind of a resource.
    pub reason: Option<Box<str>>,
    /// The beginning of the `User-Agent` of a new program, without what may be a secret; `none` if it named none.
    pub user_agent: Option<Box<str>>,
    /// How many that differ in nothing but when they happened it stands for, itself included: those since the last
    /// that was told. It is 1 but for the 10th, the 100th and so on [`Alert::ForeignAccess`] within an hour, and for
    /// what a [`QueueSink`](crate::audit::QueueSink) has counted.
    pub times: u64,
}

/// What an [`Event`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// A token was created.
    TokenCreated,
    /// One token's record was read.
    TokenRead,
    /// Tokens were listed.
    TokensListed,
    /// Name, scopes, addresses or metadata were changed.
    TokenUpdated,
    /// A token was switched off.
    TokenDisabled,
    /// A token was switched on again.
    TokenEnabled,
    /// A token got a successor.
    TokenRotated,
    /// The overlap of a replaced token was ended before its time.
    RotationFinished,
    /// A token was revoked.
    TokenRevoked,
    /// All tokens of a user were revoked; how many had not been before.
    TokensRevoked(u64),
    /// A token will expire; in how many days, the last of them begun or not.
    TokenExpiring(u32),
    /// So many tokens that had ended long ago were removed from the store.
    TokensRemoved(u64),
    /// A new user came in by themselves and got their first token.
    UserRegistered,
    /// All credentials of a user are refused until they are restored.
    UserSuspended,
    /// A user's credentials work again.
    UserRestored,
    /// A user is gone; how many tokens had not been revoked before.
    UserOffboarded(u64),
    /// A user's state was read.
    UserRead,
    /// One JWT was revoked.
    JwtRevoked,
    /// All JWTs that a user had were revoked.
    JwtsRevoked,
    /// A management operation was asked for and refused; the event's reason begins with its name.
    OperationRefused(Refusal),
    /// A management operation could not be done because the store failed, or nobody knows whether it was;
    /// the event's reason begins with its name.
    OperationFailed,
    /// A request was let through; only sent where it was asked for.
    AccessGranted,
    /// A request was refused.
    AccessRefused(Refusal),
    /// An administrator acts on what is not theirs.
    AdminOverride,
    /// The stored audit log was read.
    AuditRead,
    /// The stored audit log was verified; how many entries it has.
    AuditVerified(u64),
    /// Old entries of the stored audit log were deleted; how many.
    AuditPruned(u64),
    /// Events were lost on their way, since a queue was full or its destination did not take them. It is an
    /// alert if alerts are among them.
    AuditDropped {
        /// How many, alerts included.
        events: u64,
        /// How many of them were alerts.
        alerts: u64,
    },
    /// Something that a person should look at.
    Alert(Alert),
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(clippy::exhaustive_enums, reason = "it was done, somebody said no, or it did not work")]
pub enum Outcome {
    /// It was done.
    Success,
    /// keyward said no.
    Refused,
    /// Something did not work, or nobody knows whether it did.
    Failed,
}

impl Outcome {
    /// The stable name: `success`, `refused` or `failed`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

impl EventKind {
    /// The stable name of this kind, such as `token.created` or `foreign_access`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TokenCreated => "token.created",
            Self::TokenRead => "token.read",
            Self::TokensListed => "tokens.listed",
            Self::TokenUpdated => "token.updated",
            Self::TokenDisabled => "token.disabled",
            Self::TokenEnabled => "token.enabled",
            Self::TokenRotated => "token.rotated",
            Self::RotationFinished => "token.rotation_finished",
            Self::TokenRevoked => "token.revoked",
            Self::TokensRevoked(_) => "tokens.revoked",
            Self::TokenExpiring(_) => "token.expiring",
            Self::TokensRemoved(_) => "tokens.removed",
            Self::UserRegistered => "user.registered",
            Self::UserSuspended => "user.suspended",
            Self::UserRestored => "user.restored",
            Self::UserOffboarded(_) => "user.offboarded",
            Self::UserRead => "user.read",
            Self::JwtRevoked => "jwt.revoked",
            Self::JwtsRevoked => "jwts.revoked",
            Self::OperationRefused(_) => "operation.refused",
            Self::OperationFailed => "operation.failed",
            Self::AccessGranted => "access.granted",
            Self::AccessRefused(_) => "access.refused",
            Self::AdminOverride => "admin.override",
            Self::AuditRead => "audit.read",
            Self::AuditVerified(_) => "audit.verified",
            Self::AuditPruned(_) => "audit.pruned",
            Self::AuditDropped { .. } => "audit.dropped",
            Self::Alert(alert) => alert.name(),
        }
    }

    /// Whether a person should look at it.
    #[must_use]
    pub const fn is_alert(self) -> bool {
        matches!(self, Self::Alert(_) | Self::AuditDropped { alerts: 1.., .. })
    }

    /// How it ended.
    #[must_use]
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::OperationRefused(_) | Self::AccessRefused(_) => Outcome::Refused,
            Self::OperationFailed | Self::AuditDropped { .. } => Outcome::Failed,
            Self::Alert(alert) => alert.outcome(),
            _ => Outcome::Success,
        }
    }

    /// How many tokens, entries, events, days, requests, programs or networks it is about, where that is a number of its own.
    #[must_use]
    pub const fn count(self) -> Option<u64> {
        match self {
            Self::TokenExpiring(days) => Some(days as u64),
            Self::TokensRevoked(count)
            | Self::TokensRemoved(count)
            | Self::UserOffboarded(count)
            | Self::AuditVerified(count)
            | Self::AuditPruned(count)
            | Self::AuditDropped { events: count, .. }
            | Self::Alert(Alert::UsageSpike { requests: count, .. }) => Some(count),
            Self::Alert(
                Alert::NewNetwork { new: count, .. }
                | Alert::NewUserAgent { new: count, .. }
                | Alert::SharedToken { networks: count, .. },
            ) => Some(count as u64),
            _ => None,
        }
    }

    /// The alert that it is, if it is one.
    const fn alert(self) -> Option<Alert> {
        match self {
            Self::Alert(alert) => Some(alert),
            _ => None,
        }
    }

    /// The exact reason of a refusal.
    #[must_use]
    pub const fn refusal(self) -> Option<Refusal> {
        match self {
            Self::OperationRefused(refusal) | Self::AccessRefused(refusal) => Some(refusal),
            _ => None,
        }
    }
}

impl Event {
    /// [`EventKind::count`], or how many events it stands for if that is more than one.
    #[must_use]
    pub fn count(&self) -> Option<u64> {
        self.kind.count().or_else(|| Some(self.times).filter(|times| *times > 1))
    }

    pub(crate) fn new(kind: EventKind) -> Self {
        Self {
            at: UnixTime::EPOCH,
            kind,
            actor: None,
            actor_email: None,
            owner: None,
            token: None,
            client_ip: None,
            request_id: None,
            reason: None,
            user_agent: None,
            times: 1,
        }
    }

    pub(crate) fn alert(alert: Alert) -> Self {
        Self::new(EventKind::Alert(alert))
    }

    pub(crate) fn by(mut self, actor: &UserId) -> Self {
        self.actor = Some(actor.clone());
        self
    }

    pub(crate) fn with_email(mut self, email: Option<Box<str>>) -> Self {
        self.actor_email = email;
        self
    }

    pub(crate) fn owned_by(mut self, owner: &UserId) -> Self {
        self.owner = Some(owner.clone());
        self
    }

    pub(crate) fn token(mut self, token: impl Into<Option<TokenId>>) -> Self {
        self.token = token.into();
        self
    }

    pub(crate) fn at_ip(mut self, client_ip: Option<IpAddr>) -> Self {
        self.client_ip = client_ip;
        self
    }

    pub(crate) fn in_request(mut self, request_id: Option<&str>) -> Self {
        self.request_id = request_id.map(Box::from);
        self
    }

    pub(crate) fn by_program(mut self, user_agent: Option<&str>) -> Self {
        self.user_agent = user_agent.map(|text| without_secrets(text).into());
        self
    }

    pub(crate) fn because(mut self, reason: &str) -> Self {
        self.reason = Some(without_secrets(reason).into());
        self
    }
}

/// Receives every event. Called where the event happens, on the request's own thread: it must be quick
/// and must not block; hand events to a bounded queue if they travel further.
pub trait AuditSink: fmt::Debug + Send + Sync + 'static {
    /// Takes note of `event`.
    fn record(&self, event: &Event);
}

impl<A: AuditSink + ?Sized> AuditSink for Arc<A> {
    fn record(&self, event: &Event) {
        (**self).record(event);
    }
}

/// Where events go, and the clock that dates them. Cloning shares both.
///
/// ```
/// use keyward::event::{Audit, TracingSink};
///
/// let audit = Audit::new(TracingSink); // also the default
/// # let _ = audit;
/// ```
#[derive(Clone, Debug)]
pub struct Audit(Arc<AuditTo>);

#[derive(Debug)]
struct AuditTo {
    sink: Box<dyn AuditSink>,
    clock: Arc<dyn Clock>,
    foreign: ForeignAccesses,
}

impl Audit {
    /// Sends events to `sink`, dated by the system's clock.
    #[must_use]
    pub fn new(sink: impl AuditSink) -> Self {
        Self::with_clock(sink, Arc::new(SystemClock))
    }

    /// Sends events to `sink`, dated by `clock`.
    #[must_use]
    pub fn with_clock(sink: impl AuditSink, clock: Arc<dyn Clock>) -> Self {
        Self::from_parts(Box::new(sink), clock)
    }

    pub(crate) fn from_parts(sink: Box<dyn AuditSink>, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(AuditTo { sink, clock, foreign: ForeignAccesses::default() }))
    }

    /// The time by the clock that dates events.
    pub(crate) fn now(&self) -> UnixTime {
        self.0.clock.now()
    }

    pub(crate) fn emit(&self, mut event: Event) {
        event.at = self.0.clock.now();
        note::count(event.kind);
        if event.kind == EventKind::Alert(Alert::ForeignAccess) {
            match self.0.foreign.tell(&event) {
                Some(times) => event.times = times,
                None => return,
            }
        }
        #[cfg(feature = "api")]
        {
            event.request_id = event.request_id.or_else(request::current);
        }
        record_surely(&*self.0.sink, &event);
    }
}

/// A sink that panics, such as one that writes to a closed pipe, must take neither the request along nor the
/// sinks beside it.
fn record_surely(sink: &dyn AuditSink, event: &Event) {
    let _ = catch_unwind(AssertUnwindSafe(|| sink.record(event)));
}

impl Default for Audit {
    /// [`TracingSink`] and the system's clock.
    fn default() -> Self {
        Self::new(TracingSink)
    }
}
