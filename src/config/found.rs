//! The text of a setting as it was found.

use std::ffi::OsStr;

use super::file::Value;

/// What is shown of a secret.
pub(super) const MASKED: &str = "…";

#[derive(Clone, Copy)]
pub(super) enum Found<'t> {
    Variable(&'t str),
    /// A variable that is no text.
    NotText,
    File(&'t Value),
}

impl<'t> Found<'t> {
    pub(super) fn variable(text: &'t OsStr) -> Self {
        text.to_str().map_or(Self::NotText, Self::Variable)
    }

    /// A text of nothing but white space.
    pub(super) fn is_empty(self) -> bool {
        match self {
            Self::Variable(text) => text.trim().is_empty(),
            Self::File(Value::Text(text)) => text.trim().is_empty(),
            _ => false,
        }
    }

    pub(super) fn one_value(self) -> Result<&'t str, String> {
        match self {
            Self::Variable(text) => Ok(text.trim()),
            Self::File(value) => scalar(value).ok_or_else(|| "must be a single value".to_owned()),
            Self::NotText => Ok(""),
        }
    }

    /// Without the empty ones.
    pub(super) fn several_values(self) -> Result<Vec<&'t str>, String> {
        let values = match self {
            Self::File(Value::List(items)) => items.iter().map(|item| scalar(&item.value)).collect(),
            found => found.one_value().ok().map(|text| text.split(',').map(str::trim).collect::<Vec<_>>()),
        };
        let values = values.ok_or_else(|| "must be a list of single values".to_owned())?;
        Ok(values.into_iter().filter(|value| !value.is_empty()).collect())
    }

    /// For the report, if it is no secret.
    pub(super) fn shown(self) -> String {
        plain_value(&self.several_values().unwrap_or_default().join(", "))
    }
}

fn scalar(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) => Some(text.trim()),
        Value::Integer(text) | Value::Other(text) => Some(text),
        Value::Boolean(value) => Some(if *value { "true" } else { "false" }),
        Value::List(_) | Value::Table(_) => None,
    }
}

/// A value for the report: in one line, of at most 200 characters, and without the user, the password and other
/// secrets of a URL.
pub(super) fn plain_value(text: &str) -> String {
    let without_password = match text.split_once("://").zip(text.rsplit_once('@')) {
        Some(((scheme, rest), (_, host))) if rest.contains('@') => {
            format!("{scheme}://{MASKED}@{}", without_secrets(host))
        }
        _ if text.contains("://") => without_secrets(text),
        _ => text.to_owned(),
    };
    let mut shown = one_line(&without_password.chars().take(200).collect::<String>());
    if without_password.chars().nth(200).is_some() {
        shown.push('…');
    }
    shown
}

/// A URL without what its options say that may be a secret: in the URL of a database the password may be one. A name in
/// disguise, such as `p%61ssword`, counts as one.
fn without_secrets(url: &str) -> String {
    let Some((address, options)) = url.split_once('?') else { return url.to_owned() };
    let is_secret = |name: &str| {
        let name = name.to_ascii_lowercase();
        ["%", "pass", "secret", "token", "key"].iter().any(|word| name.contains(word))
    };
    let options = options.split('&').map(|option| match option.split_once('=') {
        Some((name, _)) if is_secret(name) => format!("{name}={MASKED}"),
        _ => option.to_owned(),
    });
    format!("{address}?{}", options.collect::<Vec<_>>().join("&"))
}

/// With escapes instead of control characters, so that nothing that was read looks like more than one line.
pub(super) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_in_one_line_and_without_passwords() {
        for (value, shown) in [
            ("sqlite:keyward.db", "sqlite:keyward.db"),
            ("alice@example.com", "alice@example.com"),
            ("postgres://app:pa@ss/word@db/keys", "postgres://…@db/keys"),
            (
                "postgres:///keys?host=/run/db&password=pa=ss&sslmode=require",
                "postgres:///keys?host=/run/db&password=…&sslmode=require",
            ),
            ("postgres://app@db/keys?p%61ssword=pass", "postgres://…@db/keys?p%61ssword=…"),
            ("a\nb\u{1b}[31m", "a\\nb\\u{1b}[31m"),
            ("grün", "grün"),
        ] {
            assert_eq!(plain_value(value), shown);
        }
        assert_eq!(plain_value(&"x".repeat(1000)).chars().count(), 201);
    }
}
