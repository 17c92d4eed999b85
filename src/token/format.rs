//! The text of an API key: how it is made, and how a wrong one is told before anything is hashed.

use zeroize::Zeroizing;

use crate::{error::ConfigError, secret::ApiKey};

/// The version that stands in every key. A later format takes another one.
const VERSION: u8 = b'1';
/// Random characters after the version: 31 of base62 are 184 bits.
const RANDOM: usize = 31;
const CHECKSUM: usize = 6;
/// What follows the prefix and its underscore.
const BODY: usize = 1 + RANDOM;
const TAIL: usize = BODY + CHECKSUM;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// What an API key looks like: `<prefix>_<version><random><checksum>`, for example
/// `kw_live_1Pq…`.
///
/// After the prefix come the version `1`, 31 random base62 characters (184 bits) and the CRC-32 of all
/// that precedes, as six base62 characters. There is no character that ends a double-click selection.
/// The checksum is no security: it lets a mistyped or made-up key be refused without hashing it and
/// without asking the store, and lets scanners tell a real leaked key.
///
/// ```
/// use keyward::token::{KeyFormat, Shape};
///
/// let format = KeyFormat::new("acme_live")?;
/// let key = format.generate()?;
/// assert_eq!(format.shape(key.expose().as_bytes()), Shape::WellFormed);
/// assert_eq!(format.shape(b"acme_live_1mistyped"), Shape::Broken);
/// assert_eq!(format.shape(b"somebody else's"), Shape::Foreign);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct KeyFormat {
    /// The prefix of new keys first, then others still accepted; each with its underscore.
    prefixes: Vec<Prefix>,
}

#[derive(Clone, Debug)]
struct Prefix {
    text: Box<str>,
    /// The checksum's state after the prefix, so that a check starts there.
    crc: u32,
}

/// What [`KeyFormat::shape`] tells of a presented text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "callers must handle each")]
pub enum Shape {
    /// None of this format's prefixes: somebody else's credential.
    Foreign,
    /// The right prefix with a wrong length, version or checksum: no key that was ever issued.
    Broken,
    /// A key that may exist.
    WellFormed,
}

impl KeyFormat {
    /// Keys that start with `prefix` and an underscore.
    ///
    /// # Errors
    /// When `prefix` is not 2 to 16 lower-case letters, digits and single underscores between them,
    /// starting with a letter.
    pub fn new(prefix: &str) -> Result<Self, ConfigError> {
        Ok(Self { prefixes: vec![Prefix::new(prefix)?] })
    }

    /// Accepts keys with `prefix` as well, for example those issued before the prefix was changed.
    ///
    /// # Errors
    /// As for [`KeyFormat::new`].
    pub fn accept_prefix(mut self, prefix: &str) -> Result<Self, ConfigError> {
        self.prefixes.push(Prefix::new(prefix)?);
        Ok(self)
    }

    /// A new key from the operating system's randomness.
    ///
    /// # Errors
    /// When the operating system gives none.
    pub fn generate(&self) -> Result<ApiKey, getrandom::Error> {
        let Some(prefix) = self.prefixes.first() else { return Err(getrandom::Error::UNEXPECTED) };
        let mut text = Zeroizing::new(String::with_capacity(prefix.text.len() + TAIL));
        text.push_str(&prefix.text);
        text.push(char::from(VERSION));
        let full = text.len() + RANDOM;
        let mut pool = Zeroizing::new([0; 2 * RANDOM]);
        while text.len() < full {
            getrandom::fill(&mut *pool)?;
            // 248 is the largest multiple of 62 in a byte: what lies above would favour some characters.
            let fair = pool.iter().filter(|byte| **byte < 248);
            let characters = fair.filter_map(|byte| ALPHABET.get(usize::from(byte % 62)));
            let missing = full - text.len();
            text.extend(characters.take(missing).map(|byte| char::from(*byte)));
        }
        let mut sum = crc32(!0, text.as_bytes()) ^ !0;
        let mut digits = [b'0'; CHECKSUM];
        for digit in digits.iter_mut().rev() {
            *digit = ALPHABET.get((sum % 62) as usize).copied().unwrap_or(b'0');
            sum /= 62;
        }
        text.extend(digits.map(char::from));
        Ok(ApiKey::new(text))
    }

    /// Tells a key of this format from a broken or foreign one, without a digest and without a store.
    #[must_use]
    #[inline]
    pub fn shape(&self, presented: &[u8]) -> Shape {
        for prefix in &self.prefixes {
            if let Some(tail) = presented.strip_prefix(prefix.text.as_bytes()) {
                return prefix.shape_of_tail(tail);
            }
        }
        Shape::Foreign
    }
}

impl KeyFormat {
    /// Whether `text` holds a key anywhere, as people paste them into wrong fields.
    pub(crate) fn finds_key(&self, text: &str) -> bool {
        let mut words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.any(|word| self.shape(word.as_bytes()) == Shape::WellFormed)
    }
}

impl Default for KeyFormat {
    /// Keys that start with `kw_live_`.
    fn default() -> Self {
        Self { prefixes: vec![Prefix::unchecked("kw_live")] }
    }
}

/// A bearer token of RFC 6750, section 2.1: `1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="`.
pub(crate) fn is_bearer_token(token: &[u8]) -> bool {
    let padding = token.iter().rev().take_while(|byte| **byte == b'=').count();
    let (body, _) = token.split_at(token.len() - padding);
    let in_body = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'+' | b'/');
    !body.is_empty() && body.iter().all(in_body)
}

impl Prefix {
    fn new(prefix: &str) -> Result<Self, ConfigError> {
        let allowed = prefix.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        let fits = (2..=16).contains(&prefix.len()) && prefix.starts_with(|c: char| c.is_ascii_lowercase());
        if !allowed || !fits || prefix.ends_with('_') || prefix.contains("__") {
            return Err(ConfigError::new(format!(
                "the key prefix {prefix:?} must be 2 to 16 lower-case letters, digits and single underscores \
                 between them, and start with a letter, such as `acme_live`"
            )));
        }
        Ok(Self::unchecked(prefix))
    }

    fn unchecked(prefix: &str) -> Self {
        let text = format!("{prefix}_");
        Self { crc: crc32(!0, text.as_bytes()), text: text.into() }
    }

    #[inline]
    fn shape_of_tail(&self, tail: &[u8]) -> Shape {
        let Some((body, digits)) = tail.split_first_chunk::<BODY>() else { return Shape::Broken };
        let Ok(digits) = <&[u8; CHECKSUM]>::try_from(digits) else { return Shape::Broken };
        let sum = crc32(self.crc, body) ^ !0;
        if body.first() == Some(&VERSION) && decode_checksum(digits) == Some(sum) {
            Shape::WellFormed
        } else {
            Shape::Broken
        }
    }
}

/// The number that six base62 digits stand for; `None` if a byte is no digit.
#[inline]
#[expect(clippy::indexing_slicing, reason = "a byte indexes a table of 256")]
fn decode_checksum(digits: &[u8; CHECKSUM]) -> Option<u32> {
    let mut sum = 0u64;
    let mut invalid = 0u8;
    for digit in digits {
        let value = DIGITS[usize::from(*digit)];
        invalid |= value;
        sum = sum * 62 + u64::from(value);
    }
    if invalid & NO_DIGIT == 0 { u32::try_from(sum).ok() } else { None }
}

const NO_DIGIT: u8 = 0x80;
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
static DIGITS: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut i = 0;
    while i < ALPHABET.len() {
        values[ALPHABET[i] as usize] = i as u8;
        i += 1;
    }
    values
};

/// CRC-32 (IEEE 802.3, reflected) of `bytes`, continued from `state`. Eight bytes a step: every request
/// with a key pays for this, and a step of one byte costs twice as much.
#[inline]
#[expect(clippy::indexing_slicing, reason = "a byte indexes tables of 256")]
fn crc32(mut state: u32, bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let [a, b, c, d, e, f, g, h] = (u64::from_le_bytes(*word) ^ u64::from(state)).to_le_bytes();
        state = CRC[7][usize::from(a)]
            ^ CRC[6][usize::from(b)]
            ^ CRC[5][usize::from(c)]
            ^ CRC[4][usize::from(d)]
            ^ CRC[3][usize::from(e)]
            ^ CRC[2][usize::from(f)]
            ^ CRC[1][usize::from(g)]
            ^ CRC[0][usize::from(h)];
    }
    for byte in rest {
        state = CRC[0][usize::from(state as u8 ^ byte)] ^ (state >> 8);
    }
    state
}

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
static CRC: [[u32; 256]; 8] = {
    let mut tables = [[0; 256]; 8];
    let mut i = 0;
    while i < 256 {
        let mut value = i as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0xedb8_8320 } else { value >> 1 };
            bit += 1;
        }
        tables[0][i] = value;
        i += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut i = 0;
        while i < 256 {
            let before = tables[table - 1][i];
            tables[table][i] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            i += 1;
        }
        table += 1;
    }
    tables
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn prefixes_are_checked_with_a_sentence() {
        for bad in
            ["", "k", "K_live", "1kw", "_kw", "kw_", "kw__live", "kw-live", "a23456789012345678", "kw é"]
        {
            let error = KeyFormat::new(bad).unwrap_err().to_string();
            assert!(error.contains("must be 2 to 16 lower-case"), "{bad:?}: {error}");
        }
        assert!(KeyFormat::new("acme_live_eu").is_ok());
    }

    #[test]
    fn every_character_is_used_and_no_key_repeats() {
        let format = KeyFormat::default();
        let keys: HashSet<String> =
            (0..20_000).map(|_| format.generate().unwrap().expose().to_owned()).collect();
        assert_eq!(keys.len(), 20_000);
        let mut counts = [0u32; 256];
        for key in &keys {
            assert_eq!(format.shape(key.as_bytes()), Shape::WellFormed);
            for byte in key[9..9 + RANDOM].bytes() {
                counts[usize::from(byte)] += 1;
            }
        }
        let expected = 20_000.0 * RANDOM as f64 / 62.0;
        for character in ALPHABET {
            let seen = f64::from(counts[usize::from(*character)]);
            assert!((seen - expected).abs() < 6.0 * expected.sqrt(), "{character}: {seen} of {expected}");
        }
    }

    #[test]
    fn any_change_of_one_character_breaks_a_key() {
        let format = KeyFormat::default();
        let key = format.generate().unwrap();
        let key = key.expose().as_bytes();
        for position in 8..key.len() {
            for byte in 0..=255u8 {
                let mut changed = key.to_vec();
                changed[position] = byte;
                assert_eq!(format.shape(&changed) == Shape::WellFormed, changed == key);
            }
        }
        for swap in 9..key.len() - 1 {
            let mut changed = key.to_vec();
            changed.swap(swap, swap + 1);
            assert_eq!(format.shape(&changed) == Shape::WellFormed, changed == key);
        }
        for end in 0..key.len() {
            assert_ne!(format.shape(&key[..end]), Shape::WellFormed);
        }
        assert_eq!(format.shape(&[key, b"0"].concat()), Shape::Broken);
        assert_eq!(format.shape(&[b" ", key].concat()), Shape::Foreign);
    }

    #[test]
    fn an_old_prefix_stays_valid_where_it_is_accepted() {
        let old = KeyFormat::default().generate().unwrap();
        let format = KeyFormat::new("acme").unwrap();
        assert_eq!(format.shape(old.expose().as_bytes()), Shape::Foreign);
        let format = format.accept_prefix("kw_live").unwrap();
        assert_eq!(format.shape(old.expose().as_bytes()), Shape::WellFormed);
        assert!(format.generate().unwrap().expose().starts_with("acme_1"));
    }

    /// A key made by the first release must be read by every later one.
    #[test]
    fn a_key_of_release_0_1_is_well_formed() {
        let key = b"kw_live_10123456789ABCDEFGHIJKLMNOPQRSTU1G9zja";
        let sum = crc32fast::hash(&key[..40]);
        let mut digits = String::new();
        for power in (0..6).rev() {
            digits.push(char::from(ALPHABET[(sum / 62u32.pow(power) % 62) as usize]));
        }
        assert_eq!(&key[40..], digits.as_bytes(), "{digits}");
        assert_eq!(KeyFormat::default().shape(key), Shape::WellFormed);
    }

    proptest! {
        #[test]
        fn the_checksum_is_crc_32(bytes in prop::collection::vec(any::<u8>(), 0..100), split in 0usize..100) {
            let split = split.min(bytes.len());
            let state = crc32(crc32(!0, &bytes[..split]), &bytes[split..]);
            prop_assert_eq!(state ^ !0, crc32fast::hash(&bytes));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_ne!(KeyFormat::default().shape(&bytes), Shape::WellFormed);
            let mut prefixed = b"kw_live_1".to_vec();
            prefixed.extend(bytes);
            prop_assert_eq!(KeyFormat::default().shape(&prefixed), Shape::Broken);
        }
    }
}
