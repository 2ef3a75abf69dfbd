//! PEM: blocks of base64 between two lines of dashes, with anything around them.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// One block of a PEM file.
#[derive(PartialEq, Eq)]
pub struct Block<'a> {
    /// What it says it is: `CERTIFICATE`, `PRIVATE KEY`.
    pub label: &'a str,
    /// Whether its headers say that it is encrypted (`Proc-Type: 4,ENCRYPTED`).
    pub encrypted: bool,
    /// What was between the lines, decoded; empty where it is encrypted.
    pub der: Vec<u8>,
}

impl fmt::Debug for Block<'_> {
    // A block may hold a key: its bytes are never shown.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({} bytes)", self.label, self.der.len())
    }
}

/// The blocks of `text`, in their order. Lines outside of blocks are comments, and lines may end
/// in CRLF: Envoy reads it so.
///
/// # Errors
/// In a few words, when a block is not whole: cut off, ended by another label, or not base64.
pub fn blocks(text: &[u8]) -> Result<Vec<Block<'_>>, String> {
    let mut blocks = Vec::new();
    let mut lines = text
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii_end);
    while let Some(line) = lines.next() {
        let Some(label) = delimiter(line, "-----BEGIN ") else {
            continue;
        };
        blocks.push(block(label, &mut lines)?);
    }
    Ok(blocks)
}

/// The rest of the block that began with `label`.
fn block<'a>(
    label: &'a str,
    lines: &mut impl Iterator<Item = &'a [u8]>,
) -> Result<Block<'a>, String> {
    let mut base64 = Vec::new();
    let mut encrypted = false;
    for line in lines {
        if let Some(end) = delimiter(line, "-----END ") {
            if end != label {
                return Err(format!("a {label} block ends as {end}"));
            }
            let der = if encrypted {
                Vec::new()
            } else {
                // What exactly is wrong with it would show bytes of what may be a key.
                STANDARD
                    .decode(&base64)
                    .map_err(|_| format!("a {label} block is not base64"))?
            };
            return Ok(Block {
                label,
                encrypted,
                der,
            });
        }
        if line.starts_with(b"-----BEGIN ") {
            break;
        }
        // Headers as in RFC 1421 have a colon, which base64 never has.
        if line.contains(&b':') {
            encrypted |= line.starts_with(b"Proc-Type:") && line.ends_with(b"ENCRYPTED");
        } else if !encrypted {
            base64.extend(line.iter().filter(|byte| !byte.is_ascii_whitespace()));
        }
    }
    Err(format!("a {label} block is cut off"))
}

/// The label of a line `-----BEGIN label-----`, where `start` is its beginning.
fn delimiter<'a>(line: &'a [u8], start: &str) -> Option<&'a str> {
    let label = line
        .strip_prefix(start.as_bytes())?
        .strip_suffix(b"-----")?;
    let plain = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b' ';
    if !label.iter().all(plain) {
        return None;
    }
    std::str::from_utf8(label).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(text: &str) -> Result<Vec<&str>, String> {
        Ok(blocks(text.as_bytes())?.iter().map(|b| b.label).collect())
    }

    #[test]
    fn comments_crlf_and_several_blocks_are_read() {
        let text = "subject=CN: x\r\n-----BEGIN A-----\r\nAQ\r\nID\r\n-----END A-----\r\n\r\n# two\n\
                    -----BEGIN B B-----\n-----END B B-----";
        let read = blocks(text.as_bytes()).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].label, &read[0].der[..]), ("A", &[1, 2, 3][..]));
        assert_eq!((read[1].label, &read[1].der[..]), ("B B", &[][..]));
    }

    #[test]
    fn a_block_that_is_not_whole_is_refused_with_its_label() {
        for (text, why) in [
            ("-----BEGIN A-----\nAQID\n", "a A block is cut off"),
            (
                "-----BEGIN A-----\nAQID\n-----END A",
                "a A block is cut off",
            ),
            (
                "-----BEGIN A-----\nAQID\n-----BEGIN A-----\nAQID\n-----END A-----",
                "a A block is cut off",
            ),
            (
                "-----BEGIN A-----\nAQID\n-----END B-----",
                "a A block ends as B",
            ),
            (
                "-----BEGIN A-----\nAQI\n-----END A-----",
                "a A block is not base64",
            ),
            (
                "-----BEGIN A-----\nA*ID\n-----END A-----",
                "a A block is not base64",
            ),
        ] {
            assert_eq!(labels(text), Err(why.to_owned()), "{text}");
        }
    }

    #[test]
    fn text_without_blocks_has_none() {
        assert_eq!(labels(""), Ok(vec![]));
        assert_eq!(labels("garbage\0\n  -----BEGIN A-----\n"), Ok(vec![]));
    }

    #[test]
    fn the_header_of_an_encrypted_key_is_seen() {
        let text = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\
                    DEK-Info: AES-256-CBC,00\n\nAQID\n-----END EC PRIVATE KEY-----";
        assert!(blocks(text.as_bytes()).unwrap()[0].encrypted);
    }

    #[test]
    fn what_is_printed_of_a_block_never_holds_its_bytes() {
        let text = b"-----BEGIN PRIVATE KEY-----\nAQID\n-----END PRIVATE KEY-----";
        assert_eq!(
            format!("{:?}", blocks(text).unwrap()),
            "[PRIVATE KEY (3 bytes)]"
        );
    }

    proptest! {
        #[test]
        fn no_input_makes_it_panic(text: Vec<u8>) {
            let _ = blocks(&text);
        }

        #[test]
        fn no_dashed_input_makes_it_panic(text in "(-----(BEGIN|END) [AB]-----\r?\n|[A-Za-z0-9+/=: \n]{0,9}){0,12}") {
            let _ = blocks(text.as_bytes());
        }
    }
}
