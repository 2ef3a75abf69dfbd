//! Writes the SDS files that Envoy watches: each a `DiscoveryResponse` with exactly one secret,
//! its PEM inline, so that a certificate and its key cannot be mixed.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown, fchown};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::read::Contents;

/// The secret of the xDS client's certificate and key, by Contour's name.
pub const CONTOUR_LEAF: &str = "contour_xds_tls_certificate";
/// The secret of the CA that the xDS server is checked against, by Contour's name.
pub const CONTOUR_CA: &str = "contour_xds_tls_validation_context";
/// Where Contour's bootstrap has the one, below its resources directory, without `.json`.
const CONTOUR_LEAF_FILE: &str = "xds-tls-certificate";
/// Where it has the other.
const CONTOUR_CA_FILE: &str = "xds-validation-context";

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
/// The most that is read of an SDS file, in bytes: three files of 1 MiB and some escaping.
const LIMIT: u64 = 4 << 20;

/// One secret and its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// Its name in Envoy's configuration and statistics.
    pub name: String,
    /// Its SDS file.
    pub path: PathBuf,
}

/// Where a set is published.
#[derive(Clone, Debug)]
pub struct Target {
    /// The secret of the certificate and the key.
    pub leaf: Secret,
    /// The secret of the CA bundle, where there is one.
    pub ca: Option<Secret>,
    /// Who is to own the files: user and group.
    pub owner: Option<(u32, u32)>,
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
            owner: None,
            context: contour_context(),
        }
    }

    /// A listener's certificate and key, below this resources directory.
    ///
    /// # Errors
    /// When the name cannot be a file's, see [`check_name`].
    pub fn listener(dir: &Path, name: &str) -> Result<Target, String> {
        check_name(name)?;
        Ok(Target {
            leaf: Secret {
                name: name.to_owned(),
                path: dir.join("sds").join(format!("{name}.json")),
            },
            ca: None,
            owner: None,
            context: Map::new(),
        })
    }

    /// The secrets' names, the leaf's first.
    pub fn names(&self) -> Vec<&str> {
        let secrets = std::iter::once(&self.leaf).chain(&self.ca);
        secrets.map(|secret| secret.name.as_str()).collect()
    }

    /// Looks at the files that are there: the matchers of a validation context are kept from here
    /// on, whoever wrote them. What is not there, or not to be read, is as good as absent.
    pub fn take_over(&mut self) -> Published {
        let leaf = Existing::read(&self.leaf.path, "tls_certificate");
        let ca = self
            .ca
            .as_ref()
            .map(|ca| Existing::read(&ca.path, "validation_context"));
        let generations = [&leaf, ca.as_ref().unwrap_or(&leaf)].map(|file| file.generation);
        let contents = (|| {
            let leaf = leaf.body.as_ref()?;
            let ca = match &ca {
                Some(ca) => Some(inline(ca.body.as_ref()?, "trusted_ca")?),
                None => None,
            };
            Some(Contents {
                cert: inline(leaf, "certificate_chain")?,
                key: inline(leaf, "private_key")?,
                ca,
            })
        })();
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
        Published {
            generation: one.max(other),
            contents: contents.filter(|_| one == other && one > 0),
        }
    }

    /// Publishes a set: the CA first, so that the new leaf's peers are trusted when it comes.
    ///
    /// # Errors
    /// When a file cannot be written. The files may be of two generations then; each is whole.
    pub fn publish(&self, generation: u64, contents: &Contents) -> io::Result<()> {
        if let (Some(secret), Some(ca)) = (&self.ca, &contents.ca) {
            let body = ("validation_context", self.context(ca));
            self.write(secret, &response(generation, &secret.name, body))?;
        }
        let body = ("tls_certificate", certificate(contents));
        self.write(&self.leaf, &response(generation, &self.leaf.name, body))
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

    /// A configuration for `envoy --mode validate` that holds this set and nothing else.
    pub fn candidate(&self, contents: &Contents) -> String {
        let mut tls = json!({ "tls_certificates": [certificate(contents)] });
        if let (Some(ca), Some(tls)) = (&contents.ca, tls.as_object_mut()) {
            tls.insert("validation_context".to_owned(), self.context(ca));
        }
        json!({ "static_resources": { "clusters": [{
            "name": "candidate",
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": { "cluster_name": "candidate" },
            "transport_socket": {
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": format!("{TLS}.UpstreamTlsContext"),
                    "common_tls_context": tls,
                },
            },
        }]}})
        .to_string()
    }

    /// Writes a candidate where only this user can read it, and says where.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_candidate(&self, contents: &Contents) -> io::Result<PathBuf> {
        let path = self.candidate_path();
        replace(&path, self.candidate(contents).as_bytes(), self.owner)?;
        Ok(path)
    }

    /// Where a candidate is written.
    pub fn candidate_path(&self) -> PathBuf {
        // A name with a leading dot is no secret's, see [`check_name`].
        let file = format!(".{}.candidate.json", self.leaf.name);
        self.leaf.path.with_file_name(file)
    }

    fn context(&self, ca: &[u8]) -> Value {
        let mut context = self.context.clone();
        context.insert("trusted_ca".to_owned(), source(ca));
        Value::Object(context)
    }

    fn write(&self, secret: &Secret, response: &Value) -> io::Result<()> {
        replace(&secret.path, response.to_string().as_bytes(), self.owner)
    }
}

/// Whether a secret of this name can have a file of its own: it names no other directory, and
/// none of Contour's files.
///
/// # Errors
/// In one line, when it cannot.
pub fn check_name(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() || name.len() > 200 || name.starts_with('.') || !name.bytes().all(plain) {
        return Err(format!(
            "a secret's name has letters, digits, '.', '_' and '-', and begins with no '.': {name:?}"
        ));
    }
    if [CONTOUR_LEAF_FILE, CONTOUR_CA_FILE, CONTOUR_LEAF, CONTOUR_CA].contains(&name) {
        return Err(format!("{name} is the xDS client's own"));
    }
    Ok(())
}

/// Whom Contour's bootstrap expects: a server that calls itself `contour`.
fn contour_context() -> Map<String, Value> {
    let matcher = json!([{ "san_type": "DNS", "matcher": { "exact": "contour" } }]);
    Map::from_iter([("match_typed_subject_alt_names".to_owned(), matcher)])
}

fn response(generation: u64, name: &str, (kind, body): (&str, Value)) -> Value {
    json!({
        "version_info": version(generation),
        "resources": [{ "@type": format!("{TLS}.Secret"), "name": name, kind: body }],
    })
}

/// The version that Envoy is told, and tells, of this generation.
pub fn version(generation: u64) -> String {
    format!("gen-{generation}")
}

fn certificate(contents: &Contents) -> Value {
    json!({
        "certificate_chain": source(&contents.cert),
        "private_key": source(&contents.key),
    })
}

fn source(pem: &[u8]) -> Value {
    // PEM blocks are ASCII; a comment need not be UTF-8, and may lose its accents.
    json!({ "inline_string": String::from_utf8_lossy(pem) })
}

/// What an SDS file holds.
#[derive(Default)]
struct Existing {
    generation: u64,
    body: Option<Map<String, Value>>,
}

impl Existing {
    fn read(path: &Path, kind: &str) -> Existing {
        Existing::parse(path, kind).unwrap_or_default()
    }

    fn parse(path: &Path, kind: &str) -> Option<Existing> {
        let mut text = Vec::new();
        let file = fs::File::open(path).ok()?;
        file.take(LIMIT).read_to_end(&mut text).ok()?;
        let Ok(Value::Object(mut response)) = serde_json::from_slice(&text) else {
            return None;
        };
        let version = take(&mut response, "version_info");
        let version = version.as_ref().and_then(Value::as_str);
        let generation = version.and_then(|version| version.strip_prefix("gen-")?.parse().ok());
        // Nobody gets beyond that by counting.
        let generation = generation.filter(|generation| *generation < 1 << 53);
        let secret = match take(&mut response, "resources") {
            Some(Value::Array(resources)) => resources.into_iter().next(),
            _ => None,
        };
        let body = match secret {
            Some(Value::Object(mut secret)) => take(&mut secret, kind),
            _ => None,
        };
        Some(Existing {
            generation: generation.unwrap_or(0),
            body: match body {
                Some(Value::Object(body)) => Some(body),
                _ => None,
            },
        })
    }
}

/// Takes a field out, in either of the spellings that protobuf's JSON has: `trusted_ca` and
/// `trustedCa`.
fn take(object: &mut Map<String, Value>, name: &str) -> Option<Value> {
    object.remove(name).or_else(|| object.remove(&camel(name)))
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

fn inline(body: &Map<String, Value>, name: &str) -> Option<Vec<u8>> {
    let source = body.get(name).or_else(|| body.get(&camel(name)))?;
    let text = source
        .get("inline_string")
        .or_else(|| source.get("inlineString"));
    Some(text?.as_str()?.as_bytes().to_vec())
}

/// Replaces a file as a whole: readers see the old one or the new one.
fn replace(path: &Path, bytes: &[u8], owner: Option<(u32, u32)>) -> io::Result<()> {
    let owner = owner.map(|(user, group)| (Some(user), Some(group)));
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    if !dir.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        if let Some((user, group)) = owner {
            chown(dir, user, group)?;
        }
    }
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let temporary = dir.join(format!(".{}.tmp", name.to_string_lossy()));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // `create_new`: whoever may write to the directory cannot have us follow a link of theirs.
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| {
            if let Some((user, group)) = owner {
                fchown(&file, user, group)?;
            }
            file.write_all(bytes)
        })
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
#[path = "publish_tests.rs"]
mod tests;
