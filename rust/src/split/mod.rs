//! Cutting text into pre-tokens, the pieces that merges never cross.

mod pattern;
pub mod scan;

pub use pattern::Pattern;

use crate::error::{Error, Result};
use fancy_regex::Regex;

/// A [`Pattern`] ready to cut. Each thread has its own, as the scratch space inside a compiled regex is shared
/// between all users of one instance, and sharing it between threads costs more than the matching.
#[derive(Clone)]
pub enum Splitter {
    Scan(scan::Scan),
    Regex(Box<Regex>),
    Whole,
}

impl Splitter {
    /// Calls `piece(start, end)` with the byte range of each pre-token of `text`, in order. Text between two
    /// matches of a regex is a piece too, unless `drop_gaps` (what tiktoken does).
    pub fn for_each(
        &self,
        text: &str,
        drop_gaps: bool,
        mut piece: impl FnMut(usize, usize) -> Result<()>,
    ) -> Result<()> {
        match self {
            Splitter::Scan(scan) => {
                let mut start = 0;
                while start < text.len() {
                    let end = scan.end_of_piece(text, start);
                    piece(start, end)?;
                    start = end;
                }
                Ok(())
            }
            Splitter::Whole => {
                if text.is_empty() {
                    return Ok(());
                }
                piece(0, text.len())
            }
            Splitter::Regex(regex) => {
                let mut start = 0;
                for found in regex.find_iter(text) {
                    let found = found.map_err(|error| gave_up(regex, start, &error))?;
                    if found.start() == found.end() {
                        continue; // an empty match cuts nothing off
                    }
                    if found.start() > start && !drop_gaps {
                        piece(start, found.start())?;
                    }
                    piece(found.start(), found.end())?;
                    start = found.end();
                }
                if start < text.len() && !drop_gaps {
                    piece(start, text.len())?;
                }
                Ok(())
            }
        }
    }
}

fn gave_up(regex: &Regex, start: usize, error: &fancy_regex::Error) -> Error {
    Error::tokenizer(format!(
        "the pattern {:?} gave up on the text after byte {start}: {error}. Simplify it (possessive quantifiers \
         such as `\\s++` help), or use one of the named patterns, which read any text",
        regex.as_str()
    ))
}
