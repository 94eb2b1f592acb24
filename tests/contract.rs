//! What the documents name exists: the tests of the failure tables, and files.
#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

use std::path::{Path, PathBuf};
use std::{fs, io};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// What stands between backticks behind each `·` of a column, up to a semicolon.
fn named(row: &str, column: usize) -> Vec<&str> {
    let cell = row.split('|').nth(column).unwrap_or_default();
    let proofs = cell.split('·').skip(1);
    let proofs = proofs.filter_map(|proof| proof.split(';').next());
    proofs
        .flat_map(|proof| proof.split('`').skip(1).step_by(2))
        .collect()
}

#[test]
fn every_test_named_in_the_failure_table_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let contract = fs::read_to_string(root.join("docs/contract.md")).unwrap();
    let table = contract.split("# What happens when").nth(1).unwrap();
    let column = |column| -> Vec<&str> {
        let rows = table.lines().filter(|line| line.starts_with('|'));
        rows.flat_map(|row| named(row, column)).collect()
    };
    let (in_process, over_rabbit_mq, with_a_store) = (column(2), column(3), column(4));
    for names in [&in_process, &over_rabbit_mq, &with_a_store] {
        assert!(names.len() > 20, "the table was not read: {names:?}");
    }
    // What is run neither over RabbitMQ nor in a database is listed there by name.
    let conformance = fs::read_to_string(root.join("tests/common/conformance.rs")).unwrap();
    for name in over_rabbit_mq.iter().chain(&with_a_store) {
        let is_skipped = conformance.contains(&format!("\"{name}\""));
        assert!(!is_skipped, "`{name}` proves nothing outside of memory");
    }
    let names = [in_process, over_rabbit_mq, with_a_store].concat();
    let mut files = Vec::new();
    sources(&root.join("src/testing"), &mut files).unwrap();
    sources(&root.join("tests"), &mut files).unwrap();
    let missing: Vec<&str> = names
        .into_iter()
        .filter(|name| {
            let (file, test) = match name.rsplit_once("::") {
                Some((file, test)) => (Some(file.replace("::", "/")), test),
                None => (None, *name),
            };
            // One that is run over several stores may be generic.
            let functions = [format!("fn {test}("), format!("fn {test}<")];
            !files.iter().any(|path| {
                let is_the_file = file
                    .as_ref()
                    .is_none_or(|file| path.with_extension("").ends_with(file));
                is_the_file && {
                    let source = fs::read_to_string(path).unwrap();
                    functions.iter().any(|function| source.contains(function))
                }
            })
        })
        .collect();
    assert!(missing.is_empty(), "named and not there: {missing:#?}");
}

/// The documents: those of the root, and those of `docs`.
fn documents(root: &Path) -> Vec<(PathBuf, String)> {
    let folders = [root.to_path_buf(), root.join("docs")];
    let entries = folders
        .iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap());
    let paths = entries.map(|entry| entry.unwrap().path());
    let documents =
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    documents
        .map(|path| (path.clone(), fs::read_to_string(path).unwrap()))
        .collect()
}

fn between_backticks(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines();
    lines.flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// The source of the test that is named by its path, as `store::queues::a_name` is in `tests/store/queues.rs`; modules within a
/// file may follow.
fn test_file_of(root: &Path, name: &str) -> Option<String> {
    let modules: Vec<&str> = name.split("::").collect();
    (1..modules.len()).rev().find_map(|depth| {
        let file = format!("tests/{}.rs", modules[..depth].join("/"));
        fs::read_to_string(root.join(file)).ok()
    })
}

#[test]
fn every_file_and_every_test_named_in_a_document_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "tests", "examples", "benches"] {
        sources(&root.join(folder), &mut files).unwrap();
    }
    let (mut named, mut missing) = (0, Vec::new());
    for (document, text) in documents(root) {
        for name in between_backticks(&text) {
            let is_there = if name.ends_with(".rs") && !name.contains([' ', '*', '<']) {
                files.iter().any(|path| path.ends_with(name))
            } else if let Some(source) = test_file_of(root, name) {
                // One of a macro's making stands there without `fn`.
                let test = name.rsplit("::").next().unwrap();
                source.contains(test)
            } else {
                continue;
            };
            named += 1;
            if !is_there {
                missing.push(format!("{}: {name}", document.display()));
            }
        }
    }
    assert!(named > 100, "the documents were not read: {named}");
    assert!(missing.is_empty(), "named and not there: {missing:#?}");
}
