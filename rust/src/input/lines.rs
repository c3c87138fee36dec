//! JSON Lines: an object a line, of which one field is a text.

use std::borrow::Cow;
use std::fmt;

use memchr::memchr;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::Sink;
use super::open::Input;
use crate::error::Result;

/// Hands on the field of every line. Lines with nothing but white space are passed over.
pub fn read(input: &mut Input, field: &str, sink: &mut Sink) -> Result<()> {
    let mut text = String::new(); // the lines that were not handed on yet
    let mut value = String::new();
    let (mut number, mut searched) = (0u64, 0);
    loop {
        let more = input.more(&mut text)?;
        let mut start = 0;
        while start < text.len() {
            let end = match memchr(b'\n', &text.as_bytes()[searched..]) {
                Some(at) => searched + at + 1,
                None if more => break,
                None => text.len(),
            };
            number += 1;
            let line = text[start..end].trim_start_matches(if number == 1 { '\u{feff}' } else { ' ' }).trim();
            if !line.is_empty() {
                if let Err(problem) = take(line, field, &mut value) {
                    return Err(input.error(format_args!("line {number} {problem}")));
                }
                sink.part(&value, true)?;
            }
            (start, searched) = (end, end);
        }
        if !more {
            return Ok(());
        }
        text.drain(..start);
        searched = text.len();
    }
}

/// Puts the field's text into `value`, or says what is wrong with the line.
fn take(line: &str, field: &str, value: &mut String) -> std::result::Result<(), String> {
    value.clear();
    let mut found = parse(line, Object { field, value, keys: None, lenient: false });
    // JSON can spell half of a surrogate pair, which no UTF-8 can hold. Rare, so looked at only when the parser
    // objects: it becomes U+FFFD, as in a str of Python.
    if found.as_ref().is_err_and(|error| error.to_string().contains("hex escape")) {
        value.clear();
        found = parse(line, Object { field, value, keys: None, lenient: true });
    }
    match found {
        Ok(true) => Ok(()),
        Ok(false) => {
            let mut keys = Vec::new();
            // It was parsed before, so that this cannot fail.
            let _ = parse(line, Object { field, value, keys: Some(&mut keys), lenient: true });
            keys.truncate(20);
            let keys =
                if keys.is_empty() { "it has none".into() } else { format!("it has: {}", keys.join(", ")) };
            Err(format!("has no field {field:?}; {keys}"))
        }
        Err(error) => {
            let place = format!(" at line {} column {}", error.line(), error.column());
            let message = error.to_string().replace(&place, "");
            let hint = match line.as_bytes()[0] {
                b'[' => ". Expected an object on each line, not an array over several",
                b'{' => "",
                _ => ". Expected an object on each line, such as {\"text\": \"...\"}",
            };
            if error.is_data() {
                return Err(format!("has another form: {message}{hint}"));
            }
            Err(format!("is not JSON: {message}, at its byte {}{hint}", error.column()))
        }
    }
}

/// True if the field is there.
fn parse(line: &str, object: Object<'_>) -> serde_json::Result<bool> {
    let mut parser = serde_json::Deserializer::from_str(line);
    let found = object.deserialize(&mut parser)?;
    parser.end()?;
    Ok(found)
}

/// An object, of which the field is put into `value`. Of two fields of the same name the last counts, as in Python.
struct Object<'a> {
    field: &'a str,
    value: &'a mut String,
    /// If asked for, the names of the fields.
    keys: Option<&'a mut Vec<String>>,
    /// Are halves of surrogate pairs taken?
    lenient: bool,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> std::result::Result<bool, D::Error> {
        parser.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with the field {:?}", self.field)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> std::result::Result<bool, A::Error> {
        let mut found = false;
        while let Some(Key(key)) = map.next_key()? {
            if key == self.field {
                found = true;
                self.value.clear();
                map.next_value_seed(Text { field: self.field, value: self.value, lenient: self.lenient })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
            if let Some(keys) = &mut self.keys {
                keys.push(key.into_owned());
            }
        }
        Ok(found)
    }
}

/// A name, without a copy where it is written without escapes.
struct Key<'de>(Cow<'de, str>);

impl<'de> de::Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(parser: D) -> std::result::Result<Self, D::Error> {
        struct Name;
        impl<'de> Visitor<'de> for Name {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E: de::Error>(self, name: &'de str) -> std::result::Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(name)))
            }

            fn visit_str<E: de::Error>(self, name: &str) -> std::result::Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(name.into())))
            }
        }
        parser.deserialize_str(Name)
    }
}

/// The text of a field.
struct Text<'a> {
    field: &'a str,
    value: &'a mut String,
    lenient: bool,
}

impl<'de> DeserializeSeed<'de> for Text<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> std::result::Result<(), D::Error> {
        if self.lenient { parser.deserialize_bytes(self) } else { parser.deserialize_str(self) }
    }
}

impl Visitor<'_> for Text<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a string in the field {:?}", self.field)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<(), E> {
        self.value.push_str(text);
        Ok(())
    }

    fn visit_bytes<E: de::Error>(self, text: &[u8]) -> std::result::Result<(), E> {
        for chunk in text.utf8_chunks() {
            self.value.push_str(chunk.valid());
            match chunk.invalid() {
                [] | [0x80..=0xbf, ..] => {} // the bytes after the first of a half, which come one by one
                [0xed, ..] => self.value.push('\u{fffd}'),
                other => return Err(E::custom(format_args!("unexpected bytes {other:?}"))),
            }
        }
        Ok(())
    }
}
