//! What a credential may do: scopes with wildcards, roles, and the [`Grant`] of either.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A name that cannot be a scope or a role, or too many of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a scope or role is 1 to 128 printable ASCII characters without space, quote or backslash \
     (a wildcard is only a last `*` after a colon, or `*` alone), and a set holds 1 to 64 of them"
)]
#[non_exhaustive]
pub struct InvalidScope;

const MAX_NAMES: usize = 64;
const MAX_NAME_BYTES: usize = 128;

/// The characters of a scope token in RFC 6749, section 3.3.
fn is_name(name: &str) -> bool {
    let fits = !name.is_empty() && name.len() <= MAX_NAME_BYTES;
    fits && name.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

/// Sorted, without repetitions, shared by all clones.
fn collect_names<S: AsRef<str>>(
    names: impl IntoIterator<Item = S>,
    valid: impl Fn(&str) -> bool,
) -> Result<Arc<[Box<str>]>, InvalidScope> {
    let mut list = Vec::new();
    for name in names {
        let name = name.as_ref();
        if !valid(name) || list.len() == MAX_NAMES {
            return Err(InvalidScope);
        }
        list.push(Box::from(name));
    }
    list.sort_unstable();
    list.dedup();
    Ok(list.into())
}

#[cfg(feature = "_jwt")]
fn collect_usable<S: AsRef<str>>(
    names: impl IntoIterator<Item = S>,
    valid: impl Fn(&str) -> bool,
) -> Arc<[Box<str>]> {
    let usable = names.into_iter().filter(|name| valid(name.as_ref()));
    let mut list: Vec<Box<str>> = usable.map(|name| name.as_ref().into()).collect();
    list.sort_unstable();
    list.dedup();
    list.into()
}

/// A set of scopes, such as `jobs:read`. A scope that ends in `:*` stands for everything below it, and
/// `*` alone for every scope.
///
/// ```
/// use keyward::scope::ScopeSet;
///
/// let scopes = ScopeSet::new(["jobs:*", "keys:read"])?;
/// assert!(scopes.allows("jobs:read") && scopes.allows("jobs:read:own"));
/// assert!(!scopes.allows("jobs") && !scopes.allows("keys:write"));
/// assert!(ScopeSet::new(["jobs:write"])?.is_subset_of(&scopes));
/// assert!(!ScopeSet::new(["*"])?.is_subset_of(&scopes));
/// # Ok::<(), keyward::scope::InvalidScope>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ScopeSet(Arc<[Box<str>]>);

impl ScopeSet {
    /// The set of `scopes`; the empty set allows nothing.
    ///
    /// # Errors
    /// When a scope is not a scope token of RFC 6749 section 3.3 of at most 128 bytes, holds `*` other
    /// than as its last segment, or when there are more than 64.
    pub fn new<S: AsRef<str>>(scopes: impl IntoIterator<Item = S>) -> Result<Self, InvalidScope> {
        let valid = |scope: &str| {
            is_name(scope)
                && (!scope.contains('*') || !wildcard_prefix(scope).is_none_or(|p| p.contains('*')))
        };
        collect_names(scopes, valid).map(Self)
    }

    /// The set of those `names` that can be scopes, however many: an issuer's list is bounded by its token, and a
    /// name that nothing here can ask for gives no right.
    #[cfg(feature = "_jwt")]
    pub(crate) fn of_usable<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Self {
        Self(collect_usable(names, is_name))
    }

    /// The set that allows nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self(Arc::default())
    }

    /// Whether `required` is in the set, by name or by wildcard.
    #[must_use]
    pub fn allows(&self, required: &str) -> bool {
        self.0.iter().any(|held| covers(held, required))
    }

    /// Whether everything that this set allows is also allowed by `other`.
    #[must_use]
    pub fn is_subset_of(&self, other: &Self) -> bool {
        self.0.iter().all(|scope| other.allows(scope))
    }

    /// The scopes in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|scope| &**scope)
    }

    /// Whether the set allows nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `jobs:` for `jobs:*`, the empty text for `*`; `None` for a scope without wildcard.
fn wildcard_prefix(scope: &str) -> Option<&str> {
    let prefix = scope.strip_suffix('*')?;
    (prefix.is_empty() || prefix.ends_with(':')).then_some(prefix)
}

/// Whether holding `held` allows `required`, which may be a wildcard itself.
fn covers(held: &str, required: &str) -> bool {
    match wildcard_prefix(held) {
        Some(prefix) => required.len() > prefix.len() && required.starts_with(prefix),
        None => held == required,
    }
}

/// The roles of a user or a credential, such as `admin`: plain names, no wildcards.
///
/// ```
/// use keyward::scope::RoleSet;
///
/// let roles = RoleSet::new(["admin"])?;
/// assert!(roles.contains("admin") && !roles.contains("auditor"));
/// # Ok::<(), keyward::scope::InvalidScope>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RoleSet(Arc<[Box<str>]>);

impl RoleSet {
    /// The set of `roles`.
    ///
    /// # Errors
    /// When a role is not 1 to 128 printable ASCII characters, holds `*`, or there are more than 64.
    pub fn new<S: AsRef<str>>(roles: impl IntoIterator<Item = S>) -> Result<Self, InvalidScope> {
        collect_names(roles, |role| is_name(role) && !role.contains('*')).map(Self)
    }

    /// The set of those `names` that can be roles, however many; see [`ScopeSet::of_usable`].
    #[cfg(feature = "_jwt")]
    pub(crate) fn of_usable<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Self {
        Self(collect_usable(names, |name| is_name(name) && !name.contains('*')))
    }

    /// No role at all.
    #[must_use]
    pub fn empty() -> Self {
        Self(Arc::default())
    }

    /// Whether `role` is in the set.
    #[must_use]
    pub fn contains(&self, role: &str) -> bool {
        self.0.iter().any(|held| **held == *role)
    }

    /// Whether every role of this set is in `other`.
    #[must_use]
    pub fn is_subset_of(&self, other: &Self) -> bool {
        self.0.iter().all(|role| other.contains(role))
    }

    /// The roles that are in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self(self.0.iter().filter(|role| other.contains(role)).cloned().collect())
    }

    /// The roles that are in one of the sets.
    #[cfg(feature = "_jwt")]
    pub(crate) fn union(&self, other: &Self) -> Self {
        Self::of_usable(self.iter().chain(other.iter()))
    }

    /// The roles in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|role| &**role)
    }

    /// Whether there is no role in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Everything, or only what a set names. In JSON `null` is everything and a list is the set.
///
/// ```
/// use keyward::scope::{Grant, ScopeSet};
///
/// let all: Grant<ScopeSet> = Grant::All;
/// let some = Grant::Only(ScopeSet::new(["jobs:read"])?);
/// assert!(some.is_subset_of(&all) && !all.is_subset_of(&some));
/// assert!(all.allows("jobs:write") && !some.allows("jobs:write"));
/// # Ok::<(), keyward::scope::InvalidScope>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a third kind of grant would be a new right")]
pub enum Grant<T = ScopeSet> {
    /// No limit.
    All,
    /// Only what the set allows; the empty set allows nothing.
    Only(T),
}

impl Grant<ScopeSet> {
    /// Whether `scope` is granted.
    #[must_use]
    pub fn allows(&self, scope: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(set) => set.allows(scope),
        }
    }

    /// Whether this grants nothing that `other` does not.
    #[must_use]
    pub fn is_subset_of(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::All) => true,
            (Self::All, Self::Only(other)) => other.allows("*"),
            (Self::Only(set), Self::Only(other)) => set.is_subset_of(other),
        }
    }
}

impl<T: Serialize> Serialize for Grant<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_none(),
            Self::Only(set) => set.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Grant<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::<T>::deserialize(deserializer).map(|set| set.map_or(Self::All, Self::Only))
    }
}

macro_rules! set_of_names {
    ($set:ident) => {
        impl fmt::Debug for $set {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_set().entries(self.iter()).finish()
            }
        }

        impl Serialize for $set {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq(self.iter())
            }
        }

        impl<'de> Deserialize<'de> for $set {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(Vec::<String>::deserialize(deserializer)?).map_err(de::Error::custom)
            }
        }
    };
}
set_of_names!(ScopeSet);
set_of_names!(RoleSet);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_outside_the_grammar_are_refused() {
        for bad in ["", "a b", "a\"b", "a\\b", "é", "a\n", "jo*", "a:*:b", "**", "a:**", "*:a"] {
            assert_eq!(ScopeSet::new([bad]), Err(InvalidScope), "{bad:?}");
        }
        assert!(ScopeSet::new(["x".repeat(129)]).is_err());
        assert!(ScopeSet::new((0..65).map(|n| n.to_string())).is_err());
        assert!(RoleSet::new(["admin*"]).is_err());
        assert!(ScopeSet::new(["*", "a:*", "a:b", "https://example.org/scope"]).is_ok());
    }

    #[test]
    fn the_empty_set_allows_nothing() {
        assert!(!ScopeSet::empty().allows("a") && !ScopeSet::empty().allows("*"));
        assert!(!Grant::All.is_subset_of(&Grant::Only(ScopeSet::empty())));
        assert!(Grant::All.is_subset_of(&Grant::Only(ScopeSet::new(["*"]).unwrap())));
    }

    fn scope() -> impl Strategy<Value = String> {
        prop_oneof![Just("*".to_owned()), "[a-c](:[a-c]){0,2}(:\\*)?"]
    }

    fn scopes() -> impl Strategy<Value = ScopeSet> {
        prop::collection::vec(scope(), 0..5).prop_map(|list| ScopeSet::new(list).unwrap())
    }

    proptest! {
        #[test]
        fn a_subset_allows_no_scope_that_the_set_does_not(a in scopes(), b in scopes(), s in scope()) {
            if a.is_subset_of(&b) && a.allows(&s) {
                prop_assert!(b.allows(&s), "{a:?} {b:?} {s}");
            }
        }

        #[test]
        fn subset_is_reflexive_and_transitive(a in scopes(), b in scopes(), c in scopes()) {
            prop_assert!(a.is_subset_of(&a));
            if a.is_subset_of(&b) && b.is_subset_of(&c) {
                prop_assert!(a.is_subset_of(&c));
            }
        }

        #[test]
        fn json_comes_back_equal(a in scopes()) {
            let grant = Grant::Only(a);
            let text = serde_json::to_string(&grant).unwrap();
            prop_assert_eq!(serde_json::from_str::<Grant>(&text).unwrap(), grant);
        }
    }
}
