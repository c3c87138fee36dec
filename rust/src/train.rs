//! Finding merges: again and again, join the pair of neighbours that is most frequent.
//!
//! All distinct pieces lie one after another in one array of symbols, indexed by byte: a symbol stands where its
//! first byte stands, so merging never moves anything, and the length of a symbol's bytes leads to its
//! neighbour. For each pair we keep how often it occurs (weighted by the counts of the pieces) and where. A pair
//! can only *gain* places in the step that makes the younger of its two symbols. So the places of a pair are
//! written once, all together, into one growing array, and a place that has gone since is noticed when it is
//! visited. The queue is lazy for the same reason: counts only fall, so an entry that is out of date is too
//! high, and is put back with the right count when it comes up.
//!
//! No two merges make the same bytes, so every merge is a new token. Take two places where the same bytes stand
//! between two edges of symbols. Merges inside are the same at both: they go from left to right, and where a run
//! "aaaa" reaches in from the left, either a join crosses the edge, or the pairs fall as if the run began there.
//! So at both places the bytes become one symbol in the same step, from the same pair.

use std::time::{Duration, Instant};

use bytemuck::{Pod, Zeroable};

use crate::bytes::{BYTE_OF_ID, ID_OF_BYTE};
use crate::count::Counter;
use crate::error::{Error, Result, Watch};
use crate::pages::Pages;
use crate::pairs::PairTable;
use crate::piece;
pub use crate::queue::Tie;
use crate::queue::{Entry, Queue};
use crate::vocab::Vocab;

/// When training ends, and what it must not make.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many tokens there will be, the 256 bytes included.
    pub vocab_size: usize,
    pub tie: Tie,
    /// Pairs that occur less often are not joined.
    pub min_frequency: u64,
    /// No token gets more bytes than this.
    pub max_token_length: usize,
}

impl Options {
    pub fn new(vocab_size: usize) -> Self {
        Options { vocab_size, tie: Tie::HuggingFace, min_frequency: 0, max_token_length: usize::MAX }
    }
}

/// What stands between pieces.
const EDGE: u32 = u32::MAX;
/// What stands where a symbol was joined to the one on its left.
const GONE: u32 = u32::MAX - 1;
/// In place of a place: the pair lost an occurrence.
const LOST: u32 = u32::MAX;

struct Pair {
    count: i64,
    left: u32,
    right: u32,
    /// The places are `places[start..][..len]`.
    start: usize,
    len: u32,
}

/// A pair that came or went with the joins of this step.
#[derive(Clone, Copy)]
struct Change {
    left: u32,
    right: u32,
    count: i64,
    place: u32,
}

/// So many changes are collected before they are applied: their memory is asked for meanwhile.
const CHANGES: usize = 64;

/// What there is to know at one byte, side by side in the processor's cache.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Byte {
    /// The id of the symbol that starts or ends here, [`GONE`] or [`EDGE`]. A place where a symbol started never holds
    /// the end of another one with the same id: symbols that come later have higher ids.
    symbol: u32,
    /// Which piece this is of.
    piece: u32,
}

struct Trainer {
    /// The bytes of all pieces, and [`EDGE`]s before, between and behind them.
    bytes: Pages<Byte>,
    /// How many of them there are.
    end: usize,
    /// How often each piece came.
    counts: Vec<i64>,
    /// Of each token, how many bytes it has.
    lengths: Vec<u32>,
    pairs: Vec<Pair>,
    index: PairTable,
    places: Vec<u32>,
    changes: Vec<Change>,
    /// Pairs that gained a place in this step, and the places.
    gained: Vec<(u32, u32)>,
    touched: Vec<u32>,
    queue: Queue,
}

/// The merges, as pairs of ids in order. Fewer than asked for if no pair is left.
pub fn train(words: Counter, options: &Options, watch: &mut dyn Watch) -> Result<(Vocab, Vec<(u32, u32)>)> {
    let mut vocab = Vocab::default();
    for (id, byte) in BYTE_OF_ID.iter().enumerate() {
        vocab.add(id as u32, &[*byte])?;
    }
    let vocab_size = options.vocab_size;
    let wanted = vocab_size.saturating_sub(256) as u64;
    let mut trainer = Trainer::new(words)?;
    trainer.count_pairs(watch)?;
    trainer.end_step(options, &vocab);
    trainer.queue.settle(options.tie, &vocab);
    let mut merges = Vec::new();
    let mut last_tick = Instant::now();
    while vocab.len() < vocab_size {
        let Trainer { queue, pairs, .. } = &mut trainer;
        let now = |number: u32| {
            let Pair { count, left, right, .. } = pairs[number as usize];
            Entry { count, left, right, pair: number }
        };
        let Some(Entry { count, left, right, pair }) = queue.pop(options.tie, &vocab, now) else { break };
        let Pair { start, len, .. } = pairs[pair as usize];
        if (count as u64) < options.min_frequency {
            break;
        }
        let mut joined = vocab.get(left).unwrap_or_default().to_vec();
        joined.extend_from_slice(vocab.get(right).unwrap_or_default());
        let id = vocab.len() as u32;
        vocab.add(id, &joined)?;
        trainer.lengths.push(joined.len() as u32);
        merges.push((left, right));
        // One pair of a text that is a single piece can have millions of places.
        for part in (start..start + len as usize).step_by(1 << 16) {
            let end = (part + (1 << 16)).min(start + len as usize);
            trainer.apply(part, end, (left, right), id);
            if last_tick.elapsed() > Duration::from_millis(100) {
                watch.tick("merge", vocab.len() as u64 - 256, Some(wanted))?;
                last_tick = Instant::now();
            }
        }
        trainer.end_step(options, &vocab);
    }
    watch.tick("merge", vocab.len() as u64 - 256, Some(wanted))?;
    Ok((vocab, merges))
}

impl Trainer {
    fn new(words: Counter) -> Result<Self> {
        let mut size = 1;
        words.for_each(|word, _| size += word.len() + 1);
        if size >= GONE as usize {
            return Err(Error::data(format!(
                "the distinct pieces have {size} bytes; training holds at most 4 GB of them. Train on less text, or \
                 choose a pattern that cuts it into shorter pieces"
            )));
        }
        let mut bytes = Pages::zeroed(size)
            .ok_or_else(|| Error::data(format!("no memory for the {size} bytes of the distinct pieces")))?;
        let mut counts = Vec::new();
        let edge = Byte { symbol: EDGE, piece: 0 };
        bytes.get_mut()[0] = edge;
        let mut end = 1;
        words.for_each(|word, count| {
            if word.len() < 2 {
                return;
            }
            let room = &mut bytes.get_mut()[end..][..word.len() + 1];
            for (slot, &byte) in room.iter_mut().zip(word) {
                let symbol = u32::from(ID_OF_BYTE[byte as usize]);
                *slot = Byte { symbol, piece: counts.len() as u32 };
            }
            room[word.len()] = edge;
            counts.push(i64::try_from(count).unwrap_or(i64::MAX));
            end += word.len() + 1;
        });
        Ok(Trainer {
            bytes,
            end,
            counts,
            lengths: vec![1; 256],
            pairs: Vec::new(),
            index: PairTable::with_capacity(1 << 16),
            places: Vec::new(),
            changes: Vec::with_capacity(CHANGES + 4),
            gained: Vec::new(),
            touched: Vec::new(),
            queue: Queue::default(),
        })
    }

    /// The pairs of bytes that there are at the start.
    fn count_pairs(&mut self, watch: &mut dyn Watch) -> Result<()> {
        for place in 1..self.end - 1 {
            let [Byte { symbol: left, piece }, Byte { symbol: right, .. }] =
                [self.bytes.get()[place], self.bytes.get()[place + 1]];
            if left != EDGE && right != EDGE {
                let count = self.counts[piece as usize];
                self.change(Change { left, right, count, place: place as u32 });
            }
            if place.is_multiple_of(1 << 22) {
                watch.tick("merge", 0, None)?;
            }
        }
        self.settle();
        Ok(())
    }

    #[inline(always)]
    fn change(&mut self, change: Change) {
        self.index.prefetch(change.left, change.right);
        self.changes.push(change);
        if self.changes.len() >= CHANGES {
            self.settle();
        }
    }

    /// Applies the changes that were collected.
    fn settle(&mut self) {
        let mut numbers = [0; CHANGES];
        let Trainer { pairs, index, changes, gained, .. } = self;
        for (number, change) in numbers.iter_mut().zip(changes.iter()) {
            *number = index.get_or_insert(change.left, change.right, || {
                pairs.push(Pair { count: 0, left: change.left, right: change.right, start: 0, len: 0 });
                pairs.len() as u32 - 1
            });
            piece::prefetch(&pairs[*number as usize]);
        }
        for (&number, change) in numbers.iter().zip(changes.iter()) {
            let pair = &mut pairs[number as usize];
            if change.place == LOST {
                pair.count -= change.count;
            } else {
                pair.count += change.count;
                gained.push((number, change.place));
            }
        }
        changes.clear();
    }

    /// Joins a pair at some of its places, wherever it still stands, into symbol `id`.
    fn apply(&mut self, start: usize, end: usize, (left, right): (u32, u32), id: u32) {
        const AHEAD: usize = 16;
        for index in start..end {
            if index + AHEAD < end {
                piece::prefetch(&self.bytes.get()[self.places[index + AHEAD] as usize]);
            }
            if index + AHEAD / 2 < end {
                let at = self.places[index + AHEAD / 2] as usize;
                piece::prefetch(&self.counts[self.bytes.get()[at].piece as usize]);
            }
            self.join(self.places[index], left, right, id);
        }
        self.settle();
    }

    /// Joins the two symbols at `place` if they are `left` and `right`, and notes what pairs this breaks and makes. In
    /// a run of several joins, a pair may be made and broken again at once.
    #[inline]
    fn join(&mut self, place: u32, left: u32, right: u32, id: u32) {
        let at = place as usize;
        let (left_len, right_len) = (self.lengths[left as usize], self.lengths[right as usize]);
        let middle = at + left_len as usize;
        let bytes = self.bytes.get();
        if bytes[at].symbol != left || bytes[middle].symbol != right {
            return;
        }
        let end = middle + right_len as usize;
        let count = self.counts[bytes[at].piece as usize];
        let (before, after) = (bytes[at - 1].symbol, bytes[end].symbol);
        if before != EDGE {
            self.change(Change { left: before, right: left, count, place: LOST });
            let place = place - self.lengths[before as usize];
            self.change(Change { left: before, right: id, count, place });
        }
        if after != EDGE {
            self.change(Change { left: right, right: after, count, place: LOST });
            self.change(Change { left: id, right: after, count, place });
        }
        let bytes = self.bytes.get_mut();
        bytes[middle].symbol = GONE;
        bytes[at].symbol = id;
        bytes[end - 1].symbol = id;
    }

    /// Ends a step: writes down the places that pairs gained, together for each pair, and queues those pairs.
    fn end_step(&mut self, options: &Options, vocab: &Vocab) {
        let Trainer { pairs, lengths, places, gained, touched, queue, .. } = self;
        for &(number, _) in gained.iter() {
            let pair = &mut pairs[number as usize];
            if pair.len == 0 {
                touched.push(number);
            }
            pair.len += 1;
        }
        let mut start = places.len();
        for &number in touched.iter() {
            let pair = &mut pairs[number as usize];
            pair.start = start;
            start += std::mem::take(&mut pair.len) as usize;
        }
        places.resize(start, 0);
        for (number, place) in gained.drain(..) {
            let pair = &mut pairs[number as usize];
            places[pair.start + pair.len as usize] = place;
            pair.len += 1;
        }
        for pair in touched.drain(..) {
            let Pair { count, left, right, .. } = pairs[pair as usize];
            let length = lengths[left as usize] as usize + lengths[right as usize] as usize;
            if count > 0 && length <= options.max_token_length {
                queue.push(Entry { count, left, right, pair }, options.tie, vocab);
            }
        }
        if gained.capacity() > 1 << 20 {
            gained.shrink_to(1 << 16);
        }
    }
}
