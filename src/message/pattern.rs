use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::NameError;
use super::name::validate_pattern;

/// Which topics a subscription wants: dot-separated words, `*` for one word, `#` for zero or more.
///
/// Exactly the matching of RabbitMQ's topic exchange: words are what stands between dots, so `a..b` has an
/// empty word, which `*` matches; a wildcard is a whole word, so `a*` matches only itself.
///
/// ```
/// # fn main() -> Result<(), postroom::NameError> {
/// let pattern = postroom::Pattern::new("ordering.#")?;
/// assert!(pattern.matches("ordering") && pattern.matches("ordering.order.paid"));
/// assert!(!pattern.matches("catalog.stock-confirmed"));
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// A pattern.
    ///
    /// # Errors
    /// When it is empty, over 255 bytes, or has control characters.
    pub fn new(pattern: &str) -> Result<Self, NameError> {
        validate_pattern(pattern)?;
        Ok(Self(pattern.into()))
    }

    /// A pattern that no topic matches: a topic is never empty.
    pub(crate) fn nothing() -> Self {
        Self("".into())
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it has no wildcards and so matches only itself.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        !self.0.split('.').any(|word| matches!(word, "*" | "#"))
    }

    /// Whether a topic matches. Takes at most words × words steps, whatever the pattern.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        let words: Vec<&str> = topic.split('.').collect();
        // `reached[n]`: the pattern so far can match exactly the first n words.
        let mut reached = vec![false; words.len() + 1];
        reached[0] = true;
        for part in self.0.split('.') {
            if part == "#" {
                for n in 1..reached.len() {
                    reached[n] |= reached[n - 1];
                }
            } else {
                for n in (1..reached.len()).rev() {
                    reached[n] = reached[n - 1] && (part == "*" || part == words[n - 1]);
                }
                reached[0] = false;
            }
        }
        reached[words.len()]
    }
}

impl FromStr for Pattern {
    type Err = NameError;

    fn from_str(pattern: &str) -> Result<Self, NameError> {
        Self::new(pattern)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&&*self.0).finish()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, written down as it is spoken.
    fn model(pattern: &[&str], topic: &[&str]) -> bool {
        match (pattern.split_first(), topic.split_first()) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some((&"#", rest)), None) => model(rest, topic),
            (Some((&"#", rest)), Some((_, words))) => model(rest, topic) || model(pattern, words),
            (Some(_), None) => false,
            (Some((&part, rest)), Some((&word, words))) => {
                (part == "*" || part == word) && model(rest, words)
            }
        }
    }

    pub(crate) fn words(alphabet: &'static [&'static str]) -> impl Strategy<Value = String> {
        proptest::collection::vec(proptest::sample::select(alphabet), 1..7)
            .prop_map(|words| words.join("."))
    }

    proptest! {
        #[test]
        fn matches_as_defined(
            pattern in words(&["a", "b", "*", "#", ""]),
            topic in words(&["a", "b", "c", ""]),
        ) {
            prop_assume!(!pattern.is_empty());
            let parts: Vec<_> = pattern.split('.').collect();
            let split: Vec<_> = topic.split('.').collect();
            prop_assert_eq!(Pattern::new(&pattern).unwrap().matches(&topic), model(&parts, &split));
        }
    }

    #[test]
    fn many_wildcards_do_not_explode() {
        let pattern = Pattern::new(&["#"; 127].join(".")).unwrap();
        assert!(pattern.matches(&["a"; 127].join(".")));
        let never = Pattern::new(&format!("{}.z", ["#"; 126].join("."))).unwrap();
        assert!(!never.matches(&["a"; 127].join(".")));
    }
}
