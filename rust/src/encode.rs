//! Text to ids.

use crate::error::{Result, Watch};
use crate::merge::{Scratch, merge};
use crate::special::Specials;
use crate::split::Splitter;
use crate::tokenizer::{Rule, Tokenizer};

/// What one thread needs to encode: its own regex, working memory, and the pieces it met last.
pub struct Worker {
    splitter: Splitter,
    scratch: Scratch,
    cache: Vec<Slot>,
}

/// A short piece and its ids. Most pieces of a text were met before, and looking them up costs a tenth of
/// merging them again. Direct-mapped: a piece evicts whatever had its place, so memory stays at 2.5 MB.
#[derive(Clone, Copy, Default)]
struct Slot {
    /// The bytes, padded with zeros; the last byte is the length.
    key: u128,
    ids: [u32; 5],
    count: u32,
}

/// Of each id, the range of bytes that it stands for.
pub type Spans = Vec<(usize, usize)>;

const SLOTS: usize = 1 << 16;

/// How many pieces go by between two questions whether to stop.
const PIECES_PER_TICK: u32 = 1 << 16;

#[inline]
fn short_key(piece: &[u8]) -> Option<u128> {
    if piece.len() > 15 {
        return None;
    }
    let mut key = [0u8; 16];
    key[..piece.len()].copy_from_slice(piece);
    key[15] = piece.len() as u8;
    Some(u128::from_le_bytes(key))
}

#[inline]
fn place(key: u128) -> usize {
    let mixed = (key as u64 ^ ((key >> 64) as u64).rotate_left(29)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> (64 - SLOTS.trailing_zeros())) as usize
}

impl Tokenizer {
    /// Lends working memory to `work` and takes it back.
    pub fn with_worker<T>(&self, work: impl FnOnce(&mut Worker) -> T) -> T {
        let idle = self.idle.lock().ok().and_then(|mut idle| idle.pop());
        let mut worker = idle.unwrap_or_else(|| Worker {
            splitter: self.splitter.clone(),
            scratch: Scratch::default(),
            cache: Vec::new(),
        });
        let result = work(&mut worker);
        if let Ok(mut idle) = self.idle.lock() {
            idle.push(worker);
        }
        result
    }

    /// Appends the ids of `text`, in which the `allowed` special tokens become one id each.
    pub fn encode(
        &self,
        text: &str,
        allowed: &Specials,
        worker: &mut Worker,
        out: &mut Vec<u32>,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        allowed.for_each_part(text, |start, end, special| match special {
            Some(id) => {
                out.push(id);
                Ok(())
            }
            None => {
                self.encode_ordinary(&text[start..end], worker, watch, |_, ids| out.extend_from_slice(ids))
            }
        })
    }

    /// Ids with the range of bytes of the text that each of them stands for.
    pub fn encode_with_spans(
        &self,
        text: &str,
        allowed: &Specials,
        worker: &mut Worker,
        watch: &mut dyn Watch,
    ) -> Result<(Vec<u32>, Spans)> {
        let (mut out, mut spans) = (Vec::new(), Vec::new());
        allowed.for_each_part(text, |start, end, special| {
            if let Some(id) = special {
                out.push(id);
                spans.push((start, end));
                return Ok(());
            }
            self.encode_ordinary(&text[start..end], worker, watch, |piece, ids| {
                let mut at = start + piece;
                for &id in ids {
                    let len = self.vocab.get(id).map_or(0, <[u8]>::len);
                    spans.push((at, at + len));
                    at += len;
                }
                out.extend_from_slice(ids);
            })
        })?;
        Ok((out, spans))
    }

    /// Calls `emit(start, ids)` for each piece of a text without special tokens.
    fn encode_ordinary(
        &self,
        text: &str,
        worker: &mut Worker,
        watch: &mut dyn Watch,
        mut emit: impl FnMut(usize, &[u32]),
    ) -> Result<()> {
        let Worker { splitter, scratch, cache } = worker;
        if cache.is_empty() && text.len() > 1024 {
            cache.resize(SLOTS, Slot::default());
        }
        let whole_first = match self.rule {
            Rule::Merges { whole_first, .. } => whole_first,
            Rule::Ranks => true,
        };
        let mut ids = Vec::new();
        let mut pieces = 0u32;
        splitter.for_each(text, self.rule == Rule::Ranks, |start, end| {
            pieces += 1;
            if pieces % PIECES_PER_TICK == 0 {
                watch.tick("encode", end as u64, Some(text.len() as u64))?;
            }
            let piece = &text.as_bytes()[start..end];
            let key = if cache.is_empty() { None } else { short_key(piece) };
            if let Some(key) = key {
                let slot = &cache[place(key)];
                if slot.key == key {
                    emit(start, &slot.ids[..slot.count as usize]);
                    return Ok(());
                }
            }
            ids.clear();
            match if whole_first { self.vocab.id(piece) } else { None } {
                Some(id) => ids.push(id),
                None => merge(piece, &self.byte_ids, &self.pairs, scratch, &mut ids),
            }
            if let Some(key) = key {
                if ids.len() <= 5 {
                    let slot = &mut cache[place(key)];
                    slot.key = key;
                    slot.ids[..ids.len()].copy_from_slice(&ids);
                    slot.count = ids.len() as u32;
                }
            }
            emit(start, &ids);
            Ok(())
        })
    }
}
