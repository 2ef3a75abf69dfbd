//! PEM: blocks of base64 between two lines of dashes, with anything around them.

use std::fmt;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::secret::SecretBytes;

/// The base64 of a line of a block that is written (RFC 7468).
const COLUMNS: usize = 64;

/// The most blocks of a file: a MiB of the smallest certificates has fewer, and each costs time.
const BLOCKS: usize = 2048;

/// The longest label.
const LABEL: usize = 64;

/// A block of a PEM file.
#[derive(PartialEq, Eq)]
pub struct Block<'a> {
    /// What the block says that it is: `CERTIFICATE`, `PRIVATE KEY`.
    pub label: &'a str,
    /// Whether the block's headers say that it is encrypted (`Proc-Type: 4,ENCRYPTED`).
    pub encrypted: bool,
    /// What was between the lines, decoded; empty where it is encrypted.
    pub der: SecretBytes,
    /// What was between the lines.
    body: &'a [u8],
}

impl fmt::Debug for Block<'_> {
    // A block may hold a key: its bytes are never shown.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({} bytes)", self.label, self.der.len())
    }
}

/// The blocks of `text`, in their order. Lines outside of blocks are comments, and lines may end
/// in CRLF: Envoy reads it so. Behind a byte order mark Envoy would miss the first block.
///
/// # Errors
/// In a few words, when `text` is of another form, or a block is not whole: cut off, ended by
/// another label, or not base64.
pub fn blocks(text: &[u8]) -> Result<Vec<Block<'_>>, String> {
    let mut blocks = Vec::new();
    let mut rest = match text {
        [0xef, 0xbb, 0xbf, rest @ ..] => rest,
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => return Err("is UTF-16: Envoy takes ASCII".into()),
        // A sequence whose length is not a byte: no text begins so.
        [0x30, 0x80..=0xff, ..] => return Err("is DER: Envoy takes PEM".into()),
        text => text,
    };
    while let Some(line) = next_line(&mut rest) {
        let Some(label) = delimiter(line, "-----BEGIN ") else {
            continue;
        };
        if blocks.len() == BLOCKS {
            return Err(format!("has more than {BLOCKS} blocks"));
        }
        blocks.push(block(label, &mut rest)?);
    }
    Ok(blocks)
}

/// The blocks alone that `relabel` gives a label, written in one form under that: what is a
/// comment to us, or a block of another kind, is not there.
///
/// # Errors
/// When the kernel has no memory.
pub fn write<'a>(
    blocks: impl Iterator<Item = &'a Block<'a>> + Clone,
    relabel: impl Fn(&Block<'_>) -> Option<&'static str>,
) -> io::Result<SecretBytes> {
    let chosen = blocks.filter_map(|block| Some((block, relabel(block)?)));
    let lengths = chosen.clone().map(|(block, label)| {
        let length = block.body.len();
        length + length / COLUMNS + 2 * label.len() + "-----BEGIN -----\n-----END -----\n\n".len()
    });
    let mut text = SecretBytes::with_capacity(lengths.sum())?;
    for (block, label) in chosen {
        text.push(format!("-----BEGIN {label}-----\n").as_bytes())?;
        for (at, byte) in base64_of(block.body).enumerate() {
            if at > 0 && at % COLUMNS == 0 {
                text.push(b"\n")?;
            }
            text.push(&[byte])?;
        }
        text.push(format!("\n-----END {label}-----\n").as_bytes())?;
    }
    Ok(text)
}

/// Takes the next line off, without the white space at its end.
fn next_line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    if rest.is_empty() {
        return None;
    }
    let mut parts = rest.splitn(2, |byte| *byte == b'\n');
    let line = parts.next()?;
    *rest = parts.next().unwrap_or_default();
    Some(line.trim_ascii_end())
}

/// The rest of the block that began with `label`.
fn block<'a>(label: &'a str, rest: &mut &'a [u8]) -> Result<Block<'a>, String> {
    let body = *rest;
    let mut encrypted = false;
    loop {
        let length = body.len() - rest.len();
        let Some(line) = next_line(rest) else { break };
        if let Some(end) = delimiter(line, "-----END ") {
            if end != label {
                return Err(format!("a {label} block ends as {end}"));
            }
            let body = body.get(..length).unwrap_or_default();
            let der = if encrypted {
                SecretBytes::default()
            } else {
                decode(body).map_err(|why| format!("a {label} block {why}"))?
            };
            return Ok(Block {
                label,
                encrypted,
                der,
                body,
            });
        }
        if line.starts_with(b"-----BEGIN ") {
            break;
        }
        encrypted |= line.starts_with(b"Proc-Type:") && line.ends_with(b"ENCRYPTED");
    }
    Err(format!("a {label} block is cut off"))
}

fn decode(body: &[u8]) -> Result<SecretBytes, String> {
    let memory = |error: io::Error| format!("cannot be decoded: {error}");
    let mut base64 = SecretBytes::with_capacity(body.len()).map_err(memory)?;
    for byte in base64_of(body) {
        base64.push(&[byte]).map_err(memory)?;
    }
    let mut der = SecretBytes::with_capacity(base64.len() / 4 * 3 + 3).map_err(memory)?;
    // What exactly is wrong with it would show bytes of what may be a key.
    let length = STANDARD
        .decode_slice(&*base64, der.spare())
        .map_err(|_| "is not base64")?;
    der.grow(length);
    Ok(der)
}

/// The base64 between the lines: headers as in RFC 1421 have a colon, which base64 never has.
fn base64_of(body: &[u8]) -> impl Iterator<Item = u8> + '_ {
    body.split(|byte| *byte == b'\n')
        .filter(|line| !line.contains(&b':'))
        .flatten()
        .copied()
        .filter(|byte| !byte.is_ascii_whitespace())
}

/// The label of a line `-----BEGIN label-----`, where `start` is its beginning.
fn delimiter<'a>(line: &'a [u8], start: &str) -> Option<&'a str> {
    let label = line
        .strip_prefix(start.as_bytes())?
        .strip_suffix(b"-----")?;
    let plain = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b' ';
    if label.len() > LABEL || !label.iter().all(plain) {
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
    fn what_is_no_ascii_is_told_apart_from_what_holds_nothing() {
        let text = "-----BEGIN A-----\nAQID\n-----END A-----\n";
        assert_eq!(labels(&format!("\u{feff}{text}")).unwrap(), ["A"]);
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        let why = blocks(&[&[0xfe, 0xff], &wide[..]].concat()).unwrap_err();
        assert_eq!(why, "is UTF-16: Envoy takes ASCII");
        let why = blocks(&[0x30, 0x82, 0x01, 0x07]).unwrap_err();
        assert_eq!(why, "is DER: Envoy takes PEM");
        assert!(labels("0 s:CN = www").unwrap().is_empty());
    }

    #[test]
    fn neither_many_blocks_nor_a_long_label_cost_much() {
        let text = "-----BEGIN A-----\n-----END A-----\n";
        assert_eq!(labels(&text.repeat(2048)).unwrap().len(), 2048);
        let why = labels(&text.repeat(2049)).unwrap_err();
        assert_eq!(why, "has more than 2048 blocks");
        let long = format!("-----BEGIN {}-----\n", "A".repeat(65));
        assert!(labels(&long).unwrap().is_empty());
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

    #[test]
    fn what_is_written_holds_the_chosen_blocks_in_one_form_and_nothing_else() {
        let long = "A".repeat(100);
        let text = format!(
            "# a comment\r\n-----BEGIN A-----\r\nx-header: 1\r\n{long}\r\n-----END A-----\r\n\
             -----BEGIN KEY-----\nAQID\n-----END KEY-----\n-----BEGIN A-----\nAQID\n-----END A-----"
        );
        let read = blocks(text.as_bytes()).unwrap();
        let written = write(read.iter(), |block| (block.label == "A").then_some("B")).unwrap();
        let expected = format!(
            "-----BEGIN B-----\n{}\n{}\n-----END B-----\n\
             -----BEGIN B-----\nAQID\n-----END B-----\n",
            &long[..64],
            &long[64..]
        );
        assert_eq!(*written, *expected.as_bytes());
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
