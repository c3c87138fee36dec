//! Merging a long piece with a queue.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{Merges, STEPS_PER_TICK};
use crate::error::{Result, Watch};
use crate::pairs::NEVER;

/// A queue of ranks and positions, whose entries may be out of date, and a doubly linked list of symbols.
#[derive(Default)]
pub struct Heap {
    ids: Vec<u32>,
    next: Vec<u32>,
    previous: Vec<u32>,
    queue: BinaryHeap<Reverse<u64>>,
    waiting: Vec<Reverse<u64>>,
}

/// No position: the end of the list, and the id of a symbol that was joined to its left neighbour.
const NONE: u32 = u32::MAX;

impl Heap {
    /// n log n. Before a pair is joined, `keep` is asked; if it says no, the pair has to wait until another was joined.
    pub fn apply(
        &mut self,
        merges: &Merges,
        symbols: &[u32],
        mut keep: impl FnMut() -> bool,
        steps: &mut u64,
        watch: &mut dyn Watch,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        if symbols.is_empty() {
            return Ok(());
        }
        let n = symbols.len() as u32;
        let Heap { ids, next, previous, queue, waiting } = self;
        waiting.clear();
        ids.clear();
        ids.extend_from_slice(symbols);
        next.clear();
        next.extend((1..n).chain([NONE]));
        previous.clear();
        previous.extend([NONE].into_iter().chain(0..n - 1));
        let entry = |rank: u32, at: u32| Reverse(u64::from(rank) << 32 | u64::from(at));
        let mut entries = std::mem::take(queue).into_vec();
        entries.clear();
        for (at, pair) in symbols.windows(2).enumerate() {
            let rank = merges.rank(pair[0], pair[1]);
            if rank != NEVER {
                entries.push(entry(rank, at as u32));
            }
        }
        *queue = BinaryHeap::from(entries);
        *steps += u64::from(n);
        while let Some(Reverse(found)) = queue.pop() {
            *steps += 1;
            if steps.is_multiple_of(STEPS_PER_TICK) {
                watch.tick("encode", 0, None)?;
            }
            let (rank, at) = ((found >> 32) as u32, found as u32);
            let left = ids[at as usize];
            let after = next[at as usize];
            if left == NONE || after == NONE {
                continue;
            }
            // Is this still the pair that the entry was made for?
            if merges.rank(left, ids[after as usize]) != rank {
                continue;
            }
            if !keep() {
                waiting.push(Reverse(found));
                continue;
            }
            queue.extend(waiting.drain(..));
            let id = merges.id(rank);
            ids[at as usize] = id;
            ids[after as usize] = NONE;
            let right = next[after as usize];
            next[at as usize] = right;
            if right != NONE {
                previous[right as usize] = at;
                let rank = merges.rank(id, ids[right as usize]);
                if rank != NEVER {
                    queue.push(entry(rank, at));
                }
            }
            let before = previous[at as usize];
            if before != NONE {
                let rank = merges.rank(ids[before as usize], id);
                if rank != NEVER {
                    queue.push(entry(rank, before));
                }
            }
        }
        out.extend(ids.iter().filter(|&&id| id != NONE));
        // One huge piece must not hold its memory for ever.
        if symbols.len() > 1 << 20 {
            *self = Heap::default();
        }
        Ok(())
    }
}
