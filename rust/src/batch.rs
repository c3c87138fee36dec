//! One call's worth of encoding: which special tokens are allowed and forbidden, one text or many.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::count::run_watched;
use crate::cut;
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
    /// The chosen ones of `all`. A string that is no special token can be chosen too, to be forbidden.
    pub fn of(self, all: &Specials) -> Result<Cow<'_, Specials>> {
        match self {
            Choice::None => Ok(Cow::Owned(Specials::default())),
            Choice::All => Ok(Cow::Borrowed(all)),
            Choice::These(tokens) => {
                let with_id = |token: String| {
                    let id = all.id(&token).unwrap_or(u32::MAX);
                    (token, id)
                };
                Ok(Cow::Owned(Specials::new(tokens.into_iter().map(with_id).collect())?))
            }
        }
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

/// The bytes that a thread takes at a time.
const PORTION: usize = 1 << 18;

/// Ids, and which texts they are of: how many of the next ids.
type Part = (Vec<u32>, Vec<(usize, usize)>);

/// The ids of many texts, one after another in several parts.
pub struct Encoded {
    pub parts: Vec<Vec<u32>>,
    /// How many ids each text has.
    pub lengths: Vec<usize>,
}

impl Encoded {
    /// Calls `each` with the ids of every text, in order.
    pub fn for_each<E>(
        &self,
        mut each: impl FnMut(&[u32]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut parts = self.parts.iter();
        let (mut rest, mut joined): (&[u32], Vec<u32>) = (&[], Vec::new());
        for &length in &self.lengths {
            if rest.is_empty() && length > 0 {
                rest = parts.next().map_or(&[], Vec::as_slice);
            }
            if length <= rest.len() {
                each(&rest[..length])?;
                rest = &rest[length..];
                continue;
            }
            joined.clear();
            while joined.len() < length {
                let taken = rest.len().min(length - joined.len());
                joined.extend_from_slice(&rest[..taken]);
                rest = &rest[taken..];
                if rest.is_empty() && joined.len() < length {
                    rest = parts.next().expect("the parts hold as many ids as the texts have");
                }
            }
            each(&joined)?;
        }
        Ok(())
    }
}

/// A tokenizer and the special tokens of one call.
pub struct Encoder<'a> {
    pub tokenizer: &'a Tokenizer,
    pub allowed: Cow<'a, Specials>,
    pub forbidden: Cow<'a, Specials>,
}

impl<'a> Encoder<'a> {
    pub fn new(tokenizer: &'a Tokenizer, allowed: Choice, forbidden: Choice) -> Result<Self> {
        let all = &tokenizer.specials;
        Ok(Encoder { tokenizer, allowed: allowed.of(all)?, forbidden: forbidden.of(all)? })
    }

    pub fn one(&self, text: &str, watch: &mut dyn Watch) -> Result<Vec<u32>> {
        self.tokenizer.with_worker(|worker| self.with(worker, text, watch))
    }

    pub fn with_spans(&self, text: &str, watch: &mut dyn Watch) -> Result<(Vec<u32>, Spans)> {
        refuse(text, &self.forbidden)?;
        self.tokenizer
            .with_worker(|worker| self.tokenizer.encode_with_spans(text, &self.allowed, worker, watch))
    }

    /// The ids of all texts, found by up to `threads` threads. A long text is cut where cutting changes nothing, so that
    /// several threads can share it.
    pub fn many(&self, texts: &[&str], threads: usize, watch: &mut dyn Watch) -> Result<Encoded> {
        let size: usize = texts.iter().map(|text| text.len()).sum();
        let threads = if size < 1 << 16 { 1 } else { threads };
        let portions = self.portions(texts, if threads == 1 { usize::MAX } else { PORTION });
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = |done: &mut Vec<(usize, Part)>, watch: &mut dyn Watch| {
            self.tokenizer.with_worker(|worker| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(portion) = portions.get(index) else { return Ok(()) };
                    done.push((index, self.portion(worker, texts, portion, watch)?));
                }
            })
        };
        let mut done: Vec<Vec<(usize, Part)>> = Vec::new();
        done.resize_with(threads.min(portions.len()).max(1), Vec::new);
        if done.len() == 1 {
            work(&mut done[0], watch)?;
        } else {
            run_watched(
                &mut done,
                |done| work(done, &mut Flag(&stop)),
                &stop,
                || watch.tick("encode", next.load(Ordering::Relaxed) as u64, Some(portions.len() as u64)),
            )?;
        }
        let mut parts: Vec<(usize, Part)> = done.into_iter().flatten().collect();
        parts.sort_unstable_by_key(|&(index, _)| index);
        let mut encoded = Encoded { parts: Vec::with_capacity(parts.len()), lengths: vec![0; texts.len()] };
        for (_, (ids, lengths)) in parts {
            for (text, length) in lengths {
                encoded.lengths[text] += length;
            }
            encoded.parts.push(ids);
        }
        Ok(encoded)
    }

    /// Groups texts and parts of long ones into portions of about `size` bytes.
    fn portions<'t>(&self, texts: &[&'t str], size: usize) -> Vec<Vec<(usize, &'t str)>> {
        let mut portions = vec![Vec::new()];
        let mut room = size;
        for (index, text) in texts.iter().enumerate() {
            let parts = if text.len() > size && self.tokenizer.pattern.cuttable() {
                cut::parts(text, size, &self.allowed)
            } else {
                vec![*text]
            };
            for part in parts {
                if room == 0 {
                    portions.push(Vec::new());
                    room = size;
                }
                room = room.saturating_sub(part.len());
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
        watch: &mut dyn Watch,
    ) -> Result<Part> {
        let size: usize = portion.iter().map(|(_, part)| part.len()).sum();
        let mut ids = Vec::with_capacity(size / 4 + 4);
        let mut lengths = Vec::with_capacity(portion.len());
        for (number, &(index, part)) in portion.iter().enumerate() {
            if number % 4096 == 4095 {
                watch.tick("encode", number as u64, Some(portion.len() as u64))?;
            }
            // What may not be there could lie across a cut, so the first part looks through the whole text.
            if part.as_ptr() == texts[index].as_ptr() {
                refuse(texts[index], &self.forbidden)?;
            }
            let before = ids.len();
            self.tokenizer.encode(part, &self.allowed, worker, &mut ids, watch)?;
            lengths.push((index, ids.len() - before));
        }
        Ok((ids, lengths))
    }

    fn with(&self, worker: &mut Worker, text: &str, watch: &mut dyn Watch) -> Result<Vec<u32>> {
        refuse(text, &self.forbidden)?;
        let mut out = Vec::with_capacity(text.len() / 4 + 4);
        self.tokenizer.encode(text, &self.allowed, worker, &mut out, watch)?;
        Ok(out)
    }
}

/// Stops a worker when another thread says so.
struct Flag<'a>(&'a AtomicBool);

impl Watch for Flag<'_> {
    fn tick(&mut self, _: &'static str, _: u64, _: Option<u64>) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(Error::stopped()) } else { Ok(()) }
    }
}
