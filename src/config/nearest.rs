//! Which known name was probably meant.

/// The candidate that takes the fewest changes to become `name`, upper and lower case alike; the first of several.
pub(super) fn nearest<'a, T>(
    name: &str,
    candidates: impl IntoIterator<Item = (&'a str, T)>,
) -> Option<(&'a str, T)> {
    let lower = |text: &str| text.chars().take(LONGEST).collect::<String>().to_lowercase();
    let name = lower(name);
    candidates.into_iter().min_by_key(|(candidate, _)| distance(&name, &lower(candidate)))
}

/// Whether one is probably the other, misspelt: most of it is right.
pub(super) fn is_close(name: &str, other: &str) -> bool {
    let lower = |text: &str| text.chars().take(LONGEST).collect::<String>().to_lowercase();
    let (name, other) = (lower(name), lower(other));
    3 * distance(&name, &other) <= name.len().max(other.len())
}

/// Longer names are compared by their beginning, since the work grows with the product of the lengths.
const LONGEST: usize = 100;

/// How many characters must be added, removed or replaced to get from one to the other (Levenshtein, 1965).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<_> = to.chars().collect();
    // The distances between what was seen of `from` and each beginning of `to`, the empty one first.
    let mut row: Vec<_> = (0..=to.len()).collect();
    for (seen, letter) in (1..).zip(from.chars()) {
        let mut next = Vec::with_capacity(row.len());
        let mut left = seen;
        next.push(left);
        for ((diagonal, above), other) in row.iter().zip(row.iter().skip(1)).zip(&to) {
            let replaced = diagonal + usize::from(letter != *other);
            left = replaced.min(above + 1).min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn distances_are_those_of_another_implementation(a in "[a-dß_.]{0,12}", b in "[a-dß_.]{0,12}") {
            prop_assert_eq!(distance(&a, &b), strsim::levenshtein(&a, &b));
        }
    }

    #[test]
    fn the_nearest_is_found_whatever_the_case() {
        let known = || ["listen", "admin_users", "jwt.secret"].map(|name| (name, name.len()));
        for (name, meant) in [
            ("listne", "listen"),
            ("LISTEN", "listen"),
            ("admin-user", "admin_users"),
            ("jwt_secret", "jwt.secret"),
        ] {
            assert_eq!(nearest(name, known()), Some((meant, meant.len())), "{name}");
        }
        assert_eq!(nearest("anything", [] as [(&str, ()); 0]), None);
        assert!(nearest(&"x".repeat(1_000_000), known()).is_some(), "in no time");
    }
}
