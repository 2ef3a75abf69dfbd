//! A reload: certificates are read again, and with `--hot-restart` the next generation of Envoy
//! takes over from this one.

use std::time::{Duration, Instant};

use super::Supervisor;
use super::decide::{Input, News};
use crate::certificates::CertificateCommand;
use crate::duration::show;
use crate::status::{EnvoyStatus, Reload};

/// How long certificates may take to be read again, published and confirmed: it takes 10 s at the
/// most, or twice that where they are taken back. A thread that hangs in a file system must not
/// keep a reload open.
const CERTIFICATES_WITHIN: Duration = Duration::from_secs(30);

/// What somebody learns who asks for a reload where there is nothing that could be reloaded.
const NOTHING: &str = "there is nothing to reload: start drainit with --hot-restart to reload Envoy's \
     configuration, or with --resources-dir and --secret or --envoy-cert-file to keep certificates fresh";

/// A reload: what of it is still to end, and what came of the rest.
#[derive(Debug, Default)]
pub(super) struct Reloading {
    /// The number of the last question to the certificate thread.
    pub(super) number: u64,
    /// Until when the certificate thread may answer, while it is waited for.
    certificates: Option<Instant>,
    /// What the certificate thread answered.
    read: Option<Result<String, String>>,
    /// Whether the next generation is on its way.
    pub(super) generation: bool,
    /// What became of the next generation.
    pub(super) restarted: Option<Result<String, String>>,
    /// Why the last hot restart was refused or failed; told to `drainit reload`.
    pub(super) refusal: String,
    /// The Envoy beside which the next generation was spawned last.
    before: Option<EnvoyStatus>,
    /// How many reloads were asked for, and the number of the one under way, or of the last.
    asked: u64,
    current: u64,
}

impl Reloading {
    fn is_under_way(&self) -> bool {
        self.certificates.is_some() || self.generation
    }

    /// The certificate thread was told to read the certificates, with this number. Whoever has it told
    /// so again and again does not keep the reload open: the time counts from the first word.
    fn begin_reading(&mut self, number: u64, now: Instant) {
        self.number = number;
        self.certificates.get_or_insert(now + CERTIFICATES_WITHIN);
        self.read = None;
    }

    /// When the reload goes on even if nothing happens.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.certificates
    }

    /// The next generation begins beside this Envoy.
    pub(super) fn begin_beside(&mut self, envoy: Option<EnvoyStatus>) {
        self.before = envoy;
    }

    /// What is known of the Envoy with this pid, which the next generation began beside and does not
    /// replace.
    pub(super) fn survivor(&mut self, pid: i32) -> Option<EnvoyStatus> {
        self.before.take().filter(|envoy| envoy.pid == pid)
    }

    /// What came of the reload, once all of it has ended: one line, with what failed first.
    fn end(&mut self) -> Option<Result<String, String>> {
        if self.is_under_way() {
            return None;
        }
        match (self.read.take(), self.restarted.take()) {
            (Some(Ok(read)), Some(Ok(restarted))) => Some(Ok(format!("{restarted}; {read}"))),
            (Some(Err(read)), Some(Ok(restarted))) => Some(Err(format!("{read}; but {restarted}"))),
            (Some(Ok(read)), Some(Err(restarted))) => Some(Err(format!("{restarted}; but {read}"))),
            (Some(Err(read)), Some(Err(restarted))) => Some(Err(format!("{restarted}; {read}"))),
            (read, restarted) => restarted.or(read),
        }
    }
}

/// Says of certificates alone that they are all that was reloaded: whoever changed Envoy's
/// configuration would take it for done.
fn certificates_alone(read: String) -> String {
    format!("{read}; envoy's configuration is read again only with --hot-restart")
}

impl Supervisor {
    /// SIGHUP: somebody changed a file, and wants it read now.
    pub(super) fn reload(&mut self) {
        log::info!("SIGHUP");
        self.prefer_file();
        self.ask_for_reload();
    }

    /// A reload is wanted.
    pub(super) fn count_reload(&mut self) {
        self.reloading.asked += 1;
        let asked = self.reloading.asked;
        self.board.update(|snapshot| snapshot.reloads_asked = asked);
        self.reporter.begin_reload();
    }

    /// The files are to be read as they are now.
    pub(super) fn ask_for_reload(&mut self) {
        self.count_reload();
        if self.options.hot_restart {
            self.handle(Input::HotRestart(News::Reload));
        } else {
            self.begin_reload();
            self.end_reload();
        }
    }

    /// The reload that was asked for last begins: with the certificates.
    pub(super) fn begin_reload(&mut self) {
        let hot = self.options.hot_restart;
        if hot {
            // One whose generation is live, and has been taken over from by now.
            self.end_reading(Ok(
                "the next reload's result tells of the certificates".into()
            ));
        }
        self.reloading.refusal.clear();
        self.trials.forget_reload();
        self.sds_files.trial_waits = false;
        self.reloading.current = self.reloading.asked;
        if !self.read_certificates() {
            self.reloading.read = if self.options.has_certificates() {
                let why = "the certificate thread is not there; it is being started again";
                Some(Err(why.into()))
            } else if hot {
                None
            } else {
                Some(Err(NOTHING.into()))
            };
        }
        self.reloading.generation = hot;
        self.note_hot_restart(|hot_restart| {
            (hot_restart.reloading, hot_restart.kept) = (true, false);
        });
    }

    /// Has the certificates read again, if there is somebody to do that.
    pub(super) fn read_certificates(&mut self) -> bool {
        let number = self.reloading.number + 1;
        let told = self.helpers.tell(CertificateCommand::CheckNow(number));
        if told {
            self.reloading.begin_reading(number, Instant::now());
        }
        told
    }

    /// The certificates were read again, as was asked with this number.
    pub(super) fn on_reading(&mut self, number: u64, result: Result<String, String>) {
        if number == self.reloading.number {
            self.end_reading(result);
        }
    }

    /// Waits no longer for the certificates to be read.
    pub(super) fn end_reading(&mut self, result: Result<String, String>) {
        if self.reloading.certificates.take().is_some() {
            self.reloading.read = Some(result);
            self.end_reload();
        }
    }

    /// Waits no longer for certificates that take too long.
    pub(super) fn hurry_reload(&mut self, now: Instant) {
        if self
            .reloading
            .certificates
            .is_some_and(|until| until <= now)
        {
            let limit = show(CERTIFICATES_WITHIN);
            let why = format!(
                "the certificate thread has not told within {limit} what became of the certificates"
            );
            self.end_reading(Err(why));
        }
    }

    /// Whoever asked for a reload looks for this, once all of it has ended.
    pub(super) fn end_reload(&mut self) {
        let restarted = !matches!(self.reloading.restarted, Some(Err(_)));
        let read = !matches!(self.reloading.read, Some(Err(_)));
        let of_certificates = restarted && !read && self.options.has_certificates();
        let Some(mut result) = self.reloading.end() else {
            return;
        };
        if !self.options.hot_restart {
            result = result.map(certificates_alone);
        }
        let kept = self.core.generations().keeps_reload();
        self.reporter.end_reload(&result, kept);
        match &result {
            Ok(line) => log::info!("reloaded: {line}"),
            Err(why) => log::warn!("reload failed: {why}"),
        }
        let number = self.reloading.current;
        self.board.update(|snapshot| {
            snapshot.reload = Some(Reload {
                number,
                at: Instant::now(),
                result,
                of_certificates,
            });
            snapshot.end_hot_restart();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_ends_with_its_last_part_and_fails_with_any() {
        let mut reloading = Reloading {
            certificates: Some(Instant::now()),
            generation: true,
            ..Reloading::default()
        };
        reloading.generation = false;
        reloading.restarted = Some(Ok("generation 1 is live".into()));
        assert_eq!(reloading.end(), None);
        reloading.certificates = None;
        reloading.read = Some(Err("edge: the key: is missing".into()));
        let line = "edge: the key: is missing; but generation 1 is live";
        assert_eq!(reloading.end(), Some(Err(line.into())));
        assert_eq!(reloading.end(), None);
    }

    #[test]
    fn a_thread_that_is_told_again_and_again_keeps_no_reload_open() {
        let (mut reloading, start) = (Reloading::default(), Instant::now());
        for number in 0..10 {
            reloading.begin_reading(number, start + Duration::from_secs(number));
        }
        assert_eq!(reloading.number, 9);
        assert_eq!(reloading.wake_at(), Some(start + CERTIFICATES_WITHIN));
    }

    #[test]
    fn an_envoy_that_outlives_the_next_generation_is_shown_as_it_was() {
        let envoy = EnvoyStatus {
            pid: 7,
            version: Some("1.40.0".into()),
            started: Instant::now(),
        };
        let mut reloading = Reloading::default();
        reloading.begin_beside(Some(envoy.clone()));
        let shown = reloading.survivor(7).unwrap();
        assert_eq!(
            (shown.version, shown.started),
            (envoy.version.clone(), envoy.started)
        );
        reloading.begin_beside(Some(envoy));
        assert!(reloading.survivor(8).is_none());
    }
}
