//! What comes in, and what it is to the core: signals, and what the helper threads report.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Instant;

use nix::libc;

use super::decide::{Input, Order};
use super::event::{Event, Thread};
use super::trials::{Purpose, TrialResult};
use super::{Supervisor, notes};
use crate::certificates::{CertificateCommand, CertificateReport};
use crate::client::Peer;
use crate::drain::{Answer, Ask};
use crate::envoy::admin::AdminReply;
use crate::http::Wish;
use crate::process::{self, Exit};

/// Why there is no answer without the thread that asks.
const MISSING: &str = "the thread that asks envoy's admin interface is not there";

impl Supervisor {
    pub(super) fn on_signal(&mut self, signal: i32) {
        let name = process::signal_name(signal);
        let order = match signal {
            libc::SIGCHLD => return self.reap(),
            libc::SIGTERM | libc::SIGINT => Order::Stop,
            libc::SIGQUIT => Order::StopNow,
            libc::SIGUSR2 => Order::Drain,
            libc::SIGUSR1 => {
                if !self.core.has_handlers() && self.envoys.handles(signal) {
                    self.handle(Input::HandlersSeen);
                }
                // Passed on before it is logged: that wakes a thread, which may get the processor.
                self.handle(Input::Order(Order::ReopenLogs, String::new()));
                log::info!(signal = name.as_str(); "{name}");
                return;
            }
            libc::SIGHUP => return self.reload(),
            _ => {
                log::debug!("{name} means nothing here, and is not forwarded");
                return;
            }
        };
        if self.core.repeats(self.now(), order) {
            log::info!(signal = name.as_str(); "{name}: the same order as the one a moment ago");
        } else {
            log::info!(signal = name.as_str(); "{name}");
            self.hurry_leaving(order);
        }
        self.handle(Input::Order(order, name));
    }

    pub(super) fn on_event(&mut self, event: Event) {
        match event {
            Event::Http(Wish::Shutdown(peer)) => {
                let from = peer.to_string();
                self.reporter.on_caller(Instant::now(), &from);
                self.handle(Input::Order(Order::Drain, format!("/shutdown from {peer}")));
            }
            Event::Http(Wish::Hold(number, from)) => self.on_hold(number, &from),
            Event::Http(Wish::Resume(number, from)) => self.on_resume(number, &from),
            Event::Http(Wish::Probe) => self.handle(Input::Probe),
            Event::Http(Wish::Look) => self.handle(Input::Look),
            Event::Admin(reply) => {
                // It may be the answer to what was asked in this very turn: what was decided is
                // told before what came of it, or a drain would lose its first steps.
                self.publish(Instant::now());
                self.on_reply(*reply);
            }
            Event::ConnectionEnded => self.handle(Input::ConnectionEnded),
            Event::Configuration(word) => self.on_configuration(word),
            Event::Certificates(report) => self.on_certificates(report),
            Event::ThreadEnded(thread) => {
                self.helpers.on_thread_end(thread, Instant::now());
                if thread == Thread::Admin {
                    // With it went the question that it was asked, if any.
                    self.on_missing_answer();
                }
                if thread == Thread::Certificates {
                    let why =
                        "the certificate thread ended before the reload did, and is started again";
                    self.end_reading(Err(why.into()));
                    self.sds_files.nobody_checks();
                }
            }
        }
    }

    fn on_reply(&mut self, mut reply: AdminReply) {
        let Some(question) = self
            .core
            .asked()
            .filter(|asked| asked.number == reply.number)
        else {
            // Of an Envoy that is gone.
            return;
        };
        let now = Instant::now();
        if let Some(address) = &reply.address {
            self.envoys.on_address(address);
        }
        if let Ok(Answer::Stats(load)) = &mut reply.answer {
            self.correct(load);
        }
        let starts = self.core.is_starting(self.now());
        self.reporter
            .on_answer(now, &reply, starts, self.core.is_admin_away());
        let expected = self.envoys.may_answer();
        self.board
            .update(|snapshot| notes::note_answer(snapshot, now, &reply, expected));
        if starts && reply.answer.is_err() {
            self.envoys.look_for_flags();
        }
        let is_there = reply.ask == Ask::Ready && reply.answer.is_ok();
        let traffic = (reply.ask == Ask::Traffic).then(|| match &reply.answer {
            Ok(Answer::Traffic(traffic)) => Some(traffic.clone()),
            _ => None,
        });
        self.handle(Input::Answer(question.number, reply.answer.ok()));
        if let Some(traffic) = traffic {
            self.on_traffic(traffic.as_deref());
        }
        if is_there {
            // It takes some milliseconds. The core and the snapshot, from which the HTTP thread
            // tells whether to ask again, must agree on when the answer came.
            self.identify();
        }
    }

    /// The question in flight will get no answer.
    pub(super) fn on_missing_answer(&mut self) {
        if let Some(question) = self.core.asked() {
            self.on_reply(AdminReply {
                number: question.number,
                ask: question.ask,
                address: None,
                peer: Peer::Anyone,
                answer: Err(MISSING.to_owned().into()),
                listeners: None,
                more_failed: 0,
            });
        }
    }

    fn on_certificates(&mut self, report: CertificateReport) {
        match report {
            CertificateReport::Waiting(which) => {
                self.hangs.note_waiting(&which);
                self.handle(Input::CertificatesMissing(which));
            }
            CertificateReport::FirstSetReady => self.handle(Input::CertificatesReady),
            CertificateReport::Validate { id, config } => {
                // Envoy takes no path in /proc, and this one.
                let file = format!("/dev/fd/{}", config.as_raw_fd());
                match self.envoys.candidate(Path::new(&file)) {
                    Some(line) => self.trials.ask_of(Purpose::Certificates(id), line, config),
                    None => {
                        let verdict = Ok(());
                        let told = CertificateCommand::Validated { id, verdict };
                        self.helpers.tell(told);
                    }
                }
            }
            CertificateReport::Status(secrets) => self.board.update(|snapshot| {
                notes::note_certificates(snapshot, Instant::now(), secrets);
            }),
            CertificateReport::PublishedChecked(number) => self.sds_files.on_checked(number),
            CertificateReport::Reloaded(number, result) => self.on_reading(number, result),
        }
    }

    /// A trial ended.
    pub(super) fn on_verdict(&mut self, verdict: TrialResult) {
        match verdict.purpose {
            Purpose::Certificates(id) => self.on_certificates_tried(id, &verdict),
            Purpose::Start => self.on_start_tried(&verdict),
            Purpose::Configuration | Purpose::NextVersion | Purpose::Version(_) => {
                self.on_next_tried(verdict);
            }
            Purpose::Forgotten => {}
        }
    }

    /// A candidate Envoy said what it thinks of certificates.
    fn on_certificates_tried(&mut self, id: u64, verdict: &TrialResult) {
        let refusal = verdict.refusal();
        if refusal.is_none() && verdict.exit != Some(Exit::Code(0)) {
            // Whoever is no Envoy may have said what it was given: a key.
            let said = verdict.said.lines().rfind(|line| line.starts_with('['));
            let said = said.map_or(String::new(), |said| format!("; {said}"));
            let exit = verdict
                .exit
                .map_or("not started".into(), |exit| exit.to_string());
            log::warn!("envoy --mode validate gave no verdict on the certificates: {exit}{said}");
        }
        let verdict = refusal.map_or(Ok(()), Err);
        self.helpers
            .tell(CertificateCommand::Validated { id, verdict });
    }
}
