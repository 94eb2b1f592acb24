//! What a service knows, and a file from which it knows it again after its process was killed.
//!
//! A stand-in for the database that each service has of its own; with the store feature, its outbox and its inbox
//! take this place. Every change is a line of JSON, written before it is made, and so before the handler's `Ok`: a
//! message that is handed out again after a crash finds that it was handled. Nothing is synced to the disk: it
//! survives `kill -9`, not a power cut.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Tables that are empty at first and change by nothing but their changes, and so are the same again when those are
/// made again.
pub trait Tables: Default {
    type Change: Serialize + DeserializeOwned;

    fn apply(&mut self, change: Self::Change);
}

/// Where the journals of the services are; without a directory nothing is kept.
#[derive(Clone, Debug, Default)]
pub struct Journals(Option<PathBuf>);

impl Journals {
    #[cfg(feature = "amqp")]
    pub fn within(directory: PathBuf) -> Self {
        Self(Some(directory))
    }

    /// The tables as they were when the service ended, however it did.
    pub fn open<T: Tables>(&self, service: &str) -> io::Result<Journaled<T>> {
        let journaled = Journaled {
            tables: T::default(),
            file: None,
        };
        match &self.0 {
            Some(directory) => {
                std::fs::create_dir_all(directory)?;
                journaled.resumed(&directory.join(format!("{service}.jsonl")))
            }
            None => Ok(journaled),
        }
    }
}

/// Tables and their journal.
#[derive(Default)]
pub struct Journaled<T> {
    tables: T,
    file: Option<Journal>,
}

struct Journal {
    file: File,
    length: u64,
}

impl<T: Tables> Journaled<T> {
    /// Makes a change. The journal has it first.
    ///
    /// # Panics
    /// When the journal cannot be written. The change is not made, and the message that asked for it is tried again.
    pub fn change(&mut self, change: T::Change) {
        if let Some(journal) = &mut self.file
            && let Err(error) = journal.write(&change)
        {
            panic!("the journal cannot be written: {error}");
        }
        self.tables.apply(change);
    }

    fn resumed(mut self, path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let mut file = options.read(true).append(true).create(true).open(path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        // A line that the kill cut off belongs to a message that was not acknowledged.
        let whole = text.iter().rposition(|byte| *byte == b'\n');
        let length = whole.map_or(0, |end| end + 1);
        file.set_len(length as u64)?;
        for line in text[..length].split(|byte| *byte == b'\n') {
            if !line.is_empty() {
                self.tables.apply(serde_json::from_slice(line)?);
            }
        }
        self.file = Some(Journal {
            file,
            length: length as u64,
        });
        Ok(self)
    }
}

impl Journal {
    fn write(&mut self, change: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(change)?;
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line) {
            // Half a line would spoil the next.
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length += line.len() as u64;
        Ok(())
    }
}

impl<T> Deref for Journaled<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.tables
    }
}

/// For counts, which are not kept.
impl<T> DerefMut for Journaled<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.tables
    }
}
