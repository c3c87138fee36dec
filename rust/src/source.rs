//! Reading text files for training: strictly UTF-8, and only a window of each at a time.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::count::Counting;
use crate::cut::last_cut;
use crate::error::{Error, Result, Watch};

/// How much is read before it is counted, for each thread.
const WINDOW: usize = 4 << 20;

/// Counts the pieces of a file. With a pattern that cannot be cut (an unknown regex, or none) the whole file is
/// held in memory, as one piece may reach across all of it.
pub fn count_file(
    path: &Path,
    threads: usize,
    counting: &mut Counting,
    total: Option<u64>,
    watch: &mut dyn Watch,
) -> Result<()> {
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    count_from(file, path, WINDOW * threads.max(1), counting, total, watch)
}

/// The same for anything that can be read; `path` is for errors, and `window` how many bytes are read at a time.
pub fn count_from(
    mut file: impl Read,
    path: &Path,
    window: usize,
    counting: &mut Counting,
    total: Option<u64>,
    watch: &mut dyn Watch,
) -> Result<()> {
    let cuttable = counting.pattern().cuttable();
    let mut buffer: Vec<u8> = Vec::new();
    let mut searched = 0; // no place to cut in the first so many bytes of the buffer
    let mut offset = 0u64; // where the buffer begins in the file
    loop {
        let wanted = if cuttable { window as u64 } else { u64::MAX };
        let read = (&mut file).take(wanted).read_to_end(&mut buffer);
        let read = read.map_err(|error| unreadable(path, &error))?;
        let at_end = (read as u64) < wanted;
        let text =
            valid_prefix(&buffer, at_end).map_err(|at| not_utf8(path, offset + at as u64, buffer[at]))?;
        if at_end {
            return counting.add(&[text], total, watch);
        }
        let longest = counting.specials().longest().max(1);
        let mut to = text.len().saturating_sub(longest);
        while !text.is_char_boundary(to) {
            to -= 1;
        }
        if to <= searched {
            continue;
        }
        match last_cut(text, searched, to, counting.specials()) {
            Some(place) => {
                counting.add(&[&text[..place]], total, watch)?;
                buffer.drain(..place);
                offset += place as u64;
                searched = 0;
            }
            None => searched = to,
        }
    }
}

/// The longest prefix that is UTF-8; a character cut off by the end of the window may be missing, unless the
/// window ends the file. The error is the offset of the first bad byte.
fn valid_prefix(buffer: &[u8], at_end: bool) -> std::result::Result<&str, usize> {
    match std::str::from_utf8(buffer) {
        Ok(text) => Ok(text),
        Err(error) if error.error_len().is_none() && !at_end => {
            let valid = &buffer[..error.valid_up_to()];
            std::str::from_utf8(valid).map_err(|error| error.valid_up_to())
        }
        Err(error) => Err(error.valid_up_to()),
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::data(format!("cannot read {}: {error}", path.display()))
}

fn not_utf8(path: &Path, offset: u64, byte: u8) -> Error {
    Error::data(format!(
        "{} is not UTF-8: byte 0x{byte:02x} at offset {offset}. Convert it first, for instance with \
         `iconv -f cp1252 -t utf-8`",
        path.display()
    ))
}
