//! The fuzz targets without a fuzzer: their seeds, what is near to them, and random bytes.

mod bodies;

use std::path::Path;

use bodies::TARGETS;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// The seeds of a target, by name.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("rust/tests/seeds").join(target);
    let mut all: Vec<(String, Vec<u8>)> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .collect();
    all.sort();
    assert!(!all.is_empty(), "no seeds in {}", folder.display());
    all
}

#[test]
fn seeds_hold() {
    for (name, target) in TARGETS {
        target(&[]);
        for (path, data) in seeds(name) {
            println!("{path}"); // what a panic is about
            target(&data);
        }
    }
}

#[test]
fn random_bytes_hold() {
    let cases = if cfg!(miri) { 4 } else { 256 };
    for (name, target) in TARGETS {
        let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
        let bytes = prop::collection::vec(any::<u8>(), 0..400);
        runner
            .run(&bytes, |data| {
                target(&data);
                Ok(())
            })
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn what_is_near_to_seeds_holds() {
    let cases = if cfg!(miri) { 4 } else { 256 };
    for (name, target) in TARGETS {
        let seeds: Vec<Vec<u8>> = seeds(name).into_iter().map(|(_, data)| data).collect();
        let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4), 1..4);
        let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
        runner
            .run(&(prop::sample::select(seeds), edits), |(mut data, edits)| {
                for (place, byte, kind) in edits {
                    let at = place.index(data.len() + 1);
                    match kind {
                        0 => data.insert(at, byte),
                        1 if at < data.len() => data[at] = byte,
                        2 if at < data.len() => drop(data.remove(at)),
                        _ => data.truncate(at.max(1)),
                    }
                }
                target(&data);
                Ok(())
            })
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}
