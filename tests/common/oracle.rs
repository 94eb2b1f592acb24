//! Knows what was attempted, accepted and handled, and so what was lost, unexpected or duplicated.
//!
//! A publish that is not accepted counts as refused, unless its outcome is said to be unknown: an error or a
//! dropped future after the frame was written. Such a message may be handled or not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Knows the messages of one test. Clones share what they know.
#[derive(Clone, Default)]
pub(crate) struct Oracle(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    attempted: BTreeSet<u64>,
    accepted: BTreeSet<u64>,
    unknown: BTreeSet<u64>,
    handled: BTreeMap<(String, u64), u32>,
}

/// What the oracle says of a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) attempted: usize,
    pub(crate) accepted: usize,
    /// Attempted with an outcome that nobody knows.
    pub(crate) unknown: usize,
    pub(crate) handled: usize,
    /// Accepted and not handled at this queue.
    pub(crate) lost: Vec<(String, u64)>,
    /// Handled, though never attempted, or refused.
    pub(crate) unexpected: Vec<(String, u64)>,
    /// Handled more than once.
    pub(crate) duplicated: Vec<(String, u64)>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "attempted {} accepted {} unknown {} handled {} lost {} unexpected {} duplicated {}",
            self.attempted,
            self.accepted,
            self.unknown,
            self.handled,
            self.lost.len(),
            self.unexpected.len(),
            self.duplicated.len()
        )
    }
}

impl Oracle {
    pub(crate) fn attempt(&self, id: u64) {
        assert!(self.0.lock().unwrap().attempted.insert(id), "{id} is new");
    }

    pub(crate) fn accept(&self, id: u64) {
        let mut known = self.0.lock().unwrap();
        known.unknown.remove(&id);
        known.accepted.insert(id);
    }

    /// The publish failed after its frame was written: it may have arrived.
    pub(crate) fn unknown(&self, id: u64) {
        self.0.lock().unwrap().unknown.insert(id);
    }

    pub(crate) fn handle(&self, queue: &str, id: u64) {
        let mut known = self.0.lock().unwrap();
        *known.handled.entry((queue.to_owned(), id)).or_default() += 1;
    }

    pub(crate) fn was_handled(&self, queue: &str, id: u64) -> bool {
        let known = self.0.lock().unwrap();
        known.handled.contains_key(&(queue.to_owned(), id))
    }

    /// Whether every accepted message was handled at each of the queues: what a test waits for.
    pub(crate) fn complete(&self, queues: &[&str]) -> bool {
        self.verdict(queues).lost.is_empty()
    }

    /// Every accepted message was to be handled once at each of the queues.
    pub(crate) fn verdict(&self, queues: &[&str]) -> Verdict {
        let known = self.0.lock().unwrap();
        let mut verdict = Verdict {
            attempted: known.attempted.len(),
            accepted: known.accepted.len(),
            unknown: known.unknown.len(),
            handled: known.handled.len(),
            ..Verdict::default()
        };
        for queue in queues {
            for id in &known.accepted {
                let place = ((*queue).to_owned(), *id);
                if !known.handled.contains_key(&place) {
                    verdict.lost.push(place);
                }
            }
        }
        for (place, times) in &known.handled {
            if !known.accepted.contains(&place.1) && !known.unknown.contains(&place.1) {
                verdict.unexpected.push(place.clone());
            }
            if *times > 1 {
                verdict.duplicated.push(place.clone());
            }
        }
        verdict
    }

    /// Nothing lost, nothing unexpected, nothing twice.
    pub(crate) fn check(&self, queues: &[&str]) -> Verdict {
        let verdict = self.verdict(queues);
        assert!(verdict.lost.is_empty(), "{verdict:?}");
        assert!(verdict.unexpected.is_empty(), "{verdict:?}");
        assert!(verdict.duplicated.is_empty(), "{verdict:?}");
        assert_eq!(verdict.handled, verdict.accepted * queues.len());
        verdict
    }

    /// Nothing lost and nothing unexpected; duplicates are what a broken connection may cost. Prints one line for
    /// the cell `cell` of the fault matrix.
    #[allow(clippy::print_stdout, reason = "the line is read in the test's output")]
    pub(crate) fn check_at_least_once(&self, cell: &str, queues: &[&str]) -> Verdict {
        let verdict = self.verdict(queues);
        println!("oracle: {cell}: {verdict}");
        assert!(verdict.lost.is_empty(), "{cell}: {verdict:?}");
        assert!(verdict.unexpected.is_empty(), "{cell}: {verdict:?}");
        verdict
    }
}

/// An oracle in a file, for processes that are killed: what was recorded before the kill is known after it, and
/// any process may read it. Each record is one write.
pub(crate) struct Ledger {
    path: PathBuf,
    file: Mutex<File>,
}

impl Ledger {
    /// Opens the ledger, made where it is missing. Several processes may have it open.
    pub(crate) fn open(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_owned();
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap();
        Self {
            path,
            file: Mutex::new(file),
        }
    }

    pub(crate) fn attempt(&self, id: u64) {
        self.record(&format!("attempt {id}\n"));
    }

    pub(crate) fn accept(&self, id: u64) {
        self.record(&format!("accept {id}\n"));
    }

    /// The publish failed for certain. An attempt without any outcome is unknown: its process was killed.
    pub(crate) fn refuse(&self, id: u64) {
        self.record(&format!("refuse {id}\n"));
    }

    /// Written by the handler as its effect, before it returns. The queue's name has no space.
    pub(crate) fn handle(&self, queue: &str, id: u64) {
        self.record(&format!("handle {id} {queue}\n"));
    }

    fn record(&self, line: &str) {
        // `write`, not `write_all`: a line in two writes could have another process's line between them.
        let written = self.file.lock().unwrap().write(line.as_bytes()).unwrap();
        assert_eq!(written, line.len(), "a record is one write");
    }

    /// What all processes have recorded so far.
    pub(crate) fn read(&self) -> Oracle {
        let mut known = Known::default();
        let mut refused = BTreeSet::new();
        let text = std::fs::read_to_string(&self.path).unwrap();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let id = words[1].parse().unwrap();
            match words[0] {
                "attempt" => assert!(known.attempted.insert(id), "{id} is new"),
                "accept" => assert!(known.accepted.insert(id), "{id} is accepted once"),
                "refuse" => assert!(refused.insert(id), "{id} is refused once"),
                "handle" => *known.handled.entry((words[2].to_owned(), id)).or_default() += 1,
                other => panic!("no such record: {other}"),
            }
        }
        known.unknown = known
            .attempted
            .iter()
            .filter(|id| !known.accepted.contains(id) && !refused.contains(id))
            .copied()
            .collect();
        Oracle(Arc::new(Mutex::new(known)))
    }
}
