//! Names of users and tokens: [`UserId`] and [`TokenId`].

use std::{
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::{NonNilUuid, Uuid};

use crate::time::UnixTime;

/// Who owns a token or a resource: an opaque text that the application chooses.
///
/// 1 to 255 bytes of UTF-8, no control or text-direction characters, no white space at either end.
/// Compared byte for byte: `Alice` and `alice` are two users. Cloning is one atomic increment.
///
/// ```
/// use keyward::UserId;
///
/// let alice = UserId::new("alice")?;
/// assert_eq!(alice.as_str(), "alice");
/// assert!(UserId::new("").is_err());
/// assert!(UserId::new("a\nb").is_err());
/// # Ok::<(), keyward::id::InvalidUserId>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(Arc<str>);

/// A text that cannot be a [`UserId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a user id is 1 to 255 bytes without control characters and without white space at its ends")]
#[non_exhaustive]
pub struct InvalidUserId;

/// Beginnings of ids that keyward gives out itself: to its own users, and to those of whom nothing is known.
const RESERVED: [&str; 3] = ["keyward:", "static:", PUBLIC];

/// How the ids begin of users who registered without one, and of static tokens without a label.
const MADE_UP: [&str; 2] = [PUBLIC, "static:"];

/// Of users of whom nothing is known.
pub(crate) const PUBLIC: &str = "public:";

impl UserId {
    /// The longest user id, in bytes.
    pub const MAX_BYTES: usize = 255;

    /// Checks `id` and takes it over.
    ///
    /// # Errors
    /// When `id` is empty, longer than 255 bytes, starts or ends with white space, or holds a control
    /// or text-direction character.
    pub fn new(id: impl AsRef<str>) -> Result<Self, InvalidUserId> {
        let id = id.as_ref();
        if Self::is_valid(id) { Ok(Self(id.into())) } else { Err(InvalidUserId) }
    }

    /// Whether `id` can be a user id.
    pub(crate) fn is_valid(id: &str) -> bool {
        let fits = !id.is_empty() && id.len() <= Self::MAX_BYTES;
        fits && id.trim().len() == id.len() && is_printable(id)
    }

    /// For ids that keyward itself makes and that are valid by construction.
    pub(crate) fn from_valid(id: String) -> Self {
        Self(id.into())
    }

    /// Whether it is one that keyward gives out itself, so that nobody can take it and nobody else knows of it.
    pub(crate) fn is_reserved(&self) -> bool {
        RESERVED.iter().any(|prefix| self.0.starts_with(prefix))
    }

    /// Whether keyward made the id up for somebody of whom it knows nothing, from a hash or at random. Nobody
    /// [registers](crate::TokenManager::register) under it, so it need not be kept when its tokens are gone.
    ///
    /// ```
    /// use keyward::UserId;
    ///
    /// assert!(UserId::new("public:0f2c7d52-9a3e-4f0b-8d3c-5a1e7b9c2d46")?.is_made_up());
    /// assert!(!UserId::new("alice")?.is_made_up());
    /// # Ok::<(), keyward::id::InvalidUserId>(())
    /// ```
    #[must_use]
    pub fn is_made_up(&self) -> bool {
        MADE_UP.iter().any(|prefix| self.0.starts_with(prefix))
    }

    /// Whether anybody gets such an id who asks for a key without a credential, and as many as they like.
    pub(crate) fn is_anybody(&self) -> bool {
        self.0.starts_with(PUBLIC)
    }

    /// The id as the application gave it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Control characters and those that change the direction of the text around them: what could forge a
/// log line or a table row.
pub(crate) fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

/// Whether nothing in `text` is unprintable.
pub(crate) fn is_printable(text: &str) -> bool {
    // Most texts are plain, and are seen to be at a glance.
    text.bytes().all(|byte| matches!(byte, b' '..=b'~')) || !text.chars().any(is_unprintable)
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for UserId {
    type Err = InvalidUserId;

    fn from_str(id: &str) -> Result<Self, InvalidUserId> {
        Self::new(id)
    }
}

impl Serialize for UserId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for UserId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Names one stored token: a UUID of version 7 (RFC 9562), so ids sort by the time they were made.
///
/// It is public, unlike the API key: it opens nothing, and it does not tell how many tokens exist.
/// Text is accepted only in the canonical form, 36 lower-case characters with hyphens.
///
/// ```
/// use keyward::TokenId;
///
/// let id: TokenId = "019a9d5a-7c00-7abc-8def-0123456789ab".parse()?;
/// assert_eq!(id.to_string(), "019a9d5a-7c00-7abc-8def-0123456789ab");
/// assert!("019A9D5A-7C00-7ABC-8DEF-0123456789AB".parse::<TokenId>().is_err());
/// # Ok::<(), keyward::id::InvalidTokenId>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(NonNilUuid);

/// A text that is not the canonical form of a [`TokenId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token id is a UUID of 36 lower-case characters, such as 019a9d5a-7c00-7abc-8def-0123456789ab")]
#[non_exhaustive]
pub struct InvalidTokenId;

impl TokenId {
    /// The id with these 16 bytes; `None` if they are all zero.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        NonNilUuid::new(Uuid::from_bytes(bytes)).map(Self)
    }

    /// The 16 bytes of the id, in the order in which ids sort.
    #[must_use]
    pub fn into_bytes(self) -> [u8; 16] {
        self.0.get().into_bytes()
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({self})")
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.get().as_hyphenated().fmt(f)
    }
}

impl FromStr for TokenId {
    type Err = InvalidTokenId;

    fn from_str(text: &str) -> Result<Self, InvalidTokenId> {
        let canonical = text.len() == 36 && !text.bytes().any(|b| b.is_ascii_uppercase());
        let id = if canonical { Uuid::try_parse(text).ok() } else { None };
        id.and_then(NonNilUuid::new).map(Self).ok_or(InvalidTokenId)
    }
}

impl Serialize for TokenId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TokenId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Makes token ids that grow within this process even when the clock stands still or steps back, so
/// that "newest first" is an order and not a guess (RFC 9562, section 6.2, method 1).
#[derive(Debug, Default)]
pub(crate) struct TokenIds {
    /// The last stamp given out: 48 bits of milliseconds, then a 12-bit counter.
    last: AtomicU64,
}

impl TokenIds {
    /// The next id. The counter starts anywhere in the lower half of its range for each millisecond.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub(crate) fn next(&self, now: UnixTime) -> Result<TokenId, getrandom::Error> {
        let mut random = [0; 10];
        getrandom::fill(&mut random)?;
        let [start_high, start_low, tail @ ..] = random;
        let start = u64::from(u16::from_be_bytes([start_high, start_low]) & 0x07ff);
        let millis = u64::try_from(now.as_millis()).unwrap_or(0) & 0xffff_ffff_ffff;
        let wanted = (millis << 12) | start;
        let before = self
            .last
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(wanted.max(last + 1)))
            .unwrap_or(wanted);
        let stamp = wanted.max(before + 1);
        let high = ((stamp >> 12) << 16) | 0x7000 | (stamp & 0x0fff);
        let low = (u64::from_be_bytes(tail) & 0x3fff_ffff_ffff_ffff) | 0x8000_0000_0000_0000;
        let id = Uuid::from_u64_pair(high, low);
        NonNilUuid::new(id).map(TokenId).ok_or(getrandom::Error::UNEXPECTED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_ids_refuse_what_could_forge_a_line() {
        for bad in [
            "",
            " a",
            "a ",
            "a\0",
            "a\r\nb",
            "\u{1b}[2J",
            "a\u{202e}b",
            "\u{feff}a",
            "\u{2028}",
            "a\u{61c}b",
            "\u{e0001}",
        ] {
            assert_eq!(UserId::new(bad), Err(InvalidUserId), "{bad:?}");
        }
        assert!(UserId::new("x".repeat(255)).is_ok());
        assert!(UserId::new("x".repeat(256)).is_err());
        for good in ["a b", "müller@example.org", "auth0|5f7c8ec7", "用户", "keyward:admin"] {
            assert_eq!(UserId::new(good).map(|id| id.to_string()), Ok(good.to_owned()));
        }
    }

    #[test]
    fn token_ids_are_version_7_grow_and_never_repeat() {
        let ids = TokenIds::default();
        let mut last = None;
        for step in 0..10_000i64 {
            // The clock stands still, runs, and steps back.
            let now =
                UnixTime::from_millis(1_700_000_000_000 + (step / 50) * if step > 5000 { -1 } else { 1 });
            let id = ids.next(now).unwrap();
            assert!(Some(id) > last);
            assert_eq!(id.0.get().get_version_num(), 7);
            assert_eq!(id.0.get().get_variant(), uuid::Variant::RFC4122);
            last = Some(id);
        }
    }

    #[test]
    fn token_ids_are_read_in_canonical_form_only() {
        let canonical = "019a9d5a-7c00-7abc-8def-0123456789ab";
        assert!(canonical.parse::<TokenId>().is_ok());
        for bad in [
            "",
            "1",
            " 019a9d5a-7c00-7abc-8def-0123456789ab",
            "{019a9d5a-7c00-7abc-8def-0123456789ab}",
            "019a9d5a7c007abc8def0123456789ab",
            "urn:uuid:019a9d5a-7c00-7abc-8def-0123456789ab",
            "019A9D5A-7C00-7ABC-8DEF-0123456789AB",
            "00000000-0000-0000-0000-000000000000",
            "019a9d5a-7c00-7abc-8def-0123456789a\u{e4}",
        ] {
            assert_eq!(bad.parse::<TokenId>(), Err(InvalidTokenId), "{bad:?}");
        }
        assert_eq!(size_of::<Option<TokenId>>(), 16);
    }
}
