//! Whether Envoy is in service: hold, resume, and the drain, from which nothing leads back.

use crate::drain::Drain;

/// Whether Envoy is to be in service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Service {
    /// Envoy serves.
    Serving,
    /// Envoy is held: whichever runs is told to fail its health check, until a resume. This is the
    /// wait for what is in flight; when it is over, the hold is not.
    Held(Drain),
    /// A drain was asked for. Nothing leads back.
    Leaving(Drain),
}

impl Service {
    /// The drain, once one was asked for.
    pub fn drain(&self) -> Option<&Drain> {
        match self {
            Service::Leaving(drain) => Some(drain),
            Service::Serving | Service::Held(_) => None,
        }
    }

    /// The drain, to change it.
    pub fn drain_mut(&mut self) -> Option<&mut Drain> {
        match self {
            Service::Leaving(drain) => Some(drain),
            Service::Serving | Service::Held(_) => None,
        }
    }

    /// The wait of a hold.
    pub fn hold(&self) -> Option<&Drain> {
        match self {
            Service::Held(wait) => Some(wait),
            Service::Serving | Service::Leaving(_) => None,
        }
    }

    /// What waits for what is in flight: a drain, or a hold.
    pub fn wait(&self) -> Option<&Drain> {
        match self {
            Service::Serving => None,
            Service::Held(wait) | Service::Leaving(wait) => Some(wait),
        }
    }

    /// What waits for what is in flight, to change it.
    pub fn wait_mut(&mut self) -> Option<&mut Drain> {
        match self {
            Service::Serving => None,
            Service::Held(wait) | Service::Leaving(wait) => Some(wait),
        }
    }

    /// What Envoy's health check is to be, as long as that is not the drain's business: to fail, or
    /// to pass.
    pub fn wants_failed(&self) -> Option<bool> {
        match self {
            Service::Serving => Some(false),
            Service::Held(_) => Some(true),
            Service::Leaving(_) => None,
        }
    }
}
