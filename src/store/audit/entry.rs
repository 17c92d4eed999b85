//! One entry of the chain, and the bytes that are hashed.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::Flaw;
use crate::{error::Refusal, event::Event, time::UnixTime};

/// SHA-256 of an audit entry and of the hash before it. `Display`, `FromStr` and serde use 64 hexadecimal digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ChainHash([u8; 32]);

impl ChainHash {
    /// What stands before the first entry.
    pub const ZERO: Self = Self([0; 32]);

    /// A hash as a store kept it.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes to store.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ChainHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for ChainHash {
    type Err = InvalidChainHead;

    fn from_str(text: &str) -> Result<Self, InvalidChainHead> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(InvalidChainHead);
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            let digits = text.get(2 * at..2 * at + 2).unwrap_or_default();
            *byte = u8::from_str_radix(digits, 16).map_err(|_| InvalidChainHead)?;
        }
        Ok(Self(bytes))
    }
}

/// The number and the hash of an entry: all that must be noted elsewhere to prove later that nothing before
/// it was changed. As text it is `17:` and 64 hexadecimal digits.
///
/// ```
/// use keyward::audit::ChainHead;
///
/// let noted = "17:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
/// assert_eq!(noted.parse::<ChainHead>()?.to_string(), noted);
/// # Ok::<(), keyward::audit::InvalidChainHead>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "a chain of this kind has no more")]
pub struct ChainHead {
    /// The entry's number; 0 before the first.
    pub number: u64,
    /// The entry's hash.
    pub hash: ChainHash,
}

/// A text that is no [`ChainHead`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a noted head of the audit log is a number, a colon, and 64 lower-case hexadecimal digits")]
#[non_exhaustive]
pub struct InvalidChainHead;

impl ChainHead {
    /// What stands before the first entry.
    pub const START: Self = Self { number: 0, hash: ChainHash::ZERO };
}

impl fmt::Display for ChainHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.number, self.hash)
    }
}

impl FromStr for ChainHead {
    type Err = InvalidChainHead;

    fn from_str(text: &str) -> Result<Self, InvalidChainHead> {
        let (number, hash) = text.split_once(':').ok_or(InvalidChainHead)?;
        Ok(Self { number: number.parse().map_err(|_| InvalidChainHead)?, hash: hash.parse()? })
    }
}

/// Both ends of the chain that is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a chain has two ends")]
pub struct ChainEnds {
    /// The last entry that was deleted: the first one that is stored follows it.
    pub anchor: ChainHead,
    /// The last entry.
    pub head: ChainHead,
}

/// A stored event, as it is stored: texts are what stands there, even if no event could hold them.
///
/// As JSON it is `number`, the members of an [`Event`], and `hash`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AuditEntry {
    /// Its place in the chain, from 1.
    pub number: u64,
    /// Which version of the encoding its hash is made of: 1. 0 is an entry that cannot be read.
    #[serde(skip)]
    pub version: u32,
    /// When it happened.
    pub at: UnixTime,
    /// The name of the event, such as `token.revoked`.
    pub event: Box<str>,
    /// Whether a person should look at it.
    pub alert: bool,
    /// `success`, `refused` or `failed`.
    pub outcome: Box<str>,
    /// Who did it, if known.
    pub actor: Option<Box<str>>,
    /// The e-mail address of who did it, if known.
    pub actor_email: Option<Box<str>>,
    /// Whose token or resource it was, if known.
    pub user_id: Option<Box<str>>,
    /// The token that it was about, or that was presented.
    pub token_id: Option<Box<str>>,
    /// The client's address, if known.
    pub client_ip: Option<Box<str>>,
    /// The request's id, if known.
    pub request_id: Option<Box<str>>,
    /// The exact reason of a refusal.
    pub refusal: Option<Box<str>>,
    /// The reason that an administrator gave, or details.
    pub reason: Option<Box<str>>,
    /// How many things it is about or events it stands for, as [`Event::count`] says; at most `i64::MAX`.
    pub count: Option<u64>,
    /// SHA-256 of the hash of the entry before it and of all the above.
    pub hash: ChainHash,
}

impl AuditEntry {
    /// The version of the encoding that this crate writes.
    pub const VERSION: u32 = 1;

    /// The event of an entry that cannot be read.
    pub const UNREADABLE: &str = "audit.unreadable";

    /// An entry with nothing in it, to be filled from what is stored.
    #[must_use]
    pub fn empty(number: u64) -> Self {
        Self {
            number,
            version: Self::VERSION,
            at: UnixTime::EPOCH,
            event: "".into(),
            alert: false,
            outcome: "".into(),
            actor: None,
            actor_email: None,
            user_id: None,
            token_id: None,
            client_ip: None,
            request_id: None,
            refusal: None,
            reason: None,
            count: None,
            hash: ChainHash::ZERO,
        }
    }

    /// Stands for an entry that is there and cannot be read.
    #[must_use]
    pub fn unreadable(number: u64) -> Self {
        let event = Self::UNREADABLE.into();
        Self { version: 0, event, alert: true, outcome: "failed".into(), ..Self::empty(number) }
    }

    /// The entry for `event` that follows `head`.
    #[must_use]
    pub fn following(head: &ChainHead, event: &Event) -> Self {
        let kind = event.kind;
        let mut entry = Self {
            at: event.at,
            event: kind.name().into(),
            alert: kind.is_alert(),
            outcome: kind.outcome().as_str().into(),
            actor: event.actor.as_ref().map(|user| user.as_str().into()),
            actor_email: event.actor_email.clone(),
            user_id: event.owner.as_ref().map(|user| user.as_str().into()),
            token_id: event.token.map(|token| token.to_string().into()),
            client_ip: event.client_ip.map(|ip| ip.to_string().into()),
            request_id: event.request_id.clone(),
            refusal: kind.refusal().map(|refusal| Refusal::as_str(refusal).into()),
            reason: event.reason.clone(),
            count: event.count().map(|count| count.min(i64::MAX as u64)),
            ..Self::empty(head.number.saturating_add(1))
        };
        entry.hash = entry.hash_after(&head.hash);
        entry
    }

    /// Its number and hash, which the next entry follows.
    #[must_use]
    pub const fn head(&self) -> ChainHead {
        ChainHead { number: self.number, hash: self.hash }
    }

    /// Whether it is what was written after `head`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_after(&self, head: &ChainHead) -> Result<(), Flaw> {
        if self.number != head.number.saturating_add(1) {
            return Err(Flaw::Missing);
        }
        if self.version != Self::VERSION {
            return Err(Flaw::Unreadable);
        }
        if self.hash == self.hash_after(&head.hash) { Ok(()) } else { Err(Flaw::Altered) }
    }

    /// The entries for `events` after `head`, and where the chain ends then. `last` is the highest number that is stored:
    /// rows that somebody else has put behind the end must not keep anything from being written.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(in crate::store) fn chain(
        mut head: ChainHead,
        last: Option<i64>,
        events: &[Event],
    ) -> (Vec<Self>, ChainHead) {
        head.number = head.number.max(last.and_then(|last| u64::try_from(last).ok()).unwrap_or(0));
        let mut entries = Vec::with_capacity(events.len());
        for event in events {
            let entry = Self::following(&head, event);
            head = entry.head();
            entries.push(entry);
        }
        (entries, head)
    }

    /// The hash that it has if it is what was written after an entry with the hash `previous`.
    pub(in crate::store) fn hash_after(&self, previous: &ChainHash) -> ChainHash {
        let mut hash = Encoder(Sha256::new());
        hash.0.update(previous.as_bytes());
        hash.integer(i64::from(self.version));
        hash.integer(self.number.cast_signed());
        hash.integer(self.at.as_millis());
        hash.text(&self.event);
        hash.integer(i64::from(self.alert));
        hash.text(&self.outcome);
        for text in [
            &self.actor,
            &self.actor_email,
            &self.user_id,
            &self.token_id,
            &self.client_ip,
            &self.request_id,
            &self.refusal,
            &self.reason,
        ] {
            hash.option(text.as_deref(), Encoder::text);
        }
        hash.option(self.count.map(u64::cast_signed), Encoder::integer);
        ChainHash(hash.0.finalize().into())
    }
}

/// Each value after a byte that says what it is, texts after their length: no two entries have one encoding.
struct Encoder(Sha256);

impl Encoder {
    fn option<T>(&mut self, value: Option<T>, encode: impl FnOnce(&mut Self, T)) {
        match value {
            None => self.0.update([0]),
            Some(value) => encode(self, value),
        }
    }

    fn integer(&mut self, value: i64) {
        self.0.update([1]);
        self.0.update(value.to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.0.update([2]);
        self.0.update((text.len() as u64).to_be_bytes());
        self.0.update(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Alert, EventKind},
        id::{TokenId, UserId},
    };

    /// An event with something in each column.
    pub(super) fn full() -> Event {
        let id: TokenId = "019a9d5a-7c00-7abc-8def-0123456789ab".parse().unwrap();
        Event::new(EventKind::AccessRefused(Refusal::Revoked))
            .by(&UserId::new("alice").unwrap())
            .with_email(Some("alice@example.org".into()))
            .owned_by(&UserId::new("bob").unwrap())
            .token(id)
            .at_ip(Some([192, 0, 2, 7].into()))
            .in_request(Some("r-1"))
            .because("because")
    }

    /// Computed by other means from the description in the documentation.
    #[test]
    fn the_encoding_never_changes() {
        let first = AuditEntry::following(&ChainHead::START, &full());
        assert_eq!(
            first.hash.to_string(),
            "76bc582f4d80db5f3e2fb1a08d14fbb443ff7540d6b16fae431025ab14563874"
        );
        let second =
            AuditEntry::following(&first.head(), &Event::new(EventKind::Alert(Alert::ForeignAccess)));
        assert_eq!(
            second.head().to_string(),
            "2:bcab270d291a892ec46463252d732a17bb4f3ac31a9369ff55e9c84e55249430"
        );
        let counted = AuditEntry::following(&second.head(), &Event::new(EventKind::TokensRevoked(u64::MAX)));
        assert_eq!(counted.count, Some(i64::MAX as u64));
        assert_eq!(counted.check_after(&second.head()), Ok(()));
    }

    #[test]
    fn every_member_takes_part_and_none_can_stand_for_another() {
        let head = ChainHead { number: 16, hash: ChainHash([7; 32]) };
        let entry = AuditEntry { count: Some(1), ..AuditEntry::following(&head, &full()) };
        let entry = AuditEntry { hash: entry.hash_after(&head.hash), ..entry };
        assert_eq!(entry.check_after(&head), Ok(()));
        let changes: [fn(&mut AuditEntry); 20] = [
            |entry| entry.at = UnixTime::from_millis(1),
            |entry| entry.event = "access.granted".into(),
            |entry| entry.alert = true,
            |entry| entry.outcome = "success".into(),
            |entry| entry.actor = None,
            |entry| entry.actor_email = Some("alice@example.com".into()),
            |entry| entry.user_id = Some("".into()),
            |entry| entry.token_id = None,
            |entry| entry.client_ip = Some("192.0.2.8".into()),
            |entry| entry.request_id = Some("r-2".into()),
            |entry| entry.refusal = Some("expired".into()),
            |entry| entry.reason = Some("becaus".into()),
            |entry| entry.count = Some(0),
            |entry| entry.count = None,
            |entry| entry.hash.0[31] ^= 1,
            |entry| std::mem::swap(&mut entry.actor, &mut entry.user_id),
            |entry| std::mem::swap(&mut entry.reason, &mut entry.refusal),
            |entry| (entry.event, entry.outcome) = ("access.refusedr".into(), "efused".into()),
            |entry| {
                (entry.actor, entry.actor_email) = (Some("alicea".into()), Some("lice@example.org".into()))
            },
            |entry| (entry.actor_email, entry.user_id) = (entry.user_id.take(), entry.actor_email.take()),
        ];
        for (at, change) in changes.iter().enumerate() {
            let mut changed = entry.clone();
            change(&mut changed);
            assert_eq!(changed.check_after(&head), Err(Flaw::Altered), "change {at}");
        }
        for (number, version, flaw) in [
            (16, 1, Flaw::Missing),
            (18, 1, Flaw::Missing),
            (17, 0, Flaw::Unreadable),
            (17, 2, Flaw::Unreadable),
        ] {
            let changed = AuditEntry { number, version, ..entry.clone() };
            assert_eq!(changed.check_after(&head), Err(flaw));
        }
        assert_eq!(AuditEntry::unreadable(17).check_after(&head), Err(Flaw::Unreadable));
    }

    #[test]
    fn heads_are_read_as_they_are_written_only() {
        let head = ChainHead { number: u64::MAX, hash: ChainHash([0xa5; 32]) };
        assert_eq!(head.to_string().parse(), Ok(head));
        let zeros = "0".repeat(64);
        for bad in [
            "",
            "1",
            "1:",
            &zeros,
            &format!(":{zeros}"),
            &format!("-1:{zeros}"),
            &format!("1:{zeros}0"),
            &format!("1:{}", "A".repeat(64)),
            &format!("1:{}é", "0".repeat(62)),
            &format!("18446744073709551616:{zeros}"),
        ] {
            assert_eq!(bad.parse::<ChainHead>(), Err(InvalidChainHead), "{bad}");
        }
    }
}
