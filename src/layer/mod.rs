//! The tower side: [`AuthLayer`], [`RequireLayer`], [`OwnerLayer`], and what a refusal looks like.
//!
//! Nothing here decides: the layers ask an [`Authenticator`](crate::auth::Authenticator) or a rule, pass
//! the request on or answer it. They work over any body, in axum, hyper and tonic.

mod auth;
mod failures;
mod future;
mod owner;
mod rejection;
mod require;

pub use auth::{Auth, AuthLayer, Mode};
pub use future::ResponseFuture;
pub use owner::{Guard, GuardFuture, OwnerLayer};
#[cfg(feature = "axum")]
pub(crate) use rejection::respond;
pub use rejection::{Empty, GrpcStatus, Problem, ProblemJson, RejectionResponse};
#[cfg(feature = "axum")]
pub(crate) use require::caller;
#[cfg(feature = "api")]
pub(crate) use require::require_scope;
pub use require::{Policy, Require, RequireLayer};
