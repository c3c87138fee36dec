//! Counting, and reading files of text, for Python.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pyo3::exceptions::PyUnicodeEncodeError;
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::{PyBytes, PyList, PyString};

use super::watch::{PyWatch, apart, heavy, raise};
use crate::count::Counting;
use crate::error::{Error, Result, Watch};
use crate::input::{Batch, Form, Packed, Sizes, Source, Stream};
use crate::special::Specials;
use crate::split::Pattern;
use crate::tally::Tally;

/// How much text is taken from an iterable before it is counted, for each thread.
const WINDOW: usize = 2 << 20;

/// How many chunks of bytes Python may hand over before the first of them was read.
const FED_AHEAD: usize = 4;

/// A file: its path, "" or "gz" or "zst", and for JSON Lines the field.
type File = (PathBuf, String, Option<String>);

fn sources(files: Vec<File>, document_end: Option<&str>) -> Vec<Source> {
    let source = |(path, packed, field): File| Source {
        path,
        packed: match packed.as_str() {
            "gz" => Packed::Gzip,
            "zst" => Packed::Zstd,
            _ => Packed::No,
        },
        form: match field {
            Some(field) => Form::Lines { field },
            None => Form::Plain { document_end: document_end.map(str::to_string) },
        },
    };
    files.into_iter().map(source).collect()
}

/// What was counted. Immutable; `hornbook.tokenizer.Counts` wraps it.
#[pyclass(frozen, module = "hornbook._core")]
pub struct Counts {
    tally: Mutex<Arc<Tally>>,
}

impl Counts {
    fn wrap(tally: Tally) -> Self {
        Counts { tally: Mutex::new(Arc::new(tally)) }
    }

    fn tally(&self) -> Arc<Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was counted, to be used up: a copy, or with `take` the counts themselves, which are empty afterwards.
    pub fn give(&self, take: bool) -> Result<Tally> {
        if !take {
            return self.tally().copy();
        }
        let tally = std::mem::take(&mut *self.tally.lock().unwrap_or_else(PoisonError::into_inner));
        Arc::try_unwrap(tally).or_else(|shared| shared.copy())
    }
}

#[pymethods]
impl Counts {
    /// Counts the files, then `texts`, an iterable of str. `total` is the size of all that is read, if known. An iterable
    /// that is a part of it has an attribute `bytes_read`.
    #[staticmethod]
    #[pyo3(signature = (files, document_end, texts, total, pattern, special_tokens, num_threads, progress))]
    #[allow(clippy::too_many_arguments)]
    fn count(
        py: Python<'_>,
        files: Vec<File>,
        document_end: Option<&str>,
        texts: Option<&Bound<'_, PyAny>>,
        total: Option<u64>,
        pattern: Option<&str>,
        special_tokens: Vec<String>,
        num_threads: usize,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let mut watch = PyWatch::new(progress);
        let specials = Specials::new(special_tokens.into_iter().map(|token| (token, 0)).collect());
        let pattern = Pattern::parse(pattern);
        let counting = specials.and_then(|specials| Counting::new(pattern, specials, num_threads));
        let mut counting = counting.map_err(|error| raise(py, error))?;
        if !files.is_empty() {
            let sources = sources(files, document_end);
            let cut = counting.pattern().cuttable().then(|| counting.specials().clone());
            let result = py.detach(|| {
                let stream = Stream::open(sources, cut, num_threads);
                counting.add_stream(stream, total, &mut watch)
            });
            result.map_err(|error| std::mem::take(&mut watch).raise(py, error))?;
        }
        if let Some(texts) = texts {
            count_texts(texts, num_threads, &mut counting, total, &mut watch)?;
        }
        Ok(Counts::wrap(apart(py, || Ok(Tally::of(counting)))?))
    }

    /// The sum of one or more, which an iterable gives one after another.
    #[staticmethod]
    fn merge(counts: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = counts.py();
        let mut sum: Option<Tally> = None;
        for item in counts.try_iter()? {
            let next = item?.cast::<Counts>()?.get().tally();
            let before = sum.take();
            sum = Some(apart(py, move || {
                let Some(mut sum) = before else { return next.copy() };
                sum.add(&next)?;
                Ok(sum)
            })?);
        }
        let sum =
            sum.ok_or_else(|| raise(py, Error::data("there are no counts to add up; give at least one")))?;
        Ok(Counts::wrap(sum))
    }

    #[staticmethod]
    fn from_bytes(py: Python<'_>, data: PyBackedBytes) -> PyResult<Self> {
        Ok(Counts::wrap(heavy(py, data.len(), |watch| Tally::from_bytes(&data, watch))?))
    }

    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let tally = self.tally();
        Ok(PyBytes::new(py, &apart(py, move || Ok(tally.to_bytes()))?))
    }

    fn most_common(&self, py: Python<'_>, most: usize) -> PyResult<Vec<(String, u64)>> {
        let tally = self.tally();
        let best = apart(py, move || Ok(tally.most_common(most)))?;
        Ok(best.into_iter().map(|(piece, n)| (String::from_utf8_lossy(&piece).into_owned(), n)).collect())
    }

    #[getter]
    fn pattern(&self) -> Option<String> {
        self.tally().pattern.clone()
    }

    #[getter]
    fn special_tokens(&self) -> Vec<String> {
        self.tally().specials.clone()
    }

    #[getter]
    fn texts(&self) -> u64 {
        self.tally().texts
    }

    #[getter]
    fn bytes(&self) -> u64 {
        self.tally().bytes
    }

    /// How many distinct pieces there are, and how many pieces in all.
    #[getter]
    fn pieces(&self) -> (usize, u64) {
        let (tally, mut all) = (self.tally(), 0);
        tally.counter.for_each(|_, count| all += count);
        (tally.counter.len(), all)
    }
}

/// The texts of files, each whole, some at a time; or those of one file whose bytes Python hands over.
#[pyclass(frozen, module = "hornbook._core")]
pub struct Reading {
    stream: Mutex<Stream>,
    /// Where bytes go that are handed over.
    feed: Mutex<Option<SyncSender<Vec<u8>>>>,
    /// What was read while bytes were waiting to be taken.
    waiting: Mutex<VecDeque<Batch>>,
}

impl Reading {
    fn of(stream: Stream, feed: Option<SyncSender<Vec<u8>>>) -> Self {
        Reading { stream: Mutex::new(stream), feed: Mutex::new(feed), waiting: Mutex::default() }
    }
}

#[pymethods]
impl Reading {
    #[new]
    fn new(files: Vec<File>, document_end: Option<&str>) -> Self {
        Reading::of(Stream::open(sources(files, document_end), None, 2), None)
    }

    /// Reads a file whose bytes come by `push`; its path is for errors.
    #[staticmethod]
    fn fed(file: File, document_end: Option<&str>) -> Self {
        let (feed, chunks) = sync_channel(FED_AHEAD);
        let reader: Box<dyn Read + Send> = Box::new(Fed { chunks, chunk: Vec::new(), taken: 0 });
        let files = sources(vec![file], document_end).into_iter().zip([Some(reader)]).collect();
        Reading::of(Stream::of(files, None, 2, Sizes::default()), Some(feed))
    }

    /// Hands over the next bytes; `None` says that there are no more. Waits until there is room for them.
    fn push(&self, py: Python<'_>, chunk: Option<&[u8]>) -> PyResult<()> {
        let mut feed = self.feed.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(chunk), Some(sender)) = (chunk, feed.as_ref()) else {
            *feed = None;
            return Ok(());
        };
        let mut chunk = chunk.to_vec();
        heavy(py, usize::MAX, |watch| {
            let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                match sender.try_send(chunk) {
                    Ok(()) | Err(TrySendError::Disconnected(_)) => return Ok(()), // `next` says why nobody listens
                    Err(TrySendError::Full(back)) => chunk = back,
                }
                // Either the thread works on what it has, or it waits for somebody to take what it has read.
                if let Some(Some(batch)) = stream.next(Duration::from_millis(1))? {
                    self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(batch);
                }
                watch.tick("", 0, None)?;
            }
        })
    }

    /// The next texts, and how many bytes of the files have been read; `None` at the end, and without `wait` also if
    /// nothing is ready.
    #[pyo3(signature = (wait = true))]
    fn next<'py>(&self, py: Python<'py>, wait: bool) -> PyResult<Option<(Bound<'py, PyList>, u64)>> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let batch = match waiting {
            Some(batch) => Some(batch),
            None => heavy(py, usize::MAX, |watch| {
                let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
                loop {
                    match stream.next(Duration::from_millis(if wait { 50 } else { 0 }))? {
                        Some(batch) => return Ok(batch),
                        None if !wait => return Ok(None),
                        None => watch.tick("", 0, None)?,
                    }
                }
            })?,
        };
        let list = |batch: Batch| {
            Ok((
                PyList::new(py, batch.parts().map(|text| PyString::new(py, text)).collect::<Vec<_>>())?,
                batch.read,
            ))
        };
        batch.map(list).transpose()
    }
}

/// The bytes that were handed over, as the thread reads them.
struct Fed {
    chunks: Receiver<Vec<u8>>,
    chunk: Vec<u8>,
    taken: usize,
}

impl Read for Fed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.chunk.len() {
            match self.chunks.recv() {
                Ok(chunk) => (self.chunk, self.taken) = (chunk, 0),
                Err(_) => return Ok(0),
            }
        }
        let read = (&self.chunk[self.taken..]).read(buffer)?;
        self.taken += read;
        Ok(read)
    }
}

/// Counts the texts of an iterable, some megabytes at a time.
fn count_texts(
    texts: &Bound<'_, PyAny>,
    threads: usize,
    counting: &mut Counting,
    total: Option<u64>,
    watch: &mut PyWatch,
) -> PyResult<()> {
    let py = texts.py();
    let (mut batch, mut size): (Vec<Text>, usize) = (Vec::new(), 0);
    let mut flush = |batch: &mut Vec<Text>| {
        let read = total.and_then(|_| texts.getattr("bytes_read").ok()?.extract().ok());
        let result = py.detach(|| {
            let texts: Vec<&str> = batch.iter().map(Text::as_str).collect::<Result<_>>()?;
            counting.add(&texts, total, &mut At { read, watch })
        });
        batch.clear();
        result.map_err(|error| std::mem::take(watch).raise(py, error))
    };
    for (index, item) in texts.try_iter()?.enumerate() {
        let item = item?;
        let Ok(text) = item.cast::<PyString>() else {
            let message = format!(
                "expected texts, that is str, but item {index} of the source is {}; a single path is a str or Path, \
                 several are a list of Path",
                item.get_type().name()?
            );
            return Err(raise(py, Error::data(message)));
        };
        batch.push(Text::of(text)?);
        size += batch.last().map_or(0, Text::len);
        if size > WINDOW * threads || batch.len() > 1 << 16 {
            flush(&mut batch)?;
            size = 0;
        }
    }
    flush(&mut batch)
}

/// Tells how much of the files was read in place of how much text was counted.
struct At<'a> {
    read: Option<u64>,
    watch: &'a mut PyWatch,
}

impl Watch for At<'_> {
    fn tick(&mut self, phase: &'static str, done: u64, total: Option<u64>) -> Result<()> {
        self.watch.tick(phase, self.read.unwrap_or(done), total)
    }
}

/// A text that is read once. What Python makes of a str when its UTF-8 is asked for, it keeps as long as the str lives:
/// that is a copy of the whole corpus. So only ASCII, which is UTF-8 already, is read in place.
enum Text {
    Ascii(PyBackedStr),
    Other(PyBackedBytes),
}

impl Text {
    /// Surrogates become U+FFFD, pairs of them the character they mean.
    fn of(text: &Bound<'_, PyString>) -> PyResult<Self> {
        if text.call_method0("isascii")?.is_truthy()? {
            return Ok(Text::Ascii(PyBackedStr::try_from(text.clone())?));
        }
        let bytes = text.call_method0("encode").or_else(|error| {
            if !error.is_instance_of::<PyUnicodeEncodeError>(text.py()) {
                return Err(error);
            }
            let utf16 = text.call_method1("encode", ("utf-16", "surrogatepass"))?;
            utf16.call_method1("decode", ("utf-16", "replace"))?.call_method0("encode")
        })?;
        Ok(Text::Other(bytes.cast_into::<PyBytes>()?.into()))
    }

    fn len(&self) -> usize {
        match self {
            Text::Ascii(text) => text.len(),
            Text::Other(bytes) => bytes.len(),
        }
    }

    fn as_str(&self) -> Result<&str> {
        match self {
            Text::Ascii(text) => Ok(text),
            Text::Other(bytes) => str::from_utf8(bytes).map_err(|error| Error::data(error.to_string())),
        }
    }
}
