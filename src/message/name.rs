use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// The longest name, in bytes: an AMQP 0-9-1 short string.
const LONGEST: usize = 255;

/// A topic, queue, group or header that cannot be a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing.
    #[error("a {what} must not be empty")]
    Empty {
        /// What was named.
        what: &'static str,
    },
    /// Over 255 bytes, the most that AMQP 0-9-1 carries in a short string, or over the part of it that is left
    /// beside what the bridge adds.
    #[error("a {what} has {length} bytes, the most is {most}: `{name}…`")]
    TooLong {
        /// What was named.
        what: &'static str,
        /// Its bytes.
        length: usize,
        /// The most that it may have.
        most: usize,
        /// How it begins.
        name: String,
    },
    /// A control character, which no log or broker tool shows.
    #[error("a {what} has a control character at byte {position}: `{name}`")]
    Control {
        /// What was named.
        what: &'static str,
        /// Where.
        position: usize,
        /// The name, escaped.
        name: String,
    },
    /// `*` or `#` as a word: those belong to patterns, and would be misread in a topic.
    #[error("a topic must not have the wildcard `{wildcard}` as a word: `{name}`")]
    Wildcard {
        /// `*` or `#`.
        wildcard: char,
        /// The topic.
        name: String,
    },
    /// A name that the bridge needs for something of its own.
    #[error("a {what} must not be named `{name}`: the bridge has that name for {purpose}")]
    Reserved {
        /// What was named.
        what: &'static str,
        /// The name.
        name: String,
        /// What the name is for.
        purpose: &'static str,
    },
}

fn validate(what: &'static str, name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { what });
    }
    validate_length(what, name, LONGEST)?;
    if let Some((position, _)) = name.char_indices().find(|(_, char)| char.is_control()) {
        return Err(NameError::Control {
            what,
            position,
            name: name.escape_debug().to_string(),
        });
    }
    Ok(())
}

/// That a name has at most so many bytes.
pub(crate) fn validate_length(
    what: &'static str,
    name: &str,
    most: usize,
) -> Result<(), NameError> {
    if name.len() <= most {
        return Ok(());
    }
    Err(NameError::TooLong {
        what,
        length: name.len(),
        most,
        name: name.chars().take(40).collect(),
    })
}

/// A part that names of the broker are made of: a prefix, a service.
#[cfg(feature = "amqp")]
pub(crate) fn validate_part(what: &'static str, name: &str) -> Result<(), NameError> {
    validate(what, name)
}

pub(crate) fn validate_topic(topic: &str) -> Result<(), NameError> {
    validate("topic", topic)?;
    match topic.split('.').find(|word| matches!(*word, "*" | "#")) {
        Some(word) => Err(NameError::Wildcard {
            wildcard: if word == "*" { '*' } else { '#' },
            name: topic.to_owned(),
        }),
        None => Ok(()),
    }
}

pub(crate) fn validate_pattern(pattern: &str) -> Result<(), NameError> {
    validate("topic pattern", pattern)
}

pub(crate) fn validate_queue(queue: &str) -> Result<(), NameError> {
    validate("queue", queue)
}

pub(crate) fn validate_header(name: &str) -> Result<(), NameError> {
    validate("header", name)
}

pub(crate) fn validate_key(key: &str) -> Result<(), NameError> {
    validate("key", key)
}

/// A name: one of the program's own constants, or one made at run time.
#[derive(Clone)]
pub(crate) enum Name {
    Static(&'static str),
    Shared(Arc<str>),
}

impl Name {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Static(name) => name,
            Self::Shared(name) => name,
        }
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_be_are_refused_with_the_reason() {
        assert!(validate_topic(&"a".repeat(255)).is_ok());
        assert!(matches!(
            validate_topic(&"a".repeat(256)),
            Err(NameError::TooLong { length: 256, .. })
        ));
        assert!(matches!(validate_topic(""), Err(NameError::Empty { .. })));
        assert!(matches!(
            validate_topic("a\nb"),
            Err(NameError::Control { position: 1, .. })
        ));
        assert!(matches!(
            validate_topic("a.*.b"),
            Err(NameError::Wildcard { wildcard: '*', .. })
        ));
        assert!(validate_topic("a.b*").is_ok(), "a wildcard is a whole word");
        assert!(validate_queue("#").is_ok(), "a queue is no topic");
    }
}
