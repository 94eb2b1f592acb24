use std::collections::HashSet;

use super::Pattern;

/// The most pairs of states that are looked at; patterns of a program need a handful.
const MOST: usize = 20_000;

/// How the topics of two patterns stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    /// No topic matches both.
    Disjoint,
    /// Every topic of the other one matches this.
    Covers,
    /// Some topics match both, or it could not be found out.
    Overlaps,
}

/// Which positions of a pattern can be reached; one more than it has words.
type Reached = Vec<bool>;

struct Machine<'a>(Vec<&'a str>);

impl Machine<'_> {
    /// Behind a `#` one stands without any word.
    fn close(&self, mut reached: Reached) -> Reached {
        for (at, word) in self.0.iter().enumerate() {
            if reached[at] && *word == "#" {
                reached[at + 1] = true;
            }
        }
        reached
    }

    fn start(&self) -> Reached {
        let mut reached = vec![false; self.0.len() + 1];
        reached[0] = true;
        self.close(reached)
    }

    /// None stands for a word that neither pattern names.
    fn step(&self, from: &Reached, word: Option<&str>) -> Reached {
        let mut reached = vec![false; self.0.len() + 1];
        for (at, part) in self.0.iter().enumerate().filter(|(at, _)| from[*at]) {
            match *part {
                "#" => reached[at] = true,
                "*" => reached[at + 1] = true,
                literal => reached[at + 1] |= word == Some(literal),
            }
        }
        self.close(reached)
    }
}

fn accepts(reached: &Reached) -> bool {
    reached.last().copied().unwrap_or(false)
}

impl Pattern {
    /// Looks at both patterns as machines that read a topic word by word, side by side.
    pub(crate) fn relation_to(&self, other: &Self) -> Relation {
        let ours = Machine(self.as_str().split('.').collect());
        let theirs = Machine(other.as_str().split('.').collect());
        let mut words: Vec<Option<&str>> = ours
            .0
            .iter()
            .chain(&theirs.0)
            .filter(|word| !matches!(**word, "*" | "#"))
            .map(|word| Some(*word))
            .collect();
        words.sort_unstable();
        words.dedup();
        words.push(None);
        let mut seen = HashSet::new();
        let mut to_do = vec![(ours.start(), theirs.start())];
        let (mut meets, mut escapes) = (false, false);
        while let Some((here, there)) = to_do.pop() {
            for word in &words {
                let next = (ours.step(&here, *word), theirs.step(&there, *word));
                if !next.1.contains(&true) || seen.contains(&next) {
                    continue;
                }
                if accepts(&next.1) {
                    match accepts(&next.0) {
                        true => meets = true,
                        false => escapes = true,
                    }
                }
                if seen.len() >= MOST || (meets && escapes) {
                    return Relation::Overlaps;
                }
                seen.insert(next.clone());
                to_do.push(next);
            }
        }
        match (meets, escapes) {
            (true, false) => Relation::Covers,
            (true, true) => Relation::Overlaps,
            (false, _) => Relation::Disjoint,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::pattern_words;

    fn relation(ours: &str, theirs: &str) -> Relation {
        let pattern = |text| Pattern::new(text).unwrap();
        pattern(ours).relation_to(&pattern(theirs))
    }

    #[test]
    fn imports_and_what_subscribers_want() {
        assert_eq!(
            relation("ordering.#", "ordering.order-paid"),
            Relation::Covers
        );
        assert_eq!(relation("ordering.#", "ordering.*"), Relation::Covers);
        assert_eq!(relation("ordering.*", "ordering.#"), Relation::Overlaps);
        assert_eq!(relation("ordering.#", "catalog.#"), Relation::Disjoint);
        assert_eq!(relation("#", "#"), Relation::Covers);
        assert_eq!(relation("*.paid", "ordering.*"), Relation::Overlaps);
        assert_eq!(relation("#.paid", "ordering.*.paid"), Relation::Covers);
        assert_eq!(relation("a.#.#.#.b", "a.b"), Relation::Covers);
    }

    proptest! {
        /// No topic contradicts it.
        #[test]
        fn holds_for_every_topic(
            ours in pattern_words(&["a", "b", "*", "#"]),
            theirs in pattern_words(&["a", "b", "*", "#"]),
            topics in proptest::collection::vec(pattern_words(&["a", "b", "c"]), 1..60),
        ) {
            let (ours, theirs) = (Pattern::new(&ours).unwrap(), Pattern::new(&theirs).unwrap());
            let relation = ours.relation_to(&theirs);
            for topic in &topics {
                let (here, there) = (ours.matches(topic), theirs.matches(topic));
                match relation {
                    Relation::Disjoint => prop_assert!(!(here && there), "{topic}"),
                    Relation::Covers => prop_assert!(here || !there, "{topic}"),
                    Relation::Overlaps => {}
                }
            }
        }
    }
}
