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
