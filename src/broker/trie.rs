use std::collections::{BTreeSet, HashMap};

use crate::message::Pattern;

/// Topic patterns of all queues, by word.
#[derive(Default)]
pub(crate) struct TopicTrie {
    root: Node,
}

#[derive(Default)]
struct Node {
    words: HashMap<Box<str>, Node>,
    values: BTreeSet<u64>,
}

impl TopicTrie {
    pub(crate) fn insert(&mut self, pattern: &Pattern, value: u64) {
        let mut node = &mut self.root;
        for word in pattern.as_str().split('.') {
            node = node.words.entry(word.into()).or_default();
        }
        node.values.insert(value);
    }

    pub(crate) fn remove(&mut self, pattern: &Pattern, value: u64) {
        let words: Vec<&str> = pattern.as_str().split('.').collect();
        remove(&mut self.root, &words, value);
    }

    /// The values of all patterns that match, each once, in order.
    pub(crate) fn matches(&self, topic: &str) -> BTreeSet<u64> {
        let mut found = BTreeSet::new();
        // The nodes that the words so far can reach, each once: no blow-up with many `#`.
        let mut reached = Reached::default();
        reached.add(&self.root, false);
        for word in topic.split('.') {
            reached.skip_many();
            let mut next = Reached::default();
            for (node, is_many) in reached.0 {
                if is_many {
                    next.add(node, true);
                }
                for part in [word, "*"] {
                    if let Some(child) = node.words.get(part) {
                        next.add(child, false);
                    }
                }
            }
            reached = next;
        }
        reached.skip_many();
        for (node, _) in reached.0 {
            found.extend(&node.values);
        }
        found
    }
}

/// Nodes, each once. True: a `#` led there, which stays there over any number of words.
#[derive(Default)]
struct Reached<'a>(Vec<(&'a Node, bool)>);

impl<'a> Reached<'a> {
    fn add(&mut self, node: &'a Node, is_many: bool) {
        match self
            .0
            .iter_mut()
            .find(|(known, _)| std::ptr::eq(*known, node))
        {
            Some(known) => known.1 |= is_many,
            None => self.0.push((node, is_many)),
        }
    }

    /// Adds the nodes behind `#`, which need no word.
    fn skip_many(&mut self) {
        let mut at = 0;
        while at < self.0.len() {
            if let Some(many) = self.0[at].0.words.get("#") {
                self.add(many, true);
            }
            at += 1;
        }
    }
}

/// True: the node is empty and can go.
fn remove(node: &mut Node, words: &[&str], value: u64) -> bool {
    match words.split_first() {
        None => {
            node.values.remove(&value);
        }
        Some((word, rest)) => {
            if node
                .words
                .get_mut(*word)
                .is_some_and(|child| remove(child, rest, value))
            {
                node.words.remove(*word);
            }
        }
    }
    node.words.is_empty() && node.values.is_empty()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::pattern_words;

    fn patterns() -> impl Strategy<Value = Vec<Pattern>> {
        let pattern = pattern_words(&["a", "b", "*", "#", ""])
            .prop_filter_map("not empty", |pattern| Pattern::new(&pattern).ok());
        proptest::collection::vec(pattern, 1..20)
    }

    proptest! {
        /// The trie finds exactly the patterns that match, while they come and go; and keeps nothing of those
        /// that have gone.
        #[test]
        fn finds_what_matches(
            patterns in patterns(),
            removed in proptest::collection::vec(any::<bool>(), 20),
            topics in proptest::collection::vec(pattern_words(&["a", "b", "c", "", "a*", "**"]), 1..20),
        ) {
            let mut trie = TopicTrie::default();
            for (value, pattern) in (0u64..).zip(&patterns) {
                trie.insert(pattern, value);
            }
            let check = |trie: &TopicTrie, kept: &dyn Fn(usize) -> bool| {
                for topic in &topics {
                    let expected: BTreeSet<u64> = patterns
                        .iter()
                        .enumerate()
                        .filter(|(at, pattern)| kept(*at) && pattern.matches(topic))
                        .map(|(at, _)| at as u64)
                        .collect();
                    assert_eq!(trie.matches(topic), expected, "{topic}");
                }
            };
            check(&trie, &|_| true);
            for (at, pattern) in patterns.iter().enumerate() {
                if removed[at] {
                    trie.remove(pattern, at as u64);
                }
            }
            check(&trie, &|at| !removed[at]);
            for (at, pattern) in patterns.iter().enumerate() {
                // Removing what is not there changes nothing.
                trie.remove(pattern, at as u64);
                trie.remove(pattern, at as u64);
            }
            prop_assert!(trie.root.words.is_empty() && trie.root.values.is_empty());
        }
    }

    /// By the rules of RabbitMQ's topic exchange, worked out by hand.
    #[test]
    fn matches_as_rabbitmq_does() {
        let bindings = [
            "a.b.c", "a.*.c", "a.#.b", "a.b.b.c", "#", "#.#", "*", "*.*", "a.*", "*.b.*", "a.#",
            "a.#.#", "#.b.c", "a.*.#", "*.#", "#.b", "a.b.#", "*.#.#", "#.#.#", "a.*.*", "..",
        ];
        let mut trie = TopicTrie::default();
        for (value, binding) in (1u64..).zip(bindings) {
            trie.insert(&Pattern::new(binding).unwrap(), value);
        }
        let found = |topic: &str| -> Vec<&str> {
            let values = trie.matches(topic);
            values
                .iter()
                .map(|value| bindings[*value as usize - 1])
                .collect()
        };
        assert_eq!(
            found("a"),
            ["#", "#.#", "*", "a.#", "a.#.#", "*.#", "*.#.#", "#.#.#"]
        );
        assert_eq!(
            found("a.b"),
            [
                "a.#.b", "#", "#.#", "*.*", "a.*", "a.#", "a.#.#", "a.*.#", "*.#", "#.b", "a.b.#",
                "*.#.#", "#.#.#"
            ]
        );
        assert_eq!(
            found("a.b.c"),
            [
                "a.b.c", "a.*.c", "#", "#.#", "*.b.*", "a.#", "a.#.#", "#.b.c", "a.*.#", "*.#",
                "a.b.#", "*.#.#", "#.#.#", "a.*.*"
            ]
        );
        assert_eq!(found(".."), ["#", "#.#", "*.#", "*.#.#", "#.#.#", ".."]);
        assert_eq!(found("."), ["#", "#.#", "*.*", "*.#", "*.#.#", "#.#.#"]);
        assert_eq!(
            found("nothing.here.at.all"),
            ["#", "#.#", "*.#", "*.#.#", "#.#.#"]
        );
    }
}
