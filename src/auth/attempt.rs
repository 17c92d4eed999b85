//! What a layer and its authenticators tell each other of one request.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{event::Audit, limit::FailureLimit};

/// One request's credential, from an address that may have failed often.
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    failures: Option<&'a FailureLimit>,
    /// For its clock.
    audit: &'a Audit,
    known: AtomicBool,
}

impl<'a> Attempt<'a> {
    #[inline]
    pub(crate) fn new(failures: Option<&'a FailureLimit>, audit: &'a Audit) -> Self {
        Self { failures, audit, known: AtomicBool::new(false) }
    }

    pub(super) fn is_suspect(&self, client_ip: Option<IpAddr>) -> bool {
        self.failures.is_some_and(|failures| failures.is_over(client_ip, self.audit.now()))
    }

    pub(super) fn note_known(&self) {
        self.known.store(true, Ordering::Relaxed);
    }

    /// Whether an authenticator knows the credential.
    pub(crate) fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }
}
