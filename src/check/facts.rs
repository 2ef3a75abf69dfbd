//! What the rules go by.

use std::ffi::OsString;
use std::path;
use std::time::Duration;

use super::config::Config;
use crate::certificates::publish::SdsTarget;
use crate::certificates::sds::{Secret, SecretKind};
use crate::client::Address;
use crate::options::Options;

/// Where Envoy's admin interface is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AdminSetting {
    /// At this address, as it is configured.
    At(Address),
    /// Nowhere: the configuration has none.
    Missing,
    /// Nobody could tell where the admin interface is.
    #[default]
    Unknown,
}

/// What was gathered.
#[derive(Debug, Default)]
pub struct Facts {
    /// drainit's options.
    pub options: Options,
    /// Envoy's arguments, without those that drainit adds.
    pub args: Vec<OsString>,
    /// Envoy's version: `1.40.0`.
    pub version: Option<String>,
    /// Why there is no such program.
    pub missing: Option<String>,
    /// Why Envoy refuses its configuration or command line.
    pub refusal: Option<String>,
    /// Why the configuration could not be read, where it should have been.
    pub unread: Option<String>,
    /// The configuration, where it could be read.
    pub config: Option<Config>,
    /// The admin interface.
    pub admin: AdminSetting,
    /// What is known of the machine and of the container.
    pub host: Host,
    /// Certificates that cannot be used: the option that names them, and why.
    pub certificates: Vec<(String, String)>,
    /// Sentences about variables that look like drainit's and are none.
    pub strays: Vec<String>,
    /// What could not be looked at, and why.
    pub unseen: Vec<String>,
}

/// Who would kill a container that does not end in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Orchestrator {
    /// Kubernetes.
    Kubernetes,
    /// `docker stop` or `podman stop`: drainit is pid 1 of such a container.
    Docker,
    /// Perhaps these: drainit is not pid 1 here, but may be where it is meant to run.
    PerhapsDocker,
    /// Nobody that is known.
    #[default]
    Unknown,
}

/// What the machine allows.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Who started the container.
    pub orchestrator: Orchestrator,
    /// How many files Envoy may have open (RLIMIT_NOFILE).
    pub descriptors: Option<u64>,
    /// How many inotify instances a user may have, and the sysctl that says so.
    pub watches: Option<(u64, &'static str)>,
    /// Why /dev/shm cannot be written to, if so.
    pub no_shared_memory: Option<String>,
}

impl Facts {
    /// The SDS files that drainit writes, by their full paths.
    pub fn written(&self) -> Vec<Secret> {
        let Some(dir) = &self.options.resources_dir else {
            return Vec::new();
        };
        let dir = &path::absolute(dir).unwrap_or_else(|_| dir.clone());
        let mut written = Vec::new();
        let mut take = |target: SdsTarget| {
            written.push(target.first);
            written.extend(target.ca);
        };
        if self.options.cert_file.is_some() {
            take(SdsTarget::contour(dir));
        }
        for (name, source) in self.options.secrets.iter().chain(&self.options.validations) {
            take(SdsTarget::listener(dir, name, SecretKind::of(source)));
        }
        written
    }

    /// How long a drain may last.
    pub fn deadline(&self) -> Duration {
        self.options.limits.timeout
    }

    /// Whether Envoy is of minor version 1.`minor` or newer; none where that is not known.
    pub fn is_since(&self, minor: u32) -> Option<bool> {
        let version = self.version.as_deref()?;
        let mut parts = version.split('.').map(str::parse::<u32>);
        let (major, own) = (parts.next()?.ok()?, parts.next()?.ok()?);
        Some((major, own) >= (1, minor))
    }
}
