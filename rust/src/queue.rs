//! Which pair is the next to be joined?
//!
//! Most pairs are rare and never come to it, so only those are kept in order whose counts have as many bits as the
//! highest; the others wait in lists, one for each number of bits.

use std::cmp::Reverse;

use crate::bytes::BYTE_OF_ID;
use crate::vocab::Vocab;

/// Of pairs that are equally frequent, which goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tie {
    /// The smaller pair of ids.
    HuggingFace,
    /// The smaller pair, a byte counting by its value and not by its id.
    Raw,
    /// The greater pair of byte strings.
    LargestContent,
}

/// A pair of tokens, its number, and the count that it had when it was put here.
#[derive(Clone, Copy)]
pub struct Entry {
    pub count: i64,
    pub left: u32,
    pub right: u32,
    pub pair: u32,
}

impl Entry {
    #[inline(always)]
    fn before(&self, other: &Self, tie: Tie, vocab: &Vocab) -> bool {
        if self.count != other.count {
            return self.count > other.count;
        }
        let raw = |id: u32| BYTE_OF_ID.get(id as usize).map_or(id, |&byte| u32::from(byte));
        match tie {
            Tie::HuggingFace => (self.left, self.right) < (other.left, other.right),
            Tie::Raw => (raw(self.left), raw(self.right)) < (raw(other.left), raw(other.right)),
            Tie::LargestContent => {
                let content = |entry: &Entry| Reverse((vocab.get(entry.left), vocab.get(entry.right)));
                content(self) < content(other)
            }
        }
    }
}

/// The pairs whose counts have the most bits, as a heap, and the lists of the others. Counts only fall. An entry may be
/// out of date, and then its count is too high.
///
/// The heap has four children a node: it is half as deep as one with two, and the four lie side by side. The standard
/// library's cannot ask the vocabulary which of two entries is the greater.
pub struct Queue {
    entries: Vec<Entry>,
    /// `waiting[bits]`: the pairs that had a count of so many bits.
    waiting: Vec<Vec<u32>>,
    /// Counts of fewer bits wait.
    bits: usize,
}

const CHILDREN: usize = 4;

impl Default for Queue {
    fn default() -> Self {
        Queue { entries: Vec::new(), waiting: vec![Vec::new(); 64], bits: 0 }
    }
}

impl Queue {
    /// Adds a pair with a count above 0.
    pub fn push(&mut self, entry: Entry, tie: Tie, vocab: &Vocab) {
        let bits = entry.count.ilog2() as usize;
        if bits >= self.bits {
            self.rise(entry, tie, vocab);
        } else {
            self.waiting[bits].push(entry.pair);
        }
    }

    /// Takes out the entry with the highest count, by the rule `tie` among equals. `now` gives the entry
    /// of a pair as it is now.
    pub fn pop(&mut self, tie: Tie, vocab: &Vocab, now: impl Fn(u32) -> Entry) -> Option<Entry> {
        loop {
            while let Some(entry) = self.sink(tie, vocab) {
                let now = now(entry.pair);
                if now.count == entry.count {
                    return Some(entry);
                }
                if now.count > 0 {
                    self.push(now, tie, vocab);
                }
            }
            if self.bits == 0 {
                return None;
            }
            self.bits -= 1;
            for pair in std::mem::take(&mut self.waiting[self.bits]) {
                let now = now(pair);
                if now.count > 0 {
                    self.push(now, tie, vocab);
                }
            }
        }
    }

    /// All pairs are in the heap at first; from now on only those with counts like the highest are.
    pub fn settle(&mut self, tie: Tie, vocab: &Vocab) {
        let highest = self.entries.first().map_or(1, |entry| entry.count);
        self.bits = highest.ilog2() as usize;
        for entry in std::mem::take(&mut self.entries) {
            self.push(entry, tie, vocab);
        }
    }

    fn rise(&mut self, entry: Entry, tie: Tie, vocab: &Vocab) {
        let mut at = self.entries.len();
        self.entries.push(entry);
        while at > 0 {
            let parent = (at - 1) / CHILDREN;
            if !entry.before(&self.entries[parent], tie, vocab) {
                break;
            }
            self.entries[at] = self.entries[parent];
            at = parent;
        }
        self.entries[at] = entry;
    }

    fn sink(&mut self, tie: Tie, vocab: &Vocab) -> Option<Entry> {
        let last = self.entries.pop()?;
        let Some(&first) = self.entries.first() else { return Some(last) };
        let mut at = 0;
        loop {
            let children = at * CHILDREN + 1..(at * CHILDREN + 1 + CHILDREN).min(self.entries.len());
            let best = children.reduce(|best, child| {
                if self.entries[child].before(&self.entries[best], tie, vocab) { child } else { best }
            });
            match best {
                Some(best) if self.entries[best].before(&last, tie, vocab) => {
                    self.entries[at] = self.entries[best];
                    at = best;
                }
                _ => break,
            }
        }
        self.entries[at] = last;
        Some(first)
    }
}
