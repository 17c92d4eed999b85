//! A strict reader of JSON (RFC 8259) for headers and claims.
//!
//! Names are unique at every level, nesting is bounded, and nothing is guessed: what two parsers could read
//! in two ways is refused. It is independent of the features that a program may turn on in `serde_json`. One
//! pass reads the members of an object and checks all that is in them; what is nested is read when it is asked
//! for.

use std::borrow::Cow;

/// How deep objects and lists may be nested.
const MAX_DEPTH: usize = 16;

/// Names of one object that are compared without sorting.
const FEW: usize = 16;

/// The last second of the year 9999.
const LAST_SECOND: f64 = 253_402_300_799.0;

/// A text that is no object of strict JSON, or a token that is not written as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The members of one object, in their order.
#[derive(Debug)]
pub(super) struct Object<'a> {
    text: &'a str,
    members: Vec<(Cow<'a, str>, Value<'a>)>,
}

/// An object within a checked text.
#[derive(Clone, Debug)]
pub(super) struct Nested<'a>(&'a str);

/// A list within a checked text.
#[derive(Clone, Debug)]
pub(super) struct Array<'a>(&'a str);

/// One number, checked.
#[derive(Clone, Debug)]
pub(super) struct Number<'a>(&'a str);

/// A value within a checked text.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Number(Number<'a>),
    String(Cow<'a, str>),
    Array(Array<'a>),
    Object(Nested<'a>),
}

impl<'a> Object<'a> {
    /// Reads `text`, which is one object in UTF-8, with white space around it at most.
    pub(super) fn parse(text: &'a [u8]) -> Result<Self, Malformed> {
        let text = std::str::from_utf8(text).map_err(|_| Malformed)?;
        let mut scan = Scan { text, at: 0 };
        scan.skip_space();
        let start = scan.at;
        let members = scan.members(MAX_DEPTH)?;
        let object = text.get(start..scan.at).ok_or(Malformed)?;
        scan.skip_space();
        if scan.at == text.len() { Ok(Self { text: object, members }) } else { Err(Malformed) }
    }

    /// Names and values, in their order.
    pub(super) fn members(&self) -> impl Iterator<Item = (&str, &Value<'a>)> {
        self.members.iter().map(|(name, value)| (&**name, value))
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.members().find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    pub(super) fn as_str(&self) -> &'a str {
        self.text
    }
}

impl<'a> Nested<'a> {
    pub(super) fn get(&self, name: &str) -> Option<Value<'a>> {
        let members = Scan { text: self.0, at: 0 }.members(MAX_DEPTH).ok()?;
        members.into_iter().find(|(other, _)| other == name).map(|(_, value)| value)
    }

    pub(super) fn as_str(&self) -> &'a str {
        self.0
    }
}

impl<'a> Array<'a> {
    pub(super) fn items(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let mut scan = Scan { text: self.0, at: 1 };
        std::iter::from_fn(move || scan.next_item())
    }
}

impl Number<'_> {
    /// Seconds since 1970, possibly with a fraction, as milliseconds; `None` before 1970 and after 9999.
    pub(super) fn to_millis(&self) -> Option<i64> {
        if let Ok(seconds) = self.0.parse::<u64>() {
            // Only then: a product that does not fit is a panic where overflow is checked.
            return (seconds as f64 <= LAST_SECOND).then(|| seconds as i64 * 1000);
        }
        let seconds = self.0.parse::<f64>().ok()?;
        ((0.0..=LAST_SECOND).contains(&seconds) && !seconds.is_sign_negative())
            .then_some((seconds * 1000.0) as i64)
    }
}

/// A position in a text.
struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    #[inline]
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[inline]
    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    #[inline]
    fn require(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(Malformed)
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, Malformed> {
        let start = self.at;
        Ok(match self.peek().ok_or(Malformed)? {
            b'"' => Value::String(self.string()?),
            b'{' => {
                self.members(depth)?;
                Value::Object(Nested(self.since(start)?))
            }
            b'[' => {
                self.array(depth.checked_sub(1).ok_or(Malformed)?)?;
                Value::Array(Array(self.since(start)?))
            }
            b't' => self.word("true", Value::Bool(true))?,
            b'f' => self.word("false", Value::Bool(false))?,
            b'n' => self.word("null", Value::Null)?,
            _ => {
                self.number()?;
                Value::Number(Number(self.since(start)?))
            }
        })
    }

    fn since(&self, start: usize) -> Result<&'a str, Malformed> {
        self.text.get(start..self.at).ok_or(Malformed)
    }

    /// An object, to its end.
    fn members(&mut self, depth: usize) -> Result<Vec<(Cow<'a, str>, Value<'a>)>, Malformed> {
        let depth = depth.checked_sub(1).ok_or(Malformed)?;
        self.require(b'{')?;
        self.skip_space();
        if self.require(b'}').is_ok() {
            return Ok(Vec::new());
        }
        let mut members = Vec::with_capacity(FEW / 2);
        loop {
            self.skip_space();
            let name = self.string()?;
            self.skip_space();
            self.require(b':')?;
            self.skip_space();
            members.push((name, self.value(depth)?));
            self.skip_space();
            if self.require(b',').is_err() {
                break;
            }
        }
        self.require(b'}')?;
        if are_unique(&members) { Ok(members) } else { Err(Malformed) }
    }

    fn array(&mut self, depth: usize) -> Result<(), Malformed> {
        self.require(b'[')?;
        self.skip_space();
        if self.require(b']').is_ok() {
            return Ok(());
        }
        loop {
            self.skip_space();
            self.value(depth)?;
            self.skip_space();
            if self.require(b',').is_err() {
                return self.require(b']');
            }
        }
    }

    /// The next item of a checked list, if there is one.
    fn next_item(&mut self) -> Option<Value<'a>> {
        self.skip_space();
        let _ = self.require(b',');
        self.skip_space();
        if self.peek()? == b']' { None } else { self.value(MAX_DEPTH).ok() }
    }

    fn string(&mut self) -> Result<Cow<'a, str>, Malformed> {
        self.require(b'"')?;
        let (start, mut escaped) = (self.at, false);
        loop {
            self.at += plain_bytes(self.text.as_bytes().get(self.at..).unwrap_or_default());
            match self.peek().ok_or(Malformed)? {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    self.escape()?;
                }
                0..=0x1f => return Err(Malformed),
                _ => self.at += 1,
            }
        }
        let inside = self.since(start)?;
        self.at += 1;
        Ok(if escaped { Cow::Owned(unescape(inside)) } else { Cow::Borrowed(inside) })
    }

    fn escape(&mut self) -> Result<(), Malformed> {
        let (next, length) = match self.text.as_bytes().get(self.at + 1).ok_or(Malformed)? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => (None, 2),
            b'u' => match hex4(self.text, self.at + 2).ok_or(Malformed)? {
                0xd800..=0xdbff => (hex4(self.text, self.at + 8), 12),
                0xdc00..=0xdfff => return Err(Malformed),
                _ => (None, 6),
            },
            _ => return Err(Malformed),
        };
        if length == 12 {
            // A high surrogate needs its low one (RFC 8259, section 7).
            let low = next.is_some_and(|low| (0xdc00..=0xdfff).contains(&low));
            if !low || self.text.get(self.at + 6..self.at + 8) != Some("\\u") {
                return Err(Malformed);
            }
        }
        self.at += length;
        Ok(())
    }

    fn word(&mut self, word: &str, value: Value<'a>) -> Result<Value<'a>, Malformed> {
        if self.text.get(self.at..).is_some_and(|rest| rest.starts_with(word)) {
            self.at += word.len();
            Ok(value)
        } else {
            Err(Malformed)
        }
    }

    fn number(&mut self) -> Result<(), Malformed> {
        let _ = self.require(b'-');
        let leading_zero = self.peek() == Some(b'0');
        let digits = self.digits()?;
        if leading_zero && digits > 1 {
            return Err(Malformed);
        }
        if self.require(b'.').is_ok() {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<usize, Malformed> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > start { Ok(self.at - start) } else { Err(Malformed) }
    }
}

/// How many bytes there are, in steps of eight, before one that means something in a string: a quote, a
/// backslash, or a control character.
#[inline]
fn plain_bytes(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    // The lowest bit that is set is that of the first byte below `limit`, which is 128 at most.
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word & HIGHS;
    let is = |word: u64, byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    let mut at = 0;
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        let word = u64::from_le_bytes(*chunk);
        let hits = is(word, b'"') | is(word, b'\\') | below(word, 0x20);
        if hits != 0 {
            return at + hits.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    at
}

fn are_unique(members: &[(Cow<'_, str>, Value<'_>)]) -> bool {
    if members.len() <= FEW {
        let mut names = members.iter().enumerate();
        return names.all(|(at, (name, _))| members.iter().take(at).all(|(other, _)| other != name));
    }
    let mut names: Vec<&str> = members.iter().map(|(name, _)| &**name).collect();
    names.sort_unstable();
    names.windows(2).all(|pair| pair.first() != pair.last())
}

fn hex4(text: &str, at: usize) -> Option<u16> {
    let digits = text.get(at..at + 4).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u16::from_str_radix(digits, 16).ok()
}

/// A checked string without its escapes.
fn unescape(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        clean.push_str(plain);
        let (character, length) = match escape.as_bytes().first() {
            Some(b'u') => unescape_unicode(escape),
            Some(b'b') => ('\u{8}', 1),
            Some(b'f') => ('\u{c}', 1),
            Some(b'n') => ('\n', 1),
            Some(b'r') => ('\r', 1),
            Some(b't') => ('\t', 1),
            other => (char::from(other.copied().unwrap_or(b'\\')), 1),
        };
        clean.push(character);
        rest = escape.get(length..).unwrap_or_default();
    }
    clean.push_str(rest);
    clean
}

/// The character of `u0041` or `ud83d\ude00`, and how long that is.
fn unescape_unicode(escape: &str) -> (char, usize) {
    let first = hex4(escape, 1).unwrap_or_default();
    if !(0xd800..=0xdbff).contains(&first) {
        return (char::from_u32(u32::from(first)).unwrap_or(char::REPLACEMENT_CHARACTER), 5);
    }
    let pair = [first, hex4(escape, 7).unwrap_or_default()];
    let character = char::decode_utf16(pair).next().and_then(Result::ok);
    (character.unwrap_or(char::REPLACEMENT_CHARACTER), 11)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_strict_json_is_read() {
        let deep = |n: usize| format!("{}1{}", "{\"a\":".repeat(n), "}".repeat(n));
        let (deepest, deeper) = (deep(MAX_DEPTH), deep(MAX_DEPTH + 1));
        let many = |twice: bool| {
            let names: Vec<_> = (0..1000).map(|n| format!("\"n{n}\":0")).collect();
            format!("{{{}{}}}", names.join(","), if twice { ",\"n7\":1" } else { "" })
        };
        let (unique, repeated) = (many(false), many(true));
        let good: &[&str] = &[
            "{}",
            " { } \n",
            r#"{"a":1}"#,
            r#"{"a":[1,"b",null,true,false,{}]}"#,
            r#"{"a":{"b":1},"b":{"b":2}}"#,
            r#"{"a":"\ud83d\ude00 \u00e9 \n"}"#,
            r#"{"a":-0}"#,
            r#"{"a":1e400}"#,
            r#"{"a":1.5E-3}"#,
            &deepest,
            &unique,
        ];
        for text in good {
            assert!(Object::parse(text.as_bytes()).is_ok(), "{text}");
        }
        let bad: &[&str] = &[
            "",
            "[]",
            "\"x\"",
            "null",
            "{",
            "}",
            "{}}",
            "{}x",
            "x{}",
            "\u{feff}{}",
            r#"{"a":1,}"#,
            r#"{"a" 1}"#,
            r#"{a:1}"#,
            "{'a':1}",
            r#"{"a":01}"#,
            r#"{"a":1.}"#,
            r#"{"a":.5}"#,
            r#"{"a":+1}"#,
            r#"{"a":NaN}"#,
            r#"{"a":Infinity}"#,
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"x":{"a":1,"a":2}}"#,
            r#"{"x":[{"a":1,"a":1}]}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":"\ud800\u0041"}"#,
            r#"{"a":"\udc00"}"#,
            r#"{"a":"\x"}"#,
            "{\"a\":\"\n\"}",
            "{\"a\":\"\0\"}",
            "{}\0",
            r#"{"a":tru}"#,
            r#"{"a":[1,]}"#,
            "{/**/}",
            r#"{"a":1 "b":2}"#,
            r#"{"a":"#,
            r#"{"a":"b}"#,
            r#"{"a":[}"#,
            &deeper,
            &repeated,
        ];
        for text in bad {
            assert!(Object::parse(text.as_bytes()).is_err(), "{text}");
        }
        for bytes in [&b"{\"a\":\"\xff\"}"[..], b"\xff\xfe{\0}\0", b"{\"\xc3\":1}"] {
            assert!(Object::parse(bytes).is_err());
        }
    }

    /// A byte that means something is found wherever it stands, beside any other byte.
    #[test]
    fn strings_end_where_they_end() {
        for special in [b'"', b'\\', 0, 0x1f] {
            for neighbour in [0x20, 0x21, 0x23, 0x5b, 0x5d, 0x7f, 0x80, 0xa2, 0xdc, 0xff] {
                for at in 0..24 {
                    let mut bytes = [neighbour; 24];
                    bytes[at] = special;
                    assert_eq!(plain_bytes(&bytes), at, "{special} {neighbour}");
                    bytes[23] = special;
                    assert_eq!(plain_bytes(&bytes), at, "{special} {neighbour}");
                }
                assert_eq!(plain_bytes(&[neighbour; 23]), 16, "{neighbour}");
            }
        }
    }

    #[test]
    fn numeric_dates_are_bounded() {
        for (text, millis) in [
            ("0", Some(0)),
            ("1500000000", Some(1_500_000_000_000)),
            ("1500000000.7", Some(1_500_000_000_700)),
            ("1.5e9", Some(1_500_000_000_000)),
            ("253402300799", Some(253_402_300_799_000)),
            ("253402300800", None),
            ("1500000000000", None),
            ("-1", None),
            ("-0", None),
            ("1e400", None),
            ("1000000000000000000", None),
            ("18446744073709551615", None),
            ("18446744073709551616", None),
        ] {
            assert_eq!(Number(text).to_millis(), millis, "{text}");
        }
    }

    fn same(ours: &Value<'_>, theirs: &serde_json::Value) -> bool {
        match (ours, theirs) {
            (Value::Null, serde_json::Value::Null) => true,
            (Value::Bool(a), serde_json::Value::Bool(b)) => a == b,
            (Value::Number(a), serde_json::Value::Number(b)) => a.0.parse::<f64>().ok() == b.as_f64(),
            (Value::String(a), serde_json::Value::String(b)) => a == b,
            (Value::Array(a), serde_json::Value::Array(b)) => {
                a.items().count() == b.len() && a.items().zip(b).all(|(a, b)| same(&a, b))
            }
            (Value::Object(a), serde_json::Value::Object(b)) => {
                same_object(&Object::parse(a.as_str().as_bytes()).unwrap(), b)
            }
            _ => false,
        }
    }

    fn same_object(ours: &Object<'_>, theirs: &serde_json::Map<String, serde_json::Value>) -> bool {
        ours.members().count() == theirs.len() && ours.members().all(|(name, a)| same(a, &theirs[name]))
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            ".{0,8}".prop_map(Into::into),
        ];
        leaf.prop_recursive(6, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(serde_json::Value::from),
                prop::collection::hash_map(".{0,6}", inner, 0..5)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_read_as_everywhere(value in prop::collection::hash_map(".{0,6}", json(), 0..25)) {
            let value: serde_json::Map<_, _> = value.into_iter().collect();
            let text = serde_json::Value::Object(value.clone());
            for text in [text.to_string(), serde_json::to_string_pretty(&text).unwrap()] {
                let object = Object::parse(text.as_bytes()).unwrap();
                prop_assert!(same_object(&object, &value), "{text}");
            }
        }

        #[test]
        fn what_serde_json_refuses_is_refused(
            text in r#"(\{|\}|\[|\]|"|:|,|\\|u00e9|ud800|[a0-9.eE+-]|true|null| |"a":|"b":1,){0,30}"#
        ) {
            let text = format!("{{{text}}}");
            if let Ok(object) = Object::parse(text.as_bytes()) {
                // Only numbers beyond 64-bit floats are read here and not there.
                if let Ok(value) = serde_json::from_str(&text) {
                    prop_assert!(same_object(&object, &value), "{text}");
                } else {
                    prop_assert!(text.contains(['e', 'E']) || text.len() > 300, "{text}");
                }
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Object::parse(&bytes);
        }
    }
}
