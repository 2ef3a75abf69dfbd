//! Envoy's certificates, kept fresh.

pub mod confirm;
pub mod der;
pub mod lifetime;
pub mod pem;
pub mod publish;
pub mod read;
pub mod x509;

/// What the certificate thread tells the main one.
#[derive(Debug)]
pub enum Report {}
