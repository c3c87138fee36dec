//! What must hold for any bytes: one function for each fuzz target, which panics where it does not.
//!
//! libFuzzer calls them (`rust/fuzz`), and so does `cargo test`, on the seeds and on random bytes (`rust/tests/fuzz.rs`).
//! What they compare with is in [`naive`]: the same thing once more, slowly and plainly.

pub mod input;
pub mod naive;
mod readers;
mod texts;
mod vocabularies;

pub use readers::{counts, files, pattern, source, special, state};
pub use texts::{decode, encode, split, stream};
pub use vocabularies::{merge, train};

/// A name, which is also that of its folder of seeds, and what is done with bytes.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 12] = [
    ("counts", counts),
    ("decode", decode),
    ("encode", encode),
    ("files", files),
    ("merge", merge),
    ("pattern", pattern),
    ("source", source),
    ("special", special),
    ("split", split),
    ("state", state),
    ("stream", stream),
    ("train", train),
];
