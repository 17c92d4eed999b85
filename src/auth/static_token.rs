//! Tokens from a configured list.

use std::{fmt, sync::Arc};

use hashbrown::HashTable;

use crate::{
    auth::{Authenticator, RequestHead, Verdict},
    event::Audit,
    principal::{AuthMethod, Credential, Principal, RoleDirectory},
    scope::RoleSet,
    secret::TokenDigest,
    store::StaticList,
};

/// The longest token that is hashed to look for it, in bytes.
const MAX_BYTES: usize = 1024;

/// Accepts the tokens of a [`StaticList`]: in `X-API-Key` and as bearer tokens. They have every scope and
/// the roles of their user.
///
/// It decides without a store, so static tokens work while the store is down. What is not on its list is
/// left to others; put it after [`ApiKeyAuth`](crate::auth::ApiKeyAuth) in an
/// [`AnyOf`](crate::auth::AnyOf).
///
/// ```
/// use keyward::{AuthLayer, auth::StaticAuth, store::StaticList};
///
/// let list = StaticList::parse("ops:3f5c0a9e7b1d4826a0c3e5f7192b4d6e")?;
/// let auth: AuthLayer = AuthLayer::new(StaticAuth::new(&list));
/// # let _ = auth;
/// # Ok::<(), keyward::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct StaticAuth {
    list: StaticList,
    audit: Audit,
    roles: Option<Arc<dyn RoleDirectory>>,
    credentials: Arc<HashTable<Arc<Credential>>>,
}

impl StaticAuth {
    /// Accepts the tokens of `list`.
    #[must_use]
    pub fn new(list: &StaticList) -> Self {
        let auth =
            Self { list: list.clone(), audit: Audit::default(), roles: None, credentials: Arc::default() };
        auth.rebuilt()
    }

    /// Which roles users have; by default static tokens carry none.
    #[must_use]
    pub fn with_roles(mut self, directory: impl RoleDirectory) -> Self {
        self.roles = Some(Arc::new(directory));
        self.rebuilt()
    }

    /// Where alerts of these callers go; [`tracing`] by default.
    #[must_use]
    pub fn with_audit(mut self, audit: Audit) -> Self {
        self.audit = audit;
        self.rebuilt()
    }

    fn rebuilt(mut self) -> Self {
        let mut credentials = HashTable::new();
        for record in self.list.records() {
            let roles =
                self.roles.as_ref().map_or_else(RoleSet::empty, |roles| roles.roles_of(&record.owner));
            let builder = Principal::builder(AuthMethod::Static, record.owner.clone()).roles(roles);
            let builder = builder.audit(self.audit.clone());
            let credential = Arc::new(builder.into_credential(record.digest));
            let hash = |credential: &Arc<Credential>| credential.digest.prefix();
            credentials.insert_unique(record.digest.prefix(), credential, hash);
        }
        self.credentials = Arc::new(credentials);
        self
    }
}

impl fmt::Debug for StaticAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticAuth").field("list", &self.list).finish_non_exhaustive()
    }
}

impl Authenticator for StaticAuth {
    fn authenticate(&self, head: &RequestHead<'_>) -> Verdict {
        let Some(presented) = head.presented else { return Verdict::Abstain };
        let token = presented.unchecked_bytes();
        if token.len() > MAX_BYTES {
            return Verdict::Abstain;
        }
        let digest = TokenDigest::of(token);
        match self.credentials.find(digest.prefix(), |credential| credential.digest == digest) {
            Some(credential) => Verdict::Decided(Ok(Principal::new(credential.clone(), head.client_ip))),
            None => Verdict::Abstain,
        }
    }

    fn audit(&self) -> Audit {
        self.audit.clone()
    }
}
