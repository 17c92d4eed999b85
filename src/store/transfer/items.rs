//! What a store gives out and takes in: sections, items, and what became of each.

use std::fmt;

use crate::{
    id::{TokenId, UserId},
    store::{JwtId, JwtRevocation, UserState, UserStatus},
    time::UnixTime,
    token::TokenRecord,
};

/// The parts in which the contents of a store are copied, in the order in which they are: what denies comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Section {
    /// JWTs that are revoked, in ascending order of their [`JwtId`]s. One that has ended may be left out.
    RevokedJwts,
    /// Whoever has a state or ever had a token, in ascending order of the bytes of their ids.
    Users,
    /// The tokens, in ascending order of their ids.
    Tokens,
}

/// Up to where a store gave out a section. What stands in it is the store's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position(Box<[u8]>);

impl Position {
    /// The position that these bytes stand for.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The bytes, as they were given.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// One step along a section.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Exported {
    /// What could be read.
    pub items: Vec<Item>,
    /// What is there and could not.
    pub damaged: Vec<Damaged>,
    /// After which position the next step goes on; `None` when this was the last one.
    pub next: Option<Position>,
    /// How many there are in the section, with the first step and where that is cheap to say.
    pub total: Option<u64>,
}

impl Exported {
    /// These items; the next step goes on after `next`.
    #[must_use]
    pub fn new(items: Vec<Item>, next: Option<Position>) -> Self {
        Self { items, next, ..Self::default() }
    }

    /// How many were looked at.
    pub(super) fn looked_at(&self) -> u64 {
        (self.items.len() + self.damaged.len()) as u64
    }
}

/// Something that a store cannot read any more.
///
/// Where only what it denies is lost, the store also gives an item in its place that denies everything.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damaged {
    /// What it is called, such as `token 019a9d5a-7c00-7abc-8def-0123456789ab of alice`.
    pub name: Box<str>,
    /// Why it cannot be read.
    pub reason: Box<str>,
}

impl Damaged {
    /// What is called `name` cannot be read for this reason.
    #[must_use]
    pub fn new(name: impl Into<Box<str>>, reason: impl Into<Box<str>>) -> Self {
        Self { name: name.into(), reason: reason.into() }
    }
}

/// One of the things that a store keeps.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Item {
    /// Of [`Section::RevokedJwts`].
    Jwt(JwtRevocation),
    /// Of [`Section::Users`].
    User(KnownUser),
    /// Of [`Section::Tokens`].
    Token(Box<StoredToken>),
}

/// In the order of the section.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Jwt(JwtId),
    User(UserId),
    Token(TokenId),
}

impl Item {
    pub(super) fn key(&self) -> Key {
        match self {
            Self::Jwt(jwt) => Key::Jwt(jwt.id),
            Self::User(known) => Key::User(known.user.clone()),
            Self::Token(token) => Key::Token(token.record.id),
        }
    }
}

/// What it is called in a report.
impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Jwt(jwt) => {
                f.write_str("JWT ")?;
                jwt.id.as_bytes().iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::User(known) => write!(f, "user {}", known.user),
            Self::Token(token) => write!(f, "token {} of {}", token.record.id, token.record.owner),
        }
    }
}

/// A token as a store keeps it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct StoredToken {
    /// The record, with its use.
    pub record: TokenRecord,
    /// When to look again whether [a warning is due](crate::store::Warnings::judge); `None` is never. A store that
    /// knows nothing of warnings gives [`UnixTime::EPOCH`].
    pub warn_from: Option<UnixTime>,
}

impl StoredToken {
    /// The token of `record`. Where it does not matter when to look at it again, all stores say the same.
    #[must_use]
    pub fn new(record: TokenRecord, warn_from: Option<UnixTime>) -> Self {
        let gone = record.revoked_at.is_some() || record.successor.is_some();
        let warn_from = match record.expires_at {
            _ if gone => None,
            None => Some(UnixTime::EPOCH),
            Some(_) => warn_from,
        };
        Self { record, warn_from }
    }

    /// What a store answers that is to take this token in and holds `stored` under its id. Only
    /// [`Imported::Changed`] changes something: then all of it is to be as it is here. A token takes the place of
    /// what it was itself before, and of nothing else; what is revoked or replaced stays so.
    #[must_use]
    pub fn over(&self, stored: &Self) -> Imported {
        let (new, old) = (&self.record, &stored.record);
        if self == stored {
            Imported::Same
        } else if identity(new) != identity(old) {
            Imported::Refused(Conflict::OtherToken)
        } else if !may_have_become(old, new) {
            Imported::Refused(Conflict::ChangedThere)
        } else if old.request_count > new.request_count || old.last_used > new.last_used {
            Imported::Refused(Conflict::UsedThere)
        } else {
            Imported::Changed
        }
    }

    /// Whether it works less than a token usually does, so that it must not come late.
    pub(super) fn takes_away(&self) -> bool {
        let record = &self.record;
        record.revoked_at.is_some() || record.disabled_at.is_some() || record.successor.is_some()
    }
}

/// What no change touches.
fn identity(record: &TokenRecord) -> impl PartialEq + '_ {
    (
        (record.id, record.digest, &record.owner, record.class, &record.roles, &record.hint),
        (record.created_at, record.created_ip, record.created_by, record.honeytoken, record.hard_end),
    )
}

/// What only changes with the revision.
fn settings(record: &TokenRecord) -> impl PartialEq + '_ {
    (
        (&record.name, &record.scopes, &record.allowed_ips, &record.metadata, record.limits),
        (record.disabled_at, record.revoked_at, record.successor, record.parent, record.rolling),
    )
}

fn may_have_become(old: &TokenRecord, new: &TokenRecord) -> bool {
    let stays_revoked = old.revoked_at.is_none() || old.revoked_at == new.revoked_at;
    let stays_replaced = old.successor.is_none() || old.successor == new.successor;
    let renewed = new.rolling && old.expires_at <= new.expires_at;
    let unchanged = settings(old) == settings(new) && (old.expires_at == new.expires_at || renewed);
    stays_revoked
        && stays_replaced
        && (old.revision < new.revision || (old.revision == new.revision && unchanged))
}

/// What a store knows of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KnownUser {
    /// Whose it is.
    pub user: UserId,
    /// Whether a token of theirs was ever stored, whatever became of it, so that nobody else can
    /// [register](crate::store::TokenStore::register) as them. Not kept of [made up](UserId::is_made_up) ids.
    pub had_token: bool,
    /// The state that was set.
    pub state: Option<UserState>,
}

impl KnownUser {
    /// What is known of `user`.
    #[must_use]
    pub fn new(user: UserId, had_token: bool, state: Option<UserState>) -> Self {
        Self { user, had_token, state }
    }

    /// One whose state cannot be read: nothing opens for them until somebody has looked at it.
    #[must_use]
    pub fn unreadable(user: UserId, had_token: bool) -> Self {
        let state = UserState::new(user.clone(), UserStatus::Suspended);
        Self { user, had_token, state: Some(state) }
    }

    /// What a store is to keep that takes this in and holds `stored` of the same user, and what it answers: the
    /// stricter of both, so that no state that was set there is lost.
    #[must_use]
    pub fn over(&self, stored: &Self) -> (Self, Imported) {
        let state = match (&self.state, &stored.state) {
            (Some(new), Some(old)) => {
                let stricter = if rank(old.status) > rank(new.status) { old } else { new };
                Some(UserState {
                    jwts_not_before: new.jwts_not_before.max(old.jwts_not_before),
                    ..stricter.clone()
                })
            }
            (new, old) => new.as_ref().or(old.as_ref()).cloned(),
        };
        let merged = Self { user: self.user.clone(), had_token: self.had_token || stored.had_token, state };
        let imported = if merged.state != self.state {
            Imported::Refused(Conflict::Stricter)
        } else if merged == *stored {
            Imported::Same
        } else {
            Imported::Changed
        };
        (merged, imported)
    }
}

fn rank(status: UserStatus) -> u8 {
    match status {
        UserStatus::Active => 0,
        UserStatus::Suspended => 1,
        UserStatus::Offboarded => 2,
    }
}

/// What became of an item that a store was to take in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Imported {
    /// There was none.
    Added,
    /// What it was itself before gave way.
    Changed,
    /// It was there already.
    Same,
    /// There is something else in its place, which stayed.
    Refused(Conflict),
}

impl Imported {
    /// What a store answers that is to take in `jwt` and holds one of the same id that ends at `stored`.
    #[must_use]
    pub fn of_jwt(jwt: &JwtRevocation, stored: Option<UnixTime>) -> Self {
        match stored {
            None => Self::Added,
            Some(stored) if stored < jwt.until => Self::Changed,
            Some(stored) if stored == jwt.until => Self::Same,
            Some(_) => Self::Refused(Conflict::Stricter),
        }
    }
}

/// Why a store does not take in an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Conflict {
    /// Another token there has the same secret.
    #[error("another token there has the same secret")]
    DigestTaken,
    /// The token of this id there is another one.
    #[error("the token of this id there is another one")]
    OtherToken,
    /// The token was changed there, and not here, or not in the same way.
    #[error("it was changed there in another way")]
    ChangedThere,
    /// The token was used there; or a power failure took the last uses here.
    #[error("it was used there more than here")]
    UsedThere,
    /// What denies there denies more.
    #[error("it is denied more there than here")]
    Stricter,
    /// What is there cannot be read.
    #[error("what is there in its place cannot be read")]
    Unreadable,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        secret::TokenDigest,
        store::{Change, Rotation, Usage},
        watch::Habits,
    };

    fn at(millis: i64) -> UnixTime {
        UnixTime::from_millis(1_800_000_000_000 + millis)
    }

    fn record() -> TokenRecord {
        let id = "019a9d5a-7c00-7abc-8def-0123456789ab".parse().unwrap();
        let record = TokenRecord::new(id, TokenDigest::of(b"key"), UserId::new("alice").unwrap(), at(0));
        TokenRecord { expires_at: Some(at(900)), rolling: true, revision: 3, ..record }
    }

    fn over(new: TokenRecord, old: TokenRecord) -> Imported {
        StoredToken::new(new, None).over(&StoredToken::new(old, None))
    }

    #[test]
    fn a_token_takes_the_place_of_what_it_was_before_and_not_the_other_way_round() {
        let applied = |change: Change| {
            let mut record = record();
            change.apply(&mut record).unwrap();
            record
        };
        let used = |usage: Usage| {
            let mut record = record();
            usage.apply(&mut record);
            record
        };
        let mut rotated = record();
        Rotation::new(TokenRecord { id: TokenId::from_bytes([7; 16]).unwrap(), ..record() }, at(5), 3)
            .apply(&mut rotated)
            .unwrap();
        let habits = Some(Box::new(Habits::default()));
        for (name, later) in [
            ("renamed", applied(Change { name: Some("n".into()), ..Change::default() })),
            ("switched off", applied(Change { disabled_at: Some(Some(at(1))), ..Change::default() })),
            ("revoked", applied(Change::revoke(at(1)))),
            ("ends earlier", applied(Change { expires_by: Some(at(8)), ..Change::default() })),
            ("replaced", rotated),
            ("used", used(Usage::new(record().id, 1, at(1)))),
            ("renewed", used(Usage { renewed_to: Some(at(990)), ..Usage::new(record().id, 1, at(1)) })),
        ] {
            assert_eq!(over(later.clone(), record()), Imported::Changed, "{name}");
            assert_eq!(over(later.clone(), later.clone()), Imported::Same, "{name}");
            assert!(matches!(over(record(), later), Imported::Refused(_)), "{name}, the other way round");
        }
        assert_eq!(over(TokenRecord { habits, ..record() }, record()), Imported::Changed, "what is noticed");
    }

    #[test]
    fn what_was_done_there_stays() {
        let newer = TokenRecord { revision: 9, ..record() };
        for (name, there, conflict) in [
            ("revoked", TokenRecord { revoked_at: Some(at(1)), ..record() }, Conflict::ChangedThere),
            (
                "replaced",
                TokenRecord { successor: TokenId::from_bytes([7; 16]), ..record() },
                Conflict::ChangedThere,
            ),
            ("used", TokenRecord { request_count: 1, ..record() }, Conflict::UsedThere),
            ("used later", TokenRecord { last_used: Some(at(1)), ..record() }, Conflict::UsedThere),
            ("of a later revision", TokenRecord { revision: 10, ..record() }, Conflict::ChangedThere),
            (
                "of another secret",
                TokenRecord { digest: TokenDigest::of(b"b"), ..record() },
                Conflict::OtherToken,
            ),
            (
                "of somebody else",
                TokenRecord { owner: UserId::new("bob").unwrap(), ..record() },
                Conflict::OtherToken,
            ),
            (
                "of other roles",
                TokenRecord { roles: crate::scope::Grant::Only(crate::scope::RoleSet::empty()), ..record() },
                Conflict::OtherToken,
            ),
            ("a trap", TokenRecord { honeytoken: true, ..record() }, Conflict::OtherToken),
        ] {
            assert_eq!(over(newer.clone(), there), Imported::Refused(conflict), "{name}");
        }
        let same_revision = TokenRecord { name: "n".into(), ..record() };
        assert_eq!(over(record(), same_revision), Imported::Refused(Conflict::ChangedThere));
    }

    #[test]
    fn of_two_states_of_a_user_the_stricter_one_stays() {
        use UserStatus::{Active, Offboarded, Suspended};
        let known = |had_token, state: Option<(UserStatus, Option<i64>)>| {
            let user = UserId::new("alice").unwrap();
            let state = state.map(|(status, before)| {
                UserState::new(user.clone(), status).with_jwts_not_before(before.map(at))
            });
            KnownUser::new(user, had_token, state)
        };
        let stricter = Imported::Refused(Conflict::Stricter);
        for (new, old, merged, imported) in [
            (known(true, None), known(false, None), known(true, None), Imported::Changed),
            (known(false, None), known(true, None), known(true, None), Imported::Same),
            (
                known(true, Some((Suspended, None))),
                known(true, None),
                known(true, Some((Suspended, None))),
                Imported::Changed,
            ),
            (
                known(true, Some((Active, None))),
                known(true, Some((Suspended, None))),
                known(true, Some((Suspended, None))),
                stricter,
            ),
            (
                known(true, None),
                known(true, Some((Active, None))),
                known(true, Some((Active, None))),
                stricter,
            ),
            (
                known(true, Some((Suspended, Some(5)))),
                known(true, Some((Offboarded, Some(3)))),
                known(true, Some((Offboarded, Some(5)))),
                stricter,
            ),
            (
                known(true, Some((Offboarded, Some(5)))),
                known(true, Some((Offboarded, Some(9)))),
                known(true, Some((Offboarded, Some(9)))),
                stricter,
            ),
            (
                known(true, Some((Offboarded, Some(9)))),
                known(true, Some((Suspended, Some(9)))),
                known(true, Some((Offboarded, Some(9)))),
                Imported::Changed,
            ),
        ] {
            assert_eq!(new.over(&old), (merged, imported), "{new:?} over {old:?}");
        }
    }
}
