//! Files of text as texts: plain or one JSON object a line, as they are or packed by gzip or zstd.
//!
//! A thread reads ahead and hands over a quarter of a megabyte at a time, so that unpacking goes on while others count, and
//! nobody who waits for a file is deaf to Ctrl-C. Only that much is held, however long the files are. The thread is
//! left alone when its [`Stream`] is dropped: it may be stuck in a read that never returns, as from an idle pipe.

mod lines;
mod open;
mod plain;
#[cfg(test)]
mod tests;

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::Builder;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::special::Specials;
use open::Input;

/// How a file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packed {
    No,
    Gzip,
    Zstd,
}

/// What the unpacked file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// One text; or several, if a line holds `document_end` and nothing else, which then ends each.
    Plain { document_end: Option<String> },
    /// On each line an object of JSON; one of its fields is the text.
    Lines { field: String },
}

/// A file to read.
#[derive(Clone, Debug)]
pub struct Source {
    pub path: PathBuf,
    pub packed: Packed,
    pub form: Form,
}

/// How much is done at a time. Large enough that handing over costs nothing; tests take less, to meet every edge.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Bytes that are read at once, at least 4.
    pub chunk: usize,
    /// A batch is handed over when it has so many bytes, or so many texts.
    pub bytes: usize,
    pub texts: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Sizes { chunk: 1 << 16, bytes: 1 << 18, texts: 1 << 12 }
    }
}

/// Texts that were read together.
#[derive(Default)]
pub struct Batch {
    text: String,
    /// Where the parts of `text` end.
    ends: Vec<usize>,
    /// How many texts end here.
    pub texts: u64,
    /// How many bytes of the files were read when this was handed over. Of a packed file, packed bytes.
    pub read: u64,
}

impl Batch {
    /// The texts. A stream that cuts gives parts of them: only the last part of a text is counted in `texts`.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.text[start..end])
    }
}

type Message = Result<Option<Batch>>;

/// What a thread has read, in order.
pub struct Stream {
    messages: Receiver<Message>,
    stop: Arc<AtomicBool>,
    ended: bool,
}

impl Stream {
    /// Begins to read, at most `ahead` batches more than were taken. If `cut` names special tokens, long texts come in
    /// parts, cut where every pattern cuts and through none of these tokens; else each is whole.
    pub fn open(sources: Vec<Source>, cut: Option<Specials>, ahead: usize) -> Stream {
        let files = sources.into_iter().map(|source| (source, None)).collect();
        Stream::of(files, cut, ahead, Sizes::default())
    }

    /// The same with sizes to choose, and of any readers in place of files, whose paths are then for errors only.
    pub fn of(
        files: Vec<(Source, Option<Box<dyn Read + Send>>)>,
        cut: Option<Specials>,
        ahead: usize,
        sizes: Sizes,
    ) -> Stream {
        let (sender, messages) = sync_channel(ahead.max(1));
        let stop = Arc::new(AtomicBool::new(false));
        let mut sink =
            Sink { sender, batch: Batch::default(), read: Arc::default(), stop: stop.clone(), sizes };
        let refused = sink.sender.clone();
        let started = Builder::new().spawn(move || {
            let last = read(files, cut.as_ref(), &mut sink).map(|()| None);
            let _ = sink.sender.send(last); // if nobody listens any more, nobody cares
        });
        if let Err(error) = started {
            let _ = refused.send(Err(Error::data(format!(
                "files are read by a thread of their own, and the machine gives no more threads ({error}): end other \
                 programs, or raise the limit"
            ))));
        }
        Stream { messages, stop, ended: false }
    }

    /// Waits for the next batch: the outer `None` if it took too long, the inner one at the end.
    pub fn next(&mut self, patience: Duration) -> Result<Option<Option<Batch>>> {
        if self.ended {
            return Ok(Some(None));
        }
        match self.messages.recv_timeout(patience) {
            Ok(message) => {
                self.ended = !matches!(message, Ok(Some(_)));
                message.map(Some)
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Error::data(
                "the thread that reads files broke; this is a fault of Hornbook, please report it",
            )),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn read(
    files: Vec<(Source, Option<Box<dyn Read + Send>>)>,
    cut: Option<&Specials>,
    sink: &mut Sink,
) -> Result<()> {
    for (source, reader) in files {
        let mut input = Input::open(&source, reader, sink)?;
        match &source.form {
            Form::Plain { document_end } => plain::read(&mut input, document_end.as_deref(), cut, sink)?,
            Form::Lines { field } => lines::read(&mut input, field, sink)?,
        }
    }
    sink.flush()
}

/// Where texts go.
struct Sink {
    sender: SyncSender<Message>,
    batch: Batch,
    read: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    sizes: Sizes,
}

impl Sink {
    /// Takes a part of a text; `ends` if it is the last.
    fn part(&mut self, part: &str, ends: bool) -> Result<()> {
        if self.batch.text.capacity() == 0 {
            self.batch.text.reserve(self.sizes.bytes + self.sizes.bytes / 8);
        }
        self.batch.text.push_str(part);
        self.close(ends)
    }

    /// The last part of a text, from byte `start` on. A long one is not copied.
    fn last(&mut self, mut text: String, start: usize) -> Result<()> {
        if text.len() - start < self.sizes.bytes {
            return self.part(&text[start..], true);
        }
        self.flush()?;
        text.drain(..start);
        self.batch.text = text;
        self.close(true)
    }

    fn close(&mut self, ends: bool) -> Result<()> {
        self.batch.ends.push(self.batch.text.len());
        self.batch.texts += u64::from(ends);
        let Sizes { bytes, texts, .. } = self.sizes;
        if self.batch.text.len() >= bytes || self.batch.ends.len() >= texts { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        if self.batch.ends.is_empty() {
            return Ok(());
        }
        self.batch.read = self.read.load(Ordering::Relaxed);
        let batch = std::mem::take(&mut self.batch);
        self.sender.send(Ok(Some(batch))).map_err(|_| Error::stopped())
    }
}
