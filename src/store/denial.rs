//! What is denied beside single tokens: users who are suspended or gone, and JWTs before their end.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::{id::UserId, time::UnixTime};

/// Whether a user may do anything at all.
///
/// ```
/// use keyward::store::UserStatus;
///
/// assert_eq!(UserStatus::Offboarded.as_str(), "offboarded");
/// assert_eq!(UserStatus::from_name("suspended"), Some(UserStatus::Suspended));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UserStatus {
    /// Their credentials work.
    Active,
    /// Their credentials do not work until they are active again.
    Suspended,
    /// They are gone: their tokens are revoked, and no other credential works.
    Offboarded,
}

impl UserStatus {
    /// The stable name, such as `suspended`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Offboarded => "offboarded",
        }
    }

    /// The status with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Active, Self::Suspended, Self::Offboarded].into_iter().find(|status| status.as_str() == name)
    }
}

/// What is stored of a user. Of one who was never mentioned it is [`UserState::new`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UserState {
    /// Whose state it is.
    pub user: UserId,
    /// Whether they may do anything.
    pub status: UserStatus,
    /// JWTs that were issued by then do not count.
    pub jwts_not_before: Option<UnixTime>,
}

impl UserState {
    /// The state of `user` with this status.
    #[must_use]
    pub fn new(user: UserId, status: UserStatus) -> Self {
        Self { user, status, jwts_not_before: None }
    }

    /// With the time by which JWTs must not have been issued.
    #[must_use]
    pub fn with_jwts_not_before(mut self, at: Option<UnixTime>) -> Self {
        self.jwts_not_before = at;
        self
    }

    /// Whether the user's credentials may work.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.status == UserStatus::Active
    }

    /// What is to be stored where `stored` was: this status, and the later one of both times.
    ///
    /// ```
    /// use keyward::{UserId, store::{UserState, UserStatus}, time::UnixTime};
    ///
    /// let alice = UserId::new("alice")?;
    /// let stored = UserState::new(alice.clone(), UserStatus::Offboarded)
    ///     .with_jwts_not_before(Some(UnixTime::from_millis(7)));
    /// let restored = UserState::new(alice, UserStatus::Active).over(Some(&stored));
    /// assert!(restored.is_active() && restored.jwts_not_before == stored.jwts_not_before);
    /// # Ok::<(), keyward::id::InvalidUserId>(())
    /// ```
    #[must_use]
    pub fn over(&self, stored: Option<&Self>) -> Self {
        let before = stored.and_then(|stored| stored.jwts_not_before);
        Self { jwts_not_before: self.jwts_not_before.max(before), ..self.clone() }
    }
}

/// Names a JWT without telling which: SHA-256 over its issuer and id, each after its length.
///
/// ```
/// use keyward::store::JwtId;
///
/// let id = JwtId::of("https://issuer.example", "7");
/// assert_eq!(id, JwtId::from_bytes(*id.as_bytes()));
/// assert_ne!(JwtId::of("ab", "c"), JwtId::of("a", "bc"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JwtId([u8; 32]);

impl JwtId {
    /// The name of the JWT with the claims `iss` and `jti`.
    #[must_use]
    pub fn of(issuer: &str, jwt_id: &str) -> Self {
        let mut hash = Sha256::new();
        for text in [issuer, jwt_id] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        Self(hash.finalize().into())
    }

    /// The name with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for a store.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Shows nothing of it.
impl fmt::Debug for JwtId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JwtId(…)")
    }
}

/// A JWT that does not count any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct JwtRevocation {
    /// Which one.
    pub id: JwtId,
    /// When it ends by itself, and the revocation need not be known any longer.
    pub until: UnixTime,
}

impl JwtRevocation {
    /// Revokes the JWT `id`, which ends at `until`.
    #[must_use]
    pub const fn new(id: JwtId, until: UnixTime) -> Self {
        Self { id, until }
    }
}

/// All that a store denies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Denials {
    /// Users who are not active or have a time before which their JWTs do not count.
    pub users: Vec<UserState>,
    /// JWTs that are revoked and have not ended.
    pub jwts: Vec<JwtRevocation>,
}

impl Denials {
    /// These users and JWTs.
    #[must_use]
    pub fn new(users: Vec<UserState>, jwts: Vec<JwtRevocation>) -> Self {
        Self { users, jwts }
    }
}
