//! Files as they come out against the simplest way to read them: whole.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::count::Counting;
use crate::split::Pattern;
use crate::tally::Tally;

const MARK: &str = "<|end|>";

/// A file in the system's folder for such, deleted in the end.
struct Temporary(PathBuf);

impl Temporary {
    fn new(content: &[u8], packed: Packed) -> Temporary {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("hornbook-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, packed_in(2, content, packed)).unwrap();
        Temporary(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// In several pieces, as files are that were put together.
fn packed_in(pieces: usize, content: &[u8], packed: Packed) -> Vec<u8> {
    let size = content.len().div_ceil(pieces).max(1);
    let parts = if content.is_empty() { vec![content] } else { content.chunks(size).collect() };
    let pack = |part: &[u8]| match packed {
        Packed::No => part.to_vec(),
        Packed::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(part).unwrap();
            encoder.finish().unwrap()
        }
        Packed::Zstd => zstd::encode_all(part, 1).unwrap(),
    };
    parts.into_iter().flat_map(pack).collect()
}

const SMALL: Sizes = Sizes { chunk: 11, bytes: 1 << 5, texts: 5 };

fn source(path: &Path, packed: Packed, form: Form) -> Source {
    Source { path: path.to_path_buf(), packed, form }
}

fn texts(path: &Path, packed: Packed, form: Form) -> Result<Vec<String>> {
    let mut stream = Stream::of(vec![(source(path, packed, form), None)], None, 1, SMALL);
    let (mut all, mut count) = (Vec::new(), 0);
    loop {
        match stream.next(Duration::from_secs(9))?.expect("a file is read in less time") {
            Some(batch) => {
                all.extend(batch.parts().map(str::to_string));
                count += batch.texts;
            }
            None => {
                assert_eq!(count, all.len() as u64);
                return Ok(all);
            }
        }
    }
}

/// What plain text means, by its lines.
fn documents(text: &str, mark: Option<&str>) -> Vec<String> {
    let (mut all, mut held, mut marks) = (Vec::new(), String::new(), false);
    let without_break = |text: &str| text.strip_suffix('\n').unwrap_or(text).to_string();
    for line in text.split_inclusive('\n') {
        if Some(line.trim()) == mark {
            all.push(without_break(&held));
            held.clear();
            marks = true;
        } else {
            held.push_str(line);
        }
    }
    if !held.is_empty() {
        all.push(if marks { without_break(&held) } else { held });
    }
    all
}

/// Fragments that put breaks, marks, characters of several bytes and places to cut near each other.
fn fragments() -> impl Strategy<Value = String> {
    let fragment = prop::sample::select(vec![
        "a",
        "word",
        "  ",
        "\n",
        "\r\n",
        "\n\n",
        MARK,
        "<|end|>\n",
        "\n<|end|>\n",
        "<|e",
        "nd|>",
        " <|end|> \n",
        "é",
        "中文",
        "🦊",
        "'s",
        "1234",
        ", and ",
        "...",
        "a longer run of words without any break, ",
        "\u{a0}",
    ]);
    prop::collection::vec(fragment, 0..40).prop_map(|parts| parts.concat())
}

fn any_packed() -> impl Strategy<Value = Packed> {
    prop::sample::select(vec![Packed::No, Packed::Gzip, Packed::Zstd])
}

/// Where a mark is looked for, a long line is not looked through again and again: this would take minutes.
#[test]
#[cfg_attr(miri, ignore = "eight megabytes")]
fn a_long_line_is_read_once() {
    let text = "ACGT".repeat(2_000_000);
    let form = Form::Plain { document_end: Some(MARK.into()) };
    let reader: Box<dyn Read + Send> = Box::new(std::io::Cursor::new(text.clone().into_bytes()));
    let files = vec![(source(Path::new("memory"), Packed::No, form), Some(reader))];
    let mut stream = Stream::of(files, Some(Specials::default()), 1, SMALL);
    let mut bytes = 0;
    while let Some(batch) = stream.next(Duration::from_secs(600)).unwrap().expect("in time") {
        bytes += batch.parts().map(str::len).sum::<usize>();
    }
    assert_eq!(bytes, text.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn plain_text_is_read_whole(text in fragments(), packed in any_packed(), marked: bool) {
        let file = Temporary::new(text.as_bytes(), packed);
        let mark = marked.then_some(MARK);
        let form = Form::Plain { document_end: mark.map(str::to_string) };
        prop_assert_eq!(texts(&file.0, packed, form).unwrap(), documents(&text, mark));
    }

    /// The cuts change no count, whatever lies across them.
    #[test]
    fn plain_text_is_counted_in_parts(
        text in fragments(), marked: bool, known in prop::sample::select(vec![MARK, "word", "s without", "x"]),
        threads in 1..3usize,
    ) {
        let file = Temporary::new(text.as_bytes(), Packed::No);
        let mark = marked.then_some(MARK);
        let form = Form::Plain { document_end: mark.map(str::to_string) };
        let specials = Specials::new(vec![(known.into(), 0)]).unwrap();
        for pattern in [Pattern::Gpt2, Pattern::Cl100k, Pattern::O200k] {
            let mut counting = Counting::new(pattern.clone(), specials.clone(), threads).unwrap();
            let stream = Stream::of(vec![(source(&file.0, Packed::No, form.clone()), None)], Some(specials.clone()), 1, SMALL);
            counting.add_stream(stream, None, &mut ()).unwrap();
            let mut expected = Counting::new(pattern, specials.clone(), 1).unwrap();
            let whole = documents(&text, mark);
            expected.add(&whole.iter().map(String::as_str).collect::<Vec<_>>(), None, &mut ()).unwrap();
            prop_assert_eq!(Tally::of(counting).to_bytes(), Tally::of(expected).to_bytes());
        }
    }

    #[test]
    fn lines_are_read(all in prop::collection::vec(r"(\PC|[\x00-\x1f]|[a-z ]){0,40}", 0..20), packed in any_packed()) {
        let lines: Vec<String> = all
            .iter()
            .enumerate()
            .map(|(i, text)| match i % 3 {
                0 => serde_json::json!({ "text": text }).to_string(),
                1 => format!("  {{\"id\": [{i}, {{\"text\": 1}}], \"t\\u0065xt\" : {}}}\r", serde_json::json!(text)),
                _ => format!("\n{{\"text\": null, \"text\": {}, \"x\": 1e999}}", serde_json::json!(text))
                    .replace("null", "\"first\""),
            })
            .collect();
        let file = Temporary::new(lines.join("\n").as_bytes(), packed);
        prop_assert_eq!(texts(&file.0, packed, Form::Lines { field: "text".into() }).unwrap(), all);
    }

    /// Any bytes are text or an error with the right offset.
    #[test]
    fn bytes_that_are_not_utf8_are_named(text in fragments(), place: prop::sample::Index, bad in 0x80..=0xffu8) {
        let mut bytes = text.into_bytes();
        bytes.insert(place.index(bytes.len() + 1), bad);
        let file = Temporary::new(&bytes, Packed::Zstd);
        let found = texts(&file.0, Packed::Zstd, Form::Plain { document_end: None });
        match std::str::from_utf8(&bytes) {
            Ok(text) => prop_assert_eq!(found.unwrap().concat(), text),
            Err(error) => {
                let at = error.valid_up_to();
                let words = format!("not UTF-8: byte 0x{:02x} at offset {at}.", bytes[at]);
                let message = found.unwrap_err().message;
                prop_assert!(message.contains(&words), "{} but not {}", message, words);
            }
        }
    }

    /// Of a packed file that was cut short, nothing is lost in silence.
    #[test]
    fn a_packed_file_is_whole_or_an_error(
        text in fragments(), packed in prop::sample::select(vec![Packed::Gzip, Packed::Zstd]), keep: prop::sample::Index,
    ) {
        let whole = packed_in(1, text.as_bytes(), packed);
        let file = Temporary::new(&whole[..keep.index(whole.len())], Packed::No);
        let error = texts(&file.0, packed, Form::Plain { document_end: None }).unwrap_err();
        prop_assert!(["cut short", "though it ends in"].iter().any(|&words| error.message.contains(words)), "{}", error);
    }
}

#[test]
fn a_stream_that_is_dropped_ends_its_thread() {
    let file = Temporary::new("word ".repeat(10_000).as_bytes(), Packed::No);
    let form = Form::Plain { document_end: None };
    let stream =
        Stream::of(vec![(source(&file.0, Packed::No, form), None)], Some(Specials::default()), 1, SMALL);
    let stop = Arc::downgrade(&stream.stop);
    drop(stream);
    for _ in 0..200 {
        if stop.strong_count() == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the thread reads on");
}
