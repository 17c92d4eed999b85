//! Secrets and what is kept of them: [`ApiKey`], [`TokenDigest`], [`Pepper`].
//!
//! A key has at least 160 random bits, so one round of SHA-256 is the right digest for it: slow password
//! hashes protect guessable secrets (NIST SP 800-63B, section 5.1.2.2; OWASP ASVS 6.5.2).

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The secret that a client presents. It exists in clear once: here, when it is made.
///
/// It is wiped from memory when dropped, cannot be cloned or serialized, and shows only its hint in
/// `Debug`. [`expose`](Self::expose) is the one way to the text.
///
/// ```
/// use keyward::token::KeyFormat;
///
/// let key = KeyFormat::default().generate()?;
/// assert!(key.expose().starts_with("kw_live_1"));
/// assert!(!format!("{key:?}").contains(key.expose()));
/// # Ok::<(), getrandom::Error>(())
/// ```
pub struct ApiKey(Zeroizing<String>);

impl ApiKey {
    pub(crate) fn new(text: Zeroizing<String>) -> Self {
        Self(text)
    }

    /// The key in clear: to show it to its owner once, never to log or store it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What lists may show: the beginning and the last four characters.
    #[must_use]
    pub fn hint(&self) -> Box<str> {
        mask(&self.0)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({})", self.hint())
    }
}

/// The first 12 and last 4 characters of a long secret; of a short one, nothing.
///
/// Of a key in keyward's default format this leaves more than 128 random bits in the dark.
pub(crate) fn mask(secret: &str) -> Box<str> {
    let ends = (secret.get(..12), secret.len().checked_sub(4).and_then(|last| secret.get(last..)));
    match ends {
        (Some(start), Some(end)) if secret.len() >= 40 => format!("{start}…{end}").into(),
        _ => "…".into(),
    }
}

/// `text` with every run of 30 or more letters, digits and underscores cut to its first four
/// characters. Client input that reaches a log line goes through here, since people paste keys anywhere.
pub(crate) fn without_secrets(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let run = rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
        let (word, tail) = rest.split_at(run);
        if run >= 30 {
            clean.extend(word.chars().take(4));
            clean.push('…');
        } else {
            clean.push_str(word);
        }
        let mut tail = tail.chars();
        clean.extend(tail.next());
        rest = tail.as_str();
    }
    clean
}

/// SHA-256 of an API key (HMAC-SHA-256 with a [`Pepper`]): all that a store keeps of it.
///
/// Equality takes the same time wherever two digests differ. `Debug` shows nothing of it.
///
/// ```
/// use keyward::secret::TokenDigest;
///
/// let digest = TokenDigest::of(b"abc");
/// assert_eq!(digest.as_bytes()[..4], [0xba, 0x78, 0x16, 0xbf]);
/// assert_eq!(digest, TokenDigest::from_bytes(*digest.as_bytes()));
/// ```
#[derive(Clone, Copy, Eq)]
pub struct TokenDigest([u8; 32]);

/// The longest message whose padding ends in the same block.
const SINGLE_BLOCK: usize = 55;

/// The initial hash value of SHA-256 (FIPS 180-4, section 5.3.3).
const SHA256_START: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

impl TokenDigest {
    /// SHA-256 of `secret`.
    #[must_use]
    #[inline]
    pub fn of(secret: &[u8]) -> Self {
        if secret.len() <= SINGLE_BLOCK {
            Self::of_short(secret)
        } else {
            Self(Sha256::digest(secret).into())
        }
    }

    /// SHA-256 of what fits into one block together with its padding, as keys do. The general way costs
    /// half as much again, for a buffer that is not needed here.
    #[inline]
    fn of_short(secret: &[u8]) -> Self {
        // Worked on in place, so that there is no other copy of the key to clear.
        let mut blocks = [[0; 64]];
        let [block] = &mut blocks;
        if let Some((text, [end, ..])) = block.split_at_mut_checked(secret.len()) {
            text.copy_from_slice(secret);
            *end = 0x80;
        }
        let bits = secret.len() as u64 * 8;
        if let Some(length) = block.last_chunk_mut::<8>() {
            *length = bits.to_be_bytes();
        }
        let mut state = SHA256_START;
        sha2::block_api::compress256(&mut state, &blocks);
        // The stack keeps no copy of the key.
        blocks = [[0; 64]];
        std::hint::black_box(&blocks);
        let mut digest = [0; 32];
        let (words, _) = digest.as_chunks_mut::<4>();
        for (to, from) in words.iter_mut().zip(state) {
            *to = from.to_be_bytes();
        }
        Self(digest)
    }

    /// A digest as a store kept it.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes to store. Whoever reads them cannot present them, but can recognize the key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight bytes: uniform already, so they index a table without being hashed again.
    #[inline]
    pub(crate) fn prefix(&self) -> u64 {
        self.words()[0]
    }

    #[inline]
    fn words(&self) -> [u64; 4] {
        let mut words = [0; 4];
        let (chunks, _) = self.0.as_chunks::<8>();
        for (word, chunk) in words.iter_mut().zip(chunks) {
            *word = u64::from_le_bytes(*chunk);
        }
        words
    }
}

impl PartialEq for TokenDigest {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        let [a, b, c, d] = self.words();
        let [e, f, g, h] = other.words();
        let difference = (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h);
        difference.ct_eq(&0).into()
    }
}

impl std::hash::Hash for TokenDigest {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.prefix());
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(…)")
    }
}

/// A server-side secret mixed into every digest, so that a stolen table of digests cannot be used to
/// test guesses. Lose it and every key is lost: keep it outside the database and its backups.
///
/// ```
/// use keyward::secret::Pepper;
///
/// assert!(Pepper::new(b"too short").is_err());
/// let pepper = Pepper::new(b"0f1e2d3c4b5a69788796a5b4c3d2e1f0")?;
/// assert_eq!(format!("{pepper:?}"), "Pepper(…)");
/// # Ok::<(), keyward::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Pepper(Hmac<Sha256>);

impl Pepper {
    /// A pepper of at least 32 bytes.
    ///
    /// # Errors
    /// When `secret` is shorter than 32 bytes or has fewer than 8 different ones.
    pub fn new(secret: &[u8]) -> Result<Self, crate::ConfigError> {
        let weak = secret.len() < 32 || distinct(secret) < 8;
        match Hmac::new_from_slice(secret) {
            Ok(keyed) if !weak => Ok(Self(keyed)),
            _ => Err(crate::ConfigError::new(
                "the pepper is too weak: give at least 32 random bytes, such as those of `openssl rand -hex 32`",
            )),
        }
    }

    /// HMAC-SHA-256 of `secret` (RFC 2104).
    #[must_use]
    pub fn digest(&self, secret: &[u8]) -> TokenDigest {
        let mut keyed = self.0.clone();
        keyed.update(secret);
        TokenDigest(keyed.finalize().into_bytes().into())
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pepper(…)")
    }
}

/// How many different bytes `text` holds.
pub(crate) fn distinct(text: &[u8]) -> usize {
    let mut seen = [false; 256];
    for byte in text {
        if let Some(slot) = seen.get_mut(usize::from(*byte)) {
            *slot = true;
        }
    }
    seen.iter().filter(|seen| **seen).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_equal_only_when_every_byte_is() {
        let digest = TokenDigest::of(b"key");
        for position in 0..32 {
            let mut bytes = *digest.as_bytes();
            bytes[position] ^= 0x80;
            assert_ne!(digest, TokenDigest::from_bytes(bytes), "byte {position}");
        }
        assert_eq!(digest, TokenDigest::of(b"key"));
    }

    #[test]
    fn short_and_long_secrets_have_the_same_digest_as_everywhere() {
        let text: Vec<u8> = (0u8..=255).collect();
        for length in 0..=200 {
            let expected: [u8; 32] = Sha256::digest(&text[..length]).into();
            assert_eq!(TokenDigest::of(&text[..length]).as_bytes(), &expected, "{length} bytes");
        }
    }

    #[test]
    fn a_pepper_changes_the_digest_and_matches_rfc_4231() {
        // Test case 1 has a short key, so this is its longer sibling, computed from the definition.
        let secret = *b"0123456789abcdefghijklmnopqrstuv";
        let mut inner = Sha256::new();
        let pad = |with: u8| {
            let mut block = [with; 64];
            for (b, s) in block.iter_mut().zip(secret) {
                *b ^= s;
            }
            block
        };
        inner.update(pad(0x36));
        inner.update(b"message");
        let mut outer = Sha256::new();
        outer.update(pad(0x5c));
        outer.update(inner.finalize());
        let expected: [u8; 32] = outer.finalize().into();
        let pepper = Pepper::new(&secret).unwrap();
        assert_eq!(pepper.digest(b"message").as_bytes(), &expected);
        assert_ne!(pepper.digest(b"message"), TokenDigest::of(b"message"));
    }

    #[test]
    fn nothing_long_and_random_stays_in_a_log_text() {
        let key = "kw_live_1abcdefghijklmnopqrstuvwxyz0123456789AB";
        for (text, clean) in [
            ("alice", "alice"),
            ("019a9d5a-7c00-7abc-8def-0123456789ab", "019a9d5a-7c00-7abc-8def-0123456789ab"),
            (key, "kw_l…"),
            (&format!("id/{key}?é{key}!"), "id/kw_l…?ékw_l…!"),
            ("ünï", "ünï"),
        ] {
            assert_eq!(without_secrets(text), clean);
        }
        assert_eq!(&*mask("short"), "…");
        assert_eq!(&*mask(key), "kw_live_1abc…89AB");
    }
}
