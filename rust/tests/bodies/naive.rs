//! The tokenizer once more: no tables, no windows, no heaps. Slow, and easy to believe.

use std::collections::{BTreeMap, HashMap};

use fancy_regex::Regex;
use hornbook::bytes::{BYTE_OF_ID, ID_OF_BYTE};
use hornbook::split::{Pattern, Span};
use hornbook::train::{Options, Tie};
use hornbook::{Rule, Tokenizer};

/// Cuts texts with the regex of a pattern.
pub struct Cutter(Option<Regex>);

impl Cutter {
    pub fn new(pattern: &Pattern) -> Self {
        Cutter(pattern.regex().map(|regex| Regex::new(regex).expect("a pattern that was compiled before")))
    }

    /// The pieces of a text. What lies between matches is a piece too, unless `drop_gaps`. `None`: the regex gave up.
    pub fn pieces(&self, text: &str, drop_gaps: bool) -> Option<Vec<Span>> {
        let Some(regex) = &self.0 else {
            return Some(if text.is_empty() { vec![] } else { vec![(0, text.len())] });
        };
        let (mut out, mut at) = (Vec::new(), 0);
        for found in regex.find_iter(text) {
            let found = found.ok()?;
            if !found.range().is_empty() {
                out.push((at, found.start()));
                out.push((found.start(), found.end()));
                at = found.end();
            }
        }
        out.push((at, text.len()));
        if drop_gaps {
            out = out.into_iter().skip(1).step_by(2).collect();
        }
        out.retain(|&(start, end)| start < end);
        Some(out)
    }
}

/// Parts of a text: special tokens, the leftmost and of those the longest, and what lies between them.
pub fn parts(text: &str, specials: &[(String, u32)]) -> Vec<(usize, usize, Option<u32>)> {
    let (mut out, mut start, mut at) = (Vec::new(), 0, 0);
    while at < text.len() {
        let here = specials.iter().filter(|(token, _)| text.as_bytes()[at..].starts_with(token.as_bytes()));
        if let Some((token, id)) = here.max_by_key(|(token, _)| token.len()) {
            out.push((start, at, None));
            out.push((at, at + token.len(), Some(*id)));
            at += token.len();
            start = at;
        } else {
            at += 1;
        }
    }
    out.push((start, text.len(), None));
    out.retain(|&(start, end, _)| start < end);
    out
}

/// A tokenizer's vocabulary and rule, as plain maps.
pub struct Naive {
    cutter: Cutter,
    ids: HashMap<Vec<u8>, u32>,
    /// By pairs of ids: rank and id. `None` for the rule of ranks.
    merges: Option<HashMap<(u32, u32), (usize, u32)>>,
    whole_first: bool,
}

impl Naive {
    pub fn new(tokenizer: &Tokenizer) -> Self {
        let special = |id| tokenizer.specials.tokens().iter().any(|&(_, special)| special == id);
        let tokens = tokenizer.vocab.iter().filter(|&(id, _)| !special(id));
        let ids: HashMap<Vec<u8>, u32> = tokens.map(|(id, token)| (token.to_vec(), id)).collect();
        let (merges, whole_first) = match &tokenizer.rule {
            Rule::Ranks => (None, true),
            Rule::Merges { pairs, whole_first } => {
                let bytes = |id| tokenizer.vocab.get(id).expect("merges join tokens");
                let of_pair = pairs.iter().enumerate().map(|(rank, &(left, right))| {
                    let joined = [bytes(left), bytes(right)].concat();
                    ((left, right), (rank, ids[&joined]))
                });
                (Some(of_pair.collect()), *whole_first) // the last of equal pairs stays
            }
        };
        Naive { cutter: Cutter::new(&tokenizer.pattern), ids, merges, whole_first }
    }

    /// The ids of a text and the bytes that each stands for. `None`: the regex gave up.
    pub fn encode(&self, text: &str, specials: &[(String, u32)]) -> Option<(Vec<u32>, Vec<Span>)> {
        let (mut ids, mut spans) = (Vec::new(), Vec::new());
        for (start, end, special) in parts(text, specials) {
            if let Some(id) = special {
                ids.push(id);
                spans.push((start, end));
                continue;
            }
            for (from, to) in self.cutter.pieces(&text[start..end], self.merges.is_none())? {
                for (id, (left, right)) in self.join(&text.as_bytes()[start + from..start + to]) {
                    ids.push(id);
                    spans.push((start + from + left, start + from + right));
                }
            }
        }
        Some((ids, spans))
    }

    /// The tokens of one piece, each with its range: join the pair of lowest rank, the leftmost of equals; begin again.
    pub fn join(&self, piece: &[u8]) -> Vec<(u32, Span)> {
        if self.whole_first
            && let Some(&id) = self.ids.get(piece)
        {
            return vec![(id, (0, piece.len()))];
        }
        let mut symbols: Vec<(u32, Span)> =
            (0..piece.len()).map(|at| (self.ids[&piece[at..=at]], (at, at + 1))).collect();
        // The rank and the token of each symbol and the one behind it.
        let look_up = |symbols: &[(u32, Span)], at: usize| match symbols.get(at..at + 2) {
            Some(&[(left, (start, _)), (right, (_, end))]) => match &self.merges {
                Some(merges) => merges.get(&(left, right)).copied(),
                None => self.ids.get(&piece[start..end]).map(|&id| (id as usize, id)),
            },
            _ => None,
        };
        let mut joins: Vec<Option<(usize, u32)>> =
            (0..symbols.len()).map(|at| look_up(&symbols, at)).collect();
        loop {
            let ranks = joins.iter().enumerate().filter_map(|(at, join)| Some((join.as_ref()?.0, at)));
            let Some((_, at)) = ranks.min() else { return symbols };
            let (_, id) = joins[at].expect("it has a rank");
            symbols[at] = (id, (symbols[at].1.0, symbols[at + 1].1.1));
            symbols.remove(at + 1);
            joins.remove(at + 1);
            for place in [at.checked_sub(1), Some(at)].into_iter().flatten() {
                joins[place] = look_up(&symbols, place);
            }
        }
    }
}

/// Merges by trying everything: count all pairs of neighbours, join the best, begin again.
pub fn train(words: &[(Vec<u8>, u64)], options: &Options) -> Vec<(u32, u32)> {
    let mut tokens: Vec<Vec<u8>> = BYTE_OF_ID.iter().map(|&byte| vec![byte]).collect();
    let mut split: Vec<(Vec<u32>, u64)> = words
        .iter()
        .map(|(word, n)| (word.iter().map(|&byte| u32::from(ID_OF_BYTE[usize::from(byte)])).collect(), *n))
        .collect();
    let mut merges = Vec::new();
    while tokens.len() < options.vocab_size {
        let mut counts: BTreeMap<(u32, u32), u64> = BTreeMap::new();
        for (word, n) in &split {
            for pair in word.windows(2) {
                *counts.entry((pair[0], pair[1])).or_default() += n;
            }
        }
        let bytes = |id: u32| tokens[id as usize].clone();
        let raw = |id: u32| if id < 256 { u32::from(tokens[id as usize][0]) } else { id };
        let better = |&(pair, count): &((u32, u32), u64), &(other, most): &((u32, u32), u64)| {
            let tie = match options.tie {
                Tie::HuggingFace => other.cmp(&pair),
                Tie::Raw => (raw(other.0), raw(other.1)).cmp(&(raw(pair.0), raw(pair.1))),
                Tie::LargestContent => (bytes(pair.0), bytes(pair.1)).cmp(&(bytes(other.0), bytes(other.1))),
            };
            count.cmp(&most).then(tie)
        };
        let allowed = counts.into_iter().filter(|&((left, right), count)| {
            count >= options.min_frequency
                && bytes(left).len() + bytes(right).len() <= options.max_token_length
        });
        let Some(((left, right), _)) = allowed.max_by(better) else { break };
        let new = tokens.len() as u32;
        tokens.push([bytes(left), bytes(right)].concat());
        merges.push((left, right));
        for (word, _) in &mut split {
            let mut at = 0;
            while at + 1 < word.len() {
                if (word[at], word[at + 1]) == (left, right) {
                    word.splice(at..at + 2, [new]);
                }
                at += 1;
            }
        }
    }
    merges
}
