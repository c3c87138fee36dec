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

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use crate::bytes::{BYTE_OF_ID, ID_OF_BYTE};
use crate::count::Counter;
use crate::error::{Error, Result, Watch};
use crate::pairs::PairTable;
use crate::vocab::Vocab;

/// What stands between pieces.
const EDGE: u32 = u32::MAX;
/// What stands where a symbol was joined to the one on its left.
const GONE: u32 = u32::MAX - 1;

struct Pair {
    count: i64,
    left: u32,
    right: u32,
    /// Places noted in the current step.
    fresh: u32,
    /// Where the next of them goes.
    fill: usize,
}

/// An entry of the queue: a pair, the count it had when it was put there, and its places.
#[derive(PartialEq, Eq)]
struct Entry {
    count: i64,
    left: u32,
    right: u32,
    pair: u32,
    places: u32,
    start: usize,
}

impl Ord for Entry {
    /// The highest count first, then the smaller pair of ids.
    fn cmp(&self, other: &Self) -> Ordering {
        (self.count.cmp(&other.count)).then_with(|| (other.left, other.right).cmp(&(self.left, self.right)))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

struct Trainer {
    /// The id of the symbol that starts at this byte, [`GONE`] or [`EDGE`].
    symbols: Vec<u32>,
    /// The id of the symbol that ends at this byte (valid at ends only), or [`EDGE`].
    endings: Vec<u32>,
    /// Which piece this byte is of.
    piece: Vec<u32>,
    /// How often each piece came.
    counts: Vec<i64>,
    /// Of each token, how many bytes it has.
    lengths: Vec<u32>,
    pairs: Vec<Pair>,
    index: PairTable<u32>,
    places: Vec<u32>,
    /// Pairs that gained a place in this step, and the places.
    gained: Vec<(u32, u32)>,
    queue: BinaryHeap<Entry>,
}

/// The merges, as pairs of ids in order, at most enough for `vocab_size` tokens. Fewer if no pair is left.
pub fn train(words: &Counter, vocab_size: usize, watch: &mut dyn Watch) -> Result<(Vocab, Vec<(u32, u32)>)> {
    let mut vocab = Vocab::default();
    for (id, byte) in BYTE_OF_ID.iter().enumerate() {
        vocab.add(id as u32, &[*byte])?;
    }
    let wanted = vocab_size.saturating_sub(256) as u64;
    let mut trainer = Trainer::new(words)?;
    trainer.count_pairs();
    let mut merges = Vec::new();
    let mut last_tick = Instant::now();
    while vocab.len() < vocab_size {
        let Some(mut entry) = trainer.queue.pop() else { break };
        let count = trainer.pairs[entry.pair as usize].count;
        if entry.count != count {
            entry.count = count;
            if count > 0 {
                trainer.queue.push(entry);
            }
            continue;
        }
        let (left, right) = (entry.left, entry.right);
        let mut joined = vocab.get(left).unwrap_or_default().to_vec();
        joined.extend_from_slice(vocab.get(right).unwrap_or_default());
        let id = vocab.len() as u32;
        vocab.add(id, &joined)?;
        trainer.lengths.push(joined.len() as u32);
        merges.push((left, right));
        trainer.apply(&entry, id);
        if last_tick.elapsed() > Duration::from_millis(100) {
            watch.tick("merge", vocab.len() as u64 - 256, Some(wanted))?;
            last_tick = Instant::now();
        }
    }
    watch.tick("merge", vocab.len() as u64 - 256, Some(wanted))?;
    Ok((vocab, merges))
}

impl Trainer {
    fn new(words: &Counter) -> Result<Self> {
        let mut size = 1;
        words.for_each(|word, _| size += word.len() + 1);
        if size >= GONE as usize {
            return Err(Error::data(format!(
                "the distinct pieces have {size} bytes; training holds at most 4 GB of them. Train on less text, or \
                 choose a pattern that cuts it into shorter pieces"
            )));
        }
        let mut trainer = Trainer {
            symbols: Vec::with_capacity(size),
            endings: Vec::new(),
            piece: Vec::with_capacity(size),
            counts: Vec::new(),
            lengths: vec![1; 256],
            pairs: Vec::new(),
            index: PairTable::with_capacity(1 << 16),
            places: Vec::new(),
            gained: Vec::new(),
            queue: BinaryHeap::new(),
        };
        trainer.symbols.push(EDGE);
        trainer.piece.push(0);
        words.for_each(|word, count| {
            if word.len() < 2 {
                return;
            }
            let index = trainer.counts.len() as u32;
            trainer.counts.push(i64::try_from(count).unwrap_or(i64::MAX));
            trainer.symbols.extend(word.iter().map(|&byte| u32::from(ID_OF_BYTE[byte as usize])));
            trainer.symbols.push(EDGE);
            trainer.piece.resize(trainer.symbols.len(), index);
        });
        trainer.endings = trainer.symbols.clone();
        Ok(trainer)
    }

    /// The pairs of bytes that there are at the start.
    fn count_pairs(&mut self) {
        for place in 1..self.symbols.len().saturating_sub(1) {
            let (left, right) = (self.symbols[place], self.symbols[place + 1]);
            if left != EDGE && right != EDGE {
                let count = self.counts[self.piece[place] as usize];
                self.gain(left, right, place as u32, count);
            }
        }
        self.flush();
    }

    #[inline]
    fn pair(&mut self, left: u32, right: u32) -> u32 {
        let pairs = &mut self.pairs;
        self.index.get_or_insert(left, right, || {
            pairs.push(Pair { count: 0, left, right, fresh: 0, fill: 0 });
            pairs.len() as u32 - 1
        })
    }

    #[inline]
    fn gain(&mut self, left: u32, right: u32, place: u32, count: i64) {
        let pair = self.pair(left, right);
        self.pairs[pair as usize].count += count;
        self.gained.push((pair, place));
    }

    #[inline]
    fn lose(&mut self, left: u32, right: u32, count: i64) {
        let pair = self.pair(left, right);
        self.pairs[pair as usize].count -= count;
    }

    /// Joins the pair of an entry, wherever it still stands, into symbol `id`.
    fn apply(&mut self, entry: &Entry, id: u32) {
        for index in entry.start..entry.start + entry.places as usize {
            self.join(self.places[index], entry.left, entry.right, id);
        }
        self.flush();
    }

    /// Joins the two symbols at `place` if they are `left` and `right`, and updates the counts of the pairs that
    /// this breaks and makes. In a run of several joins, a pair may be made and broken again at once.
    #[inline]
    fn join(&mut self, place: u32, left: u32, right: u32, id: u32) {
        let at = place as usize;
        let (left_len, right_len) = (self.lengths[left as usize], self.lengths[right as usize]);
        let middle = at + left_len as usize;
        if self.symbols[at] != left || self.symbols[middle] != right {
            return;
        }
        let end = middle + right_len as usize;
        let count = self.counts[self.piece[at] as usize];
        let (before, after) = (self.endings[at - 1], self.symbols[end]);
        if before != EDGE {
            self.lose(before, left, count);
            self.gain(before, id, place - self.lengths[before as usize], count);
        }
        if after != EDGE {
            self.lose(right, after, count);
            self.gain(id, after, place, count);
        }
        self.symbols[at] = id;
        self.symbols[middle] = GONE;
        self.endings[end - 1] = id;
    }

    /// Ends a step: writes down the places that pairs gained, together for each pair, and queues those pairs.
    fn flush(&mut self) {
        let mut touched = Vec::new();
        for &(pair, _) in &self.gained {
            let known = &mut self.pairs[pair as usize];
            if known.fresh == 0 {
                touched.push(pair);
            }
            known.fresh += 1;
        }
        let mut start = self.places.len();
        for &pair in &touched {
            let known = &mut self.pairs[pair as usize];
            known.fill = start;
            start += known.fresh as usize;
        }
        self.places.resize(start, 0);
        for (pair, place) in self.gained.drain(..) {
            let fill = &mut self.pairs[pair as usize].fill;
            self.places[*fill] = place;
            *fill += 1;
        }
        for pair in touched {
            let known = &mut self.pairs[pair as usize];
            let places = std::mem::take(&mut known.fresh);
            if known.count > 0 {
                self.queue.push(Entry {
                    count: known.count,
                    left: known.left,
                    right: known.right,
                    pair,
                    places,
                    start: known.fill - places as usize,
                });
            }
        }
    }
}
