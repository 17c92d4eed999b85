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

    /// A text of nothing but white space; for a list, also of nothing but that between commas.
    pub(super) fn is_empty(self, is_list: bool) -> bool {
        match self {
            Self::Variable(text) if is_list => text.split(',').all(|value| value.trim().is_empty()),
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

    /// For the report, if it is no secret: as it is taken.
    pub(super) fn shown(self, is_list: bool) -> String {
        if is_list {
            plain_value(&self.several_values().unwrap_or_default().join(", "))
        } else {
            plain_value(self.one_value().unwrap_or_default())
        }
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

/// A value for the report: in one line, of at most 200 characters, and without those parts of a URL in which secrets
/// stand: user, password, query and fragment.
pub(super) fn plain_value(text: &str) -> String {
    let without_secrets = text.split_once("://").map_or_else(|| text.to_owned(), plain_url);
    let mut shown = one_line(&without_secrets.chars().take(200).collect::<String>());
    if without_secrets.chars().nth(200).is_some() {
        shown.push('…');
    }
    shown
}

fn plain_url((scheme, rest): (&str, &str)) -> String {
    // A password may hold any of the other signs.
    let (user, rest) = match rest.rsplit_once('@') {
        Some((_, host)) => (format!("{MASKED}@"), host),
        None => (String::new(), rest),
    };
    let (path, query) = rest.find(['?', '#', '&']).map_or((rest, ""), |at| rest.split_at(at));
    let query = query.get(..1).map_or(String::new(), |sign| format!("{sign}{MASKED}"));
    format!("{scheme}://{user}{path}{query}")
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
            ("postgres://app:pa?ss@db/keys?user=a&password=b", "postgres://…@db/keys?…"),
            ("https://idp.example/keys?token=1234", "https://idp.example/keys?…"),
            ("https://idp.example/keys#1234", "https://idp.example/keys#…"),
            ("https://idp.example?mail=a@b&token=1", "https://…@b&…"),
            ("what?", "what?"),
            ("a\nb\u{1b}[31m", "a\\nb\\u{1b}[31m"),
            ("grün", "grün"),
        ] {
            assert_eq!(plain_value(value), shown);
        }
        assert_eq!(plain_value(&"x".repeat(1000)).chars().count(), 201);
    }
}
