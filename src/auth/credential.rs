//! The only place that reads credential headers: exactly one credential, or a reason why not.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};

use crate::{
    error::{AuthError, AuthErrorKind, ConfigError, Refusal},
    secret::mask,
    token::is_bearer_token,
};

/// The longest credential that is looked at, in bytes; a longer one is refused unread.
pub(super) const MAX_BYTES: usize = 16 * 1024;

const AUTHORIZATION: &str = "authorization";

/// Up to so many headers are looked at one by one.
const FEW: usize = 16;

static X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// A credential as it was presented. Its text shows in no `Debug`.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum Presented<'a> {
    /// In `Authorization: Bearer …`.
    Bearer(Word<'a>),
    /// In the key header, or in a configured cookie or query parameter.
    Key(Word<'a>),
}

/// What stands for one credential, as only the reader finds it.
#[derive(Clone, Copy)]
pub struct Word<'a>(&'a [u8]);

impl fmt::Debug for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Word(…)")
    }
}

impl<'a> Presented<'a> {
    /// What a reader found in `Authorization` before.
    #[cfg(feature = "_jwt")]
    pub(crate) fn bearer(token: &'a [u8]) -> Self {
        Self::Bearer(Word(token))
    }

    /// The credential's text: printable ASCII. It is empty if what was presented is not one word; then
    /// the layer answers 400, whatever an authenticator says other than yes.
    #[must_use]
    pub fn token(&self) -> &'a str {
        let text = std::str::from_utf8(self.unchecked_bytes()).unwrap_or_default();
        if self.check().is_ok() { text } else { "" }
    }

    /// The credential's bytes, for comparing with what is known to be right.
    #[inline]
    pub(crate) fn unchecked_bytes(&self) -> &'a [u8] {
        match self {
            Self::Bearer(word) | Self::Key(word) => word.0,
        }
    }

    /// Whether the credential is written as its place demands. What was found to be a known key is, so
    /// only others are asked.
    pub(crate) fn check(&self) -> Result<(), AuthError> {
        let well_written = match self {
            Self::Bearer(word) => is_bearer_token(word.0),
            Self::Key(word) => is_word(word.0),
        };
        if well_written { Ok(()) } else { Err(unreadable()) }
    }
}

impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Bearer(_) => "Bearer",
            Self::Key(_) => "Key",
        };
        write!(f, "{kind}({})", mask(self.token()))
    }
}

/// Where credentials are read from: the header `X-API-Key` and `Authorization: Bearer` by default.
///
/// Two credentials in one request are refused, wherever they are. A cookie counts only if the request is
/// safe or comes from the same site. Query parameters end up in logs and histories: leave them off.
///
/// ```
/// use keyward::auth::CredentialReader;
///
/// let reader = CredentialReader::default().with_key_header("X-Acme-Key")?.with_cookie("session")?;
/// assert!(CredentialReader::default().with_key_header("Authorization").is_err());
/// # let _ = reader;
/// # Ok::<(), keyward::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct CredentialReader {
    key_header: HeaderName,
    cookie: Option<Box<str>>,
    query: Option<Box<str>>,
}

impl Default for CredentialReader {
    fn default() -> Self {
        Self { key_header: X_API_KEY.clone(), cookie: None, query: None }
    }
}

impl CredentialReader {
    /// Reads keys from the header `name` instead of `X-API-Key`.
    ///
    /// # Errors
    /// When `name` is no header name, or one with a meaning of its own.
    pub fn with_key_header(mut self, name: &str) -> Result<Self, ConfigError> {
        let taken = [header::AUTHORIZATION, header::COOKIE, header::PROXY_AUTHORIZATION, header::HOST];
        match name.parse::<HeaderName>() {
            Ok(name) if !taken.contains(&name) => self.key_header = name,
            _ => {
                return Err(ConfigError::new(
                    "the key header must be a header name of its own, such as X-API-Key",
                ));
            }
        }
        Ok(self)
    }

    /// Also reads keys from the cookie `name`; off by default. On an unsafe method it is refused unless
    /// `Sec-Fetch-Site` is `same-origin` or, without that header, `Origin` names the request's host.
    ///
    /// # Errors
    /// When `name` is no cookie name (RFC 6265, section 4.1.1).
    pub fn with_cookie(mut self, name: &str) -> Result<Self, ConfigError> {
        if name.is_empty() || !name.bytes().all(is_tchar) {
            return Err(ConfigError::new(
                "the cookie's name must be letters, digits and any of !#$%&'*+-.^_`|~",
            ));
        }
        self.cookie = Some(name.into());
        Ok(self)
    }

    /// Also reads keys from the query parameter `name`; off by default, and better left so: queries are
    /// logged by servers and proxies and kept in histories (RFC 9700, section 4.3.2).
    ///
    /// # Errors
    /// When `name` is empty or would have to be escaped.
    pub fn with_insecure_query(mut self, name: &str) -> Result<Self, ConfigError> {
        if name.is_empty()
            || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        {
            return Err(ConfigError::new(
                "the query parameter's name must be letters, digits and any of -_.",
            ));
        }
        self.query = Some(name.into());
        Ok(self)
    }

    /// The one credential of a request, `None` if there is none.
    ///
    /// # Errors
    /// [`AuthErrorKind::BadRequest`] for more than one or an unreadable one, [`AuthErrorKind::Missing`]
    /// for an empty one, [`AuthErrorKind::Invalid`] for one that is too long, [`AuthErrorKind::Forbidden`] for a
    /// cookie from another site.
    pub fn read<'a>(
        &self,
        method: &Method,
        uri: &'a Uri,
        headers: &'a HeaderMap,
    ) -> Result<Option<Presented<'a>>, AuthError> {
        let found = self.find(method, uri, headers)?;
        found.as_ref().map_or(Ok(()), Presented::check)?;
        Ok(found)
    }

    /// The one credential of a request, without a look at its characters.
    #[inline]
    pub(crate) fn find<'a>(
        &self,
        method: &Method,
        uri: &'a Uri,
        headers: &'a HeaderMap,
    ) -> Result<Option<Presented<'a>>, AuthError> {
        let [key, authorization] = if headers.len() <= FEW {
            self.scan(headers)?
        } else {
            [single(headers, &self.key_header)?, single(headers, &header::AUTHORIZATION)?]
        };
        let key = match key {
            None => None,
            Some(value) => Some(read_key(value)?),
        };
        let bearer = match authorization {
            None => None,
            Some(value) => read_bearer(value)?,
        };
        let found = one_of(key, bearer)?;
        if self.cookie.is_none() && self.query.is_none() {
            return Ok(found);
        }
        let found = one_of(found, self.read_query(uri)?)?;
        one_of(found, self.read_cookie(method, headers)?)
    }

    /// The values of the key header and of `Authorization`, if each is there once. A look at all of a few headers
    /// costs less than two look-ups by name.
    #[inline]
    fn scan<'a>(&self, headers: &'a HeaderMap) -> Result<[Option<&'a HeaderValue>; 2], AuthError> {
        let (mut key, mut authorization) = (None, None);
        let key_name = self.key_header.as_str();
        for (name, value) in headers {
            // A length tells nearly all names apart.
            let name = name.as_str();
            if name.len() == key_name.len() && name == key_name {
                if key.replace(value).is_some() {
                    return Err(several());
                }
            } else if name.len() == AUTHORIZATION.len()
                && name == AUTHORIZATION
                && authorization.replace(value).is_some()
            {
                return Err(several());
            }
        }
        Ok([key, authorization])
    }

    fn read_query<'a>(&self, uri: &'a Uri) -> Result<Option<Presented<'a>>, AuthError> {
        let (Some(name), Some(query)) = (&self.query, uri.query()) else { return Ok(None) };
        let mut found = None;
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            if key == &**name {
                found = one_of(found, Some(read_token(value.as_bytes()).map(Presented::Key)?))?;
            }
        }
        Ok(found)
    }

    fn read_cookie<'a>(
        &self,
        method: &Method,
        headers: &'a HeaderMap,
    ) -> Result<Option<Presented<'a>>, AuthError> {
        let Some(name) = &self.cookie else { return Ok(None) };
        let mut found = None;
        for line in headers.get_all(header::COOKIE) {
            for pair in line.as_bytes().split(|byte| *byte == b';') {
                let Some(value) = cookie_value(pair.trim_ascii(), name.as_bytes()) else { continue };
                found = one_of(found, Some(read_token(value).map(Presented::Key)?))?;
            }
        }
        if found.is_some() && !method.is_safe() && !is_same_origin(headers) {
            return Err(AuthError::because(AuthErrorKind::Forbidden, Refusal::CrossSite));
        }
        Ok(found)
    }
}

fn unreadable() -> AuthError {
    AuthError::because(AuthErrorKind::BadRequest, Refusal::Unreadable)
}

#[cold]
fn several() -> AuthError {
    AuthError::because(AuthErrorKind::BadRequest, Refusal::SeveralCredentials)
}

/// The header's value if it is there once.
#[inline]
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, AuthError> {
    // As many values as names: no header is repeated.
    if headers.len() == headers.keys_len() {
        return Ok(headers.get(name));
    }
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(several());
    }
    Ok(first)
}

#[inline]
fn one_of<'a>(
    a: Option<Presented<'a>>,
    b: Option<Presented<'a>>,
) -> Result<Option<Presented<'a>>, AuthError> {
    match (a, b) {
        (Some(_), Some(_)) => Err(several()),
        (found, None) | (None, found) => Ok(found),
    }
}

/// A key header's value. Like a bearer token it is one word, but its alphabet is wider.
#[inline]
fn read_key(value: &HeaderValue) -> Result<Presented<'_>, AuthError> {
    read_token(value.as_bytes()).map(Presented::Key)
}

#[inline]
fn read_token(token: &[u8]) -> Result<Word<'_>, AuthError> {
    match token.len() {
        1..=MAX_BYTES => Ok(Word(token)),
        // Nothing was guessed. Yet it is refused where a request without a credential would pass: somebody meant
        // to send one.
        0 => Err(AuthError::because(AuthErrorKind::Missing, Refusal::NoCredential)),
        _ => Err(AuthError::invalid(Refusal::Unreadable)),
    }
}

fn is_word(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| byte.is_ascii_graphic() && *byte != b',')
}

/// The token of `Authorization: Bearer <b64token>` (RFC 6750, section 2.1). Another scheme is no
/// credential of ours.
fn read_bearer(value: &HeaderValue) -> Result<Option<Presented<'_>>, AuthError> {
    let value = value.as_bytes();
    // As nearly all clients write it.
    if let Some((b"Bearer ", token)) = value.split_first_chunk() {
        return read_token(trim_spaces(token)).map(|word| Some(Presented::Bearer(word)));
    }
    let scheme = value.iter().take_while(|byte| is_tchar(**byte)).count();
    let (scheme, rest) = value.split_at(scheme);
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return if value.is_ascii() { Ok(None) } else { Err(unreadable()) };
    }
    let token = trim_spaces(rest);
    match rest.first() {
        Some(b' ') | None => read_token(token).map(|word| Some(Presented::Bearer(word))),
        Some(_) => Err(unreadable()),
    }
}

/// Without the spaces around it; a tab there is not of the form of RFC 6750.
fn trim_spaces(mut text: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] | [rest @ .., b' '] = text {
        text = rest;
    }
    text
}

/// The default credential headers, however often and wrongly they are sent.
pub(super) fn credential_lines(headers: &HeaderMap) -> impl Iterator<Item = &HeaderValue> {
    headers.get_all(&X_API_KEY).into_iter().chain(headers.get_all(header::AUTHORIZATION))
}

/// A character of a token (RFC 9110, section 5.6.2).
fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn cookie_value<'a>(pair: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let value = pair.strip_prefix(name)?.strip_prefix(b"=")?;
    Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
}

/// Whether a browser says that its page is of this very origin. Where it says nothing, it is not.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let only = |name| match single(headers, &name) {
        Ok(value) => value.and_then(|value| value.to_str().ok()),
        Err(_) => Some(""),
    };
    if let Some(site) = only(HeaderName::from_static("sec-fetch-site")) {
        return site == "same-origin";
    }
    let (Some(origin), Some(host)) = (only(header::ORIGIN), only(header::HOST)) else { return false };
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    !host.is_empty() && authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Lines<'a> = &'a [(&'a str, &'a [u8])];
    type Case<'a> = (&'a str, Lines<'a>, Result<Option<&'a str>, u16>);

    fn headers(lines: Lines<'_>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    fn outcome(
        reader: &CredentialReader,
        method: &Method,
        uri: &str,
        lines: Lines<'_>,
    ) -> Result<Option<String>, u16> {
        let uri = uri.parse().unwrap();
        let among = |others: &[(String, &'static [u8])]| {
            let others = others.iter().map(|(name, value)| (name.as_str(), *value));
            let lines: Vec<_> = others.chain(lines.iter().copied()).collect();
            let headers = headers(&lines);
            let read = reader.read(method, &uri, &headers);
            read.map(|found| found.map(|found| found.token().to_owned()))
                .map_err(|error| error.status().as_u16())
        };
        let alone = among(&[]);
        // As with few other headers, with many, and with one that is there many times.
        for others in [1, FEW] {
            let names = (0..others).map(|n| (format!("x-api-{n:03}"), &b"abc"[..]));
            assert_eq!(among(&names.collect::<Vec<_>>()), alone, "{lines:?} among {others}");
            let repeated = vec![("authorize-them".to_owned(), &b"Bearer abc"[..]); others];
            assert_eq!(among(&repeated), alone, "{lines:?} beside {others} lines of another header");
        }
        alone
    }

    #[test]
    fn exactly_one_credential_is_read() {
        const OK: Result<Option<&str>, u16> = Ok(Some("abc"));
        const NONE: Result<Option<&str>, u16> = Ok(None);
        let cases: &[Case<'_>] = &[
            ("none", &[], NONE),
            ("key", &[("x-api-key", b"abc")], OK),
            ("key with white space", &[("x-api-key", b" abc\t")], Err(400)),
            ("bearer", &[("authorization", b"Bearer abc")], OK),
            ("lower case", &[("authorization", b"bearer abc")], OK),
            ("upper case", &[("authorization", b"BEARER abc")], OK),
            ("several spaces", &[("authorization", b"Bearer    abc")], OK),
            ("padding", &[("authorization", b"Bearer a/b+c==")], Ok(Some("a/b+c=="))),
            ("other scheme", &[("authorization", b"Basic YTpi")], NONE),
            ("other scheme beside a key", &[("authorization", b"Basic YTpi"), ("x-api-key", b"abc")], OK),
            ("scheme run together", &[("authorization", b"Bearerabc")], NONE),
            ("no scheme", &[("authorization", b"")], NONE),
            ("empty key", &[("x-api-key", b"")], Err(401)),
            ("bearer alone", &[("authorization", b"Bearer")], Err(401)),
            ("bearer and spaces", &[("authorization", b"Bearer  ")], Err(401)),
            ("two words", &[("authorization", b"Bearer a b")], Err(400)),
            ("a list", &[("authorization", b"Bearer a,b")], Err(400)),
            ("a parameter", &[("authorization", b"Bearer token=\"x\"")], Err(400)),
            ("a tab", &[("authorization", b"Bearer\tabc")], Err(400)),
            ("padding only", &[("authorization", b"Bearer ==")], Err(400)),
            ("padding inside", &[("authorization", b"Bearer a=b")], Err(400)),
            ("non-ASCII bearer", &[("authorization", b"Bearer ab\xff")], Err(400)),
            ("non-ASCII other scheme", &[("authorization", b"Basic \xe4")], Err(400)),
            ("non-ASCII key", &[("x-api-key", b"ab\xc3\xa9")], Err(400)),
            ("joined keys", &[("x-api-key", b"abc, def")], Err(400)),
            ("two words in a key", &[("x-api-key", b"abc def")], Err(400)),
            ("key and bearer", &[("x-api-key", b"abc"), ("authorization", b"Bearer abc")], Err(400)),
            ("key twice", &[("x-api-key", b"abc"), ("x-api-key", b"abc")], Err(400)),
            ("bearer twice", &[("authorization", b"Bearer a"), ("authorization", b"Bearer a")], Err(400)),
            ("two schemes", &[("authorization", b"Bearer a"), ("authorization", b"Basic b")], Err(400)),
            ("underscores are another header", &[("x_api_key", b"abc")], NONE),
            ("other header", &[("api-key", b"abc")], NONE),
        ];
        let reader = CredentialReader::default();
        for (name, lines, expected) in cases {
            let expected = expected.map(|found| found.map(str::to_owned));
            assert_eq!(
                outcome(&reader, &Method::GET, "/?x-api-key=abc&access_token=abc", lines),
                expected,
                "{name}"
            );
        }
        let long = "x".repeat(MAX_BYTES + 1);
        assert_eq!(outcome(&reader, &Method::GET, "/", &[("x-api-key", long.as_bytes())]), Err(401));
    }

    #[test]
    fn every_byte_outside_the_alphabet_is_refused() {
        for byte in (0u8..=255).filter(|byte| HeaderValue::from_bytes(&[b'a', *byte, b'a']).is_ok()) {
            let allowed = byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
            let line = [b"Bearer ab", &[byte][..], b"cd"].concat();
            let read = outcome(&CredentialReader::default(), &Method::GET, "/", &[("authorization", &line)]);
            assert_eq!(read.is_ok(), allowed, "{byte:#x}");
        }
    }

    #[test]
    fn a_cookie_changes_nothing_from_another_site() {
        let reader = CredentialReader::default().with_cookie("session").unwrap();
        let cookie: (&str, &[u8]) = ("cookie", b"a=b; session=abc");
        let ok = Ok(Some("abc".to_owned()));
        for (name, method, extra, expected) in [
            ("safe", Method::GET, &[][..], ok.clone()),
            ("unsafe, nothing said", Method::POST, &[], Err(403)),
            ("same origin", Method::POST, &[("sec-fetch-site", &b"same-origin"[..])], ok.clone()),
            ("same site", Method::POST, &[("sec-fetch-site", b"same-site")], Err(403)),
            ("none", Method::DELETE, &[("sec-fetch-site", b"none")], Err(403)),
            (
                "origin",
                Method::POST,
                &[("origin", b"https://api.example"), ("host", b"api.example")],
                ok.clone(),
            ),
            (
                "other origin",
                Method::POST,
                &[("origin", b"https://evil.example"), ("host", b"api.example")],
                Err(403),
            ),
            ("null origin", Method::POST, &[("origin", b"null"), ("host", b"null")], Err(403)),
            (
                "fetch metadata outweighs the origin",
                Method::POST,
                &[("sec-fetch-site", b"cross-site"), ("origin", b"https://a"), ("host", b"a")],
                Err(403),
            ),
            ("with a key", Method::GET, &[("x-api-key", b"abc")], Err(400)),
        ] {
            let lines = [&[cookie], extra].concat();
            assert_eq!(outcome(&reader, &method, "/", &lines), expected, "{name}");
        }
        let twice: Lines<'_> = &[("cookie", b"session=abc; session=def")];
        assert_eq!(outcome(&reader, &Method::GET, "/", twice), Err(400));
        assert_eq!(outcome(&reader, &Method::GET, "/", &[("cookie", b"sessions=abc")]), Ok(None));
        assert_eq!(outcome(&CredentialReader::default(), &Method::GET, "/", &[cookie]), Ok(None));
    }

    #[test]
    fn a_query_counts_only_where_it_was_asked_for() {
        let reader = CredentialReader::default().with_insecure_query("api_key").unwrap();
        let read = |uri: &str, lines| outcome(&reader, &Method::GET, uri, lines);
        assert_eq!(read("/?a=b&api_key=abc", &[]), Ok(Some("abc".to_owned())));
        assert_eq!(read("/?api_key=", &[]), Err(401));
        assert_eq!(read("/?api_key=a&api_key=a", &[]), Err(400));
        assert_eq!(read("/?api_key=a", &[("x-api-key", b"a")]), Err(400));
    }

    #[test]
    fn debug_shows_no_credential() {
        let secret = "CANARYCANARYCANARYCANARYCANARYCANARYCANARY0123";
        for presented in [Presented::Bearer(Word(secret.as_bytes())), Presented::Key(Word(secret.as_bytes()))]
        {
            assert!(!format!("{presented:?}").contains(&secret[..30]));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_accept_two(
            a in prop::collection::vec(any::<u8>(), 0..40), b in prop::collection::vec(any::<u8>(), 0..40),
            scheme in prop::sample::select(vec![&b"Bearer "[..], b"bearer", b""])
        ) {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(&a) {
                headers.insert(&X_API_KEY, value);
            }
            if let Ok(value) = HeaderValue::from_bytes(&[scheme, &b].concat()) {
                headers.insert(header::AUTHORIZATION, value);
            }
            let uri = Uri::from_static("/");
            if let Ok(Some(found)) = CredentialReader::default().read(&Method::GET, &uri, &headers) {
                prop_assert!(!found.token().is_empty() && found.token().is_ascii());
                prop_assert!(!found.token().contains([' ', ',']));
            }
        }
    }
}
