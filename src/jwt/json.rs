//! A strict reader of JSON (RFC 8259) for headers and claims.
//!
//! Names are unique at every level, nesting is bounded, and nothing is guessed: what two parsers could read
//! in two ways is refused. It is independent of the features that a program may turn on in `serde_json`.

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

/// One object, checked.
#[derive(Clone, Debug)]
pub(super) struct Object<'a>(&'a str);

/// One list, checked.
#[derive(Clone, Debug)]
pub(super) struct Array<'a>(&'a str);

/// One number, checked.
#[derive(Clone, Debug)]
pub(super) struct Number<'a>(&'a str);

/// A value within a checked text.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Null,
    Bool,
    Number(Number<'a>),
    String(Cow<'a, str>),
    Array(Array<'a>),
    Object(Object<'a>),
}

impl<'a> Object<'a> {
    /// Checks that `text` is one object in UTF-8, with white space around it at most.
    pub(super) fn parse(text: &'a [u8]) -> Result<Self, Malformed> {
        let text = std::str::from_utf8(text).map_err(|_| Malformed)?;
        let mut scan = Scan { text, at: 0 };
        scan.skip_space();
        if scan.peek() != Some(b'{') {
            return Err(Malformed);
        }
        let start = scan.at;
        scan.check_value(MAX_DEPTH)?;
        let object = text.get(start..scan.at).ok_or(Malformed)?;
        scan.skip_space();
        if scan.at == text.len() { Ok(Self(object)) } else { Err(Malformed) }
    }

    /// Names and values, in their order.
    pub(super) fn members(&self) -> impl Iterator<Item = (Cow<'a, str>, Value<'a>)> + use<'a> {
        let mut scan = Scan { text: self.0, at: 1 };
        std::iter::from_fn(move || {
            scan.skip_to_item()?;
            let name = unescape(scan.take_string()?);
            scan.skip_space();
            scan.at += 1; // the colon
            scan.skip_space();
            Some((name, scan.take_value()?))
        })
    }

    pub(super) fn get(&self, name: &str) -> Option<Value<'a>> {
        self.members().find(|(other, _)| other == name).map(|(_, value)| value)
    }

    pub(super) fn as_str(&self) -> &'a str {
        self.0
    }
}

impl<'a> Array<'a> {
    pub(super) fn items(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let mut scan = Scan { text: self.0, at: 1 };
        std::iter::from_fn(move || {
            scan.skip_to_item()?;
            scan.take_value()
        })
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

    fn require(&mut self, byte: u8) -> Result<(), Malformed> {
        self.skip_space();
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(Malformed)
        }
    }

    fn check_value(&mut self, depth: usize) -> Result<(), Malformed> {
        match self.peek().ok_or(Malformed)? {
            b'{' => self.check_object(depth.checked_sub(1).ok_or(Malformed)?),
            b'[' => self.check_array(depth.checked_sub(1).ok_or(Malformed)?),
            b'"' => self.check_string().map(drop),
            b't' => self.check_word("true"),
            b'f' => self.check_word("false"),
            b'n' => self.check_word("null"),
            _ => self.check_number(),
        }
    }

    fn check_object(&mut self, depth: usize) -> Result<(), Malformed> {
        self.at += 1;
        let mut names = Names::default();
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.skip_space();
            names.add(unescape(self.check_string()?))?;
            self.require(b':')?;
            self.skip_space();
            self.check_value(depth)?;
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                _ => break,
            }
        }
        self.require(b'}')?;
        names.are_unique()
    }

    fn check_array(&mut self, depth: usize) -> Result<(), Malformed> {
        self.at += 1;
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.skip_space();
            self.check_value(depth)?;
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                _ => return self.require(b']'),
            }
        }
    }

    /// The text between the quotes, as it stands.
    fn check_string(&mut self) -> Result<&'a str, Malformed> {
        if self.peek() != Some(b'"') {
            return Err(Malformed);
        }
        self.at += 1;
        let start = self.at;
        loop {
            match self.peek().ok_or(Malformed)? {
                b'"' => break,
                b'\\' => self.check_escape()?,
                0..=0x1f => return Err(Malformed),
                _ => self.at += 1,
            }
        }
        let inside = self.text.get(start..self.at).ok_or(Malformed)?;
        self.at += 1;
        Ok(inside)
    }

    fn check_escape(&mut self) -> Result<(), Malformed> {
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

    fn check_word(&mut self, word: &str) -> Result<(), Malformed> {
        if self.text.get(self.at..).is_some_and(|rest| rest.starts_with(word)) {
            self.at += word.len();
            Ok(())
        } else {
            Err(Malformed)
        }
    }

    fn check_number(&mut self) -> Result<(), Malformed> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let leading_zero = self.peek() == Some(b'0');
        let digits = self.skip_digits()?;
        if leading_zero && digits > 1 {
            return Err(Malformed);
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.skip_digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.skip_digits()?;
        }
        Ok(())
    }

    fn skip_digits(&mut self) -> Result<usize, Malformed> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > start { Ok(self.at - start) } else { Err(Malformed) }
    }

    /// To the next item of a checked object or list, if there is one.
    fn skip_to_item(&mut self) -> Option<()> {
        self.skip_space();
        if self.peek()? == b',' {
            self.at += 1;
            self.skip_space();
        }
        (!matches!(self.peek()?, b'}' | b']')).then_some(())
    }

    /// A string of a checked text, as it stands.
    fn take_string(&mut self) -> Option<&'a str> {
        self.check_string().ok()
    }

    /// A value of a checked text. What is nested in it is passed over, not read.
    fn take_value(&mut self) -> Option<Value<'a>> {
        let start = self.at;
        match self.peek()? {
            b'"' => return Some(Value::String(unescape(self.take_string()?))),
            b'{' | b'[' => self.pass_over()?,
            _ => {
                while !matches!(self.peek(), None | Some(b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r')) {
                    self.at += 1;
                }
            }
        }
        let text = self.text.get(start..self.at)?;
        Some(match text.as_bytes().first()? {
            b'{' => Value::Object(Object(text)),
            b'[' => Value::Array(Array(text)),
            b't' | b'f' => Value::Bool,
            b'n' => Value::Null,
            _ => Value::Number(Number(text)),
        })
    }

    fn pass_over(&mut self) -> Option<()> {
        let mut depth = 0usize;
        loop {
            match self.peek()? {
                b'"' => drop(self.take_string()?),
                byte => {
                    self.at += 1;
                    match byte {
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' => depth -= 1,
                        _ => {}
                    }
                }
            }
            if depth == 0 {
                return Some(());
            }
        }
    }
}

/// The names of one object.
#[derive(Default)]
struct Names<'a> {
    few: [Cow<'a, str>; FEW],
    count: usize,
    many: Vec<Cow<'a, str>>,
}

impl<'a> Names<'a> {
    fn add(&mut self, name: Cow<'a, str>) -> Result<(), Malformed> {
        match self.few.get_mut(self.count) {
            Some(slot) => *slot = name,
            None => {
                self.many.push(name);
                return Ok(());
            }
        }
        let (before, now) = self.few.split_at(self.count);
        self.count += 1;
        if before.contains(now.first().ok_or(Malformed)?) { Err(Malformed) } else { Ok(()) }
    }

    fn are_unique(mut self) -> Result<(), Malformed> {
        if self.many.is_empty() {
            return Ok(());
        }
        self.many.extend(self.few);
        self.many.sort_unstable();
        let twice = self.many.windows(2).any(|pair| pair.first() == pair.last());
        if twice { Err(Malformed) } else { Ok(()) }
    }
}

fn hex4(text: &str, at: usize) -> Option<u16> {
    let digits = text.get(at..at + 4).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u16::from_str_radix(digits, 16).ok()
}

/// A checked string without its escapes.
fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
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
    Cow::Owned(clean)
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
            (Value::Null, serde_json::Value::Null) | (Value::Bool, serde_json::Value::Bool(_)) => true,
            (Value::Number(a), serde_json::Value::Number(b)) => a.0.parse::<f64>().ok() == b.as_f64(),
            (Value::String(a), serde_json::Value::String(b)) => a == b,
            (Value::Array(a), serde_json::Value::Array(b)) => {
                a.items().count() == b.len() && a.items().zip(b).all(|(a, b)| same(&a, b))
            }
            (Value::Object(a), serde_json::Value::Object(b)) => {
                a.members().count() == b.len() && a.members().all(|(name, a)| same(&a, &b[&*name]))
            }
            _ => false,
        }
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
            let value = serde_json::Value::Object(value.into_iter().collect());
            for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                let object = Object::parse(text.as_bytes()).unwrap();
                prop_assert!(same(&Value::Object(object), &value), "{text}");
            }
        }

        #[test]
        fn what_serde_json_refuses_is_refused(
            text in r#"(\{|\}|\[|\]|"|:|,|\\|u00e9|ud800|[a0-9.eE+-]|true|null| |"a":|"b":1,){0,30}"#
        ) {
            let text = format!("{{{text}}}");
            if let Ok(object) = Object::parse(text.as_bytes()) {
                // Only numbers beyond 64-bit floats are read here and not there.
                if let Ok(value) = serde_json::from_str::<serde_json::Value>(&text) {
                    prop_assert!(same(&Value::Object(object), &value), "{text}");
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
