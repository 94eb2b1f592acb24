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
        let mut reached: Vec<&Node> = Vec::new();
        add(&mut reached, &self.root);
        for word in topic.split('.') {
            let mut next: Vec<&Node> = Vec::new();
            for (node, is_many) in with_many(&reached) {
                if is_many {
                    add(&mut next, node);
                }
                for part in [word, "*"] {
                    if let Some(child) = node.words.get(part) {
                        add(&mut next, child);
                    }
                }
            }
            reached = next;
        }
        for (node, _) in with_many(&reached) {
            found.extend(&node.values);
        }
        found
    }
}

/// The reached nodes, and those behind `#` that need no word. True: reached by `#`, which may go on.
fn with_many<'a>(reached: &[&'a Node]) -> Vec<(&'a Node, bool)> {
    let mut all: Vec<(&Node, bool)> = reached.iter().map(|node| (*node, false)).collect();
    let mut at = 0;
    while at < all.len() {
        if let Some(many) = all[at].0.words.get("#") {
            match all.iter_mut().find(|(known, _)| std::ptr::eq(*known, many)) {
                Some(known) => known.1 = true,
                None => all.push((many, true)),
            }
        }
        at += 1;
    }
    all
}

fn add<'a>(nodes: &mut Vec<&'a Node>, node: &'a Node) {
    if !nodes.iter().any(|known| std::ptr::eq(*known, node)) {
        nodes.push(node);
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
