//! What can go wrong, and how a long computation is watched and stopped.

use std::fmt;

/// Whose fault it is: Python raises another exception for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A vocabulary, pattern, option or id that does not fit.
    Tokenizer,
    /// Text that is missing, empty or not UTF-8.
    Data,
    /// The watcher asked to stop; its owner knows why.
    Stopped,
}

/// An error with a message for people: what was expected, what came, what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub kind: Kind,
    pub message: String,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn tokenizer(message: impl Into<String>) -> Self {
        Error { kind: Kind::Tokenizer, message: message.into() }
    }

    pub fn data(message: impl Into<String>) -> Self {
        Error { kind: Kind::Data, message: message.into() }
    }

    pub fn stopped() -> Self {
        Error { kind: Kind::Stopped, message: "stopped".into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Called several times a second by everything that may take long, from the thread that was called. It
/// reports progress, and an `Err` stops the work: that is how Ctrl-C gets in.
pub trait Watch {
    fn tick(&mut self, phase: &'static str, done: u64, total: Option<u64>) -> Result<()>;
}

/// Nobody watches.
impl Watch for () {
    fn tick(&mut self, _: &'static str, _: u64, _: Option<u64>) -> Result<()> {
        Ok(())
    }
}
