//! What a token is and how long it lives: pure rules, no I/O.

mod format;
mod lifetime;
mod record;

pub(crate) use format::is_bearer_token;
pub use format::{KeyFormat, Shape};
pub use lifetime::{Access, Decision, LifetimePolicy, Lifetimes, RequestClass, decide, ended_at};
pub(crate) use lifetime::{apparent_expiry, hard_end, renewed_expiry};
pub use record::{Metadata, TokenClass, TokenRecord, TokenStatus};
