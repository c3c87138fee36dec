//! Cutting text into pre-tokens, the pieces that merges never cross.

mod pattern;
pub mod scan;
pub mod window;

pub use pattern::Pattern;

use crate::error::{Error, Result};
use fancy_regex::Regex;
pub use window::Span;

/// How many pieces are found before they are looked at.
pub const BATCH: usize = 256;

/// A [`Pattern`] ready to cut. Each thread has its own, as the scratch space inside a compiled regex is shared
/// between all users of one instance, and sharing it between threads costs more than the matching.
#[derive(Clone)]
pub enum Splitter {
    Scan(scan::Scan),
    Regex(Box<Regex>),
    Whole,
}

impl Splitter {
    /// Calls `batch` with the byte ranges of the pre-tokens of `text`, in order, up to [`BATCH`] at a time. Text between
    /// two matches of a regex is a piece too, unless `drop_gaps` (what tiktoken does).
    pub fn for_each_batch(
        &self,
        text: &str,
        drop_gaps: bool,
        mut batch: impl FnMut(&[Span]) -> Result<()>,
    ) -> Result<()> {
        let mut spans = [(0, 0); BATCH];
        match self {
            Splitter::Scan(scan) => {
                let mut at = 0;
                while at < text.len() {
                    let count = window::fill(scan, scan.family(), text, at, &mut spans);
                    batch(&spans[..count])?;
                    at = spans[count - 1].1;
                }
                Ok(())
            }
            Splitter::Whole => {
                if text.is_empty() {
                    return Ok(());
                }
                batch(&[(0, text.len())])
            }
            Splitter::Regex(regex) => {
                let (mut start, mut count) = (0, 0);
                let mut push = |span: Span, last: bool| {
                    if span.0 < span.1 {
                        spans[count] = span;
                        count += 1;
                    }
                    if count == BATCH || last && count > 0 {
                        batch(&spans[..std::mem::take(&mut count)])?;
                    }
                    Ok(())
                };
                for found in regex.find_iter(text) {
                    let found = found.map_err(|error| gave_up(regex, start, &error))?;
                    if found.start() == found.end() {
                        continue; // an empty match cuts nothing off
                    }
                    if !drop_gaps {
                        push((start, found.start()), false)?;
                    }
                    push((found.start(), found.end()), false)?;
                    start = found.end();
                }
                push(if drop_gaps { (0, 0) } else { (start, text.len()) }, true)
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
