//! The compact form of a signed token: three parts of base64url with dots between them.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::json::Malformed;

/// Whether `token` looks like a signed token: decided before anything is decoded. It begins as the base64url
/// of `{` does, and has two dots.
pub(super) fn is_jwt_shaped(token: &[u8]) -> bool {
    let begins = matches!(token, [b'e', b'w'..=b'z' | b'0'..=b'9' | b'-' | b'_', ..]);
    begins && token.iter().filter(|byte| **byte == b'.').count() == 2
}

/// A signed token, decoded and not yet believed (RFC 7515, section 7.1).
pub(super) struct Compact<'a> {
    /// What is signed: header and payload as they were sent.
    pub(super) signing_input: &'a [u8],
    pub(super) header: Vec<u8>,
    pub(super) payload: Vec<u8>,
    pub(super) signature: Vec<u8>,
}

impl<'a> Compact<'a> {
    /// Three parts, none of them empty, in base64url without padding, each written in the one canonical way:
    /// otherwise the same token could be sent in many forms.
    pub(super) fn parse(token: &'a [u8]) -> Result<Self, Malformed> {
        let mut parts = token.splitn(4, |byte| *byte == b'.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Malformed);
        };
        let signed = header.len() + 1 + payload.len();
        Ok(Self {
            signing_input: token.get(..signed).ok_or(Malformed)?,
            header: decode(header)?,
            payload: decode(payload)?,
            signature: decode(signature)?,
        })
    }
}

fn decode(part: &[u8]) -> Result<Vec<u8>, Malformed> {
    if part.is_empty() {
        return Err(Malformed);
    }
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_three_canonical_parts_are_decoded() {
        assert!(Compact::parse(b"e30.e30.AAAA").is_ok());
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
            assert!(Compact::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(Compact::parse(&vec![b'.'; 1 << 20]).is_err());
    }

    #[test]
    fn tokens_are_told_by_their_shape() {
        for (text, is) in [
            ("eyJhbGciOiJIUzI1NiJ9.e30.AAAA", true),
            ("ewog.e30.A", true),
            ("eyJ.e30", false),
            ("e.e.e", false),
            ("eyJ.a.b.c.d", false),
            ("kw_live_1abc", false),
            ("abc.def.ghi", false),
            ("", false),
        ] {
            assert_eq!(is_jwt_shaped(text.as_bytes()), is, "{text}");
        }
    }
}
