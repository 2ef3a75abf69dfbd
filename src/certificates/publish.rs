//! Writes the SDS files that Envoy watches: each a `DiscoveryResponse` with exactly one secret,
//! its PEM inline, so that a certificate and its key cannot be mixed.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::check;
use super::directory::{Access, Sds};
use super::existing::{Existing, take};
use super::name;
use super::read::Contents;
use super::secret::SecretBytes;

/// The secret of the xDS client's certificate and key, by Contour's name.
pub const CONTOUR_LEAF: &str = "contour_xds_tls_certificate";
/// The secret of the CA that the xDS server is checked against, by Contour's name.
pub const CONTOUR_CA: &str = "contour_xds_tls_validation_context";
/// Where Contour's bootstrap has the one, below its resources directory, without `.json`.
pub(super) const CONTOUR_LEAF_FILE: &str = "xds-tls-certificate";
/// Where it has the other.
pub(super) const CONTOUR_CA_FILE: &str = "xds-validation-context";

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";

/// One secret and its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// Its name in Envoy's configuration and statistics.
    pub name: String,
    /// Its SDS file.
    pub path: PathBuf,
}

impl Secret {
    /// The file's name.
    pub fn file(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }
}

/// Where a set is published.
#[derive(Clone, Debug)]
pub struct Target {
    /// The secret of the certificate and the key.
    pub leaf: Secret,
    /// The secret of the CA bundle, where there is one.
    pub ca: Option<Secret>,
    /// The resources directory.
    dir: PathBuf,
    /// The validation context without its CA: whom to expect there.
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

impl Target {
    /// The xDS client's set, below this resources directory.
    pub fn contour(dir: &Path) -> Target {
        let secret = |name: &str, file: &str| Secret {
            name: name.to_owned(),
            path: dir.join("sds").join(format!("{file}.json")),
        };
        Target {
            leaf: secret(CONTOUR_LEAF, CONTOUR_LEAF_FILE),
            ca: Some(secret(CONTOUR_CA, CONTOUR_CA_FILE)),
            dir: dir.to_owned(),
            context: contour_context(),
        }
    }

    /// A listener's certificate and key, below this resources directory.
    pub fn listener(dir: &Path, name: &str) -> Target {
        Target {
            leaf: Secret {
                name: name.to_owned(),
                path: dir.join("sds").join(name::file_name(name)),
            },
            ca: None,
            dir: dir.to_owned(),
            context: Map::new(),
        }
    }

    /// The secrets' names, the leaf's first.
    pub fn names(&self) -> Vec<&str> {
        let secrets = std::iter::once(&self.leaf).chain(&self.ca);
        secrets.map(|secret| secret.name.as_str()).collect()
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
        let mut leaf = Existing::read(&sds, &self.leaf, "tls_certificate")?;
        let mut ca = match &self.ca {
            Some(ca) => Some(Existing::read(&sds, ca, "validation_context")?),
            None => None,
        };
        let generations = [&leaf, ca.as_ref().unwrap_or(&leaf)].map(|file| file.generation);
        let contents = match (leaf.take("certificate_chain")?, leaf.key.take()) {
            (Some(cert), Some(key)) => Some(Contents {
                cert,
                key,
                ca: match &mut ca {
                    Some(ca) => ca.take("trusted_ca")?,
                    None => None,
                },
            }),
            _ => None,
        };
        if let Some(Existing {
            body: Some(body), ..
        }) = ca
        {
            self.context = body;
            for name in ["trusted_ca", "watched_directory"] {
                // Without its file, watching that file's directory makes no sense.
                take(&mut self.context, name);
            }
        }
        let [one, other] = generations;
        let whole = |contents: &Contents| {
            // An earlier version published whatever the files held: that is written anew.
            let clean = check::cleaned(contents).is_ok_and(|clean| clean == *contents);
            clean && contents.ca.is_some() == self.ca.is_some() && one == other && one > 0
        };
        Ok(Published {
            generation: one.max(other),
            contents: contents.filter(whole),
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
        if let (Some(secret), Some(ca)) = (&self.ca, &contents.ca) {
            let body = self.context(ca)?;
            let text = response(generation, &secret.name, "validation_context", &body)?;
            sds.replace(secret.file(), &text)?;
        }
        let body = certificate(contents)?;
        let text = response(generation, &self.leaf.name, "tls_certificate", &body)?;
        sds.replace(self.leaf.file(), &text)
    }

    /// Publishes that there is no secret, for an Envoy that must have a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn vacate(&self, generation: u64) -> io::Result<()> {
        let sds = Sds::make(&self.dir, Access::Owner)?;
        let response = json!({ "version_info": version(generation), "resources": [] });
        sds.replace(self.leaf.file(), response.to_string().as_bytes())
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
        let resources = |secret: &Secret, kind: &str, body: Value| {
            let name = &secret.name;
            json!({ "resources": [{ "@type": format!("{TLS}.Secret"), "name": name, kind: body }] })
        };
        let leaf = (
            &self.leaf,
            resources(&self.leaf, "tls_certificate", certificate),
        );
        let ca = self.ca.as_ref();
        let ca = ca.map(|ca| (ca, resources(ca, "validation_context", context)));
        std::iter::once(leaf).chain(ca).collect()
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
        let certificate = certificate(contents)?;
        let tls = match &contents.ca {
            Some(ca) => join(&[
                br#"{"tls_certificates":["#,
                &certificate,
                br#"],"validation_context":"#,
                &*self.context(ca)?,
                b"}",
            ]),
            None => join(&[br#"{"tls_certificates":["#, &certificate, b"]}"]),
        };
        put(&around, &tls?)
    }

    fn context(&self, ca: &[u8]) -> io::Result<SecretBytes> {
        let mut context = self.context.clone();
        context.insert("trusted_ca".to_owned(), HERE.into());
        put(&Value::Object(context), &source(ca)?)
    }
}

/// Whom Contour's bootstrap expects: a server that calls itself `contour`.
fn contour_context() -> Map<String, Value> {
    let matcher = json!([{ "san_type": "DNS", "matcher": { "exact": "contour" } }]);
    Map::from_iter([("match_typed_subject_alt_names".to_owned(), matcher)])
}

fn response(generation: u64, name: &str, kind: &str, body: &[u8]) -> io::Result<SecretBytes> {
    let around = json!({
        "version_info": version(generation),
        "resources": [{ "@type": format!("{TLS}.Secret"), "name": name, kind: HERE }],
    });
    put(&around, body)
}

/// The version that Envoy is told, and tells, of this generation.
pub fn version(generation: u64) -> String {
    format!("gen-{generation}")
}

/// Stands in JSON for JSON that may hold a key, and is put there without another copy of it. No
/// name and no matcher has such a character.
const HERE: &str = "\u{1}";

/// This JSON with that where [`HERE`] stands in it.
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

fn certificate(contents: &Contents) -> io::Result<SecretBytes> {
    join(&[
        br#"{"certificate_chain":"#,
        &*source(&contents.cert)?,
        br#","private_key":"#,
        &*source(&contents.key)?,
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
