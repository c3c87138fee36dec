//! The Python module `hornbook._core`. Everything here converts arguments and results; nothing computes.

mod counts;
mod ids;
mod options;
mod output;
mod watch;

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyByteArray, PyBytes, PyInt, PyList, PyString};

use crate::batch::{Encoded, Encoder};
use crate::encode::Spans;
use crate::error::Error;
use crate::ranks;
use crate::special::Specials;
use crate::split::Pattern;
use crate::stream::Pending;
use crate::tokenizer::{Rule, Tokenizer};
use crate::train::{Options, Tie};
use counts::Counts;
use ids::decoded;
use options::{Choices, Wanted, choice};
use output::{Growing, Lists, Number, list_of};
use watch::{PyWatch, SHORT, heavy, raise};

/// Byte-level BPE. Immutable; `hornbook.tokenizer.Tokenizer` wraps it.
#[pyclass(frozen, name = "BPE", module = "hornbook._core")]
struct Bpe {
    inner: Arc<Tokenizer>,
    /// A Python int for each id, made when there were many: a list then refers to them and makes none.
    ints: PyOnceLock<Vec<Py<PyInt>>>,
    /// How many ids were made so far without them.
    made: AtomicUsize,
}

/// So many ids are made without [`Bpe::ints`], so that who encodes a few short texts does not wait for them.
const FEW: usize = 1 << 12;

impl Bpe {
    fn wrap(inner: Tokenizer) -> Self {
        Bpe { inner: Arc::new(inner), ints: PyOnceLock::new(), made: AtomicUsize::new(0) }
    }

    fn list(&self, py: Python<'_>, ids: &[u32]) -> PyResult<Py<PyList>> {
        if self.ints.get(py).is_none() && self.made.fetch_add(ids.len(), Ordering::Relaxed) < FEW {
            return Ok(PyList::new(py, ids)?.unbind());
        }
        let int = |id: u32| Ok(id.into_pyobject(py)?.unbind());
        let make = || (0..self.inner.vocab.len() as u32).map(int).collect::<PyResult<Vec<_>>>();
        let ints = self.ints.get_or_try_init(py, make)?;
        list_of(py, ids, ints)
    }

    fn encode_one(&self, py: Python<'_>, text: &str, choices: Choices) -> PyResult<Vec<u32>> {
        heavy(py, text.len(), |watch| choices.encoder(&self.inner)?.one(text, watch))
    }

    /// Gives the ids of many texts to `each`, with the interpreter lock held, portion after portion.
    fn encode_many(
        &self,
        py: Python<'_>,
        texts: &[PyBackedStr],
        choices: Choices,
        threads: usize,
        mut each: impl FnMut(Python<'_>, &Encoded) -> PyResult<()> + Send,
    ) -> PyResult<()> {
        let texts: Vec<&str> = texts.iter().map(|text| &**text).collect();
        let size = texts.iter().map(|text| text.len()).sum();
        let mut raised = None;
        let done = heavy(py, size, |watch| {
            choices.encoder(&self.inner)?.many(&texts, threads, watch, |encoded| {
                Python::attach(|py| each(py, encoded)).map_err(|error| {
                    raised = Some(error);
                    Error::stopped()
                })
            })
        });
        raised.map_or(done, Err)
    }

    fn many_to_array<'py, T: Number>(
        &self,
        py: Python<'py>,
        texts: &[PyBackedStr],
        choices: Choices,
        threads: usize,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyByteArray>)> {
        let size: usize = texts.iter().map(|text| text.len()).sum();
        let mut ids = Growing::<T>::with_capacity(size / 3 + 16);
        let mut ends = vec![0i64; texts.len() + 1];
        self.encode_many(py, texts, choices, threads, |_, encoded| {
            encoded.lengths.iter().for_each(|&(text, length)| ends[text + 1] += length as i64);
            ids.push(&encoded.ids)
        })?;
        let mut end = 0;
        for slot in &mut ends {
            end += *slot;
            *slot = end;
        }
        Ok((ids.finish(py)?, PyByteArray::new(py, bytemuck::cast_slice(&ends))))
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

    /// Learns merges from what was counted. `take` leaves nothing in `counts`, as their memory is wanted back meanwhile.
    #[staticmethod]
    #[pyo3(signature = (counts, take, vocab_size, tie, min_frequency, max_token_length, progress))]
    #[allow(clippy::too_many_arguments)]
    fn train(
        py: Python<'_>,
        counts: &Counts,
        take: bool,
        vocab_size: usize,
        tie: &str,
        min_frequency: u64,
        max_token_length: Option<usize>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let tie = match tie {
            "raw" => Tie::Raw,
            "largest_content" => Tie::LargestContent,
            _ => Tie::HuggingFace,
        };
        let max_token_length = max_token_length.unwrap_or(usize::MAX);
        let mut watch = PyWatch::new(progress);
        let result = py.detach(|| {
            let tally = counts.give(take)?;
            if tally.bytes == 0 {
                return Err(Error::data(
                    "there is no text to train on: the source gave nothing but empty texts. A generator that was \
                     read before is empty; pass a list, or make it anew",
                ));
            }
            let vocab_size = vocab_size - tally.specials.len();
            let options = Options { vocab_size, tie, min_frequency, max_token_length };
            let (vocab, pairs) = crate::train::train(tally.counter, &options, &mut watch)?;
            let tokens: Vec<(u32, &[u8])> = vocab.iter().collect();
            let ids = vocab.len() as u32..;
            let specials = tally.specials.into_iter().zip(ids).collect();
            let pattern = Pattern::parse(tally.pattern.as_deref());
            Tokenizer::new(&tokens, specials, Rule::Merges { pairs, whole_first: false }, pattern)
        });
        match result {
            Ok(inner) => Ok(Bpe::wrap(inner)),
            Err(error) => Err(watch.raise(py, error)),
        }
    }

    /// From the content of a .tiktoken file. The special tokens of `following` get the ids after the highest.
    #[staticmethod]
    fn from_ranks(
        py: Python<'_>,
        data: &[u8],
        mut special_tokens: Vec<(String, u32)>,
        following: Vec<String>,
        pattern: Option<&str>,
    ) -> PyResult<Self> {
        let pattern = Pattern::parse(pattern);
        let inner = py.detach(|| {
            let tokens = ranks::parse(data)?;
            let next = tokens.iter().map(|token| token.0).max().map_or(0, |id| id.saturating_add(1));
            special_tokens.extend(following.into_iter().zip(next..));
            let tokens: Vec<(u32, &[u8])> =
                tokens.iter().map(|(id, bytes)| (*id, bytes.as_slice())).collect();
            Tokenizer::new(&tokens, special_tokens, Rule::Ranks, pattern)
        });
        Ok(Bpe::wrap(inner.map_err(|error| raise(py, error))?))
    }

    /// `splits` may be empty.
    #[staticmethod]
    fn from_state(py: Python<'_>, state: &[u8], splits: &[u8]) -> PyResult<Self> {
        let numbers: Vec<u32> = splits.as_chunks().0.iter().map(|&bytes| u32::from_le_bytes(bytes)).collect();
        let inner = py.detach(|| Tokenizer::from_state(state, numbers.as_chunks().0));
        Ok(Bpe::wrap(inner.map_err(|error| raise(py, error))?))
    }

    /// What makes [`Bpe::from_state`] faster.
    fn splits<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let numbers = py.detach(|| self.inner.splits());
        let mut bytes = Vec::with_capacity(numbers.len() * 12);
        numbers.iter().flatten().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
        PyBytes::new(py, &bytes)
    }

    fn state<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &py.detach(|| self.inner.to_state()))
    }

    /// The ids of a text in which no special token may be.
    #[pyo3(signature = (text))]
    fn encode_plain(&self, py: Python<'_>, text: &str) -> PyResult<Py<PyList>> {
        let choices = Choices { forbidden: Some(Wanted::All(true)), ..Choices::default() };
        self.list(py, &self.encode_one(py, text, choices)?)
    }

    #[pyo3(signature = (text, choices))]
    fn encode(&self, py: Python<'_>, text: &str, choices: Choices) -> PyResult<Py<PyList>> {
        self.list(py, &self.encode_one(py, text, choices)?)
    }

    /// The ids as native uint32 (`wide`) or uint16, for `numpy.frombuffer`.
    #[pyo3(signature = (text, choices, wide))]
    fn encode_array<'py>(
        &self,
        py: Python<'py>,
        text: &str,
        choices: Choices,
        wide: bool,
    ) -> PyResult<Bound<'py, PyByteArray>> {
        let ids = self.encode_one(py, text, choices)?;
        if wide {
            return Ok(PyByteArray::new(py, bytemuck::cast_slice(&ids)));
        }
        let ids: Vec<u16> = ids.iter().map(|&id| id as u16).collect();
        Ok(PyByteArray::new(py, bytemuck::cast_slice(&ids)))
    }

    #[pyo3(signature = (texts, choices, threads))]
    fn encode_batch(
        &self,
        py: Python<'_>,
        texts: Vec<PyBackedStr>,
        choices: Choices,
        threads: usize,
    ) -> PyResult<Vec<Py<PyList>>> {
        let make = |py: Python<'_>, ids: &[u32]| self.list(py, ids);
        let mut lists = Lists::new(texts.len(), &make);
        self.encode_many(py, &texts, choices, threads, |py, encoded| lists.push(py, encoded))?;
        lists.finish(py)
    }

    /// All ids in one array, and where those of each text begin and end, int64.
    #[pyo3(signature = (texts, choices, threads, wide))]
    fn encode_batch_array<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<PyBackedStr>,
        choices: Choices,
        threads: usize,
        wide: bool,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyByteArray>)> {
        if wide {
            self.many_to_array::<u32>(py, &texts, choices, threads)
        } else {
            self.many_to_array::<u16>(py, &texts, choices, threads)
        }
    }

    /// How many ids each text has.
    #[pyo3(signature = (texts, choices, threads))]
    fn count(
        &self,
        py: Python<'_>,
        texts: Vec<PyBackedStr>,
        choices: Choices,
        threads: usize,
    ) -> PyResult<Vec<usize>> {
        let mut counts = vec![0; texts.len()];
        self.encode_many(py, &texts, choices, threads, |_, encoded| {
            encoded.lengths.iter().for_each(|&(text, length)| counts[text] += length);
            Ok(())
        })?;
        Ok(counts)
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
            let chosen = choice(wanted).of(&self.inner).map_err(|error| raise(py, error))?;
            PyResult::Ok(chosen.into_owned())
        };
        let (allowed, forbidden) = (make(allowed)?, make(forbidden)?);
        let known = Specials::new(allowed.tokens().iter().chain(forbidden.tokens()).cloned().collect());
        let known = known.map_err(|error| raise(py, error))?;
        Ok(Stream { inner: self.inner.clone(), allowed, forbidden, known, pending: Mutex::default() })
    }

    fn decode<'py>(&self, py: Python<'py>, ids: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &decoded(py, &self.inner.vocab, ids)?))
    }

    /// As text; `errors` as `bytes.decode` has them.
    fn decode_text<'py>(
        &self,
        py: Python<'py>,
        ids: &Bound<'py, PyAny>,
        errors: &str,
    ) -> PyResult<Bound<'py, PyString>> {
        let bytes = decoded(py, &self.inner.vocab, ids)?;
        PyString::from_bytes(py, &bytes).or_else(|_| {
            let text = PyBytes::new(py, &bytes).call_method1("decode", ("utf-8", errors))?;
            Ok(text.cast_into()?)
        })
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
            Encoder { tokenizer: &self.inner, allowed, forbidden, most: usize::MAX, dropout: None }
                .one(&text, watch)
        })?;
        PyList::new(py, ids)
    }
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
    module.add_class::<Counts>()?;
    module.add_class::<counts::Reading>()?;
    module.add_class::<Stream>()?;
    module.add_function(wrap_pyfunction!(known_pattern, module)?)
}
