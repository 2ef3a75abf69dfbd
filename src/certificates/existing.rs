//! What an SDS file holds already.

use std::io;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use log::warn;
use serde_json::{Map, Value};

use super::directory::Sds;
use super::read::Material;
use super::sds::{LEAF_ONLY, Secret, SecretKind};
use super::secret::SecretBytes;

/// What an SDS file holds.
#[derive(Default)]
pub struct Existing {
    /// The generation; 0 where it has none.
    pub generation: u64,
    /// The secret, without its name.
    pub body: Option<Map<String, Value>>,
    /// The first key that is inline anywhere in it. The body has none.
    pub key: Option<SecretBytes>,
}

impl Existing {
    /// Reads a file: what is not there, or not to be read, is as good as absent.
    ///
    /// # Errors
    /// When the kernel has no memory.
    pub fn read(sds: &Sds, secret: &Secret) -> io::Result<Existing> {
        match sds.read(secret.file()) {
            Ok(Some(text)) => Existing::parse(text, secret),
            Ok(None) => Ok(Existing::default()),
            Err(error) => {
                warn!("{}: {error}", secret.name);
                Ok(Existing::default())
            }
        }
    }

    fn parse(mut text: SecretBytes, secret: &Secret) -> io::Result<Existing> {
        // The parser's own memory is nothing for a key.
        let key = take_keys(&mut text)?;
        // `from_slice` would be a second parser in the program, 5 kB large.
        let text = std::str::from_utf8(&text).ok();
        let response = text.and_then(|text| serde_json::from_str(text).ok());
        let Some(Value::Object(mut response)) = response else {
            return Ok(Existing::default());
        };
        let version = take(&mut response, "version_info");
        let version = version.as_ref().and_then(Value::as_str);
        let generation = version.and_then(|version| version.strip_prefix("gen-")?.parse().ok());
        // Nobody gets beyond that by counting.
        let generation = generation.filter(|generation| *generation < 1 << 53);
        let resource = match take(&mut response, "resources") {
            Some(Value::Array(resources)) => resources.into_iter().next(),
            _ => None,
        };
        let body = match resource {
            Some(Value::Object(mut resource)) => take(&mut resource, secret.kind.field()),
            _ => None,
        };
        Ok(Existing {
            generation: generation.unwrap_or(0),
            body: match body {
                Some(Value::Object(body)) => Some(body),
                _ => None,
            },
            key,
        })
    }

    /// What the secret is made of, taken out; none where not all of that is inline.
    ///
    /// # Errors
    /// When the kernel has no memory.
    pub fn material(&mut self, kind: SecretKind) -> io::Result<Option<Material>> {
        Ok(match kind {
            SecretKind::Certificate => {
                let staple = self.take("ocsp_staple", "inline_bytes")?;
                let staple = staple.and_then(|staple| STANDARD.decode(&*staple).ok());
                let staple = staple
                    .map(|staple| SecretBytes::copy(&staple))
                    .transpose()?;
                let cert = self.take("certificate_chain", "inline_string")?;
                cert.zip(self.key.take()).map(|(cert, key)| Material::Pair {
                    cert,
                    key,
                    staple: staple.map(Ok),
                })
            }
            SecretKind::Validation => {
                let leaf_only = self.body.as_ref().and_then(|body| body.get(LEAF_ONLY));
                let leaf_only = leaf_only == Some(&Value::Bool(true));
                let crl = self.take("crl", "inline_string")?;
                let ca = self.take("trusted_ca", "inline_string")?;
                ca.map(|ca| Material::Trust { ca, crl, leaf_only })
            }
        })
    }

    /// What a validation context says besides: whom to expect.
    pub fn context(self, kind: SecretKind) -> Option<Map<String, Value>> {
        let mut body = self.body.filter(|_| kind == SecretKind::Validation)?;
        // Without its files, watching their directory makes no sense.
        for name in ["watched_directory", LEAF_ONLY] {
            take(&mut body, name);
        }
        let mut context = Map::new();
        context.extend(body.into_iter().filter(|(_, value)| !value.is_null()));
        Some(context)
    }

    /// The text of a data source that is inline, taken out.
    fn take(&mut self, name: &str, form: &str) -> io::Result<Option<SecretBytes>> {
        let source = self.body.as_mut().and_then(|body| take(body, name));
        let text = source.as_ref().and_then(|source| {
            let text = source.get(form);
            text.or_else(|| source.get(camel(form)))?.as_str()
        });
        text.map(|text| SecretBytes::copy(text.as_bytes()))
            .transpose()
    }
}

/// Takes all keys out of JSON, and leaves blanks; the first of them.
fn take_keys(json: &mut SecretBytes) -> io::Result<Option<SecretBytes>> {
    let mut first = None;
    let mut from = 0;
    while let Some(range) = next_key(json, from) {
        from = range.end;
        let found = json.get_mut(range).unwrap_or_default();
        if first.is_none() {
            let mut key = SecretBytes::with_capacity(found.len() + 1)?;
            let mut rest = &*found;
            while let Some((byte, after)) = rest.split_first() {
                // A line's end, as JSON has it.
                let end = rest.starts_with(b"\\n");
                key.push(if end {
                    b"\n"
                } else {
                    std::slice::from_ref(byte)
                })?;
                rest = if end {
                    rest.get(2..).unwrap_or_default()
                } else {
                    after
                };
            }
            key.push(b"\n")?;
            first = Some(key);
        }
        found.fill(b' ');
    }
    Ok(first)
}

/// Where the next block of a key is: from the beginning of its first line to the end of its last.
fn next_key(text: &[u8], from: usize) -> Option<Range<usize>> {
    const BEGIN: &[u8] = b"-----BEGIN ";
    const KEY: &[u8] = b"PRIVATE KEY-----";
    let find = |what: &[u8], from: usize| {
        let mut places = text.get(from..)?.windows(what.len());
        places.position(|place| place == what).map(|at| from + at)
    };
    let mut begin = find(BEGIN, from)?;
    loop {
        let label = begin + BEGIN.len();
        let dashes = find(b"-----", label)?;
        let end = dashes + b"-----".len();
        if text.get(label..end)?.ends_with(KEY) {
            // It ends with the same words.
            let last = find(KEY, end).map_or(text.len(), |at| at + KEY.len());
            return Some(begin..last);
        }
        begin = find(BEGIN, end)?;
    }
}

/// Takes a field's value out and leaves null, in either of the spellings that protobuf's JSON has:
/// `trusted_ca` and `trustedCa`.
pub fn take(object: &mut Map<String, Value>, name: &str) -> Option<Value> {
    let spelling = [name.to_owned(), camel(name)];
    let spelling = spelling.into_iter().find(|name| object.contains_key(name));
    spelling
        .and_then(|name| object.get_mut(&name))
        .map(Value::take)
}

fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let mut camel = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        camel.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        camel.push_str(letters.as_str());
    }
    camel
}
