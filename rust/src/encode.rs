//! Text to ids.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::error::{Result, Watch};
use crate::merge::Scratch;
use crate::piece::{self, Key};
use crate::special::Specials;
use crate::split::{BATCH, Splitter};
use crate::tokenizer::{Rule, Tokenizer};
use crate::vocab::Vocab;

/// What one thread needs to encode: its own regex, working memory, and the pieces it met before.
pub struct Worker {
    splitter: Splitter,
    scratch: Scratch,
    cache: Cache,
    long: LongCache,
}

/// Of each id, the range of bytes that it stands for.
pub type Spans = Vec<(usize, usize)>;

/// Where ids go.
pub trait Sink {
    /// The ids of a piece that begins at byte `start` of its text: the first `count` of four.
    fn few(&mut self, start: usize, ids: [u32; 4], count: usize);
    /// The ids of a piece, however many.
    fn many(&mut self, start: usize, ids: &[u32]);
    /// A batch of pieces has been given.
    fn flush(&mut self);
}

/// Ids one after another. They are collected in a block of fixed size, where all four are written whatever their
/// number: no copy whose length is not known beforehand.
pub struct Flat<'a> {
    out: &'a mut Vec<u32>,
    block: [u32; 4 * BATCH + 4],
    used: usize,
}

impl<'a> Flat<'a> {
    pub fn new(out: &'a mut Vec<u32>) -> Self {
        Flat { out, block: [0; 4 * BATCH + 4], used: 0 }
    }
}

impl Sink for Flat<'_> {
    #[inline(always)]
    fn few(&mut self, _: usize, ids: [u32; 4], count: usize) {
        self.block[self.used..][..4].copy_from_slice(&ids);
        self.used += count;
    }

    fn many(&mut self, _: usize, ids: &[u32]) {
        self.flush();
        self.out.extend_from_slice(ids);
    }

    #[inline]
    fn flush(&mut self) {
        self.out.extend_from_slice(&self.block[..std::mem::take(&mut self.used)]);
    }
}

/// Ids with their ranges.
struct WithSpans<'a> {
    vocab: &'a Vocab,
    /// Where the text begins.
    offset: usize,
    ids: Vec<u32>,
    spans: Spans,
}

impl Sink for WithSpans<'_> {
    fn few(&mut self, start: usize, ids: [u32; 4], count: usize) {
        self.many(start, &ids[..count]);
    }

    fn many(&mut self, start: usize, ids: &[u32]) {
        let mut at = self.offset + start;
        for &id in ids {
            let len = self.vocab.get(id).map_or(0, <[u8]>::len);
            self.spans.push((at, at + len));
            at += len;
        }
        self.ids.extend_from_slice(ids);
    }

    fn flush(&mut self) {}
}

/// The ids of short pieces. Most pieces of a text were met before, and looking them up costs a tenth of merging them
/// again. It grows with the pieces that come, up to 32 MB; after that a new piece takes the place of an old one.
#[derive(Default)]
struct Cache {
    lines: Vec<Line>,
    used: usize,
}

/// Two slots, which the processor fetches as one.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Line([Slot; 2]);

#[derive(Clone, Copy, Default)]
struct Slot {
    key: Key,
    /// Ids are below 2²⁸; the upper four bits of the first say how many there are, 1 to 4.
    ids: [u32; 4],
}

const FEWEST_LINES: usize = 1 << 11;
const MOST_LINES: usize = 1 << 19;
const COUNT_SHIFT: u32 = 28;

impl Cache {
    #[inline(always)]
    fn prefetch(&self, hash: u64) {
        piece::prefetch(&self.lines[piece::place(hash, self.lines.len())]);
    }

    #[inline(always)]
    fn find(&self, key: Key, hash: u64) -> Option<[u32; 4]> {
        let place = piece::place(hash, self.lines.len());
        // Which of the two it is cannot be foreseen, so it is computed, not jumped upon.
        let Line(slots) = &self.lines[place];
        let slot = &slots[usize::from(slots[1].key == key)];
        if slot.key == key {
            return Some(slot.ids);
        }
        let Line(slots) = &self.lines[place ^ 1];
        slots.iter().find(|slot| slot.key == key).map(|slot| slot.ids)
    }

    fn insert(&mut self, key: Key, hash: u64, ids: &[u32]) {
        if (1..=4).contains(&ids.len()) {
            let mut packed = [0; 4];
            packed[..ids.len()].copy_from_slice(ids);
            packed[0] |= (ids.len() as u32) << COUNT_SHIFT;
            if self.used >= self.lines.len() && self.lines.len() < MOST_LINES {
                self.grow(self.lines.len() * 4);
            }
            self.put(Slot { key, ids: packed }, hash);
        }
    }

    /// Into its line or the one beside it, if need be in the place of another.
    fn put(&mut self, slot: Slot, hash: u64) {
        let place = piece::place(hash, self.lines.len());
        for line in [place, place ^ 1] {
            if let Some(free) = self.lines[line].0.iter_mut().find(|slot| slot.key == 0) {
                *free = slot;
                self.used += 1;
                return;
            }
        }
        // Which of the old ones goes is up to chance: the lower bits of the hash played no part so far.
        self.lines[place].0[hash as usize & 1] = slot;
    }

    #[cold]
    fn grow(&mut self, size: usize) {
        let old = std::mem::replace(&mut self.lines, vec![Line::default(); size]);
        self.used = 0;
        for slot in old.iter().flat_map(|Line(slots)| slots).filter(|slot| slot.key != 0) {
            self.put(*slot, piece::hash(slot.key));
        }
    }
}

/// The ids of pieces that have no key, or more than four ids. Emptied when it is full.
#[derive(Default)]
struct LongCache {
    bytes: Vec<u8>,
    ids: Vec<u32>,
    table: HashTable<Long>,
    hasher: DefaultHashBuilder,
}

/// Where the bytes and the ids of a piece are.
struct Long {
    hash: u64,
    bytes: (u32, u32),
    ids: (u32, u32),
}

/// Longer pieces come rarely and cost much memory.
const LONGEST_CACHED: usize = 512;
const MOST_LONG_BYTES: usize = 1 << 22;

impl LongCache {
    /// The ids of a piece, made and remembered if they are not known.
    fn get(&mut self, piece: &[u8], make: impl FnOnce(&mut Vec<u32>)) -> &[u32] {
        let LongCache { bytes, ids, table, hasher } = self;
        if bytes.len() > MOST_LONG_BYTES {
            bytes.clear();
            ids.clear();
            table.clear();
        }
        let hash = hasher.hash_one(piece);
        let same =
            |long: &Long| long.hash == hash && &bytes[long.bytes.0 as usize..long.bytes.1 as usize] == piece;
        if let Some(known) = table.find(hash, same) {
            return &self.ids[known.ids.0 as usize..known.ids.1 as usize];
        }
        let start = ids.len();
        make(ids);
        let place = (bytes.len() as u32, (bytes.len() + piece.len()) as u32);
        bytes.extend_from_slice(piece);
        let long = Long { hash, bytes: place, ids: (start as u32, ids.len() as u32) };
        table.insert_unique(hash, long, |long| long.hash);
        &self.ids[start..]
    }
}

/// How many batches of pieces go by between two questions whether to stop.
const BATCHES_PER_TICK: u32 = 256;

impl Tokenizer {
    /// Lends working memory to `work` and takes it back.
    pub fn with_worker<T>(&self, work: impl FnOnce(&mut Worker) -> T) -> T {
        let idle = self.idle.lock().ok().and_then(|mut idle| idle.pop());
        let mut worker = idle.unwrap_or_else(|| Worker {
            splitter: self.splitter.clone(),
            scratch: Scratch::default(),
            cache: Cache::default(),
            long: LongCache::default(),
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
        let mut sink = Flat::new(out);
        allowed.for_each_part(text, |start, end, special| match special {
            Some(id) => {
                sink.many(start, &[id]);
                Ok(())
            }
            None => self.encode_ordinary(&text[start..end], worker, watch, &mut sink),
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
        let mut sink = WithSpans { vocab: &self.vocab, offset: 0, ids: Vec::new(), spans: Vec::new() };
        allowed.for_each_part(text, |start, end, special| {
            sink.offset = start;
            if let Some(id) = special {
                sink.ids.push(id);
                sink.spans.push((start, end));
                return Ok(());
            }
            self.encode_ordinary(&text[start..end], worker, watch, &mut sink)
        })?;
        Ok((sink.ids, sink.spans))
    }

    /// Gives the ids of each piece of a text without special tokens to `sink`.
    fn encode_ordinary<S: Sink>(
        &self,
        text: &str,
        worker: &mut Worker,
        watch: &mut dyn Watch,
        sink: &mut S,
    ) -> Result<()> {
        let Worker { splitter, scratch, cache, long } = worker;
        let whole_first = match self.rule {
            Rule::Merges { whole_first, .. } => whole_first,
            Rule::Ranks => true,
        };
        if cache.lines.is_empty() {
            cache.grow(FEWEST_LINES);
        }
        let bytes = text.as_bytes();
        let (mut ids, mut batches) = (Vec::new(), 0u32);
        let (mut keys, mut hashes) = ([0; BATCH], [0; BATCH]);
        splitter.for_each_batch(text, self.rule == Rule::Ranks, |spans| {
            for ((span, key), hash) in spans.iter().zip(&mut keys).zip(&mut hashes) {
                *key = piece::key(bytes, *span);
                *hash = piece::hash(*key);
                cache.prefetch(*hash);
            }
            for ((&(start, end), &key), &hash) in spans.iter().zip(&keys).zip(&hashes) {
                if key != 0
                    && let Some([first, second, third, fourth]) = cache.find(key, hash)
                {
                    let first_id = first & ((1 << COUNT_SHIFT) - 1);
                    sink.few(start, [first_id, second, third, fourth], (first >> COUNT_SHIFT) as usize);
                    continue;
                }
                let piece = &bytes[start..end];
                let mut make =
                    |ids: &mut Vec<u32>| match if whole_first { self.vocab.id(piece) } else { None } {
                        Some(id) => ids.push(id),
                        None => self.merges.apply(piece, scratch, ids),
                    };
                if (piece::SHORT + 1..=LONGEST_CACHED).contains(&piece.len()) {
                    sink.many(start, long.get(piece, make));
                    continue;
                }
                ids.clear();
                make(&mut ids);
                sink.many(start, &ids);
                if key != 0 {
                    cache.insert(key, hash, &ids);
                }
            }
            sink.flush();
            batches += 1;
            if batches % BATCHES_PER_TICK == 0 {
                watch.tick("encode", spans[0].0 as u64, Some(text.len() as u64))?;
            }
            Ok(())
        })
    }
}
