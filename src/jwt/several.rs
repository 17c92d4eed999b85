//! Several issuers at once, and whose users are whose.

use std::sync::{Arc, OnceLock};

use super::{
    builder::random_seed,
    cache::VerifiedTokens,
    users::UserIds,
    verify::{Trust, Verifier},
};
use crate::{auth::Adoption, error::ConfigError};

/// One authenticator for the tokens of several.
pub(super) fn join(auths: &[Arc<Verifier>]) -> Result<Verifier, ConfigError> {
    let Some(first) = auths.first() else {
        return Err(ConfigError::new("there is no issuer; give at least one"));
    };
    let mut trusts: Vec<Trust> = auths.iter().flat_map(|auth| auth.trusts.iter().cloned()).collect();
    check_users(&trusts)?;
    let namespaces: Vec<Box<str>> = trusts
        .iter()
        .filter(|trust| matches!(trust.users, UserIds::Namespaced))
        .filter_map(|trust| trust.rules.issuer.as_deref().map(|issuer| format!("{issuer}#").into()))
        .collect();
    for trust in trusts.iter_mut().filter(|trust| matches!(trust.users, UserIds::Subject)) {
        trust.foreign.clone_from(&namespaces);
    }
    let revocations = OnceLock::new();
    let mut chosen = auths.iter().filter_map(|auth| auth.revocations.get());
    let first_chosen = chosen.next();
    if first_chosen.is_some_and(|first| chosen.any(|other| !Arc::ptr_eq(first, other))) {
        return Err(ConfigError::new(
            "several issuers were told whom to ask for revocations; say it for one of them only: it is asked for all",
        ));
    }
    if let Some(chosen) = first_chosen {
        let _ = revocations.set(chosen.clone());
    }
    let cache_bytes = auths.iter().map(|auth| auth.cache_bytes).max().unwrap_or(0);
    Ok(Verifier {
        trusts: trusts.into(),
        max_token_bytes: auths.iter().map(|auth| auth.max_token_bytes).max().unwrap_or(0),
        verified: Arc::new(VerifiedTokens::new(cache_bytes, random_seed()?)),
        cache_bytes,
        adoption: Adoption::new(first_chosen.is_some()),
        episodes: Arc::default(),
        revocations,
        clock: first.clock.clone(),
        audit: first.audit.clone(),
    })
}

/// Refuses what would make two people one user.
pub(super) fn check_users(trusts: &[Trust]) -> Result<(), ConfigError> {
    let several = trusts.len() > 1;
    let mut issuers: Vec<_> = trusts.iter().map(|trust| trust.rules.issuer.as_deref()).collect();
    if several && issuers.contains(&None) {
        return Err(ConfigError::new("`AnyIssuer` cannot stand beside other issuers; name each of them"));
    }
    issuers.sort_unstable();
    if issuers.windows(2).any(|pair| pair.first() == pair.last()) {
        return Err(ConfigError::new(
            "two authenticators have the same issuer; give one of them all the keys",
        ));
    }
    let bare = trusts.iter().filter(|trust| matches!(trust.users, UserIds::Subject)).count();
    if bare > 1 {
        return Err(ConfigError::new(
            "two issuers would both give users the bare subject as their id, so that one could speak for the \
             other's users; set `with_user_ids(UserIds::Namespaced)` for all but one, or map them",
        ));
    }
    let ambiguous = |trust: &Trust| {
        matches!(trust.users, UserIds::Namespaced)
            && trust.rules.issuer.as_deref().is_none_or(|issuer| issuer.contains('#'))
    };
    if trusts.iter().any(ambiguous) {
        return Err(ConfigError::new("`UserIds::Namespaced` needs one issuer, without a `#` in it"));
    }
    Ok(())
}
