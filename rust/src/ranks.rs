//! tiktoken's files: a line for each token, its bytes in base64 and its id.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Error, Result};

/// The tokens of a .tiktoken file. Empty lines say nothing; an error names the first line that is no token.
pub fn parse(data: &[u8]) -> Result<Vec<(u32, Vec<u8>)>> {
    let mut tokens = Vec::new();
    for (index, line) in data.split(|&byte| byte == b'\n').enumerate() {
        let mut fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
        let token = match (fields.next(), fields.next(), fields.next()) {
            (None, ..) => continue,
            (Some(bytes), Some(id), None) => STANDARD.decode(bytes).ok().zip(number(id)),
            _ => None,
        };
        let Some((bytes, id)) = token else {
            return Err(Error::tokenizer(format!(
                "line {} is not a token in base64 and an id, as in a .tiktoken file: {:?}",
                index + 1,
                String::from_utf8_lossy(&line[..line.len().min(60)])
            )));
        };
        tokens.push((id, bytes));
    }
    if tokens.is_empty() {
        return Err(Error::tokenizer("the file is empty"));
    }
    Ok(tokens)
}

fn number(digits: &[u8]) -> Option<u32> {
    str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_tokens() {
        assert_eq!(parse(b"YQ== 0\r\n\nYWI= 7").unwrap(), [(0, b"a".to_vec()), (7, b"ab".to_vec())]);
        for (broken, line) in [
            ("YQ== 0\nYQ", 2),
            ("YQ== 0 1", 1),
            ("YQ 0", 1),
            ("YQ== -1", 1),
            ("YQ== 4294967296", 1),
            ("é 1", 1),
        ] {
            assert!(parse(broken.as_bytes()).unwrap_err().message.starts_with(&format!("line {line} ")));
        }
        assert!(parse(b"\n").is_err());
    }
}
