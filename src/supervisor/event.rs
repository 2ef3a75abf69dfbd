//! What reaches the main thread.

use super::copies::ConfigurationReport;
use crate::certificates::CertificateReport;
use crate::envoy::admin::AdminReply;
use crate::http::Wish;

/// A report of a helper thread.
#[derive(Debug)]
pub enum Event {
    /// A request over HTTP wishes for something that this thread alone can do.
    Http(Wish),
    /// Envoy's admin interface answered, or did not.
    Admin(Box<AdminReply>),
    /// A connection of Envoy's has ended, as the kernel tells: the last one, perhaps.
    ConnectionEnded,
    /// The certificate thread has something to tell.
    Certificates(CertificateReport),
    /// Envoy's configuration file was looked at.
    Configuration(ConfigurationReport),
    /// A helper thread ended: by a panic, or because it could not go on.
    ThreadEnded(Thread),
}

/// A helper thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thread {
    /// Asks Envoy's admin interface and the kernel.
    Admin,
    /// Serves the port and the control socket.
    Http,
    /// Keeps the certificates fresh.
    Certificates,
    /// Compares Envoy's configuration file.
    Configuration,
}

impl Thread {
    /// The thread's name, as `ps -L` shows it.
    pub fn name(self) -> &'static str {
        match self {
            Thread::Admin => "admin",
            Thread::Http => "http",
            Thread::Certificates => "certificates",
            Thread::Configuration => "configuration",
        }
    }
}
