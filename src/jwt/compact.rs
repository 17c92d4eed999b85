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
    /// Header, payload and signature.
    decoded: Vec<u8>,
    header_end: usize,
    payload_end: usize,
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
        let signing_input = token.get(..signed).ok_or(Malformed)?;
        // What the decoder reserves for the last part is a little more than that part takes.
        let mut decoded = Vec::with_capacity(token.len() / 4 * 3 + 8);
        let header_end = decode(header, &mut decoded)?;
        let payload_end = decode(payload, &mut decoded)?;
        decode(signature, &mut decoded)?;
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
