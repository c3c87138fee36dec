//! Targets that read what others wrote: a saved state, a file of text, a pattern, special tokens.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::time::Duration;

use hornbook::batch::{Choice, Encoder};
use hornbook::count::{Counter, Counting};
use hornbook::error::Kind;
use hornbook::input::{Form, Packed, Sizes, Source, Stream};
use hornbook::special::Specials;
use hornbook::split::{Pattern, Span};
use hornbook::tally::Tally;
use hornbook::train::{Options, train};
use hornbook::{Result, Rule, Tokenizer, cut};

use super::input::Input;
use super::naive;
use super::texts::{cutters, decoded};

/// Any bytes are the state of a tokenizer that works, or an error.
pub fn state(data: &[u8]) {
    let Ok(tokenizer) = Tokenizer::from_state(data, &[]) else { return };
    let state = tokenizer.to_state();
    let again = Tokenizer::from_state(&state, &tokenizer.splits()).expect("what was written can be read");
    assert_eq!(state, again.to_state());
    assert_eq!(tokenizer.merges(), again.merges());
    let text = "The thing's <|end|> 123 \n\n  été 中文 aaaaaaaaaaaaaaaaaaaaa";
    let encode = |tokenizer: &Tokenizer| {
        Encoder::new(tokenizer, Choice::All, Choice::None).and_then(|encoder| encoder.one(text, &mut ()))
    };
    let ids = encode(&tokenizer);
    assert_eq!(ids, encode(&again));
    if let Ok(ids) = ids {
        let bytes = decoded(&tokenizer, &ids).expect("ids of this tokenizer");
        if tokenizer.rule != Rule::Ranks || tokenizer.pattern.cuttable() || tokenizer.pattern == Pattern::None
        {
            assert_eq!(bytes, text.as_bytes());
        }
    }
}

/// Gives its bytes in portions of all sizes, as a pipe might.
struct Portions {
    rest: Vec<u8>,
    size: usize,
}

impl Read for Portions {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = (1 + self.size % 7).min(buffer.len()).min(self.rest.len());
        self.size = self.size / 7 + self.rest.len();
        buffer[..len].copy_from_slice(&self.rest[..len]);
        self.rest.drain(..len);
        Ok(len)
    }
}

/// A file read in small windows has the counts of the whole text, and bytes that are not UTF-8 are named, or the first NUL.
pub fn source(data: &[u8]) {
    let mut input = Input::new(data);
    let (pattern, cutter) = &cutters()[input.below(cutters().len())];
    let (window, size) = (1 + input.below(64), input.below(256));
    let made;
    let file = if input.below(2) == 0 {
        made = input.text(200);
        made.as_bytes()
    } else {
        input.bytes(500)
    };
    let specials = || Specials::new(vec![("<|end|>".into(), 0), ("d|>".into(), 0)]).unwrap();
    let mut counting = Counting::new(pattern.clone(), specials(), 1).unwrap();
    let form = Form::Plain { document_end: None };
    let source = Source { path: "a file".into(), packed: Packed::No, form };
    let reader: Box<dyn Read + Send> = Box::new(Portions { rest: file.to_vec(), size });
    let cut = pattern.cuttable().then(specials);
    let sizes = Sizes { chunk: window.max(4), bytes: window, texts: 4 };
    let stream = Stream::of(vec![(source, Some(reader))], cut, 1, sizes);
    let result = counting.add_stream(stream, None, &mut ());
    let valid = std::str::from_utf8(file).map_or_else(|error| error.valid_up_to(), str::len);
    match std::str::from_utf8(file) {
        _ if file[..valid].contains(&0) => {
            let (at, refused) = (file.iter().position(|&byte| byte == 0).unwrap(), result.unwrap_err());
            assert!(
                refused.message.contains(&format!("binary, not text: byte 0x00 at offset {at}.")),
                "{refused}"
            );
        }
        Ok(text) => {
            result.unwrap();
            assert_eq!(counting.bytes(), text.len() as u64);
            let mut expected = BTreeMap::new();
            for (start, end, special) in naive::parts(text, specials().tokens()) {
                if special.is_none() {
                    for (from, to) in cutter.pieces(&text[start..end], false).unwrap() {
                        *expected.entry(text.as_bytes()[start + from..start + to].to_vec()).or_default() += 1;
                    }
                }
            }
            assert_eq!(sorted(&counting.finish()), expected, "{text:?} in windows of {window}");
        }
        Err(error) => {
            let (at, refused) = (error.valid_up_to(), result.unwrap_err());
            assert_eq!(refused.kind, Kind::Data);
            assert!(
                refused.message.contains(&format!("0x{:02x} at offset {at}.", file[at])),
                "{refused} in {file:?}"
            );
        }
    }
}

/// Any bytes, said to be packed and of some form, are texts or an error about the file; and packing them changes nothing.
pub fn files(data: &[u8]) {
    let mut input = Input::new(data);
    let packed = [Packed::No, Packed::Gzip, Packed::Zstd][input.below(3)];
    let form = match input.below(3) {
        0 => Form::Plain { document_end: None },
        1 => Form::Plain { document_end: Some("<|end|>".into()) },
        _ => Form::Lines { field: "a".into() },
    };
    let (window, size) = (1 + input.below(64), input.below(256));
    let rest = input.bytes(usize::MAX);
    let read = |content: &[u8], packed| {
        let source = Source { path: "a file".into(), packed, form: form.clone() };
        let reader: Box<dyn Read + Send> = Box::new(Portions { rest: content.to_vec(), size });
        let sizes = Sizes { chunk: window.max(4), bytes: window, texts: 4 };
        let mut stream = Stream::of(vec![(source, Some(reader))], None, 1, sizes);
        let mut texts: Vec<String> = Vec::new();
        loop {
            match stream.next(Duration::from_secs(60))?.expect("a small file is read at once") {
                Some(batch) => texts.extend(batch.parts().map(str::to_string)),
                None => return Ok(texts),
            }
        }
    };
    let texts: Result<Vec<String>> = read(rest, packed);
    if let Err(error) = &texts {
        assert!(error.kind == Kind::Data && error.message.starts_with("a file: "), "{error}");
    }
    if packed != Packed::No {
        return;
    }
    if let (Ok(texts), Form::Lines { .. }) = (&texts, &form) {
        let text = std::str::from_utf8(rest).expect("it was read");
        let lines = text
            .strip_prefix('\u{feff}')
            .unwrap_or(text)
            .split('\n')
            .map(str::trim)
            .filter(|line| !line.is_empty());
        assert_eq!(lines.clone().count(), texts.len());
        for (line, text) in lines.zip(texts) {
            // serde_json refuses halves of surrogate pairs.
            if let Ok(value) = serde_json::from_str::<serde_json::Value>(line) {
                assert_eq!(value["a"].as_str(), Some(text.as_str()), "{line}");
            }
        }
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(rest).unwrap();
    for (bytes, packed) in
        [(gzip.finish().unwrap(), Packed::Gzip), (zstd::encode_all(rest, 1).unwrap(), Packed::Zstd)]
    {
        match (read(&bytes, packed), &texts) {
            (Ok(unpacked), Ok(texts)) => assert_eq!(&unpacked, texts),
            (unpacked, texts) => assert_eq!(unpacked.is_err(), texts.is_err(), "{unpacked:?}, but {texts:?}"),
        }
    }
}

/// Any bytes are the counts of something, which are read back as they were written, or an error. The checksum is made to
/// fit, or hardly anything would be looked at.
pub fn counts(data: &[u8]) {
    let sum = crc32fast::hash(data).to_le_bytes();
    let Ok(found) = Tally::from_bytes(&[data, &sum].concat(), &mut ()) else { return };
    let mut size = 0;
    found.counter.for_each(|piece, count| size += piece.len() as u64 * count);
    assert!(size <= found.bytes);
    let bytes = found.to_bytes();
    let again = Tally::from_bytes(&bytes, &mut ()).expect("what was written can be read");
    assert_eq!((again.texts, again.bytes), (found.texts, found.bytes));
    assert_eq!(sorted(&again.counter), sorted(&found.counter));
    assert_eq!(again.to_bytes(), bytes);
    assert_eq!(found.copy().expect("it is not too large").to_bytes(), bytes);
    train(found.counter, &Options::new(300), &mut ()).expect("counts can be trained on");
}

fn sorted(counter: &Counter) -> BTreeMap<Vec<u8>, u64> {
    let mut all = BTreeMap::new();
    counter
        .for_each(|piece, count| assert!(all.insert(piece.to_vec(), count).is_none(), "a piece came twice"));
    all
}

/// Any string is a pattern that cuts texts, or an error.
pub fn pattern(data: &[u8]) {
    let mut input = Input::new(data);
    let len = input.below(200);
    let spelled = String::from_utf8_lossy(input.bytes(len)).into_owned();
    let pattern = Pattern::parse(Some(&spelled));
    let Ok(splitter) = pattern.splitter() else { return };
    let text = input.text(100);
    for drop_gaps in [false, true] {
        let mut spans: Vec<Span> = Vec::new();
        let result = splitter.for_each_batch(&text, drop_gaps, |found| {
            spans.extend_from_slice(found);
            Ok(())
        });
        let mut at = 0;
        for &(start, end) in &spans {
            assert!(
                start < end && if drop_gaps { at <= start } else { at == start },
                "{spelled:?} on {text:?}"
            );
            assert!(text.is_char_boundary(start) && text.is_char_boundary(end));
            at = end;
        }
        if result.is_ok() && !drop_gaps {
            assert_eq!(at, text.len(), "{spelled:?} on {text:?}");
        }
    }
}

/// Special tokens are found where they are, and never cut.
pub fn special(data: &[u8]) {
    let mut input = Input::new(data);
    let mut tokens: Vec<(String, u32)> = Vec::new();
    for id in 0..input.below(8) as u32 {
        let len = input.below(7);
        let token: String =
            input.bytes(len).iter().map(|byte| ["<", ">", "a", " ", "é"][usize::from(byte % 5)]).collect();
        if tokens.iter().all(|(known, _)| *known != token) {
            tokens.push((token, id));
        }
    }
    let no_empty = tokens.iter().all(|(token, _)| !token.is_empty());
    let Ok(specials) = Specials::new(tokens.clone()) else { return assert!(!no_empty) };
    assert!(no_empty);
    let size = 1 + input.below(20);
    let text: String =
        (0..input.len().min(200)).map(|_| ["<", ">", "a", " ", "é", "1", "'"][input.below(7)]).collect();
    let mut found = Vec::new();
    specials
        .for_each_part(&text, |start, end, id| {
            found.push((start, end, id));
            Ok(())
        })
        .unwrap();
    assert_eq!(found, naive::parts(&text, &tokens), "{tokens:?} in {text:?}");
    for at in (0..=text.len()).filter(|&at| text.is_char_boundary(at)) {
        let crosses = tokens.iter().any(|(token, _)| {
            (0..at).any(|start| {
                start + token.len() > at && text.as_bytes()[start..].starts_with(token.as_bytes())
            })
        });
        assert_eq!(specials.crosses(&text, at), crosses, "{tokens:?} in {text:?} at {at}");
    }
    let parts = cut::parts(&text, size, &specials);
    assert_eq!(parts.concat(), text);
    let mut at = 0;
    for part in &parts {
        assert!(!part.is_empty() && !specials.crosses(&text, at));
        at += part.len();
    }
}
