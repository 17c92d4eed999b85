//! Tokens from a configured list.

use std::{collections::HashMap, fmt, sync::Arc};

use async_trait::async_trait;

use crate::{
    error::ConfigError,
    id::{TokenId, UserId},
    secret::{TokenDigest, distinct},
    store::{Change, Owner, Page, Rotation, StoreError, StoreErrorKind, TokenStore, Usage},
    time::UnixTime,
    token::{KeyFormat, Shape, TokenRecord, is_bearer_token},
};

/// A fixed list of tokens, usually from an environment variable: `admin:tok1,analyst:tok2,tok3`.
///
/// An entry is `label:token` or a token alone. The label is the user id; several tokens may have the
/// same. A token without label belongs to the user `static:` followed by 16 hex digits of its digest.
/// Only digests are kept. Present such a token like an API key; see
/// [`StaticAuth`](crate::auth::StaticAuth).
///
/// The list is also a [`TokenStore`] that cannot be written.
///
/// ```
/// use keyward::store::StaticList;
///
/// let list = StaticList::parse("admin:3f5c0a9e7b1d4826a0c3e5f7192b4d6e,analyst:91b7d2c4e6f8a0b3c5d7e9f1a2b4c6d8")?;
/// assert_eq!(list.len(), 2);
/// assert!(StaticList::parse("admin:secret").is_err());
/// # Ok::<(), keyward::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct StaticList {
    tokens: Arc<HashMap<TokenDigest, TokenRecord>>,
}

impl StaticList {
    /// Reads a comma-separated list. White space around entries is ignored.
    ///
    /// # Errors
    /// When the list or an entry is empty, a label is no user id, or a token is repeated, has other characters than a bearer token (RFC 6750, section 2.1), looks like a JWT
    /// or an issued API key, or is too easy to guess. The sentence names the entry by its position and
    /// never repeats a token.
    pub fn parse(list: &str) -> Result<Self, ConfigError> {
        let mut tokens = HashMap::new();
        for (position, entry) in list.split(',').enumerate() {
            let record = parse_entry(entry.trim()).map_err(|problem| {
                ConfigError::new(format!("entry {} of the static token list {problem}", position + 1))
            })?;
            if tokens.insert(record.digest, record).is_some() {
                return Err(ConfigError::new(format!(
                    "entry {} of the static token list repeats an earlier token; give each its own",
                    position + 1
                )));
            }
        }
        Ok(Self { tokens: Arc::new(tokens) })
    }

    /// How many tokens are on the list.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Never true: an empty list is refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The users that have a token here.
    pub fn users(&self) -> impl Iterator<Item = &UserId> {
        self.tokens.values().map(|record| &record.owner)
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = &TokenRecord> {
        self.tokens.values()
    }
}

/// The record of one entry, or how the entry is wrong.
fn parse_entry(entry: &str) -> Result<TokenRecord, &'static str> {
    let (label, token) = match entry.split_once(':') {
        Some((label, token)) => (Some(label.trim()), token.trim()),
        None => (None, entry),
    };
    check_strength(token)?;
    let digest = TokenDigest::of(token.as_bytes());
    let owner = match label {
        Some(label) => {
            UserId::new(label).map_err(|_| "has a label that is no user id; write `label:token`")?
        }
        None => {
            let (start, _) = digest.as_bytes().split_at(8);
            let hex: String = start.iter().map(|byte| format!("{byte:02x}")).collect();
            UserId::from_valid(format!("static:{hex}"))
        }
    };
    let id = static_id(&digest).ok_or("cannot be named; use another token")?;
    let mut record = TokenRecord::new(id, digest, owner, UnixTime::EPOCH);
    record.name = label.unwrap_or("static token").into();
    record.hint = "…".into();
    Ok(record)
}

/// The least that a token must be worth: what NIST SP 800-63B asks for before a plain hash is enough.
const MIN_BITS: f64 = 112.0;

fn check_strength(token: &str) -> Result<(), &'static str> {
    if token.is_empty() {
        return Err("has no token; remove it or write `label:token`");
    }
    if !is_bearer_token(token.as_bytes()) {
        return Err(
            "has a token with characters that no header can carry; use letters, digits and -._~+/ only, with = at the end",
        );
    }
    if token.starts_with("eyJ") && token.bytes().filter(|b| *b == b'.').count() == 2 {
        return Err("looks like a JWT; a static token must be opaque");
    }
    if KeyFormat::default().shape(token.as_bytes()) != Shape::Foreign {
        return Err(
            "starts like an API key that keyward issues; it needs no entry here, or another beginning",
        );
    }
    let has = |group: fn(&u8) -> bool| token.bytes().any(|byte| group(&byte));
    let groups = [
        (has(u8::is_ascii_digit), 10.0),
        (has(|b| (b'a'..=b'f').contains(b)), 6.0),
        (has(|b| (b'g'..=b'z').contains(b)), 20.0),
        (has(u8::is_ascii_uppercase), 26.0),
    ];
    let alphabet: f64 = groups.iter().filter(|(has, _)| *has).map(|(_, size)| size).sum();
    let bits = period(token.as_bytes()) as f64 * alphabet.max(1.0).log2();
    if bits < MIN_BITS || distinct(token.as_bytes()) < 8 {
        return Err("is too easy to guess; make one with `openssl rand -hex 32`");
    }
    Ok(())
}

/// The length of the shortest text whose repetition gives `token`.
fn period(token: &[u8]) -> usize {
    let repeats = |length: usize| token.iter().zip(token.iter().skip(length)).all(|(a, b)| a == b);
    (1..token.len()).find(|length| repeats(*length)).unwrap_or(token.len())
}

/// An id that follows from the digest, marked as a UUID of version 8 (RFC 9562, section 5.8).
fn static_id(digest: &TokenDigest) -> Option<TokenId> {
    let mut bytes = [0; 16];
    let (_, end) = digest.as_bytes().split_at(16);
    bytes.copy_from_slice(end);
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    TokenId::from_bytes(bytes)
}

impl fmt::Debug for StaticList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticList").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[async_trait]
impl TokenStore for StaticList {
    async fn insert(&self, _: &TokenRecord, _: Option<u32>) -> Result<(), StoreError> {
        Err(StoreErrorKind::ReadOnly.into())
    }

    async fn find(&self, digest: &TokenDigest) -> Result<Option<TokenRecord>, StoreError> {
        Ok(self.tokens.get(digest).cloned())
    }

    async fn get(&self, owner: Owner<'_>, id: TokenId) -> Result<Option<TokenRecord>, StoreError> {
        let own = |record: &&TokenRecord| record.id == id && owner.includes(&record.owner);
        Ok(self.records().find(own).cloned())
    }

    async fn list(&self, owner: Owner<'_>, page: Page) -> Result<Vec<TokenRecord>, StoreError> {
        let wanted = |record: &&TokenRecord| {
            owner.includes(&record.owner) && page.before.is_none_or(|before| record.id < before)
        };
        let mut records: Vec<_> = self.records().filter(wanted).cloned().collect();
        records.sort_unstable_by_key(|record| std::cmp::Reverse(record.id));
        records.truncate(page.limit as usize);
        Ok(records)
    }

    async fn count(&self, owner: Owner<'_>) -> Result<u64, StoreError> {
        Ok(self.records().filter(|record| owner.includes(&record.owner)).count() as u64)
    }

    async fn update(&self, _: Owner<'_>, _: TokenId, _: &Change) -> Result<Option<TokenRecord>, StoreError> {
        Err(StoreErrorKind::ReadOnly.into())
    }

    async fn rotate(
        &self,
        _: Owner<'_>,
        _: TokenId,
        _: &Rotation,
    ) -> Result<Option<TokenRecord>, StoreError> {
        Err(StoreErrorKind::ReadOnly.into())
    }

    async fn revoke_all(&self, _: &UserId, _: UnixTime) -> Result<Vec<TokenDigest>, StoreError> {
        Err(StoreErrorKind::ReadOnly.into())
    }

    /// Use of static tokens is not kept.
    async fn record_usage(&self, _: &[Usage]) -> Result<(), StoreError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRONG: &str = "3f5c0a9e7b1d4826a0c3e5f7192b4d6e";
    const OTHER: &str = "91b7d2c4e6f8a0b3c5d7e9f1a2b4c6d8";

    #[test]
    fn entries_have_labels_or_a_name_from_their_digest() {
        let list = StaticList::parse(&format!(" admin:{STRONG} , {OTHER}")).unwrap();
        let mut users: Vec<_> = list.users().map(ToString::to_string).collect();
        users.sort();
        assert_eq!(users[0], "admin");
        let digest = TokenDigest::of(OTHER.as_bytes());
        let hex: String = digest.as_bytes()[..8].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(users[1], format!("static:{hex}"));
        assert!(!format!("{list:?}").contains(STRONG));
    }

    #[test]
    fn bad_lists_are_refused_with_a_sentence_that_names_no_token() {
        let issued = KeyFormat::default().generate().unwrap();
        for (list, says) in [
            (String::new(), "has no token"),
            (",".into(), "has no token"),
            (format!("admin:{STRONG},"), "entry 2 of the static token list has no token"),
            ("admin:".into(), "has no token"),
            (format!(":{STRONG}"), "no user id"),
            (format!("admin:{STRONG},analyst:{STRONG}"), "repeats an earlier token"),
            ("admin:secret".into(), "too easy to guess"),
            ("x".repeat(64), "too easy to guess"),
            ("abcdefgh".repeat(8), "too easy to guess"),
            ("0123456789012345678901234567890123456789".into(), "too easy to guess"),
            (format!("admin:{STRONG} x"), "characters that no header can carry"),
            (format!("admin:{STRONG}é"), "characters that no header can carry"),
            (format!("eyJ{STRONG}.{STRONG}.{STRONG}"), "looks like a JWT"),
            (issued.expose().to_owned(), "needs no entry"),
            (format!("ci:kw_live_{STRONG}"), "needs no entry"),
        ] {
            let error = StaticList::parse(&list).unwrap_err().to_string();
            assert!(error.contains(says), "{list}: {error}");
            assert!(!error.contains(STRONG) && !error.contains("secret"), "{error}");
        }
    }
}
