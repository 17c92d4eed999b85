//! The rule that nobody hands out more than they have.

use crate::{
    limit::Limits,
    net::IpList,
    principal::{AuthMethod, Principal},
    scope::{Grant, RoleSet},
    time::UnixTime,
};

/// The rights of a token that is about to be made or changed.
#[derive(Debug)]
pub(crate) struct Rights<'a> {
    pub(crate) scopes: &'a Grant,
    /// The roles that it would carry now.
    pub(crate) roles: &'a RoleSet,
    /// Whether it would also carry roles that its owner gets later.
    pub(crate) all_roles: bool,
    pub(crate) allowed_ips: Option<&'a IpList>,
    pub(crate) limits: Limits,
}

/// Whether the credential of `presented` has all of `rights` itself. Addresses and limits count only for API
/// keys: other credentials have none. The emergency key can do anything, but leaves nothing behind that can.
pub(crate) fn covers(presented: &Principal, rights: &Rights<'_>) -> bool {
    if presented.method() == AuthMethod::Emergency {
        return false;
    }
    let own = presented.credential();
    let ips = match (rights.allowed_ips, own.allowed_ips()) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(list), Some(own)) => list.is_subset_of(own),
    };
    let roles = rights.roles.is_subset_of(&own.roles) && (own.all_roles || !rights.all_roles);
    rights.scopes.is_subset_of(&own.scopes) && roles && ips && rights.limits.is_within(&own.limits())
}

/// The time that no token made or changed through this credential may pass: its own last end.
pub(crate) fn latest_end(presented: Option<&Principal>) -> UnixTime {
    match presented {
        Some(principal) if principal.method() == AuthMethod::ApiKey => {
            let own = principal.credential();
            last_end(own.hard_end, own.rolling.is_some(), own.expires_at)
        }
        _ => UnixTime::MAX,
    }
}

/// The time that a token cannot outlive, whatever its use.
pub(crate) fn last_end(hard_end: UnixTime, rolling: bool, expires_at: UnixTime) -> UnixTime {
    if rolling { hard_end } else { hard_end.min(expires_at) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{UserId, scope::ScopeSet};

    fn presented(scopes: Grant, roles: &[&str]) -> Principal {
        let user = UserId::new("alice").unwrap();
        let builder = Principal::builder(AuthMethod::ApiKey, user).scopes(scopes);
        builder.roles(RoleSet::new(roles).unwrap()).build()
    }

    #[test]
    fn each_right_is_compared() {
        let some = Grant::Only(ScopeSet::new(["jobs:*"]).unwrap());
        let none = RoleSet::empty();
        let admin = RoleSet::new(["admin"]).unwrap();
        let list = IpList::new(["10.0.0.0/8"]).unwrap();
        let limits = Limits::default();
        let rights =
            |scopes, roles, all_roles| Rights { scopes, roles, all_roles, allowed_ips: Some(&list), limits };
        let limited = presented(some.clone(), &["admin"]);
        assert!(covers(&limited, &rights(&some, &none, false)));
        assert!(covers(&limited, &rights(&some, &admin, false)));
        assert!(!covers(&limited, &rights(&Grant::All, &none, false)), "more scopes");
        assert!(!covers(&presented(some.clone(), &[]), &rights(&some, &admin, false)), "more roles");
        assert!(!covers(&limited, &rights(&some, &none, true)), "roles of the future");
    }
}
