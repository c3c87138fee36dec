//! Ids on their way to Python: arrays and lists.

use std::ffi::c_int;

use bytemuck::{Pod, Zeroable};
use pyo3::exceptions::PyMemoryError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyInt, PyList};

use crate::batch::Encoded;
use crate::pages::Pages;
use crate::piece;

/// Few ids are copied into a bytearray: asking the system for memory takes longer.
const FEW: usize = 1 << 14;

/// A number that an array holds.
pub trait Number: Pod + Zeroable + Send {
    fn of(id: u32) -> Self;
}

impl Number for u16 {
    #[inline(always)]
    fn of(id: u32) -> Self {
        id as u16
    }
}

impl Number for u32 {
    #[inline(always)]
    fn of(id: u32) -> Self {
        id
    }
}

/// An array that grows at its end.
#[derive(Default)]
pub struct Growing<T> {
    pages: Pages<T>,
    len: usize,
}

impl<T: Number> Growing<T> {
    /// `guess`: how many ids there may be. Memory that is not used costs nothing.
    pub fn with_capacity(guess: usize) -> Self {
        Growing { pages: Pages::zeroed(guess).unwrap_or_default(), len: 0 }
    }

    pub fn push(&mut self, ids: &[u32]) -> PyResult<()> {
        if self.len + ids.len() > self.pages.get().len() {
            let wanted = (self.len + ids.len()).next_power_of_two();
            let mut larger = Pages::zeroed(wanted)
                .ok_or_else(|| PyMemoryError::new_err(format!("no memory for an array of {wanted} ids")))?;
            larger.get_mut()[..self.len].copy_from_slice(&self.pages.get()[..self.len]);
            self.pages = larger;
        }
        let room = &mut self.pages.get_mut()[self.len..][..ids.len()];
        room.iter_mut().zip(ids).for_each(|(slot, &id)| *slot = T::of(id));
        self.len += ids.len();
        Ok(())
    }

    /// Something that `numpy.frombuffer` takes as it is.
    pub fn finish(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        if self.len < FEW {
            let bytes = bytemuck::cast_slice(&self.pages.get()[..self.len]);
            return Ok(PyByteArray::new(py, bytes).into_any());
        }
        let len = self.len * size_of::<T>();
        Ok(Bound::new(py, Array { pages: self.pages.into_bytes(), len })?.into_any())
    }
}

/// Memory that Python may read and write, and that nothing here looks at again.
#[pyclass(frozen, module = "hornbook._core")]
struct Array {
    pages: Pages<u8>,
    len: usize,
}

#[pymethods]
impl Array {
    /// Arrays are handed over without a copy, which saves a fifth of the time of encoding.
    ///
    /// # Safety
    /// Called by the interpreter with a view to fill in.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let array = slf.get();
        let start = array.pages.get().as_ptr().cast_mut().cast();
        let len = array.len as ffi::Py_ssize_t;
        // SAFETY: `view` comes from the interpreter; the memory is ours, of at least `len` bytes, does not move, lives as
        // long as this object, which the view keeps alive, and is neither read nor written by anybody else.
        let done = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, len, 0, flags) };
        if done < 0 { Err(PyErr::fetch(slf.py())) } else { Ok(()) }
    }
}

/// A list that refers to `ints[id]` for each id.
///
/// The safe way, an iterator of references, takes twice as long: it counts and checks what is known here.
pub fn list_of(py: Python<'_>, ids: &[u32], ints: &[Py<PyInt>]) -> PyResult<Py<PyList>> {
    // SAFETY: the list is new and nobody else has it; each of its places, fewer than its length, is set once to an int
    // whose count of references was raised for it. If an id had no int, the list would go with empty places, which
    // Python allows a list that is not finished.
    unsafe {
        let list: Bound<'_, PyAny> =
            Bound::from_owned_ptr_or_err(py, ffi::PyList_New(ids.len() as ffi::Py_ssize_t))?;
        if let Some(items) = items(&list, ids.len()) {
            for (place, &id) in ids.iter().enumerate() {
                // The ints of a vocabulary are too many for the processor's nearest cache.
                if let Some(soon) = ids.get(place + AHEAD).and_then(|&id| ints.get(id as usize)) {
                    piece::prefetch(&*soon.as_ptr());
                }
                let int = ints[id as usize].as_ptr();
                ffi::Py_INCREF(int);
                items.add(place).write(int);
            }
        } else {
            for (place, &id) in ids.iter().enumerate() {
                let int = ints[id as usize].as_ptr();
                ffi::Py_INCREF(int);
                ffi::PyList_SetItem(list.as_ptr(), place as ffi::Py_ssize_t, int);
            }
        }
        Ok(list.cast_into_unchecked::<PyList>().unbind())
    }
}

/// How many ids ahead an int is asked for.
const AHEAD: usize = 24;
/// Lists of fewer ids gain nothing by being written directly.
const WORTH: usize = 8;
/// The first version of CPython, as `Py_Version` has it, of which we do not know how it keeps lists.
const UNKNOWN: u32 = 0x030F_0000;

/// Where a new list has its empty items, if this interpreter keeps lists as we know it.
///
/// The stable interface sets an item by a call, 2.6 ns of the 16 that it takes to encode a token and put it into a list.
/// But from 3.11 to 3.14 (and long before) a list has been five words: references, type, length, where the items are, and for how many there
/// is room. All that is known of this one is compared before it is believed.
///
/// # Safety
/// `list` is a list that was just made with `len` empty items.
unsafe fn items(list: &Bound<'_, PyAny>, len: usize) -> Option<*mut *mut ffi::PyObject> {
    // SAFETY: the interpreter sets the version once, and an object of these versions has the words that are read: a
    // list has at least three in front of its items' address in all of them.
    unsafe {
        if len < WORTH || !cfg!(target_pointer_width = "64") || ffi::Py_Version as u32 >= UNKNOWN {
            return None;
        }
        let words = list.as_ptr().cast::<usize>();
        let as_known = words.add(1).read() == list.get_type_ptr() as usize
            && words.add(2).read() == len
            && words.add(3).read() != 0
            && words.add(4).read() == len;
        as_known.then(|| words.add(3).cast::<*mut *mut ffi::PyObject>().read())
    }
}

/// Makes a list of ids.
type Make<'a> = &'a (dyn Fn(Python<'_>, &[u32]) -> PyResult<Py<PyList>> + Sync);

/// Lists of ids, one for each text, from portions in which texts may begin and end anywhere.
pub struct Lists<'a> {
    texts: usize,
    make: Make<'a>,
    lists: Vec<Py<PyList>>,
    /// The ids so far of the text that is not complete.
    open: Vec<u32>,
}

impl<'a> Lists<'a> {
    pub fn new(texts: usize, make: Make<'a>) -> Self {
        Lists { texts, make, lists: Vec::with_capacity(texts), open: Vec::new() }
    }

    pub fn push(&mut self, py: Python<'_>, encoded: &Encoded) -> PyResult<()> {
        let mut ids = encoded.ids.as_slice();
        for (place, &(text, length)) in encoded.lengths.iter().enumerate() {
            let (these, rest) = ids.split_at(length);
            ids = rest;
            self.close(py, text)?;
            let whole = encoded.lengths.get(place + 1).is_some_and(|next| next.0 > text);
            if whole && self.open.is_empty() && self.lists.len() == text {
                self.lists.push((self.make)(py, these)?);
            } else {
                self.open.extend_from_slice(these);
            }
        }
        Ok(())
    }

    /// Ends the texts before `text`.
    fn close(&mut self, py: Python<'_>, text: usize) -> PyResult<()> {
        while self.lists.len() < text {
            self.lists.push((self.make)(py, &self.open)?);
            self.open.clear();
        }
        Ok(())
    }

    pub fn finish(mut self, py: Python<'_>) -> PyResult<Vec<Py<PyList>>> {
        self.close(py, self.texts)?;
        Ok(self.lists)
    }
}
