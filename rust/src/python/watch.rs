//! Between Python and long computations: Ctrl-C and progress in, exceptions out, the lock released meanwhile.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use pyo3::prelude::*;

use crate::error::{Error, Kind, Result, Watch};

/// Releasing the interpreter lock costs more than encoding fewer bytes than this.
pub const SHORT: usize = 2048;
/// Looks for Ctrl-C and reports progress. What Python raises meanwhile is kept until the work has ended.
#[derive(Default)]
pub struct PyWatch {
    progress: Option<Py<PyAny>>,
    raised: Option<PyErr>,
}

impl Watch for PyWatch {
    fn tick(&mut self, phase: &'static str, done: u64, total: Option<u64>) -> Result<()> {
        let outcome = Python::attach(|py| {
            py.check_signals()?;
            if let Some(progress) = &self.progress {
                progress.call1(py, (phase, done, total))?;
            }
            Ok(())
        });
        outcome.map_err(|error| {
            self.raised = Some(error);
            Error::stopped()
        })
    }
}

impl PyWatch {
    pub fn new(progress: Option<Py<PyAny>>) -> Self {
        PyWatch { progress, raised: None }
    }

    /// The Python exception for an error of the core.
    pub fn raise(self, py: Python<'_>, error: Error) -> PyErr {
        self.raised.unwrap_or_else(|| raise(py, error))
    }
}

/// An exception from `hornbook.errors`.
pub fn raise(py: Python<'_>, error: Error) -> PyErr {
    let name = if error.kind == Kind::Data { "DataError" } else { "TokenizerError" };
    let class = py.import("hornbook.errors").and_then(|errors| errors.getattr(name));
    match class.and_then(|class| class.call1((error.message,))) {
        Ok(exception) => PyErr::from_value(exception),
        Err(other) => other,
    }
}

/// Runs with the interpreter lock released if there is enough to do.
pub fn heavy<T: Send>(
    py: Python<'_>,
    size: usize,
    work: impl FnOnce(&mut PyWatch) -> Result<T> + Send,
) -> PyResult<T> {
    let mut watch = PyWatch::default();
    let result = if size < SHORT { work(&mut watch) } else { py.detach(|| work(&mut watch)) };
    result.map_err(|error| watch.raise(py, error))
}

/// Runs work that cannot be stopped half way on another thread, with the interpreter lock released. After Ctrl-C it
/// is left alone and its result is lost.
pub fn apart<T: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> PyResult<T> {
    let mut watch = PyWatch::default();
    let result = py.detach(|| {
        let (sender, results) = channel();
        let work = Arc::new(Mutex::new(Some(work)));
        let theirs = work.clone();
        let take = |work: &Mutex<Option<_>>| work.lock().unwrap_or_else(PoisonError::into_inner).take();
        let run = move || {
            if let Some(work) = take(&theirs) {
                let _ = sender.send(work()); // if nobody listens any more, nobody cares
            }
        };
        // A machine may refuse more threads: then it is done here, deaf to Ctrl-C.
        if Builder::new().spawn(run).is_err()
            && let Some(work) = take(&work)
        {
            return work();
        }
        loop {
            match results.recv_timeout(Duration::from_millis(50)) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Timeout) => watch.tick("", 0, None)?,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::data("a thread broke; this is a fault of Hornbook, please report it"));
                }
            }
        }
    });
    result.map_err(|error| watch.raise(py, error))
}
