//! A strict reader of the Prometheus text format, version 0.0.4.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, and uses its part of this"
)]

use std::collections::{BTreeMap, BTreeSet};

/// One scrape: each family's type, and each series with its value.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scrape {
    pub(crate) text: String,
    types: BTreeMap<String, String>,
    helps: BTreeMap<String, String>,
    series: BTreeMap<String, f64>,
}

impl Scrape {
    /// Reads `text`; each line must be one of the format's.
    pub(crate) fn read(text: &str) -> Self {
        let mut scrape = Self { text: text.to_owned(), ..Self::default() };
        assert!(text.is_empty() || text.ends_with('\n'), "the last line has an end");
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap_or_else(|| panic!("{line}"));
                assert!(scrape.helps.insert(name.to_owned(), help.to_owned()).is_none(), "twice: {line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap_or_else(|| panic!("{line}"));
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert!(scrape.types.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
            } else {
                scrape.read_sample(line);
            }
        }
        scrape
    }

    fn read_sample(&mut self, line: &str) {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
        let (name, labels) = match series.split_once('{') {
            Some((name, rest)) => (name, rest.strip_suffix('}').unwrap_or_else(|| panic!("{line}"))),
            None => (series, ""),
        };
        check_name(name);
        let mut names = BTreeSet::new();
        for pair in labels.split(',').filter(|pair| !pair.is_empty()) {
            let (label, quoted) = pair.split_once('=').unwrap_or_else(|| panic!("{line}"));
            check_name(label);
            assert!(names.insert(label), "a label stands twice: {line}");
            let value = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            let value = value.unwrap_or_else(|| panic!("no quotes: {line}"));
            // Nothing that needs an escape is ever a label here.
            let plain = |c: char| c.is_ascii_alphanumeric() || "_.+-".contains(c);
            assert!(!value.is_empty() && value.chars().all(plain), "{line}");
        }
        let kind = self.types.get(family_of(name)).unwrap_or_else(|| panic!("no type before {line}"));
        assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        assert!(value.is_finite(), "{line}");
        assert!(kind == "gauge" || value >= 0.0, "{line}");
        assert!(self.series.insert(series.to_owned(), value).is_none(), "a series stands twice: {line}");
    }

    /// The value of a series, zero if it is not there.
    pub(crate) fn get(&self, series: &str) -> f64 {
        self.series.get(series).copied().unwrap_or(0.0)
    }

    pub(crate) fn has(&self, series: &str) -> bool {
        self.series.contains_key(series)
    }

    pub(crate) fn names(&self) -> BTreeSet<&str> {
        self.types.keys().map(String::as_str).collect()
    }

    pub(crate) fn described(&self) -> BTreeSet<&str> {
        self.helps.keys().map(String::as_str).collect()
    }

    pub(crate) fn series(&self) -> BTreeSet<&str> {
        self.series.keys().map(String::as_str).collect()
    }

    /// What must not have become less: counters, and all of a histogram.
    pub(crate) fn only_grew_to(&self, later: &Self) {
        for (series, before) in &self.series {
            let name = series.split('{').next().unwrap_or(series);
            if self.types.get(family_of(name)).is_some_and(|kind| kind != "gauge") {
                assert!(later.get(series) >= *before, "{series}: {before}, then {}", later.get(series));
            }
        }
    }
}

/// A histogram's name without what its series add.
fn family_of(name: &str) -> &str {
    let parts = ["_bucket", "_sum", "_count"];
    parts
        .iter()
        .find_map(|part| name.strip_suffix(part))
        .filter(|name| name.ends_with("_seconds"))
        .unwrap_or(name)
}

fn check_name(name: &str) {
    let mut chars = name.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    assert!(first && chars.all(|c| c.is_ascii_alphanumeric() || c == '_'), "no name: {name}");
}
