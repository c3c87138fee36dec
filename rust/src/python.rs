//! The Python module `hornbook._core`. Everything here converts arguments and results; nothing computes.

mod watch;

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyOverflowError, PyUnicodeEncodeError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyByteArray, PyBytes, PyInt, PyList, PyString};

use crate::batch::{Choice, Encoded, Encoder};
use crate::count::Counting;
use crate::encode::Spans;
use crate::error::{Error, Result};
use crate::source::count_file;
use crate::special::Specials;
use crate::split::Pattern;
use crate::stream::Pending;
use crate::tokenizer::{Rule, Tokenizer};
use watch::{PyWatch, SHORT, heavy, raise};

/// How much text is taken from an iterable before it is counted, for each thread.
const WINDOW: usize = 2 << 20;

/// Which special tokens: `None` or `False` for none, `True` for all, or a list of strings.
#[derive(FromPyObject)]
enum Wanted {
    All(bool),
    These(Vec<String>),
}

fn choice(wanted: Option<Wanted>) -> Choice {
    match wanted {
        Some(Wanted::All(true)) => Choice::All,
        Some(Wanted::These(tokens)) => Choice::These(tokens),
        _ => Choice::None,
    }
}

/// Byte-level BPE. Immutable; `hornbook.tokenizer.Tokenizer` wraps it.
#[pyclass(frozen, name = "BPE", module = "hornbook._core")]
struct Bpe {
    inner: Arc<Tokenizer>,
    /// A Python int for each id, made when they are first wanted: a list then refers to them and makes none.
    ints: PyOnceLock<Vec<Py<PyInt>>>,
}

/// Lists of fewer ids than this are made without [`Bpe::ints`], so that few short texts do not wait for them.
const FEW: usize = 256;

fn array<'py>(py: Python<'py>, parts: &[Vec<u32>], wide: bool) -> PyResult<Bound<'py, PyByteArray>> {
    let size = if wide { 4 } else { 2 };
    PyByteArray::new_with(py, parts.iter().map(Vec::len).sum::<usize>() * size, |mut out| {
        for ids in parts {
            let (these, rest) = out.split_at_mut(ids.len() * size);
            if wide {
                these.as_chunks_mut().0.iter_mut().zip(ids).for_each(|(out, id)| *out = id.to_ne_bytes());
            } else {
                these
                    .as_chunks_mut()
                    .0
                    .iter_mut()
                    .zip(ids)
                    .for_each(|(out, &id)| *out = (id as u16).to_ne_bytes());
            }
            out = rest;
        }
        Ok(())
    })
}

impl Bpe {
    fn wrap(inner: Tokenizer) -> Self {
        Bpe { inner: Arc::new(inner), ints: PyOnceLock::new() }
    }

    fn list<'py>(&self, py: Python<'py>, ids: &[u32]) -> PyResult<Bound<'py, PyList>> {
        if ids.len() < FEW && self.ints.get(py).is_none() {
            return PyList::new(py, ids);
        }
        let int = |id: u32| Ok(id.into_pyobject(py)?.unbind());
        let make = || (0..self.inner.vocab.len() as u32).map(int).collect::<PyResult<Vec<_>>>();
        let ints = self.ints.get_or_try_init(py, make)?;
        PyList::new(py, ids.iter().map(|&id| &ints[id as usize]))
    }

    fn encode_one(
        &self,
        py: Python<'_>,
        text: &str,
        allowed: Option<Wanted>,
        forbidden: Option<Wanted>,
    ) -> PyResult<Vec<u32>> {
        heavy(py, text.len(), |watch| {
            Encoder::new(&self.inner, choice(allowed), choice(forbidden))?.one(text, watch)
        })
    }

    fn encode_many(
        &self,
        py: Python<'_>,
        texts: &[PyBackedStr],
        allowed: Option<Wanted>,
        forbidden: Option<Wanted>,
        threads: usize,
    ) -> PyResult<Encoded> {
        let texts: Vec<&str> = texts.iter().map(|text| &**text).collect();
        heavy(py, texts.iter().map(|text| text.len()).sum(), |watch| {
            Encoder::new(&self.inner, choice(allowed), choice(forbidden))?.many(&texts, threads, watch)
        })
    }
}

#[pymethods]
impl Bpe {
    /// `merges` as pairs of ids in the order of their ranks, or `None` for tiktoken's rule.
    #[new]
    #[pyo3(signature = (tokens, special_tokens, merges, whole_first, pattern))]
    fn new(
        py: Python<'_>,
        tokens: Vec<(u32, Vec<u8>)>,
        special_tokens: Vec<(String, u32)>,
        merges: Option<Vec<(u32, u32)>>,
        whole_first: bool,
        pattern: Option<&str>,
    ) -> PyResult<Self> {
        let rule = merges.map_or(Rule::Ranks, |pairs| Rule::Merges { pairs, whole_first });
        let pattern = Pattern::parse(pattern);
        let inner = py.detach(|| {
            let tokens: Vec<(u32, &[u8])> =
                tokens.iter().map(|(id, bytes)| (*id, bytes.as_slice())).collect();
            Tokenizer::new(&tokens, special_tokens, rule, pattern)
        });
        Ok(Bpe::wrap(inner.map_err(|error| raise(py, error))?))
    }

    /// Trains on `texts` (an iterable of str), or on the files at `paths` if there are some.
    #[staticmethod]
    #[pyo3(signature = (texts, paths, vocab_size, pattern, special_tokens, num_threads, progress))]
    #[allow(clippy::too_many_arguments)]
    fn train(
        py: Python<'_>,
        texts: Option<&Bound<'_, PyAny>>,
        paths: Vec<PathBuf>,
        vocab_size: usize,
        pattern: Option<&str>,
        special_tokens: Vec<String>,
        num_threads: usize,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let mut watch = PyWatch::new(progress);
        let pattern = Pattern::parse(pattern);
        let specials = Specials::new(special_tokens.iter().map(|token| (token.clone(), 0)).collect());
        let counting = specials.and_then(|specials| Counting::new(pattern.clone(), specials, num_threads));
        let mut counting = counting.map_err(|error| raise(py, error))?;
        if let Some(texts) = texts {
            count_texts(texts, num_threads, &mut counting, &mut watch)?;
        }
        let result = py.detach(|| {
            let total = paths.iter().filter_map(|path| Some(path.metadata().ok()?.len())).sum();
            for path in &paths {
                count_file(path, num_threads, &mut counting, Some(total), &mut watch)?;
            }
            if counting.bytes() == 0 {
                return Err(Error::data(
                    "there is no text to train on: the source gave nothing but empty texts. A generator that was \
                     read before is empty; pass a list, or make it anew",
                ));
            }
            let ordinary = vocab_size - special_tokens.len();
            let (vocab, pairs) = crate::train::train(&counting.finish(), ordinary, &mut watch)?;
            let tokens: Vec<(u32, &[u8])> = vocab.iter().collect();
            let specials = (vocab.len() as u32..).zip(special_tokens).map(|(id, token)| (token, id)).collect();
            Tokenizer::new(&tokens, specials, Rule::Merges { pairs, whole_first: false }, pattern)
        });
        match result {
            Ok(inner) => Ok(Bpe::wrap(inner)),
            Err(error) => Err(watch.raise(py, error)),
        }
    }

    #[staticmethod]
    fn from_state(py: Python<'_>, state: &[u8]) -> PyResult<Self> {
        let inner = py.detach(|| Tokenizer::from_state(state));
        Ok(Bpe::wrap(inner.map_err(|error| raise(py, error))?))
    }

    fn state<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &py.detach(|| self.inner.to_state()))
    }

    #[pyo3(signature = (text, allowed, forbidden))]
    fn encode<'py>(
        &self,
        py: Python<'py>,
        text: &str,
        allowed: Option<Wanted>,
        forbidden: Option<Wanted>,
    ) -> PyResult<Bound<'py, PyList>> {
        self.list(py, &self.encode_one(py, text, allowed, forbidden)?)
    }

    /// The ids as native uint32 (`wide`) or uint16.
    #[pyo3(signature = (text, allowed, forbidden, wide))]
    fn encode_array<'py>(
        &self,
        py: Python<'py>,
        text: &str,
        allowed: Option<Wanted>,
        forbidden: Option<Wanted>,
        wide: bool,
    ) -> PyResult<Bound<'py, PyByteArray>> {
        array(py, &[self.encode_one(py, text, allowed, forbidden)?], wide)
    }

    #[pyo3(signature = (texts, allowed, forbidden, num_threads))]
    fn encode_batch<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<PyBackedStr>,
        allowed: Option<Wanted>,
        forbidden: Option<Wanted>,
        num_threads: usize,
    ) -> PyResult<Vec<Bound<'py, PyList>>> {
        let all = self.encode_many(py, &texts, allowed, forbidden, num_threads)?;
        let mut lists = Vec::with_capacity(texts.len());
        all.for_each(|ids| {
            lists.push(self.list(py, ids)?);
            PyResult::Ok(())
        })?;
        Ok(lists)
    }

    /// All ids in one array, and how many each text has.
    #[pyo3(signature = (texts, allowed, forbidden, num_threads, wide))]
    fn encode_batch_array<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<PyBackedStr>,
        allowed: Option<Wanted>,
        forbidden: Option<Wanted>,
        num_threads: usize,
        wide: bool,
    ) -> PyResult<(Bound<'py, PyByteArray>, Vec<usize>)> {
        let all = self.encode_many(py, &texts, allowed, forbidden, num_threads)?;
        Ok((array(py, &all.parts, wide)?, all.lengths))
    }

    /// The ids, and for each the range of bytes it stands for.
    #[pyo3(signature = (text, allowed, forbidden))]
    fn encode_with_spans(
        &self,
        py: Python<'_>,
        text: &str,
        allowed: Option<Wanted>,
        forbidden: Option<Wanted>,
    ) -> PyResult<(Vec<u32>, Spans)> {
        heavy(py, text.len(), |watch| {
            Encoder::new(&self.inner, choice(allowed), choice(forbidden))?.with_spans(text, watch)
        })
    }

    #[pyo3(signature = (allowed, forbidden))]
    fn stream(&self, py: Python<'_>, allowed: Option<Wanted>, forbidden: Option<Wanted>) -> PyResult<Stream> {
        let make = |wanted| {
            let chosen = choice(wanted).of(&self.inner.specials).map_err(|error| raise(py, error))?;
            PyResult::Ok(chosen.into_owned())
        };
        let (allowed, forbidden) = (make(allowed)?, make(forbidden)?);
        let known = Specials::new(allowed.tokens().iter().chain(forbidden.tokens()).cloned().collect());
        let known = known.map_err(|error| raise(py, error))?;
        Ok(Stream { inner: self.inner.clone(), allowed, forbidden, known, pending: Mutex::default() })
    }

    fn decode<'py>(&self, py: Python<'py>, ids: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let wide: Vec<i64> = match ids.extract::<PyBuffer<i64>>() {
            Ok(buffer) => buffer.to_vec(py)?,
            Err(_) => ids.extract().map_err(|error: PyErr| {
                if !error.is_instance_of::<PyOverflowError>(py) {
                    return error;
                }
                raise(py, Error::tokenizer("an id is outside 64 bits; ids are small non-negative integers"))
            })?,
        };
        let vocab = &self.inner.vocab;
        let bytes = heavy(py, wide.len(), |_| {
            let narrow = |&id: &i64| u32::try_from(id).map_err(|_| vocab.unknown(id));
            vocab.decode(&wide.iter().map(narrow).collect::<Result<Vec<u32>>>()?)
        })?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// All tokens with their ids, special ones too.
    fn tokens<'py>(&self, py: Python<'py>) -> Vec<(u32, Bound<'py, PyBytes>)> {
        self.inner.vocab.iter().map(|(id, bytes)| (id, PyBytes::new(py, bytes))).collect()
    }

    /// The merges in the order of their ranks.
    fn merges<'py>(&self, py: Python<'py>) -> Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let token = |id| PyBytes::new(py, self.inner.vocab.get(id).unwrap_or_default());
        self.inner.merges().into_iter().map(|(left, right)| (token(left), token(right))).collect()
    }

    #[getter]
    fn special_tokens(&self) -> Vec<(String, u32)> {
        self.inner.specials.tokens().to_vec()
    }

    #[getter]
    fn vocab_size(&self) -> usize {
        self.inner.vocab.len()
    }

    /// "ranks", "merges", or "merges, whole pieces first".
    #[getter]
    fn rule(&self) -> &'static str {
        match self.inner.rule {
            Rule::Ranks => "ranks",
            Rule::Merges { whole_first: false, .. } => "merges",
            Rule::Merges { whole_first: true, .. } => "merges, whole pieces first",
        }
    }

    #[getter]
    fn pattern(&self) -> Option<&str> {
        self.inner.pattern.spelling()
    }

    /// Is the pattern read by a hand-written scanner? Those leave no gaps between pieces.
    #[getter]
    fn known_scanner(&self) -> bool {
        self.inner.pattern.cuttable()
    }

    #[getter]
    fn regex(&self) -> Option<&str> {
        self.inner.pattern.regex()
    }

    #[getter]
    fn oniguruma(&self) -> Option<&str> {
        self.inner.pattern.oniguruma()
    }
}

/// A text that comes in chunks.
#[pyclass(frozen, module = "hornbook._core")]
struct Stream {
    inner: Arc<Tokenizer>,
    allowed: Specials,
    forbidden: Specials,
    known: Specials,
    pending: Mutex<Pending>,
}

#[pymethods]
impl Stream {
    /// The ids that became certain; `None` ends the text.
    #[pyo3(signature = (chunk))]
    fn push<'py>(&self, py: Python<'py>, chunk: Option<&str>) -> PyResult<Bound<'py, PyList>> {
        let ids = heavy(py, SHORT, |watch| {
            let mut pending =
                self.pending.lock().map_err(|_| Error::tokenizer("this stream broke before"))?;
            let Some(text) = pending.take(chunk, &self.known, self.inner.pattern.cuttable()) else {
                return Ok(Vec::new());
            };
            let (allowed, forbidden) = (Cow::Borrowed(&self.allowed), Cow::Borrowed(&self.forbidden));
            Encoder { tokenizer: &self.inner, allowed, forbidden }.one(&text, watch)
        })?;
        PyList::new(py, ids)
    }
}

/// Counts the texts of an iterable, some megabytes at a time.
fn count_texts(
    texts: &Bound<'_, PyAny>,
    threads: usize,
    counting: &mut Counting,
    watch: &mut PyWatch,
) -> PyResult<()> {
    let py = texts.py();
    let (mut batch, mut size): (Vec<PyBackedStr>, usize) = (Vec::new(), 0);
    let mut flush = |batch: &mut Vec<PyBackedStr>| {
        let result = py.detach(|| {
            let texts: Vec<&str> = batch.iter().map(|text| &**text).collect();
            counting.add(&texts, None, watch)
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
        batch.push(backed(text)?);
        size += batch.last().map_or(0, |text| text.len());
        if size > WINDOW * threads || batch.len() > 1 << 16 {
            flush(&mut batch)?;
            size = 0;
        }
    }
    flush(&mut batch)
}

/// The UTF-8 of a str. Surrogates become U+FFFD, pairs of them the character they mean.
fn backed(text: &Bound<'_, PyString>) -> PyResult<PyBackedStr> {
    PyBackedStr::try_from(text.clone()).or_else(|error| {
        if !error.is_instance_of::<PyUnicodeEncodeError>(text.py()) {
            return Err(error);
        }
        let utf16 = text.call_method1("encode", ("utf-16", "surrogatepass"))?;
        let clean = utf16.call_method1("decode", ("utf-16", "replace"))?;
        PyBackedStr::try_from(clean.cast_into::<PyString>()?)
    })
}

/// A name, a regex or nothing, as [`Pattern::parse`] spells it, and whether it is read by a hand-written scanner.
/// Raises for a regex that cannot be compiled.
#[pyfunction]
#[pyo3(signature = (pattern))]
fn known_pattern(py: Python<'_>, pattern: Option<&str>) -> PyResult<(Option<String>, bool)> {
    let pattern = Pattern::parse(pattern);
    pattern.splitter().map_err(|error| raise(py, error))?;
    Ok((pattern.spelling().map(str::to_string), pattern.cuttable()))
}

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Bpe>()?;
    module.add_class::<Stream>()?;
    module.add_function(wrap_pyfunction!(known_pattern, module)?)
}
