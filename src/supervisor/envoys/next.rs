//! What the Envoy after the one that serves is to run, and who answers it for the one before.

use std::ffi::OsString;
use std::path::PathBuf;

use super::Envoys;
use crate::envoy::flags;
use crate::envoy::stand_in::StandIn;

impl Envoys {
    /// The file of Envoy's `-c`.
    pub fn config_file(&self) -> Option<PathBuf> {
        flags::config(&self.line).map(PathBuf::from)
    }

    /// The command line of the next Envoy, as far as it is the operator's.
    pub fn next_line(&self) -> Vec<OsString> {
        flags::with_config(&self.line, self.next_copy.as_deref())
    }

    /// Whether the Envoy that serves, or is started next, runs a copy.
    pub fn runs_copy(&self) -> bool {
        self.copy.is_some()
    }

    /// Whether the next Envoy, beside the one that serves, runs a copy.
    pub fn tries_copy(&self) -> bool {
        self.next_copy.is_some()
    }

    /// Runs this copy from the next start on, or the file again.
    pub fn run_copy(&mut self, copy: Option<PathBuf>) {
        self.copy = copy;
    }

    /// The next Envoy, beside the one that serves, is to run this copy, or the file.
    pub fn try_copy(&mut self, copy: Option<PathBuf>) {
        self.next_copy = copy;
    }

    /// The next Envoy is live: every other runs its copy, or the file, from now on.
    pub fn keep_copy(&mut self) {
        self.copy = self.next_copy.take();
    }

    /// Sees to it that the newest Envoy is answered when the old generation is gone, which has
    /// nothing left, or is to go at once where it `hurries`; whether it is.
    pub fn relieve_old(&mut self, hurries: bool) -> bool {
        let path = self
            .family
            .as_ref()
            .and_then(|family| family.socket_of(self.epoch.checked_sub(1)?));
        let (Some(path), Some(pid)) = (path, self.old()) else {
            return false;
        };
        match StandIn::at(&path) {
            Ok(stand_in) => {
                if hurries {
                    log::warn!(
                        "drainit ends the old generation, pid {pid}, and cuts what it has left"
                    );
                } else {
                    log::info!("drainit ends the old generation, pid {pid}: it has nothing left");
                }
                self.stand_in = Some(stand_in);
                true
            }
            Err(error) => {
                log::debug!("drainit cannot end the old generation early: {error}");
                false
            }
        }
    }

    /// Answers the newest Envoy in the place of the one before.
    pub fn answer_for_old(&mut self) {
        self.stand_in.take_if(|stand_in| !stand_in.answer());
    }

    /// What is polled for the newest Envoy's questions.
    pub fn stand_in(&self) -> Option<&StandIn> {
        self.stand_in.as_ref()
    }

    /// Sends the old generation SIGKILL, and forgets it.
    pub fn kill_old(&mut self) {
        if let Some(mut old) = self.old.take() {
            log::warn!("the old generation is sent SIGKILL");
            old.kill();
        }
    }
}
