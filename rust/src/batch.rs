//! One call's worth of encoding: which special tokens are allowed and forbidden, one text or many.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::count::run_watched;
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

    /// The ids of each text, found by up to `threads` threads.
    pub fn many(&self, texts: &[&str], threads: usize, watch: &mut dyn Watch) -> Result<Vec<Vec<u32>>> {
        let size: usize = texts.iter().map(|text| text.len()).sum();
        if threads < 2 || texts.len() < 2 || size < 1 << 16 {
            return self.tokenizer.with_worker(|worker| {
                let each = texts.iter().enumerate().map(|(index, text)| {
                    if index % 4096 == 4095 {
                        watch.tick("encode", index as u64, Some(texts.len() as u64))?;
                    }
                    self.with(worker, text, watch)
                });
                each.collect()
            });
        }
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let mut done: Vec<Vec<(usize, Vec<u32>)>> = vec![Vec::new(); threads.min(texts.len())];
        let work = |done: &mut Vec<(usize, Vec<u32>)>| {
            self.tokenizer.with_worker(|worker| {
                let mut flag = Flag(&stop);
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(text) = texts.get(index) else { return Ok(()) };
                    flag.tick("encode", 0, None)?;
                    done.push((index, self.with(worker, text, &mut flag)?));
                }
            })
        };
        run_watched(&mut done, work, &stop, || {
            watch.tick("encode", next.load(Ordering::Relaxed) as u64, Some(texts.len() as u64))
        })?;
        let mut out = vec![Vec::new(); texts.len()];
        done.into_iter().flatten().for_each(|(index, ids)| out[index] = ids);
        Ok(out)
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
