//! What a process writes to the others: `1 <sender> <denials> <digests>`, as text.

use std::fmt::Write;

use crate::{secret::TokenDigest, store::Notice};

/// Where any token may have changed.
const ANY: &str = "any";

pub(super) fn write(sender: &str, notice: &Notice) -> String {
    let mut text = format!("1 {sender} {}", u8::from(notice.denials));
    match &notice.digests {
        None => text.extend([" ", ANY]),
        Some(digests) => {
            for digest in digests {
                text.push(' ');
                for byte in digest.as_bytes() {
                    let _ = write!(text, "{byte:02x}");
                }
            }
        }
    }
    text
}

/// What somebody else than `own` says. Of what cannot be read, such as a message of a later version, anything may be
/// meant.
pub(super) fn read(own: &str, text: &[u8]) -> Option<Notice> {
    let mut words = std::str::from_utf8(text).unwrap_or_default().split(' ');
    let (version, sender, denials) = (words.next(), words.next(), words.next());
    if version != Some("1") {
        return Some(Notice::anything());
    }
    if sender == Some(own) {
        return None;
    }
    let digests = words.map(digest).collect::<Option<Vec<_>>>();
    let notice = digests.map_or_else(Notice::anything, Notice::of);
    Some(if denials == Some("0") { notice } else { notice.with_denials() })
}

fn digest(text: &str) -> Option<TokenDigest> {
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(TokenDigest::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_by_others() {
        let digests = |count: u8| Notice::of((0..count).map(|n| TokenDigest::of(&[n])).collect());
        for notice in
            [digests(0), digests(1), digests(3), digests(2).with_denials(), digests(0).with_denials()]
        {
            let text = write("me", &notice);
            assert_eq!(read("you", text.as_bytes()), Some(notice), "{text}");
            assert_eq!(read("me", text.as_bytes()), None, "{text}");
        }
        let text = write("me", &Notice::anything());
        assert_eq!(read("you", text.as_bytes()), Some(Notice::anything()), "{text}");
    }

    #[test]
    fn what_cannot_be_read_means_anything() {
        let short = format!("1 me 1 {}", "a".repeat(63));
        let foreign = format!("1 me 1 {}", "x".repeat(64));
        for text in ["", "2 me 0", "hello", "1 me 1 any", &short, &foreign, "1 me 1 ü", "\u{0}"] {
            assert_eq!(read("you", text.as_bytes()), Some(Notice::anything()), "{text:?}");
        }
        assert_eq!(read("you", b"\xff\xfe"), Some(Notice::anything()));
    }
}
