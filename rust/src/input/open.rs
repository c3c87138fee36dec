//! The bytes of a file, unpacked and checked to be UTF-8, with errors that say where.
//!
//! Rust's own gzip (zlib-rs) and the reference implementation of zstd, which is twice as fast as the one in Rust: both
//! unpack several times faster than a thread counts. Parquet is left to pyarrow: its Rust reader would make the wheel
//! many times larger, for a format that whoever uses it has a library for.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use flate2::bufread::GzDecoder;
use memchr::memchr;

use super::{Packed, Sink, Source};
use crate::error::{Error, Result};

/// How many first bytes say what a file is.
const HEAD: usize = 4;

/// A NUL among so many first bytes says that a file is no text, as it does to git. Later ones are let through: texts have
/// been found with one somewhere.
const NO_NUL: usize = 8000;

/// A file's text, a chunk at a time.
pub struct Input {
    reader: Box<dyn Read>,
    path: PathBuf,
    packed: Packed,
    head: Vec<u8>,
    /// Bytes that were read; the first `kept` are the beginning of a character that the last chunk cut.
    buffer: Vec<u8>,
    kept: usize,
    /// How many bytes of text came before the buffer.
    offset: u64,
    stop: Arc<AtomicBool>,
}

impl Input {
    /// Opens a file, or takes what stands for it. What is read is counted in the sink.
    pub fn open(source: &Source, reader: Option<Box<dyn Read + Send>>, sink: &Sink) -> Result<Input> {
        let fail = |error| unreadable(source, &error);
        let reader: Box<dyn Read> = match reader {
            Some(reader) => reader,
            None => Box::new(File::open(&source.path).map_err(fail)?),
        };
        let chunk = sink.sizes.chunk;
        let mut file = Counted { reader, read: sink.read.clone() };
        let mut head = Vec::with_capacity(HEAD);
        (&mut file).take(HEAD as u64).read_to_end(&mut head).map_err(fail)?;
        let whole = io::Cursor::new(head.clone()).chain(file);
        let reader: Box<dyn Read> = match source.packed {
            Packed::No => Box::new(whole),
            Packed::Gzip if head.starts_with(b"\x1f\x8b") => {
                Box::new(Members(Some(GzDecoder::new(BufReader::with_capacity(chunk, whole)))))
            }
            Packed::Zstd if zstd_frame(&head) => {
                Box::new(zstd::stream::read::Decoder::new(whole).map_err(fail)?)
            }
            packed => {
                let (name, ending) = if packed == Packed::Gzip { ("gzip", ".gz") } else { ("zstd", ".zst") };
                let bytes = || head.iter().map(|byte| format!(" 0x{byte:02x}")).collect::<String>();
                let found = match head[..] {
                    [] => "it is empty".into(),
                    _ => recognized(&head).unwrap_or_else(|| format!("it begins with{}", bytes())),
                };
                return Err(Error::data(format!(
                    "{}: not {name}, though it ends in {ending}: {found}",
                    source.path.display()
                )));
            }
        };
        Ok(Input {
            reader,
            path: source.path.clone(),
            packed: source.packed,
            head,
            buffer: vec![0; chunk],
            kept: 0,
            offset: 0,
            stop: sink.stop.clone(),
        })
    }

    /// Adds what comes next to `text`; false at the end.
    pub fn more(&mut self, text: &mut String) -> Result<bool> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::stopped());
        }
        let read = loop {
            match self.reader.read(&mut self.buffer[self.kept..]) {
                Ok(read) => break read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(&error)),
            }
        };
        let bytes = &self.buffer[..self.kept + read];
        let (valid, wrong) = match std::str::from_utf8(bytes) {
            Ok(valid) => (valid, false),
            Err(error) => {
                let valid = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
                (valid, read == 0 || error.error_len().is_some())
            }
        };
        if self.offset < NO_NUL as u64 {
            let first = NO_NUL - self.offset as usize;
            if let Some(at) = memchr(0, &valid.as_bytes()[..first.min(valid.len())]) {
                return Err(self.binary(at, bytes));
            }
        }
        if wrong {
            return Err(self.not_utf8(valid.len()));
        }
        text.push_str(valid);
        let (end, valid) = (bytes.len(), valid.len());
        self.buffer.copy_within(valid..end, 0);
        self.kept = end - valid;
        self.offset += valid as u64;
        Ok(read > 0)
    }

    /// An error about this file.
    pub fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::data(format!("{}: {message}", self.path.display()))
    }

    fn broken(&self, error: &io::Error) -> Error {
        let format = match self.packed {
            Packed::Gzip => "gzip",
            Packed::Zstd => "zstd",
            Packed::No => return self.error(format_args!("cannot be read: {error}")),
        };
        // What has a number comes from the system, the rest from the unpacker.
        if error.raw_os_error().is_some() {
            return self.error(format_args!("cannot be read: {error}"));
        }
        let what = if error.kind() == ErrorKind::UnexpectedEof { "is cut short" } else { "is broken" };
        self.error(format_args!(
            "the {format} data {what} ({error}) after {} bytes of text; copy or download the file again",
            self.offset + self.kept as u64
        ))
    }

    fn not_utf8(&self, at: usize) -> Error {
        let (offset, byte) = (self.offset + at as u64, self.buffer[at]);
        let hint = self.known().unwrap_or_else(|| {
            "If it is text in another encoding, say which, as by `--encoding cp1252`".into()
        });
        self.error(format_args!("not UTF-8: byte 0x{byte:02x} at offset {offset}. {hint}"))
    }

    /// What it is by its first bytes, if it is not packed.
    fn known(&self) -> Option<String> {
        if self.packed == Packed::No { recognized(&self.head) } else { None }
    }

    /// A file with a NUL at `at` of `bytes`, the first of it or nearly so.
    fn binary(&self, at: usize, bytes: &[u8]) -> Error {
        let zeros = |parity: usize| bytes.iter().skip(parity).step_by(2).filter(|&&byte| byte == 0).count();
        let half = bytes.len().div_ceil(4); // of the bytes at odd places, or even ones
        let utf16 = |order| format!("Every other byte is one, as in UTF-16: try `--encoding utf-16-{order}`");
        let hint = self.known().unwrap_or_else(|| match (zeros(0) > half, zeros(1) > half) {
            (true, false) => utf16("be"),
            (false, true) => utf16("le"),
            _ => "Only text can be read".into(),
        });
        self.error(format_args!("binary, not text: byte 0x00 at offset {}. {hint}", self.offset + at as u64))
    }
}

fn unreadable(source: &Source, error: &io::Error) -> Error {
    let path = source.path.display();
    match error.kind() {
        ErrorKind::NotFound => Error::data(format!("{path}: no such file")),
        _ => Error::data(format!("{path}: cannot be read: {error}")),
    }
}

fn zstd_frame(head: &[u8]) -> bool {
    head == b"\x28\xb5\x2f\xfd"
        || (head.len() == HEAD && head[0] & 0xf0 == 0x50 && head[1..] == *b"\x2a\x4d\x18")
}

/// What a file is whose first bytes are known.
fn recognized(head: &[u8]) -> Option<String> {
    let (what, to_do) = match head {
        [0x1f, 0x8b, ..] => ("gzip", "give it the ending .gz"),
        _ if zstd_frame(head) => ("zstd", "give it the ending .zst"),
        b"PAR1" => ("Parquet", "give it the ending .parquet"),
        b"PK\x03\x04" => ("a zip archive", "give it the ending .zip"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => ("UTF-16", "say so by `--encoding utf-16`"),
        _ => return None,
    };
    Some(format!("By its first bytes it is {what}: {to_do}"))
}

/// A file that counts what is read from it.
struct Counted {
    reader: Box<dyn Read>,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// The members of a gzip file, one after another, as `cat a.gz b.gz` puts them together. Zeros may follow the last,
/// which tapes and some servers add; anything else is an error, where flate2's own reader fails at the zeros too.
struct Members<R: BufRead>(Option<GzDecoder<R>>);

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.0 {
            let read = member.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let Some(mut rest) = self.0.take().map(GzDecoder::into_inner) else { break };
            let mut padded = false;
            loop {
                let next = rest.fill_buf()?;
                let zeros = next.iter().take_while(|&&byte| byte == 0).count();
                if zeros == 0 {
                    break;
                }
                padded = true;
                rest.consume(zeros);
            }
            if rest.fill_buf()?.is_empty() {
                break;
            }
            if padded {
                return Err(io::Error::new(
                    ErrorKind::InvalidData,
                    "something follows the zeros after its end",
                ));
            }
            self.0 = Some(GzDecoder::new(rest));
        }
        Ok(0)
    }
}
