//! How often does each pre-token occur? In parallel, and in memory that grows with the distinct ones only.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::Builder;
use std::time::Duration;

use bytemuck::{Pod, Zeroable};
use hashbrown::{DefaultHashBuilder, HashTable};

use crate::cut;
use crate::error::{Error, Result, Watch};
use crate::input::Stream;
use crate::pages::Pages;
use crate::piece::{self, Key};
use crate::special::Specials;
use crate::split::{BATCH, Pattern, Span, Splitter};

/// Distinct byte strings and how often each came.
#[derive(Default)]
pub struct Counter {
    short: ShortCounter,
    long: LongCounter,
}

impl Counter {
    /// Counts pieces of a text.
    pub fn add_all(&mut self, text: &[u8], spans: &[Span]) {
        let mut keys = [0; BATCH];
        let mut hashes = [0; BATCH];
        for group in spans.chunks(BATCH) {
            self.short.reserve(group.len());
            for ((span, key), hash) in group.iter().zip(&mut keys).zip(&mut hashes) {
                *key = piece::key(text, *span);
                *hash = piece::hash(*key);
                self.short.prefetch(*hash);
            }
            for ((&(start, end), &key), &hash) in group.iter().zip(&keys).zip(&hashes) {
                if key == piece::LONG {
                    self.long.add(&text[start..end], 1);
                } else {
                    self.short.add(key, hash, 1);
                }
            }
        }
    }

    pub fn add(&mut self, piece: &[u8], count: u64) {
        let key = piece::key(piece, (0, piece.len()));
        if key == piece::LONG {
            self.long.add(piece, count);
        } else {
            self.short.reserve(1);
            self.short.add(key, piece::hash(key), count);
        }
    }

    /// Calls `each` for every piece and its count, in no particular order.
    pub fn for_each(&self, mut each: impl FnMut(&[u8], u64)) {
        for (key, count) in self.short.iter() {
            let (bytes, len) = piece::bytes(key);
            each(&bytes[..len], count);
        }
        for word in &self.long.words {
            each(&self.long.bytes[word.start..][..word.len], word.count);
        }
    }

    pub fn len(&self) -> usize {
        self.short.len + self.long.words.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Pieces that have a key: open addressing, line by line, at most half full. A slot without a key is free.
#[derive(Default)]
struct ShortCounter {
    lines: Pages<Line>,
    len: usize,
}

/// Two keys with their counts, which the processor fetches as one.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([Slot; 2]);

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Slot {
    key: Key,
    count: u64,
    unused: u64,
}

impl ShortCounter {
    /// Makes room for so many pieces that are new.
    #[inline]
    fn reserve(&mut self, more: usize) {
        if self.len + more > self.lines.get().len() {
            let size = (self.len + more).next_power_of_two().max(1 << 10);
            let lines = Pages::zeroed(size).expect("there is no memory for the counts");
            let old = std::mem::replace(self, ShortCounter { lines, len: 0 });
            old.iter().for_each(|(key, count)| self.add(key, piece::hash(key), count));
        }
    }

    fn iter(&self) -> impl Iterator<Item = (Key, u64)> {
        let slots = self.lines.get().iter().flat_map(|Line(slots)| slots);
        slots.filter(|slot| slot.key != 0).map(|slot| (slot.key, slot.count))
    }

    #[inline(always)]
    fn prefetch(&self, hash: u64) {
        piece::prefetch(&self.lines.get()[piece::place(hash, self.lines.get().len())]);
    }

    /// Adds to a count; there must be room.
    #[inline(always)]
    fn add(&mut self, key: Key, hash: u64, count: u64) {
        let lines = self.lines.get_mut();
        let mut place = piece::place(hash, lines.len());
        loop {
            let Line(slots) = &mut lines[place];
            // Which of the two it is cannot be foreseen, so it is computed, not jumped upon.
            let slot = &mut slots[usize::from(slots[1].key == key)];
            if slot.key == key {
                slot.count += count;
                return;
            }
            if let Some(slot) = slots.iter_mut().find(|slot| slot.key == 0) {
                *slot = Slot { key, count, unused: 0 };
                self.len += 1;
                return;
            }
            place = (place + 1) & (lines.len() - 1);
        }
    }
}

/// Pieces that are too long for a key.
#[derive(Default)]
struct LongCounter {
    bytes: Vec<u8>,
    words: Vec<Word>,
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

struct Word {
    start: usize,
    len: usize,
    count: u64,
    hash: u64,
}

impl LongCounter {
    fn add(&mut self, piece: &[u8], count: u64) {
        let hash = self.hasher.hash_one(piece);
        let LongCounter { bytes, words, table, .. } = self;
        let same = |&index: &u32| {
            let word = &words[index as usize];
            word.hash == hash && &bytes[word.start..][..word.len] == piece
        };
        if let Some(&index) = table.find(hash, same) {
            words[index as usize].count += count;
            return;
        }
        let index = words.len() as u32;
        words.push(Word { start: bytes.len(), len: piece.len(), count, hash });
        bytes.extend_from_slice(piece);
        table.insert_unique(hash, index, |&index| words[index as usize].hash);
    }
}

/// A count that grows batch by batch.
pub struct Counting {
    pattern: Pattern,
    specials: Specials,
    threads: Vec<(Splitter, Counter)>,
    /// Texts and their bytes that were counted so far.
    texts: u64,
    bytes: u64,
}

/// One thread's bite. Small enough that threads end together and a stop is obeyed soon.
const PART: usize = 1 << 18;

impl Counting {
    pub fn new(pattern: Pattern, specials: Specials, threads: usize) -> Result<Self> {
        let splitter = pattern.splitter()?;
        let threads = (0..threads.max(1)).map(|_| (splitter.clone(), Counter::default())).collect();
        Ok(Counting { pattern, specials, threads, texts: 0, bytes: 0 })
    }

    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    pub fn specials(&self) -> &Specials {
        &self.specials
    }

    pub fn texts(&self) -> u64 {
        self.texts
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Counts the pieces of some texts. `total`, if known, is the size of all texts to come.
    pub fn add(&mut self, texts: &[&str], total: Option<u64>, watch: &mut dyn Watch) -> Result<()> {
        let parts: Vec<&str> = if self.pattern.cuttable() {
            texts.iter().flat_map(|text| cut::parts(text, PART, &self.specials)).collect()
        } else {
            texts.to_vec()
        };
        let size: usize = texts.iter().map(|text| text.len()).sum();
        let (next, stop, done) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicU64::new(0));
        let specials = &self.specials;
        let work = |state: &mut (Splitter, Counter)| -> Result<()> {
            while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                count_part(state, specials, part, &stop)?;
                done.fetch_add(part.len() as u64, Ordering::Relaxed);
            }
            Ok(())
        };
        let before = self.bytes;
        if parts.len() < 2 && size < PART {
            work(&mut self.threads[0])?;
        } else {
            run_watched(&mut self.threads, work, &stop, || {
                watch.tick("count", before + done.load(Ordering::Relaxed), total)
            })?;
        }
        self.texts += texts.len() as u64;
        self.bytes += size as u64;
        watch.tick("count", self.bytes, total)
    }

    /// Counts what a stream reads, while it reads on. `total`, if known, is how many bytes it will have read.
    pub fn add_stream(&mut self, stream: Stream, total: Option<u64>, watch: &mut dyn Watch) -> Result<()> {
        let (stream, stop) = (Mutex::new(stream), AtomicBool::new(false));
        let [texts, bytes, read] = [const { AtomicU64::new(0) }; 3];
        let specials = &self.specials;
        let work = |state: &mut (Splitter, Counter)| -> Result<()> {
            loop {
                if stop.load(Ordering::Relaxed) {
                    return Err(Error::stopped());
                }
                let next =
                    stream.lock().unwrap_or_else(PoisonError::into_inner).next(Duration::from_millis(20))?;
                let batch = match next {
                    Some(Some(batch)) => batch,
                    Some(None) => return Ok(()),
                    None => continue,
                };
                for part in batch.parts() {
                    count_part(state, specials, part, &stop)?;
                    bytes.fetch_add(part.len() as u64, Ordering::Relaxed);
                }
                texts.fetch_add(batch.texts, Ordering::Relaxed);
                read.fetch_max(batch.read, Ordering::Relaxed);
            }
        };
        run_watched(&mut self.threads, work, &stop, || {
            watch.tick("count", read.load(Ordering::Relaxed), total)
        })?;
        self.texts += texts.into_inner();
        self.bytes += bytes.into_inner();
        watch.tick("count", read.into_inner(), total)
    }

    /// All counts together. The order of words depends on the threads; nothing after it may.
    pub fn finish(self) -> Counter {
        let mut counters = self.threads.into_iter().map(|(_, counter)| counter);
        let mut all = counters.next().unwrap_or_default();
        for counter in counters {
            if all.is_empty() {
                all = counter;
                continue;
            }
            counter.for_each(|piece, count| all.add(piece, count));
        }
        all
    }
}

/// Counts the pieces of a text, or of a part that was cut off where every pattern cuts.
fn count_part(
    (splitter, counter): &mut (Splitter, Counter),
    specials: &Specials,
    part: &str,
    stop: &AtomicBool,
) -> Result<()> {
    specials.for_each_part(part, |start, end, special| {
        if special.is_some() {
            return Ok(());
        }
        let text = &part[start..end];
        splitter.for_each_batch(text, false, |spans| {
            counter.add_all(text.as_bytes(), spans);
            if stop.load(Ordering::Relaxed) { Err(Error::stopped()) } else { Ok(()) }
        })
    })
}

/// Runs `work` on a thread for each of `states` and calls `tick` while they run, on the thread that called (the
/// one that Python delivers signals to). An error of either ends all and is returned.
pub fn run_watched<S: Send>(
    states: &mut [S],
    work: impl Fn(&mut S) -> Result<()> + Sync,
    stop: &AtomicBool,
    mut tick: impl FnMut() -> Result<()>,
) -> Result<()> {
    let (sender, results) = mpsc::channel();
    let mut outcome = Ok(());
    let states: Vec<Mutex<&mut S>> = states.iter_mut().map(Mutex::new).collect();
    std::thread::scope(|scope| {
        let mut running = 0;
        for state in &states {
            let (sender, work) = (sender.clone(), &work);
            let run = move || {
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                // If the receiver is gone, a worker's panic is already on its way to the caller.
                let _ = sender.send(work(&mut state));
            };
            // A machine may refuse more threads; then those do it that there are.
            running += usize::from(Builder::new().spawn_scoped(scope, run).is_ok());
        }
        if running == 0
            && let Some(state) = states.first()
        {
            outcome = work(&mut state.lock().unwrap_or_else(PoisonError::into_inner));
        }
        drop(sender);
        while running > 0 {
            let result = match results.recv_timeout(Duration::from_millis(50)) {
                Ok(result) => {
                    running -= 1;
                    result
                }
                Err(mpsc::RecvTimeoutError::Timeout) => tick(),
                Err(mpsc::RecvTimeoutError::Disconnected) => break, // a worker panicked: `scope` passes it on
            };
            if outcome.is_ok() && result.is_err() {
                stop.store(true, Ordering::Relaxed);
                outcome = result;
            }
        }
    });
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(counter: &Counter) -> Vec<(Vec<u8>, u64)> {
        let mut all = Vec::new();
        counter.for_each(|piece, count| all.push((piece.to_vec(), count)));
        all.sort();
        all
    }

    #[test]
    fn parts_and_threads_do_not_change_the_count() {
        let text: String = (0..60_000).map(|i| format!("word{} don't  {}\n", i % 97, i % 1013)).collect();
        let specials = || Specials::new(vec![("word7 don".into(), 0)]).unwrap();
        let mut counts = Vec::new();
        for (threads, texts) in [(1, vec![text.as_str()]), (3, vec![text.as_str()])] {
            let mut counting = Counting::new(Pattern::Cl100k, specials(), threads).unwrap();
            counting.add(&texts, None, &mut ()).unwrap();
            let counter = counting.finish();
            counts.push(sorted(&counter));
        }
        let mut whole = Counter::default();
        let splitter = Pattern::Cl100k.splitter().unwrap();
        specials()
            .for_each_part(&text, |start, end, special| match special {
                Some(_) => Ok(()),
                None => splitter.for_each_batch(&text[start..end], false, |spans| {
                    spans.iter().for_each(|&(a, b)| whole.add(&text.as_bytes()[start..end][a..b], 1));
                    Ok(())
                }),
            })
            .unwrap();
        assert_eq!(counts[0], counts[1]);
        assert_eq!(counts[0], sorted(&whole));
    }
}
