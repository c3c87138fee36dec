//! The tokens of a long piece from left to right, in linear time.
//!
//! Merging makes of a text the one sequence of tokens in which every two neighbours stay apart: no merge across the edge
//! between them comes before the merges that made them. So tokens can be laid one after another, the longest that
//! fits first, as long as each goes with the one before it. Where none does, the last one is taken back and a shorter
//! one tried there; a position from which there was no way on is noted and not tried again, so nothing is done twice.
//! (The idea is that of GitHub's rust-gems, crate `bpe`.)

use crate::error::{Result, Watch};
use crate::merge::{Merges, STEPS_PER_TICK, Scratch};
use crate::pairs::{NEVER, Pairs};

/// No token, no shorter one.
const NONE: u32 = u32::MAX;

/// The bytes of all tokens, of which there are three times as many in the largest vocabularies as beginnings, are
/// fewer than this. A vocabulary of a few gigantic tokens would take long to prepare.
const MOST_BYTES: usize = (1 << 21) - 1;

pub struct Backtrack {
    /// All beginnings of tokens: from one and a byte to the longer one. The first 256 are the bytes.
    longer: Pairs,
    /// The token that a beginning is.
    token: Vec<u32>,
    /// Of each token, the longest token that it begins with.
    shorter: Vec<u32>,
    /// Of each token, the two that it is made of. A byte is made of itself.
    parts: Vec<(u32, u32)>,
    /// Of each token, how many bytes it has.
    lengths: Vec<u32>,
}

impl Backtrack {
    /// `None` for a vocabulary where this way could lead elsewhere: each token must be made by one merge, after those of
    /// its parts, and its own bytes must become that token.
    pub fn new(merges: &Merges) -> Option<Self> {
        let mut made: Vec<(u32, u32, u32)> =
            merges.by_id()?.map(|(left, right, id)| (id, left, right)).collect();
        made.sort_unstable();
        let size = made.iter().map(|entry| entry.0).chain(*merges.byte_ids()).max()? as usize + 1;
        let highest_byte = *merges.byte_ids().iter().max()?;
        let mut all = Backtrack {
            longer: Pairs::new(MOST_BYTES, size * 2),
            token: merges.byte_ids().to_vec(),
            shorter: vec![NONE; size],
            parts: vec![(NONE, NONE); size],
            lengths: vec![0; size],
        };
        let mut bytes: Vec<u8> = Vec::new();
        let mut starts = vec![0; size];
        for (byte, &id) in (0..=255u8).zip(merges.byte_ids()) {
            starts[id as usize] = bytes.len();
            bytes.push(byte);
            (all.parts[id as usize], all.lengths[id as usize]) = ((id, id), 1);
        }
        let (mut scratch, mut ids) = (Scratch::default(), Vec::new());
        for (id, left, right) in made {
            // A part that nothing makes can have a higher id than all that are made.
            let [known, left_len, right_len] =
                [id, left, right].map(|id| all.lengths.get(id as usize).map_or(0, |&len| len as usize));
            if known > 0 || left_len == 0 || right_len == 0 || id <= highest_byte {
                return None;
            }
            let start = bytes.len();
            if start + left_len + right_len >= MOST_BYTES {
                return None;
            }
            for (part, len) in [(left, left_len), (right, right_len)] {
                let from = starts[part as usize];
                bytes.extend_from_within(from..from + len);
            }
            starts[id as usize] = start;
            all.parts[id as usize] = (left, right);
            all.lengths[id as usize] = (left_len + right_len) as u32;
            ids.clear();
            merges.apply_directly(&bytes[start..], &mut scratch, &mut (), &mut ids).ok()?;
            if ids != [id] {
                return None;
            }
            all.add(id, &bytes[start..])?;
        }
        // A token's longest beginning may be younger than the token itself.
        for id in 0..size {
            let token = &bytes[starts[id]..][..all.lengths[id] as usize];
            if token.len() > 1 {
                all.shorter[id] = all.longest(&token[..token.len() - 1]).0;
            }
        }
        Some(all)
    }

    /// Adds the beginnings of a token; `None` if it is there already.
    fn add(&mut self, id: u32, bytes: &[u8]) -> Option<()> {
        let mut node = u32::from(bytes[0]);
        for &byte in &bytes[1..] {
            let mut next = self.longer.get(node, u32::from(byte));
            if next == NEVER {
                next = self.token.len() as u32;
                self.token.push(NONE);
                self.longer.insert(node, u32::from(byte), next);
            }
            node = next;
        }
        let token = &mut self.token[node as usize];
        if *token != NONE {
            return None;
        }
        *token = id;
        Some(())
    }

    /// The longest token that `bytes`, which are not empty, begin with, and how many bytes say so: whatever begins with
    /// these gives the same. 0 if the end of `bytes` had a say.
    #[inline]
    fn longest(&self, bytes: &[u8]) -> (u32, usize) {
        let mut node = u32::from(bytes[0]);
        let mut longest = self.token[node as usize];
        for (before, &byte) in bytes.iter().enumerate().skip(1) {
            node = self.longer.get(node, u32::from(byte));
            if node == NEVER {
                return (longest, before + 1);
            }
            let token = self.token[node as usize];
            longest = if token == NONE { longest } else { token };
        }
        (longest, 0)
    }

    /// Do these two stay apart? The later of them is taken to pieces, again and again, and each time the pair at the
    /// edge is one that stood there before: did it join before the next piece came about? Of two merges of the same
    /// rank the left one comes first.
    fn apart(&self, merges: &Merges, mut left: u32, mut right: u32) -> bool {
        let mut before = NEVER;
        loop {
            if merges.rank(left, right) < before {
                return false;
            }
            let (left_part, right_part) = (self.parts[left as usize].1, self.parts[right as usize].0);
            let (left_is_byte, right_is_byte) = (left_part == left, right_part == right);
            if left_is_byte && right_is_byte {
                return true;
            }
            if (left > right && !left_is_byte) || right_is_byte {
                (before, left) = (left, left_part);
            } else {
                (before, right) = (right + 1, right_part);
            }
        }
    }

    /// Appends the tokens of `piece` to `out`.
    pub fn apply(
        &self,
        merges: &Merges,
        piece: &[u8],
        steps: &mut u64,
        watch: &mut dyn Watch,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        let first = out.len();
        let mut dead = vec![0u64; piece.len() / 64 + 1];
        let (mut at, (mut token, mut seen)) = (0, self.longest(piece));
        // Long pieces are mostly one character again and again, or a few. So what was found last is asked first: where
        // the longest token was looked for and how far, which one it was, and which pair of tokens stays apart.
        let (mut found_at, mut found) = (0, token);
        let mut parted = (NONE, NONE);
        loop {
            *steps += 1;
            if steps.is_multiple_of(STEPS_PER_TICK) {
                watch.tick("encode", at as u64, None)?;
            }
            let end = at + self.lengths[token as usize] as usize;
            let fits = dead[end / 64] >> (end % 64) & 1 == 0
                && (out.len() == first || {
                    let pair = (out[out.len() - 1], token);
                    pair == parted
                        || self.apart(merges, pair.0, pair.1) && {
                            parted = pair;
                            true
                        }
                });
            if fits {
                out.push(token);
                at = end;
                if at == piece.len() {
                    return Ok(());
                }
                let rest = &piece[at..];
                if seen == 0 || !rest.starts_with(&piece[found_at..found_at + seen]) {
                    (found, seen) = self.longest(rest);
                    found_at = at;
                }
                token = found;
            } else if self.shorter[token as usize] != NONE {
                token = self.shorter[token as usize];
            } else {
                dead[at / 64] |= 1 << (at % 64);
                // There is one: at the very beginning every byte fits.
                let Some(last) = out.pop() else { return Ok(()) };
                at -= self.lengths[last as usize] as usize;
                token = last;
            }
        }
    }
}
