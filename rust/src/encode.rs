//! Text to ids.
//!
//! The text is cut into pieces ([`crate::split`]), [`BATCH`] at a time, and each batch goes through short loops: which
//! pieces came just before ([`Hot`]), what the cache knows of the others, the few that it does not know, and the ids in
//! order. Each loop does one thing to all pieces, without a jump that the processor could guess wrong, and asks for
//! memory long before the next one needs it.

use std::sync::OnceLock;
use std::thread::available_parallelism;

use crate::cache::{COUNT_SHIFT, Cache, Few, Hot, LongCache, few};
use crate::error::{Result, Watch};
use crate::merge::{self, GROUP, Scratch};
use crate::piece::{self, Key};
use crate::special::Specials;
use crate::split::{BATCH, Span, Splitter};
use crate::tokenizer::{Rule, Tokenizer};

/// What one thread needs to encode: its own regex, working memory, and the pieces it met before.
pub struct Worker {
    splitter: Splitter,
    scratch: Box<Scratch>,
    hot: Hot,
    cache: Cache,
    long: LongCache,
    batch: Box<Batch>,
}

impl Worker {
    /// The splitter and working memory.
    pub(crate) fn tools(&mut self) -> (&Splitter, &mut Scratch) {
        (&self.splitter, &mut self.scratch)
    }
}

/// Of each id, the range of bytes that it stands for.
pub type Spans = Vec<(usize, usize)>;

/// Some pieces and their ids.
struct Batch {
    keys: [Key; BATCH],
    hashes: [u64; BATCH],
    /// The ids of each piece; where their number is [`MANY`], the second and third number say where in `many` they are.
    ids: [Few; BATCH],
    /// Which of the pieces are not in the table of hot ones.
    rest: [u16; BATCH],
    /// Which of these are not where the cache is looked into first.
    missing: [u16; BATCH],
    /// Which of these belong to the cache of long ones, and their hashes there.
    longs: [u16; BATCH],
    long_hashes: [u64; BATCH],
    many: Vec<u32>,
    /// The ids of all pieces one after another.
    block: [u32; ROOM + 4],
}

/// Stands for the number of a piece's ids if [`Few`] cannot hold them.
const MANY: u32 = 15;
/// Up to so many ids of a piece are copied among those of the others.
const SEVERAL: usize = 16;
/// With more ids than this a block is full.
const ROOM: usize = 4 * BATCH;
const ID: u32 = (1 << COUNT_SHIFT) - 1;

/// Copies the ids of the pieces from number `next` on to `block`, behind the `used` that are there, until a piece has
/// [`MANY`] or the room ends. Returns the next piece and how many ids there are then.
///
/// All four numbers of [`Few`] are copied whatever their count: no copy whose length is not known beforehand.
#[inline(never)] // as Hot::find
fn line_up(ids: &[Few], mut next: usize, block: &mut [u32; ROOM + 4], mut used: usize) -> (usize, usize) {
    const IDS: Few = [ID, u32::MAX, u32::MAX, u32::MAX];
    for few in &ids[next..] {
        let count = few[0] >> COUNT_SHIFT;
        if count == MANY || used > ROOM {
            break;
        }
        let ids: Few = std::array::from_fn(|place| few[place] & IDS[place]);
        block[used..][..4].copy_from_slice(&ids);
        used += count as usize;
        next += 1;
    }
    (next, used)
}

impl Batch {
    fn new() -> Box<Self> {
        Box::new(Batch {
            keys: [0; BATCH],
            hashes: [0; BATCH],
            ids: [[0; 4]; BATCH],
            rest: [0; BATCH],
            missing: [0; BATCH],
            longs: [0; BATCH],
            long_hashes: [0; BATCH],
            many: Vec::new(),
            block: [0; ROOM + 4],
        })
    }

    /// Calls `each` with ids, in order: those of one piece, or of several.
    fn for_each_run(&mut self, pieces: usize, mut each: impl FnMut(&[u32])) {
        let (mut next, mut used) = (0, 0);
        loop {
            (next, used) = line_up(&self.ids[..pieces], next, &mut self.block, used);
            if used > ROOM {
                each(&self.block[..used]);
                used = 0;
            } else if next < pieces {
                let (from, count) = (self.ids[next][1] as usize, self.ids[next][2] as usize);
                next += 1;
                let ids = &self.many[from..from + count];
                match self.block[used..].get_mut(..count) {
                    Some(room) if count <= SEVERAL => {
                        room.copy_from_slice(ids);
                        used += count;
                    }
                    _ => {
                        each(&self.block[..used]);
                        each(ids);
                        used = 0;
                    }
                }
            } else {
                return each(&self.block[..used]);
            }
        }
    }

    fn set_many(&mut self, index: usize, ids: &[u32]) {
        let start = self.many.len();
        self.many.extend_from_slice(ids);
        self.ids[index] = many(start, self.many.len());
    }
}

impl Tokenizer {
    /// Runs `work` with working memory that no other thread uses. It is kept for the next call.
    ///
    /// A process that was forked while another thread held the lock will never get it, so nobody waits for it.
    pub fn with_worker<T>(&self, work: impl FnOnce(&mut Worker) -> T) -> T {
        let idle = self.idle.try_lock().ok().and_then(|mut idle| idle.pop());
        let mut worker = idle.unwrap_or_else(|| Worker {
            splitter: self.splitter.clone(),
            scratch: Box::default(),
            hot: Hot::default(),
            cache: Cache::default(),
            long: LongCache::default(),
            batch: Batch::new(),
        });
        let result = work(&mut worker);
        // What a crowd of threads needed once is not kept for ever.
        if let Ok(mut idle) = self.idle.try_lock()
            && idle.len() < *CORES.get_or_init(|| available_parallelism().map_or(1, usize::from))
        {
            idle.push(worker);
        }
        result
    }

    /// Calls `each` with the ids of a text in which the `allowed` special tokens count as such, some at a time.
    pub fn encode(
        &self,
        text: &str,
        allowed: &Specials,
        worker: &mut Worker,
        watch: &mut dyn Watch,
        mut each: impl FnMut(&[u32]) -> Result<()>,
    ) -> Result<()> {
        allowed.for_each_part(text, |start, end, special| match special {
            Some(id) => each(&[id]),
            None => self.encode_ordinary(&text[start..end], worker, watch, &mut each),
        })
    }

    fn encode_ordinary(
        &self,
        text: &str,
        worker: &mut Worker,
        watch: &mut dyn Watch,
        mut each: impl FnMut(&[u32]) -> Result<()>,
    ) -> Result<()> {
        self.for_each_batch(text, worker, watch, |batch, spans| {
            let mut outcome = Ok(());
            batch.for_each_run(spans.len(), |ids| {
                if outcome.is_ok() {
                    outcome = each(ids);
                }
            });
            outcome
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
        let (mut all, mut ranges) = (Vec::new(), Vec::new());
        allowed.for_each_part(text, |start, end, special| {
            if let Some(id) = special {
                all.push(id);
                ranges.push((start, end));
                return Ok(());
            }
            self.for_each_batch(&text[start..end], worker, watch, |batch, spans| {
                for (few, span) in batch.ids.iter().zip(spans) {
                    let count = few[0] >> COUNT_SHIFT;
                    let whole = [few[0] & ID, few[1], few[2], few[3]];
                    let ids = match count {
                        MANY => &batch.many[few[1] as usize..][..few[2] as usize],
                        _ => &whole[..count as usize],
                    };
                    let mut at = start + span.0;
                    for &id in ids {
                        let end = at + self.vocab.get(id).map_or(0, <[u8]>::len);
                        ranges.push((at, end));
                        at = end;
                    }
                    all.extend_from_slice(ids);
                }
                Ok(())
            })
        })?;
        Ok((all, ranges))
    }

    /// Finds the ids of all pieces of a text without special tokens, batch by batch.
    fn for_each_batch(
        &self,
        text: &str,
        worker: &mut Worker,
        watch: &mut dyn Watch,
        mut each: impl FnMut(&mut Batch, &[Span]) -> Result<()>,
    ) -> Result<()> {
        let Worker { splitter, scratch, hot, cache, long, batch } = worker;
        let bytes = text.as_bytes();
        if cache.lines().is_empty() {
            cache.grow(0, std::iter::empty());
        }
        let mut finder = Finder { tokenizer: self, hot, cache, long, scratch };
        let mut batches = 0u32;
        splitter.for_each_batch(text, self.rule == Rule::Ranks, |spans| {
            finder.find(bytes, spans, batch, watch)?;
            each(batch, spans)?;
            batches += 1;
            if batches.is_multiple_of(BATCHES_PER_TICK) {
                watch.tick("encode", spans[0].0 as u64, Some(text.len() as u64))?;
            }
            Ok(())
        })
    }

    fn remember(&self, cache: &mut Cache, key: Key, hash: u64, ids: Few) {
        if cache.is_full() {
            cache.grow(self.vocab.len(), self.seeds());
        }
        // The same piece may have come twice in one group.
        if cache.find(key, hash).is_none() {
            cache.insert(key, hash, ids);
        }
    }

    /// Pieces that are tokens as a whole, before they are met.
    fn seeds(&self) -> impl Iterator<Item = (Key, u32)> {
        let mut specials: Vec<u32> = self.specials.tokens().iter().map(|&(_, id)| id).collect();
        specials.sort_unstable();
        let tokens = self.vocab.iter().take(if self.whole_first() { usize::MAX } else { 0 });
        tokens
            .filter(move |(id, token)| token.len() <= piece::SHORT && specials.binary_search(id).is_err())
            .map(|(id, token)| (piece::key(token, (0, token.len())), id))
    }

    /// Does a piece that is a token become that token, whatever the merges say?
    fn whole_first(&self) -> bool {
        match self.rule {
            Rule::Merges { whole_first, .. } => whole_first,
            Rule::Ranks => true,
        }
    }
}

static CORES: OnceLock<usize> = OnceLock::new();

/// About every millisecond.
const BATCHES_PER_TICK: u32 = 1024;

/// What finds the ids of pieces.
struct Finder<'a> {
    tokenizer: &'a Tokenizer,
    hot: &'a mut Hot,
    cache: &'a mut Cache,
    long: &'a mut LongCache,
    scratch: &'a mut Scratch,
}

impl Finder<'_> {
    /// Fills `batch` with the ids of the pieces at `spans`, of which there are at most [`BATCH`].
    fn find(&mut self, text: &[u8], spans: &[Span], batch: &mut Batch, watch: &mut dyn Watch) -> Result<()> {
        let rest = self.hot.find(text, spans, &mut batch.ids, &mut batch.rest);
        let (count, longs) = self.find_rest(text, spans, rest, batch);
        batch.many.clear();
        // Of the long ones, first the slots are asked for, then what these point to.
        for (&index, hash) in batch.longs[..longs].iter().zip(&mut batch.long_hashes) {
            let (start, end) = spans[usize::from(index)];
            *hash = self.long.hash(&text[start..end]);
            self.long.prefetch(*hash);
        }
        for &hash in &batch.long_hashes[..longs] {
            self.long.prefetch_ids(hash);
        }
        let mut long = 0;
        let (mut new, mut news) = ([0; GROUP], 0);
        for place in 0..count {
            let index = usize::from(batch.missing[place]);
            let (start, end) = spans[index];
            let is_long = long < longs && usize::from(batch.longs[long]) == index;
            let hash = is_long.then(|| batch.long_hashes[long]);
            long += usize::from(is_long);
            if !self.recall(&text[start..end], index, hash, batch, watch)? {
                new[news] = index;
                news += 1;
            }
            if news == GROUP {
                self.merge(text, spans, &new, batch);
                news = 0;
            }
        }
        self.merge(text, spans, &new[..news], batch);
        Ok(())
    }

    /// Looks for the first `rest` of `batch.rest` where the cache should have them. Returns how many are not there
    /// (`batch.missing`) and how many belong to the long ones (`batch.longs`).
    #[inline(never)] // as Hot::find
    fn find_rest(&mut self, text: &[u8], spans: &[Span], rest: usize, batch: &mut Batch) -> (usize, usize) {
        let lines = self.cache.lines();
        let rest = &batch.rest[..rest];
        for &index in rest {
            let index = usize::from(index) % BATCH;
            let key = piece::key(text, spans[index]);
            let hash = piece::hash(key);
            (batch.keys[index], batch.hashes[index]) = (key, hash);
            piece::prefetch(&lines[piece::place(hash, lines.len())]);
        }
        let (mut count, mut longs) = (0, 0);
        for &small in rest {
            let index = usize::from(small) % BATCH;
            let (key, hash) = (batch.keys[index], batch.hashes[index]);
            let slot = lines[piece::place(hash, lines.len())].slot(key);
            batch.ids[index] = slot.ids;
            let longer = slot.ids[0] == LONGER[0];
            batch.missing[count % BATCH] = small;
            count += usize::from((slot.key != key) | longer);
            batch.longs[longs % BATCH] = small;
            longs += usize::from((key == piece::LONG) | ((slot.key == key) & longer));
            if (slot.key == key) & !longer {
                self.hot.insert(slot, hash);
            }
        }
        (count, longs)
    }

    /// The ids of a piece that is not at its first place in the cache, if they are known otherwise. Those of a very long
    /// one are found here, too. `long`: its hash, if it belongs to the cache of long ones for sure.
    fn recall(
        &mut self,
        piece: &[u8],
        index: usize,
        long: Option<u64>,
        batch: &mut Batch,
        watch: &mut dyn Watch,
    ) -> Result<bool> {
        let key = batch.keys[index];
        let Finder { tokenizer, cache, long: longs, scratch, .. } = self;
        let mut hash = long;
        if hash.is_none() {
            match cache.find(key, batch.hashes[index]) {
                Some(LONGER) => hash = Some(longs.hash(piece)),
                Some(ids) => {
                    batch.ids[index] = ids;
                    return Ok(true);
                }
                None => {}
            }
        }
        if let Some(hash) = hash
            && let Some(ids) = longs.find(piece, hash)
        {
            batch.set_many(index, ids);
            return Ok(true);
        }
        if key == piece::LONG || !cache.seeded {
            let whole = if tokenizer.whole_first() { tokenizer.vocab.id(piece) } else { None };
            if let Some(id) = whole {
                batch.ids[index] = few(&[id]);
                if key == piece::LONG {
                    longs.insert(piece, longs.hash(piece), &[id]);
                } else {
                    tokenizer.remember(cache, key, batch.hashes[index], few(&[id]));
                }
                return Ok(true);
            }
        }
        if piece.len() <= merge::SHORT {
            return Ok(false);
        }
        let start = batch.many.len();
        tokenizer.merges.apply(piece, scratch, watch, &mut batch.many)?;
        batch.ids[index] = many(start, batch.many.len());
        longs.insert(piece, longs.hash(piece), &batch.many[start..]);
        Ok(true)
    }

    /// Merges pieces that were never met, up to [`GROUP`] together.
    fn merge(&mut self, text: &[u8], spans: &[Span], new: &[usize], batch: &mut Batch) {
        let mut pieces: [&[u8]; GROUP] = [&[]; GROUP];
        for (piece, &index) in pieces.iter_mut().zip(new) {
            *piece = &text[spans[index].0..spans[index].1];
        }
        let Finder { tokenizer, cache, long, scratch, .. } = self;
        tokenizer.merges.apply_group(&pieces[..new.len()], scratch, |place, ids| {
            let (index, piece) = (new[place], pieces[place]);
            let key = batch.keys[index];
            if key == piece::LONG || ids.len() > 4 {
                batch.set_many(index, ids);
                long.insert(piece, long.hash(piece), ids);
            } else {
                batch.ids[index] = few(ids);
            }
            if key != piece::LONG {
                let ids = if ids.len() > 4 { LONGER } else { few(ids) };
                tokenizer.remember(cache, key, batch.hashes[index], ids);
            }
        });
    }
}

/// In the cache: the piece has more ids than fit, and is among the long ones.
const LONGER: Few = [0; 4];

/// Says that the ids of a piece lie between `start` and `end`.
fn many(start: usize, end: usize) -> Few {
    [MANY << COUNT_SHIFT, start as u32, (end - start) as u32, 0]
}
