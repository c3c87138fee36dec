//! Special tokens: strings that become one token and never take part in merges.

use std::collections::HashMap;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use crate::error::{Error, Result};

/// Finds the special tokens of one set in a text: the leftmost, and of those that start at the same place the
/// longest, so that "<|a|>" and "<|a|>b" can live together. A clone costs next to nothing.
#[derive(Clone, Default)]
pub struct Specials {
    tokens: Arc<[(String, u32)]>,
    /// Of each string, the first id that was given with it.
    ids: Arc<HashMap<String, u32>>,
    finder: Option<AhoCorasick>,
}

impl Specials {
    pub fn new(tokens: Vec<(String, u32)>) -> Result<Self> {
        if tokens.is_empty() {
            return Ok(Specials::default());
        }
        if tokens.iter().any(|(token, _)| token.is_empty()) {
            return Err(Error::tokenizer("a special token must not be empty"));
        }
        // The fastest kind takes quadratic time to make for a long token that repeats itself: minutes for 100 kB.
        let size: usize = tokens.iter().map(|(token, _)| token.len()).sum();
        let finder = AhoCorasick::builder()
            .kind((size > 1 << 11).then_some(AhoCorasickKind::ContiguousNFA))
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens.iter().map(|(token, _)| token))
            .map_err(|error| Error::tokenizer(format!("too many special tokens: {error}")))?;
        let mut ids = HashMap::with_capacity(tokens.len());
        for (token, id) in &tokens {
            ids.entry(token.clone()).or_insert(*id);
        }
        Ok(Specials { tokens: tokens.into(), ids: Arc::new(ids), finder: Some(finder) })
    }

    /// The strings and ids, in the order in which they were given.
    pub fn tokens(&self) -> &[(String, u32)] {
        &self.tokens
    }

    pub fn id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    /// The length in bytes of the longest.
    pub fn longest(&self) -> usize {
        self.tokens.iter().map(|(token, _)| token.len()).max().unwrap_or(0)
    }

    /// The first special token at or after byte `from`: its start, end and id.
    pub fn find(&self, text: &str, from: usize) -> Option<(usize, usize, u32)> {
        let finder = self.finder.as_ref()?;
        let found = finder.find(aho_corasick::Input::new(text).range(from..))?;
        Some((found.start(), found.end(), self.tokens[found.pattern().as_usize()].1))
    }

    /// Calls `part(start, end, id)` for the parts of the text in order: ordinary text has no id.
    pub fn for_each_part(
        &self,
        text: &str,
        mut part: impl FnMut(usize, usize, Option<u32>) -> Result<()>,
    ) -> Result<()> {
        let mut at = 0;
        while let Some((start, end, id)) = self.find(text, at) {
            if start > at {
                part(at, start, None)?;
            }
            part(start, end, Some(id))?;
            at = end;
        }
        if at < text.len() {
            part(at, text.len(), None)?;
        }
        Ok(())
    }

    /// Does any special token lie across byte `at`, beginning before it and ending after it?
    pub fn crosses(&self, text: &str, at: usize) -> bool {
        self.tokens.iter().any(|(token, _)| {
            let (token, bytes) = (token.as_bytes(), text.as_bytes());
            (1..token.len()).any(|before| {
                before <= at
                    && bytes.len() - at >= token.len() - before
                    && bytes[at - before..].starts_with(token)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_of_the_leftmost_wins() {
        let specials = Specials::new(vec![("<a>".into(), 1), ("<a>b".into(), 2), ("b".into(), 3)]).unwrap();
        let mut parts = Vec::new();
        specials
            .for_each_part("x<a>bb<a>", |start, end, id| {
                parts.push((start, end, id));
                Ok(())
            })
            .unwrap();
        assert_eq!(parts, [(0, 1, None), (1, 5, Some(2)), (5, 6, Some(3)), (6, 9, Some(1))]);
        assert!(specials.crosses("x<a>b", 2));
        assert!(specials.crosses("x<a>b", 4));
        assert!(!specials.crosses("x<a>b", 1));
    }

    #[test]
    fn a_long_token_is_as_good_as_others() {
        let long = "ab".repeat(50_000);
        let specials = Specials::new(vec![(long.clone(), 1), ("b".into(), 2)]).unwrap();
        let text = format!("a{long}b");
        assert_eq!(specials.find(&text, 0), Some((1, 1 + long.len(), 1)));
        assert_eq!(specials.find(&text, 2), Some((2, 3, 2)));
    }
}
