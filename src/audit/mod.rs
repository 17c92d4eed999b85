//! An audit log that stands up: kept in a store, chained by hashes, searched, verified, sent elsewhere.
//!
//! [`AuditLog`] keeps events in an [`AuditStore`](crate::store::AuditStore), which every store of keyward that
//! can be written is. [`QueueSink`] alone is a bounded queue to whatever you like, and `Webhook` (feature
//! `webhooks`) sends events to a URL. They are used at once, as a tuple of sinks:
//!
//! ```
//! use std::sync::Arc;
//! use keyward::{TokenManager, audit::AuditLog, event::TracingSink, store::MemoryStore};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let store = Arc::new(MemoryStore::new());
//! let (audit, log) = AuditLog::new(store.clone());
//! let tokens = TokenManager::builder(store).with_audit((TracingSink, audit)).build();
//! let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
//! let writing = tokio::spawn(log.run(async { drop(stopped.await) }));
//! // serve …
//! drop(stop);
//! let _ = writing.await; // what still waits is written
//! # drop(tokens);
//! # }
//! ```
//!
//! # What is promised
//!
//! * Recording an event takes no longer when the store, or whoever receives events, is slow or gone.
//! * A queue is bounded. What does not fit is counted, and the count is an event itself, `audit.dropped`. Alerts
//!   have room of their own, 256 by default, that other events cannot take, and changes have half a queue that
//!   refused requests cannot take.
//! * Entries are written in one transaction with the end of the chain, so that several processes on one store
//!   write one chain, and a process that is killed leaves a whole one.
//! * [`AuditLog::verify`] finds any change, gap, addition and exchange of entries, and names the first.
//! * Deleting old entries keeps the number and the hash of the last one, so that the rest can be verified.
//!
//! # What is not
//!
//! A hash chain has no secret. Whoever may write to the database can make it anew, or cut off its end, with all
//! that belongs to it. Only a copy elsewhere shows that: note the [head](AuditLog::head) from time to time where
//! the database's users cannot write, and give it to `verify`; or send the events themselves elsewhere.
//!
//! An entry takes about 400 bytes with its indexes in SQLite. Requests that are refused again and again are one entry a
//! minute for each client and reason, with their number ([`QueueSink`]); from ever other addresses that is 260
//! entries a minute, so set a [retention](AuditLogBuilder::with_retention).
//!
//! # The chain
//!
//! The hash of an entry is SHA-256 of the hash before it (32 bytes, zeros at first) followed by these columns:
//! `version`, `n`, `at`, `event`, `alert`, `outcome`, `actor`, `actor_email`, `user_id`, `token_id`, `client_ip`,
//! `request_id`, `refusal`, `reason`, `count`. Each is encoded as
//!
//! | value | bytes |
//! |---|---|
//! | none | `00` |
//! | an integer | `01`, then 8 bytes, big-endian, in two's complement |
//! | a text | `02`, its length in bytes as 8 bytes, big-endian, then its UTF-8 |
//!
//! `version` is 1, `n` the number of the entry, `at` milliseconds since 1970, `alert` 0 or 1. This program needs
//! nothing of keyward to verify the log in an SQLite file:
//!
//! ```python
#![doc = include_str!("verify.py")]
//! ```

mod delivery;
mod folds;
mod log;
mod queue;
#[cfg(feature = "webhooks")]
mod webhook;
mod worker;

pub use crate::store::{
    AuditEntry, AuditError, AuditQuery, Broken, ChainHash, ChainHead, Flaw, InvalidChainHead, Verified,
};
pub use delivery::{Batch, DeliveryError, DeliveryPlan, Destination};
pub use log::{AuditLog, AuditLogBuilder, AuditPage};
pub use queue::{Dropped, EventQueue, QueueSink};
#[cfg(feature = "webhooks")]
pub use webhook::{HttpPost, HttpsPost, Webhook};
