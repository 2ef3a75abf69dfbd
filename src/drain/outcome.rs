//! How a drain ended, and what was lost meanwhile.

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// No connection that counts was left.
    Drained,
    /// Only idle connections were left for the settle time.
    Idle,
    /// No connection that counts was left, or only idle ones, but clients that are there took nothing
    /// any more of what Envoy had written.
    Stalled,
    /// The deadline came first.
    Deadline,
    /// The deadline came, and Envoy's admin interface had not been answering.
    AdminLost,
    /// Envoy had never been live: nothing could be in flight.
    NeverLive,
    /// Nobody told what was in flight: neither Envoy, which never answered, nor the kernel.
    Unknown,
    /// A second signal cut it.
    SecondSignal,
    /// Envoy ended by itself.
    EnvoyExited,
}

/// What has ended with its process while a drain waited for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Loss {
    /// Nothing was lost.
    #[default]
    None,
    /// So many connections ended with the process.
    Connections(u64),
    /// Nobody knows what ended with the process.
    Unknown,
}

impl Outcome {
    /// The outcome's name in the log, the status and the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Drained => "drained",
            Outcome::Idle => "idle",
            Outcome::Stalled => "stalled",
            Outcome::Deadline => "deadline",
            Outcome::AdminLost => "admin lost",
            Outcome::NeverLive => "never live",
            Outcome::Unknown => "unknown",
            Outcome::SecondSignal => "second signal",
            Outcome::EnvoyExited => "envoy exited",
        }
    }

    /// Whether everything that counts had finished.
    pub fn is_clean(self) -> bool {
        matches!(self, Outcome::Drained | Outcome::Idle | Outcome::NeverLive)
    }
}
