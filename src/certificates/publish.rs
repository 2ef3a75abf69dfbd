//! Writes the SDS files that Envoy watches: each a `DiscoveryResponse` with exactly one secret,
//! its PEM inline, so that a certificate and its key cannot be mixed.

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::check;
use super::directory::{Access, Sds};
use super::existing::Existing;
use super::name::{self, CONTOUR_CA, CONTOUR_CA_FILE, CONTOUR_LEAF, CONTOUR_LEAF_FILE};
use super::read::{Contents, Material};
use super::sds::{LEAF_ONLY, Secret, SecretKind};
use super::secret::SecretBytes;
use crate::json::json;

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";

/// Where a set is published.
#[derive(Clone, Debug)]
pub struct SdsTarget {
    /// The set's secret, or that of its certificate and key.
    pub first: Secret,
    /// The secret of the CA bundle that belongs to that, where one does.
    pub ca: Option<Secret>,
    /// The resources directory.
    dir: PathBuf,
    /// The validation context without its files: whom to expect there.
    context: Map<String, Value>,
}

/// What is published already.
#[derive(Debug, Default)]
pub struct Published {
    /// The highest generation in any of the files; 0 where there is none.
    pub generation: u64,
    /// What the files hold inline, where all of them are of one generation.
    pub contents: Option<Contents>,
}

impl SdsTarget {
    /// The xDS client's set, below this resources directory.
    pub fn contour(dir: &Path) -> SdsTarget {
        let secret = |name: &str, kind, file: &str| Secret {
            name: name.to_owned(),
            kind,
            path: dir.join("sds").join(format!("{file}.json")),
        };
        SdsTarget {
            first: secret(CONTOUR_LEAF, SecretKind::Certificate, CONTOUR_LEAF_FILE),
            ca: Some(secret(CONTOUR_CA, SecretKind::Validation, CONTOUR_CA_FILE)),
            dir: dir.to_owned(),
            context: contour_context(),
        }
    }

    /// A listener's secret, below this resources directory.
    pub fn listener(dir: &Path, name: &str, kind: SecretKind) -> SdsTarget {
        SdsTarget {
            first: Secret {
                name: name.to_owned(),
                kind,
                path: dir.join("sds").join(name::file_name(name)),
            },
            ca: None,
            dir: dir.to_owned(),
            context: Map::new(),
        }
    }

    /// The secrets, in the order of what they are made of.
    pub fn secrets(&self) -> impl DoubleEndedIterator<Item = &Secret> {
        std::iter::once(&self.first).chain(&self.ca)
    }

    /// The secrets' names.
    pub fn names(&self) -> Vec<&str> {
        self.secrets().map(|secret| secret.name.as_str()).collect()
    }

    /// Looks at the files that are there: the matchers of a validation context are kept from here
    /// on, whoever wrote them. What is not there, or not to be read, is as good as absent.
    ///
    /// # Errors
    /// When the kernel has no memory.
    pub fn take_over(&mut self) -> io::Result<Published> {
        // Why it cannot be opened was said by the sweep, once for all secrets.
        let Ok(sds) = Sds::open(&self.dir) else {
            return Ok(Published::default());
        };
        let mut generations = Vec::new();
        let mut contents = Some(Contents::new());
        let mut context = None;
        for secret in self.secrets() {
            let mut existing = Existing::read(&sds, secret)?;
            generations.push(existing.generation);
            // An earlier version published whatever the files held: that is written anew.
            let clean = |found: &Material| check::cleaned(found).is_ok_and(|clean| clean == *found);
            let material = existing.material(secret.kind)?.filter(clean);
            contents = contents.zip(material).map(|(mut all, material)| {
                all.push(material);
                all
            });
            context = existing.context(secret.kind).or(context);
        }
        self.context = context.unwrap_or(std::mem::take(&mut self.context));
        let generation = generations.iter().copied().max().unwrap_or(0);
        let whole = generation > 0 && generations.iter().all(|one| *one == generation);
        Ok(Published {
            generation,
            contents: contents.filter(|_| whole),
        })
    }

    /// Removes what an earlier drainit left in the directory, and says whose that is.
    ///
    /// # Errors
    /// When it is not to be trusted, or something cannot be removed; also when it is not there.
    pub fn sweep(resources: &Path) -> io::Result<String> {
        let sds = Sds::open(resources)?;
        sds.sweep()?;
        Ok(sds.describe())
    }

    /// Publishes a set: the CA first, so that the new leaf's peers are trusted when it comes.
    ///
    /// # Errors
    /// When a file cannot be written. The files may be of two generations then; each is whole.
    pub fn publish(&self, generation: u64, contents: &Contents) -> io::Result<()> {
        let sds = Sds::make(&self.dir, Access::Owner)?;
        let secrets: Vec<_> = self.secrets().zip(contents).collect();
        for (secret, material) in secrets.into_iter().rev() {
            let text = response(generation, secret, &self.body(material)?)?;
            sds.replace(secret.file(), &text)?;
        }
        Ok(())
    }

    /// Publishes that there is no secret, for an Envoy that must have a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn vacate(&self, generation: u64) -> io::Result<()> {
        let sds = Sds::make(&self.dir, Access::Owner)?;
        sds.replace(self.first.file(), vacant(generation).as_bytes())
    }

    /// Whether the files hold what [`SdsTarget::publish`] wrote, or without contents
    /// [`SdsTarget::vacate`].
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn holds(&self, generation: u64, contents: Option<&Contents>) -> io::Result<bool> {
        let sds = match Sds::open(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            sds => sds?,
        };
        let holds = |secret: &Secret, text: &[u8]| {
            let found = sds.read(secret.file())?;
            io::Result::Ok(found.is_some_and(|found| *found == *text))
        };
        let Some(contents) = contents else {
            return holds(&self.first, vacant(generation).as_bytes());
        };
        for (secret, material) in self.secrets().zip(contents) {
            if !holds(
                secret,
                &response(generation, secret, &self.body(material)?)?,
            )? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The SDS files in Contour's own form: they name the files, and Envoy reads those.
    pub fn by_filename(&self, cert: &str, key: &str, ca: &str) -> Vec<(&Secret, Value)> {
        let certificate = json!({
            "certificate_chain": { "filename": cert },
            "private_key": { "filename": key },
        });
        let mut context = self.context.clone();
        context.insert("trusted_ca".to_owned(), json!({ "filename": ca }));
        let context = Value::Object(context);
        let resources = |secret: &Secret| {
            let body = match secret.kind {
                SecretKind::Certificate => &certificate,
                SecretKind::Validation => &context,
            };
            let (name, kind) = (&secret.name, secret.kind.field());
            json!({ "resources": [{ "@type": format!("{TLS}.Secret"), "name": name, kind: body }] })
        };
        self.secrets()
            .map(|secret| (secret, resources(secret)))
            .collect()
    }

    /// Writes one of the files in Contour's form, for everybody to read: an init container may run
    /// as another user than Envoy.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, secret: &Secret, response: &Value) -> io::Result<()> {
        let sds = Sds::make(&self.dir, Access::All)?;
        sds.replace(secret.file(), response.to_string().as_bytes())
    }

    /// A configuration for `envoy --mode validate` that holds this set and nothing else, JSON.
    ///
    /// # Errors
    /// When the kernel has no memory.
    pub fn candidate(&self, contents: &Contents) -> io::Result<SecretBytes> {
        let around = json!({ "static_resources": { "clusters": [{
            "name": "candidate",
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": { "cluster_name": "candidate" },
            "transport_socket": {
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": format!("{TLS}.UpstreamTlsContext"),
                    "common_tls_context": HERE,
                },
            },
        }]}});
        // A staple is nothing for a client's context, which a candidate has.
        let mut parts: Vec<SecretBytes> = Vec::new();
        for material in contents {
            let body = match material {
                Material::Pair { cert, key, .. } => certificate(cert, key, None)?,
                Material::Trust { .. } => self.body(material)?,
            };
            let [before, after] = match material {
                Material::Pair { .. } => [&b"\"tls_certificates\":["[..], b"]"],
                Material::Trust { .. } => [&b"\"validation_context\":"[..], b""],
            };
            let comma: &[u8] = if parts.is_empty() { b"" } else { b"," };
            parts.push(join(&[comma, before, &body, after])?);
        }
        let mut all: Vec<&[u8]> = vec![b"{"];
        all.extend(parts.iter().map(|part| &**part));
        all.push(b"}");
        put(&around, &join(&all)?)
    }

    /// What a secret is in Envoy's configuration, without its name.
    fn body(&self, material: &Material) -> io::Result<SecretBytes> {
        let (ca, crl, leaf_only) = match material {
            Material::Pair { cert, key, staple } => {
                let staple = staple.as_ref().and_then(|staple| staple.as_ref().ok());
                return certificate(cert, key, staple.map(|staple| &**staple));
            }
            Material::Trust { ca, crl, leaf_only } => (ca, crl, *leaf_only),
        };
        let mut context = self.context.clone();
        if leaf_only {
            context.insert(LEAF_ONLY.to_owned(), true.into());
        }
        if let Some(crl) = crl {
            let text = String::from_utf8_lossy(crl);
            context.insert("crl".to_owned(), json!({ "inline_string": text }));
        }
        context.insert("trusted_ca".to_owned(), HERE.into());
        put(&Value::Object(context), &source(ca)?)
    }
}

/// Whom Contour's bootstrap expects: a server that calls itself `contour`.
fn contour_context() -> Map<String, Value> {
    let matcher = json!([{ "san_type": "DNS", "matcher": { "exact": "contour" } }]);
    let mut context = Map::new();
    context.insert("match_typed_subject_alt_names".to_owned(), matcher);
    context
}

fn response(generation: u64, secret: &Secret, body: &[u8]) -> io::Result<SecretBytes> {
    let Secret { name, kind, .. } = secret;
    let kind = kind.field();
    let around = json!({
        "version_info": version(generation),
        "resources": [{ "@type": format!("{TLS}.Secret"), "name": name, kind: HERE }],
    });
    put(&around, body)
}

/// An SDS file without a secret.
fn vacant(generation: u64) -> String {
    json!({ "version_info": version(generation), "resources": [] }).to_string()
}

/// The version that Envoy is told, and tells, of this generation.
pub fn version(generation: u64) -> String {
    format!("gen-{generation}")
}

/// Stands in JSON for JSON that may hold a key, and is put there without another copy of it. No
/// name and no matcher has such a character.
const HERE: &str = "\u{1}";

/// The JSON `around` with `inner` where [`HERE`] stands in it.
fn put(around: &Value, inner: &[u8]) -> io::Result<SecretBytes> {
    let around = around.to_string();
    let here = Value::from(HERE).to_string();
    let (before, after) = around
        .split_once(&here)
        .ok_or(io::ErrorKind::InvalidInput)?;
    join(&[before.as_bytes(), inner, after.as_bytes()])
}

fn join(parts: &[&[u8]]) -> io::Result<SecretBytes> {
    let length = parts.iter().map(|part| part.len()).sum();
    let mut joined = SecretBytes::with_capacity(length)?;
    for part in parts {
        joined.push(part)?;
    }
    Ok(joined)
}

fn certificate(cert: &[u8], key: &[u8], staple: Option<&[u8]>) -> io::Result<SecretBytes> {
    let staple = staple.map(|staple| {
        let staple = STANDARD.encode(staple);
        format!(r#","ocsp_staple":{{"inline_bytes":"{staple}"}}"#)
    });
    join(&[
        br#"{"certificate_chain":"#,
        &*source(cert)?,
        br#","private_key":"#,
        &*source(key)?,
        staple.unwrap_or_default().as_bytes(),
        b"}",
    ])
}

/// A data source with this text inline. It is PEM as [`super::pem::write`] has it: ASCII.
fn source(pem: &[u8]) -> io::Result<SecretBytes> {
    let escaped = |byte: &u8| usize::from(matches!(byte, b'\n' | b'"' | b'\\'));
    let length = pem.iter().map(|byte| 1 + escaped(byte)).sum::<usize>();
    let mut text = SecretBytes::with_capacity(length)?;
    for byte in pem {
        match byte {
            b'\n' => text.push(b"\\n")?,
            b'"' => text.push(b"\\\"")?,
            b'\\' => text.push(b"\\\\")?,
            byte => text.push(&[*byte])?,
        }
    }
    join(&[br#"{"inline_string":""#, &text, br#""}"#])
}

#[cfg(test)]
#[path = "publish_tests.rs"]
mod tests;
