//! Ids that Python gives: lists, and arrays of many types.

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::watch::{heavy, raise};
use crate::error::Error;
use crate::vocab::Vocab;

/// The bytes of a list, or of an array of integers.
pub fn decoded(py: Python<'_>, vocab: &Vocab, ids: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    fn run<T: Copy + Into<i64> + Sync>(py: Python<'_>, vocab: &Vocab, ids: &[T]) -> PyResult<Vec<u8>> {
        heavy(py, ids.len(), |_| {
            let mut out = Vec::with_capacity(ids.len() * 5);
            vocab.decode(ids.iter().map(|&id| id.into()), &mut out)?;
            Ok(out)
        })
    }
    if let Ok(list) = ids.cast::<PyList>() {
        let mut numbers = Vec::with_capacity(list.len());
        for id in list {
            numbers.push(id.extract::<i64>().map_err(|error| not_an_id(py, error))?);
        }
        return run(py, vocab, &numbers);
    }
    if let Ok(array) = PyUntypedBuffer::get(ids) {
        if let Ok(ids) = array.as_typed::<u16>() {
            return run(py, vocab, &ids.to_vec(py)?);
        } else if let Ok(ids) = array.as_typed::<u32>() {
            return run(py, vocab, &ids.to_vec(py)?);
        } else if let Ok(ids) = array.as_typed::<i64>() {
            return run(py, vocab, &ids.to_vec(py)?);
        } else if let Ok(ids) = array.as_typed::<i32>() {
            return run(py, vocab, &ids.to_vec(py)?);
        }
    }
    run(py, vocab, &ids.extract::<Vec<i64>>().map_err(|error| not_an_id(py, error))?)
}

/// The exception for something that is no number of 64 bits.
fn not_an_id(py: Python<'_>, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyOverflowError>(py) {
        return error;
    }
    raise(py, Error::tokenizer("an id is outside 64 bits; ids are small non-negative integers"))
}
