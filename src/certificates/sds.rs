//! A secret of Envoy's, and the SDS file that it is published in.

use std::ffi::OsStr;
use std::path::PathBuf;

use super::read::Source;

/// What a secret is in Envoy's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretKind {
    /// A `tls_certificate`.
    Certificate,
    /// A `validation_context`.
    Validation,
}

impl SecretKind {
    /// The name of the field that holds such a secret.
    pub fn field(self) -> &'static str {
        match self {
            SecretKind::Certificate => "tls_certificate",
            SecretKind::Validation => "validation_context",
        }
    }

    /// What these files are made into.
    pub fn of(source: &Source) -> SecretKind {
        match source {
            Source::Pair { .. } => SecretKind::Certificate,
            Source::Trust { .. } => SecretKind::Validation,
        }
    }
}

/// A secret and its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// The secret's name in Envoy's configuration and statistics.
    pub name: String,
    /// What the secret is in Envoy's configuration.
    pub kind: SecretKind,
    /// The secret's SDS file.
    pub path: PathBuf,
}

impl Secret {
    /// The file's name.
    pub fn file(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }
}

/// The field of a validation context that has Envoy look for no CA in the revocation lists.
pub(super) const LEAF_ONLY: &str = "only_verify_leaf_cert_crl";
