//! Envoy's certificates, kept fresh.

/// What the certificate thread tells the main one.
#[derive(Debug)]
pub enum Report {}
