//! Byte-level BPE: training, encoding and decoding.
//!
//! The road of a text: [`special`] cuts out special tokens, [`split`] cuts the rest into pre-tokens,
//! [`merge`] joins the bytes of a pre-token into tokens. Training ([`count`], over what [`input`] reads, then
//! [`train`]) finds the merges. Nothing here knows Python; `python.rs`, behind the feature of that name, is the only module that does.

pub mod backtrack;
pub mod batch;
pub mod bytes;
pub mod cache;
pub mod count;
pub mod cut;
pub mod dropout;
pub mod encode;
pub mod error;
pub mod input;
#[cfg(test)]
mod linear;
pub mod merge;
pub mod pages;
pub mod pairs;
pub mod piece;
#[cfg(feature = "python")]
mod python;
pub mod queue;
pub mod ranks;
pub mod special;
pub mod split;
pub mod state;
pub mod stream;
pub mod tally;
pub mod tokenizer;
pub mod train;
pub mod unicode;
pub mod vocab;

pub use error::{Error, Kind, Result, Watch};
pub use tokenizer::{Rule, Tokenizer};
