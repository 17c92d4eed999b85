//! Whether a text that a client chose tells something of a credential that it sent: then it must not be logged.

use http::HeaderValue;

use crate::auth::credential::MAX_BYTES;

/// The longest text that is compared, in bytes.
pub(super) const MAX_TEXT: usize = 512;

/// How long all lines with credentials may be to be compared, in bytes: the longest credential has room with its
/// scheme.
const MAX_LINES: usize = MAX_BYTES + 256;

/// How many words may stand in them. The parameters of Digest are a dozen.
const MAX_WORDS: usize = 64;

/// So many characters in common may be chance, or too few to matter.
const CHANCE: usize = 8;

/// Whether `text`, or a word of it, is a part of what stands in `lines` or was `presented`, or holds a word of them.
///
/// What is longer than anybody needs counts as if it did, unread: any client can send it, and must not get the time
/// that finding out would take.
pub(super) fn shares_text<'a>(
    presented: &str,
    lines: impl Iterator<Item = &'a HeaderValue>,
    text: &str,
) -> bool {
    let lines: Vec<_> = lines.map(HeaderValue::as_bytes).collect();
    if text.len() > MAX_TEXT || lines.iter().map(|line| line.len()).sum::<usize>() > MAX_LINES {
        return true;
    }
    let lines: Vec<_> = lines.into_iter().map(String::from_utf8_lossy).collect();
    let lines = || lines.iter().map(|line| &**line).chain([presented]);
    let words = || lines().flat_map(|line| line.split(|c: char| !c.is_ascii_graphic() || c == ','));
    let parts = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').chain([text]);
    let is_long = |part: &&str| part.len() > CHANCE;
    words().nth(MAX_WORDS).is_some()
        || words().filter(is_long).any(|word| text.contains(word))
        // In the whole line at once, so that the time does not grow with the number of its words.
        || parts.filter(is_long).any(|part| lines().any(|line| line.contains(part)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(presented: &str, lines: &[&str], text: &str) -> bool {
        let lines: Vec<_> = lines.iter().map(|line| HeaderValue::from_str(line).unwrap()).collect();
        shares_text(presented, lines.iter(), text)
    }

    #[test]
    fn a_part_of_either_in_the_other_is_found() {
        const KEY: &str = "kw_live_0123456789abcdef";
        for (name, presented, lines, text, expected) in [
            ("nothing", "", &[][..], "curl/8.5.0 (linux)", false),
            ("others", KEY, &["Basic abcdefghijkl"], "curl/8.5.0 (linux) 987654321", false),
            ("the whole", KEY, &[], "client kw_live_0123456789abcdef of mine", true),
            ("run together", KEY, &[], "xxkw_live_0123456789abcdefxx", true),
            ("a part", KEY, &[], "client 23456789ab of mine", true),
            ("a short part", KEY, &[], "client 23456789 of mine", false),
            ("of a line", "", &["Basic YWxpY2U6c2VjcmV0"], "client/YWxpY2U6c2", true),
            (
                "a word of a line",
                "",
                &["Digest a=\"b\", response=0123456789"],
                "for response=0123456789",
                true,
            ),
            ("of a later line", KEY, &["Basic a", "Bearer abc-def-ghi-jkl"], "c-def-ghi-j", true),
        ] {
            assert_eq!(shares(presented, lines, text), expected, "{name}");
        }
    }

    #[test]
    fn what_is_too_long_counts_unread() {
        let text = |length: usize| "a ".repeat(length / 2);
        let line = |words: usize| "b ".repeat(words - 1) + "b";
        let long = "c".repeat(MAX_BYTES);
        assert!(!shares("", &[], &text(MAX_TEXT)) && shares("", &[], &text(MAX_TEXT + 2)));
        assert!(!shares("d", &[&line(MAX_WORDS - 1)], "text") && shares("d", &[&line(MAX_WORDS)], "text"));
        assert!(!shares("", &[&format!("Bearer {long}")], "text"));
        assert!(shares("", &[&long, &"d".repeat(300)], "text"));
    }
}
