//! A finished tokenizer: a vocabulary, a rule for joining, a pattern and special tokens.

use std::collections::HashSet;
use std::sync::Mutex;

use crate::batch::Chosen;
use crate::encode::Worker;
use crate::error::{Error, Result};
use crate::merge::{self, GROUP, Merges, Scratch};
use crate::special::Specials;
use crate::split::{Pattern, Splitter};
use crate::vocab::Vocab;

/// Which neighbours join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Hugging Face's: the listed pairs, in the order of the list. `whole_first` (their `ignore_merges`): a piece
    /// that is a token as a whole is taken whole, even if no merges lead to it.
    Merges { pairs: Vec<(u32, u32)>, whole_first: bool },
    /// tiktoken's: a piece that is a token is taken whole; else any neighbours join whose bytes together are
    /// a token, lowest id first. Text that no match of the pattern covers is dropped, as tiktoken does.
    Ranks,
}

/// Immutable once made, so that threads and copies share one.
pub struct Tokenizer {
    pub vocab: Vocab,
    pub rule: Rule,
    pub pattern: Pattern,
    pub specials: Specials,
    pub(crate) splitter: Splitter,
    pub(crate) merges: Merges,
    /// Working memory that no call is using at the moment.
    pub(crate) idle: Mutex<Vec<Worker>>,
    pub(crate) chosen: Chosen,
}

impl Tokenizer {
    /// `tokens` are the ordinary ones, by id. Errors name what is missing or does not fit.
    pub fn new(
        tokens: &[(u32, &[u8])],
        specials: Vec<(String, u32)>,
        rule: Rule,
        pattern: Pattern,
    ) -> Result<Self> {
        Tokenizer::with_splits(tokens, specials, rule, pattern, &[])
    }

    /// [`Tokenizer::new`] with what [`Tokenizer::splits`] gave before, which saves most of the time.
    pub fn with_splits(
        tokens: &[(u32, &[u8])],
        specials: Vec<(String, u32)>,
        rule: Rule,
        pattern: Pattern,
        known: &[Split],
    ) -> Result<Self> {
        let mut vocab = Vocab::default();
        vocab.reserve(tokens.len());
        for &(id, bytes) in tokens {
            vocab.add(id, bytes)?;
        }
        let mut byte_ids = [0; 256];
        for (byte, slot) in byte_ids.iter_mut().enumerate() {
            *slot = vocab.id(&[byte as u8]).ok_or_else(|| {
                Error::tokenizer(format!(
                    "the vocabulary has no token for byte {byte} (0x{byte:02x}); a byte-level vocabulary holds all \
                     256, so that it can encode any text"
                ))
            })?;
        }
        let merges = match &rule {
            Rule::Merges { pairs, .. } => listed(&vocab, pairs, byte_ids)?,
            Rule::Ranks => known_splits(&vocab, byte_ids, known)
                .or_else(|| last_splits(&vocab, byte_ids))
                .unwrap_or_else(|| all_splits(&vocab, byte_ids)),
        };
        let mut seen = HashSet::new();
        for (token, id) in &specials {
            if !seen.insert(token) {
                return Err(Error::tokenizer(format!("the special token {token:?} is given twice")));
            }
            vocab.add_special(*id, token.as_bytes())?;
        }
        vocab.finish();
        Ok(Tokenizer {
            splitter: pattern.splitter()?,
            specials: Specials::new(specials)?,
            idle: Mutex::default(),
            chosen: Chosen::default(),
            vocab,
            rule,
            pattern,
            merges,
        })
    }

    /// For [`Rule::Ranks`]: of each token that is made of two others, these two, by id. Empty where a token can be made
    /// in several ways.
    pub fn splits(&self) -> Vec<Split> {
        let mut splits: Vec<Split> = match (&self.rule, self.merges.by_id()) {
            (Rule::Ranks, Some(pairs)) => pairs.map(|(left, right, id)| [id, left, right]).collect(),
            _ => Vec::new(),
        };
        splits.sort_unstable();
        if !splits.is_sorted_by(|a, b| a[0] < b[0]) {
            splits.clear();
        }
        splits
    }

    /// The joins in the order of their ranks, as pairs of ids. For [`Rule::Ranks`], every way to make a token of
    /// two others: together they say what the ranks say.
    pub fn merges(&self) -> Vec<(u32, u32)> {
        match &self.rule {
            Rule::Merges { pairs, .. } => pairs.clone(),
            Rule::Ranks => self.vocab.iter().flat_map(|(_, token)| splits(&self.vocab, token)).collect(),
        }
    }
}

/// A token and the two that it is made of.
pub type Split = [u32; 3];

/// Splits that were found before. `None` unless there is one for each token and it has the token's bytes.
fn known_splits(vocab: &Vocab, byte_ids: [u32; 256], known: &[Split]) -> Option<Merges> {
    let mut merges = Merges::new(byte_ids, vocab.len() + 1, vocab.len(), Vec::new());
    let tokens = vocab.iter().filter(|(_, token)| token.len() > 1);
    if known.is_empty() || tokens.clone().count() != known.len() {
        return None;
    }
    for ((id, token), &[known, left, right]) in tokens.zip(known) {
        let (front, back) = (vocab.get(left)?, vocab.get(right)?);
        if id != known || token.strip_prefix(front) != Some(back) {
            return None;
        }
        merges.insert(left, right, id, token, front.len());
    }
    Some(merges)
}

fn listed(vocab: &Vocab, pairs: &[(u32, u32)], byte_ids: [u32; 256]) -> Result<Merges> {
    let mut made = Vec::with_capacity(pairs.len());
    let mut joined = Vec::new();
    for (rank, &(left, right)) in pairs.iter().enumerate() {
        joined.clear();
        for id in [left, right] {
            joined.extend_from_slice(vocab.get(id).ok_or_else(|| vocab.unknown(i64::from(id)))?);
        }
        made.push(vocab.id(&joined).ok_or_else(|| {
            Error::tokenizer(format!(
                "merge {rank} makes {:?}, which is not in the vocabulary",
                String::from_utf8_lossy(&joined)
            ))
        })?);
    }
    // Where the ids that are made run like the ranks, they can stand for them.
    let by_id = made.is_sorted_by(|a, b| a < b);
    let ranks = made.clone();
    let numbers = vocab.len().max(pairs.len()) + 1;
    let mut merges = Merges::new(byte_ids, numbers, pairs.len(), if by_id { Vec::new() } else { made });
    for ((index, &(left, right)), id) in (0u32..).zip(pairs).zip(ranks) {
        let cut = vocab.get(left).map_or(0, <[u8]>::len);
        merges.insert(left, right, if by_id { id } else { index }, vocab.get(id).unwrap_or_default(), cut);
    }
    Ok(merges)
}

/// Of each token, the one split that merges of lower rank lead to. No other can ever come up: where the bytes of a token
/// stand between two edges of symbols, the merges below its rank have done the same as they do with these bytes
/// alone (see [`crate::train`]). `None` for a vocabulary in which they do not lead to two tokens for every one.
fn last_splits(vocab: &Vocab, byte_ids: [u32; 256]) -> Option<Merges> {
    let mut merges = Merges::new(byte_ids, vocab.len() + 1, vocab.len(), Vec::new());
    let (mut scratch, mut parts) = (Scratch::default(), Vec::new());
    let tokens: Vec<(u32, &[u8])> = vocab.iter().filter(|(_, token)| token.len() > 1).collect();
    let mut pieces: [&[u8]; GROUP] = [&[]; GROUP];
    for group in tokens.chunks(GROUP) {
        // Together this takes half the time. A token that the merges before the group lead to two others is ready: the
        // merges of the group are later than those, and none of them joins these two.
        let mut split = [None; GROUP];
        for (piece, (_, token)) in pieces.iter_mut().zip(group) {
            *piece = if token.len() <= merge::SHORT { token } else { &[] };
        }
        merges.apply_group(&pieces[..group.len()], &mut scratch, |index, parts| {
            split[index] = if let [left, right] = parts { Some((*left, *right)) } else { None };
        });
        for (&(id, token), split) in group.iter().zip(split) {
            let (left, right) = split.or_else(|| {
                parts.clear();
                merges.apply_directly(token, &mut scratch, &mut (), &mut parts).ok()?;
                if let [left, right] = parts[..] { Some((left, right)) } else { None }
            })?;
            merges.insert(left, right, id, token, vocab.get(left)?.len());
        }
    }
    Some(merges)
}

fn all_splits(vocab: &Vocab, byte_ids: [u32; 256]) -> Merges {
    let mut merges = Merges::new(byte_ids, vocab.len() + 1, vocab.len() * 2, Vec::new());
    for (id, token) in vocab.iter() {
        for (left, right) in splits(vocab, token) {
            merges.insert(left, right, id, token, vocab.get(left).map_or(0, <[u8]>::len));
        }
    }
    merges
}

/// The ways to cut a token into two tokens. Special tokens do not count.
fn splits<'a>(vocab: &'a Vocab, token: &'a [u8]) -> impl Iterator<Item = (u32, u32)> + 'a {
    let ordinary = vocab.id(token).is_some();
    (1..if ordinary { token.len() } else { 0 })
        .filter_map(move |cut| Some((vocab.id(&token[..cut])?, vocab.id(&token[cut..])?)))
}
