//! The compact form of a signed token: three parts of base64url with dots between them.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::json::Malformed;

/// A text that has the shape of a signed token, told before anything is decoded: it begins as the base64url of
/// `{` does, and is cut at its first and its last dot.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) token: &'a [u8],
    header: &'a [u8],
    payload: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Parts<'a> {
    pub(super) fn of(token: &'a [u8]) -> Option<Self> {
        let begins = matches!(token, [b'e', b'w'..=b'z' | b'0'..=b'9' | b'-' | b'_', ..]);
        let first = token.iter().take_while(|_| begins).position(|byte| *byte == b'.')?;
        let last = token.iter().rposition(|byte| *byte == b'.')?;
        let (header, payload) = (token.get(..first)?, token.get(first + 1..last)?);
        Some(Self { token, header, payload, signature: token.get(last + 1..)? })
    }
}

/// A signed token, decoded and not yet believed (RFC 7515, section 7.1).
pub(super) struct Compact<'a> {
    /// What is signed: header and payload as they were sent.
    pub(super) signing_input: &'a [u8],
    /// Header, payload and signature.
    decoded: Vec<u8>,
    header_end: usize,
    payload_end: usize,
}

impl<'a> Compact<'a> {
    /// Three parts, none of them empty, in base64url without padding, each written in the one canonical way:
    /// otherwise the same token could be sent in many forms.
    pub(super) fn decode(parts: &Parts<'a>) -> Result<Self, Malformed> {
        let signed = parts.header.len() + 1 + parts.payload.len();
        let signing_input = parts.token.get(..signed).ok_or(Malformed)?;
        // What the decoder reserves for the last part is a little more than that part takes.
        let mut decoded = Vec::with_capacity(parts.token.len() / 4 * 3 + 8);
        let header_end = decode(parts.header, &mut decoded)?;
        let payload_end = decode(parts.payload, &mut decoded)?;
        decode(parts.signature, &mut decoded)?;
        Ok(Self { signing_input, decoded, header_end, payload_end })
    }

    pub(super) fn header(&self) -> &[u8] {
        self.decoded.get(..self.header_end).unwrap_or_default()
    }

    pub(super) fn payload(&self) -> &[u8] {
        self.decoded.get(self.header_end..self.payload_end).unwrap_or_default()
    }

    pub(super) fn signature(&self) -> &[u8] {
        self.decoded.get(self.payload_end..).unwrap_or_default()
    }
}

/// Appends what `part` says; where that ends.
fn decode(part: &[u8], decoded: &mut Vec<u8>) -> Result<usize, Malformed> {
    if part.is_empty() {
        return Err(Malformed);
    }
    URL_SAFE_NO_PAD.decode_vec(part, decoded).map_err(|_| Malformed)?;
    Ok(decoded.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_three_canonical_parts_are_decoded() {
        let is_good = |token: &[u8]| Parts::of(token).is_some_and(|parts| Compact::decode(&parts).is_ok());
        assert!(is_good(b"e30.e30.AAAA"));
        for bad in [
            "",
            ".",
            "..",
            "...",
            "e30",
            "e30.e30",
            "e30.e30.",
            "e30..AAAA",
            ".e30.AAAA",
            "e30.e30.AAAA.",
            "e30.e30.AAAA.AAAA",
            "e30.e30.AAAA.AAAA.AAAA",
            "e30=.e30.AAAA",
            "e30.e30.AA==",
            "e30.e30.AA+A",
            "e30.e30.AA/A",
            "e30.e30.AA A",
            "e30.e30.AAAA\n",
            " e30.e30.AAAA",
            "e30.e30.AA\0A",
            "e30.e30.A",
            // Bits that the last character has too many must be zero.
            "e31.e30.AAAA",
            "e30.e31.AAAA",
            "e30.e30.AB",
            "{\"a\":1}.e30.AAAA",
        ] {
            assert!(!is_good(bad.as_bytes()), "{bad:?}");
        }
        assert!(!is_good(&vec![b'.'; 1 << 20]));
        assert!(!is_good(&[b"e3", &vec![b'.'; 1 << 20][..]].concat()));
    }

    #[test]
    fn tokens_are_told_by_their_shape() {
        for (text, is) in [
            ("eyJhbGciOiJIUzI1NiJ9.e30.AAAA", true),
            ("ewog.e30.A", true),
            ("eyJ.e30", false),
            ("e.e.e", false),
            ("eyJ.a.b.c.d", true),
            ("ey.", false),
            ("kw_live_1abc", false),
            ("abc.def.ghi", false),
            ("", false),
        ] {
            assert_eq!(Parts::of(text.as_bytes()).is_some(), is, "{text}");
        }
    }
}
