//! One call's worth of encoding: which special tokens are allowed and forbidden, one text or many.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread::Builder;
use std::time::{Duration, Instant};

use crate::cut;
use crate::dropout::Dropout;
use crate::encode::{Spans, Worker};
use crate::error::{Error, Result, Watch};
use crate::special::Specials;
use crate::tokenizer::Tokenizer;

/// Which special tokens.
pub enum Choice {
    None,
    All,
    These(Vec<String>),
}

impl Choice {
    /// The chosen ones of a tokenizer's. A string that is no special token can be chosen too, to be forbidden.
    pub fn of(self, tokenizer: &Tokenizer) -> Result<Cow<'_, Specials>> {
        match self {
            Choice::None => Ok(Cow::Owned(Specials::default())),
            Choice::All => Ok(Cow::Borrowed(&tokenizer.specials)),
            Choice::These(tokens) => Ok(Cow::Owned(tokenizer.chosen.of(tokens, &tokenizer.specials)?)),
        }
    }
}

/// The choices of the last calls: most calls choose what the one before them chose, and to make a finder of special
/// tokens takes longer than to encode a page.
#[derive(Default)]
pub struct Chosen(Mutex<VecDeque<(Vec<String>, Specials)>>);

const CHOICES: usize = 8;

impl Chosen {
    fn of(&self, tokens: Vec<String>, all: &Specials) -> Result<Specials> {
        // Nobody waits for the lock: in a forked process its owner may not be there.
        if let Ok(known) = self.0.try_lock()
            && let Some((_, specials)) = known.iter().find(|(known, _)| *known == tokens)
        {
            return Ok(specials.clone());
        }
        let with_id = |token: &String| (token.clone(), all.id(token).unwrap_or(u32::MAX));
        let specials = Specials::new(tokens.iter().map(with_id).collect())?;
        if let Ok(mut known) = self.0.try_lock() {
            known.truncate(CHOICES - 1);
            known.push_front((tokens, specials.clone()));
        }
        Ok(specials)
    }
}

/// The error for a special token in a text that may not hold it.
pub fn refuse(text: &str, forbidden: &Specials) -> Result<()> {
    let Some((start, end, _)) = forbidden.find(text, 0) else { return Ok(()) };
    let token = &text[start..end];
    Err(Error::tokenizer(format!(
        "the text holds the special token {token:?} at byte {start}, which is not allowed. To encode it as a special \
         token, pass allowed_special={{{token:?}}} or \"all\"; to encode it as ordinary text, pass \
         disallowed_special=() (or a set without it)"
    )))
}

/// The bytes that a thread takes at a time: few enough that their ids are still in the processor's cache when they
/// are copied to where they are wanted.
const PORTION: usize = 1 << 17;

/// Texts, or parts of them, and their places among all texts.
type Portion<'t> = Vec<(usize, &'t str)>;

/// The ids of a portion one after another, and which texts they are of: how many of the next ids.
#[derive(Default)]
pub struct Encoded {
    pub ids: Vec<u32>,
    pub lengths: Vec<(usize, usize)>,
}

/// A tokenizer and the choices of one call.
pub struct Encoder<'a> {
    pub tokenizer: &'a Tokenizer,
    pub allowed: Cow<'a, Specials>,
    pub forbidden: Cow<'a, Specials>,
    /// No text gets more ids than this; what comes after them is not encoded.
    pub most: usize,
    pub dropout: Option<Dropout>,
}

impl<'a> Encoder<'a> {
    pub fn new(tokenizer: &'a Tokenizer, allowed: Choice, forbidden: Choice) -> Result<Self> {
        Ok(Encoder {
            tokenizer,
            allowed: allowed.of(tokenizer)?,
            forbidden: forbidden.of(tokenizer)?,
            most: usize::MAX,
            dropout: None,
        })
    }

    pub fn one(&self, text: &str, watch: &mut dyn Watch) -> Result<Vec<u32>> {
        refuse(text, &self.forbidden)?;
        let mut ids = Vec::with_capacity((text.len() / 4 + 4).min(self.most));
        self.tokenizer.with_worker(|worker| self.append(worker, 0, text, &mut ids, watch))?;
        Ok(ids)
    }

    pub fn with_spans(&self, text: &str, watch: &mut dyn Watch) -> Result<(Vec<u32>, Spans)> {
        refuse(text, &self.forbidden)?;
        let (mut ids, mut spans) = self
            .tokenizer
            .with_worker(|worker| self.tokenizer.encode_with_spans(text, &self.allowed, worker, watch))?;
        ids.truncate(self.most);
        spans.truncate(self.most);
        Ok((ids, spans))
    }

    /// Finds the ids of all texts with up to `threads` threads and gives them to `each`, portion after portion, in the
    /// order of the texts and on the thread that called. A long text is cut where cutting changes nothing, so that
    /// several threads can share it.
    pub fn many(
        &self,
        texts: &[&str],
        threads: usize,
        watch: &mut dyn Watch,
        mut each: impl FnMut(&Encoded) -> Result<()>,
    ) -> Result<()> {
        let portions = self.portions(texts);
        let threads = threads.min(portions.len());
        if threads < 2 {
            return self.alone(texts, &portions, watch, each);
        }
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        // Nobody runs far ahead, so that memory stays small; what was used goes back and is used again.
        let (sender, finished) = mpsc::sync_channel(4 * threads);
        let idle: Mutex<Vec<Encoded>> = Mutex::default();
        let work = |sender: mpsc::SyncSender<(usize, Result<Encoded>)>| {
            self.tokenizer.with_worker(|worker| {
                while !stop.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(portion) = portions.get(index) else { break };
                    let mut encoded = idle.lock().ok().and_then(|mut idle| idle.pop()).unwrap_or_default();
                    let done = self.portion(worker, texts, portion, &mut encoded, &mut Flag(&stop));
                    if sender.send((index, done.map(|()| encoded))).is_err() {
                        break; // nobody wants it any more
                    }
                }
            });
        };
        std::thread::scope(|scope| {
            // A machine may refuse more threads; then those do it that there are.
            let started = (0..threads).take_while(|_| {
                let (sender, work) = (sender.clone(), &work);
                Builder::new().spawn_scoped(scope, move || work(sender)).is_ok()
            });
            if started.count() == 0 {
                return self.alone(texts, &portions, watch, each);
            }
            drop(sender);
            let outcome = in_order(portions.len(), &finished, watch, |encoded| {
                each(&encoded)?;
                if let Ok(mut idle) = idle.lock() {
                    idle.push(encoded);
                }
                Ok(())
            });
            stop.store(true, Ordering::Relaxed);
            drop(finished);
            outcome
        })
    }

    /// [`Encoder::many`] on this thread.
    fn alone(
        &self,
        texts: &[&str],
        portions: &[Portion],
        watch: &mut dyn Watch,
        mut each: impl FnMut(&Encoded) -> Result<()>,
    ) -> Result<()> {
        self.tokenizer.with_worker(|worker| {
            let mut encoded = Encoded::default();
            for (index, portion) in portions.iter().enumerate() {
                self.portion(worker, texts, portion, &mut encoded, watch)?;
                each(&encoded)?;
                watch.tick("encode", index as u64 + 1, Some(portions.len() as u64))?;
            }
            Ok(())
        })
    }

    /// Groups texts and parts of long ones into portions of about [`PORTION`] bytes.
    fn portions<'t>(&self, texts: &[&'t str]) -> Vec<Portion<'t>> {
        let mut portions = Vec::new();
        let mut room = 0;
        let cuttable = self.tokenizer.pattern.cuttable() && self.most == usize::MAX && self.dropout.is_none();
        for (index, text) in texts.iter().enumerate() {
            let parts = if text.len() > PORTION && cuttable {
                cut::parts(text, PORTION, &self.allowed)
            } else {
                vec![*text]
            };
            for part in parts {
                if room == 0 {
                    portions.push(Vec::new());
                    room = PORTION;
                }
                // Even an empty text costs something.
                room = room.saturating_sub(part.len() + 16);
                portions.last_mut().expect("there is one").push((index, part));
            }
        }
        portions
    }

    fn portion(
        &self,
        worker: &mut Worker,
        texts: &[&str],
        portion: &[(usize, &str)],
        encoded: &mut Encoded,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        let Encoded { ids, lengths } = encoded;
        ids.clear();
        lengths.clear();
        for &(index, part) in portion {
            // What may not be there could lie across a cut, so the first part looks through the whole text.
            if part.as_ptr() == texts[index].as_ptr() {
                refuse(texts[index], &self.forbidden)?;
            }
            let before = ids.len();
            self.append(worker, index, part, ids, watch)?;
            lengths.push((index, ids.len() - before));
        }
        Ok(())
    }

    /// Appends the ids of the text of this number, at most [`Encoder::most`].
    fn append(
        &self,
        worker: &mut Worker,
        index: usize,
        text: &str,
        ids: &mut Vec<u32>,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        let end = ids.len().saturating_add(self.most);
        let each = |some: &[u32]| {
            ids.extend_from_slice(some);
            if ids.len() >= end { Err(Error::stopped()) } else { Ok(()) }
        };
        let done = match self.dropout {
            None => self.tokenizer.encode(text, &self.allowed, worker, watch, each),
            Some(dropout) => {
                let mut chance = dropout.of_text(index);
                self.tokenizer.encode_with_dropout(text, &self.allowed, worker, &mut chance, watch, each)
            }
        };
        if ids.len() >= end {
            ids.truncate(end);
            return Ok(());
        }
        done
    }
}

/// Gives what comes in any order to `each` in order, and looks after the watch meanwhile.
fn in_order(
    count: usize,
    finished: &mpsc::Receiver<(usize, Result<Encoded>)>,
    watch: &mut dyn Watch,
    mut each: impl FnMut(Encoded) -> Result<()>,
) -> Result<()> {
    let mut early = HashMap::new();
    let mut last_tick = Instant::now();
    let mut index = 0;
    while index < count {
        match finished.recv_timeout(TICK) {
            Ok((place, encoded)) => {
                early.insert(place, encoded);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            // All threads are gone before all is done: one of them panicked, and the scope will say so.
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err(Error::stopped()),
        }
        while let Some(encoded) = early.remove(&index) {
            each(encoded?)?;
            index += 1;
        }
        if last_tick.elapsed() > TICK {
            watch.tick("encode", index as u64, Some(count as u64))?;
            last_tick = Instant::now();
        }
    }
    Ok(())
}

const TICK: Duration = Duration::from_millis(50);

/// Stops a worker when another thread says so.
struct Flag<'a>(&'a AtomicBool);

impl Watch for Flag<'_> {
    fn tick(&mut self, _: &'static str, _: u64, _: Option<u64>) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(Error::stopped()) } else { Ok(()) }
    }
}
