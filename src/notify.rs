//! systemd's notification protocol, for `Type=notify` units (sd_notify(3), sd_watchdog_enabled(3)).
//!
//! What systemd should know is compared with what it was told, and the difference is sent: so a
//! datagram that did not get through is made up for by the next one, and nothing is sent twice.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// After a datagram that could not be sent (systemd's queue was full), before the next attempt.
const RETRY: Duration = Duration::from_millis(200);

/// systemd is asked for this much more than a drain may take: for the way to it and back.
const MARGIN: Duration = Duration::from_secs(5);

/// The most characters of a status that are sent: systemd drops a message of more than 4096 bytes
/// whole (`NOTIFY_BUFFER_MAX` in its src/core/manager.c).
const STATUS: usize = 1_000;

/// What systemd should know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Envoy has been live.
    pub ready: bool,
    /// Envoy is about to stop.
    pub stopping: bool,
    /// In a line, what drainit is doing.
    pub status: String,
    /// When and why the last reload failed, told behind the status; empty if it did not.
    pub reload_failed: String,
    /// Until when drainit may take to stop; systemd is told that with every message.
    pub until: Option<Instant>,
}

/// The way to systemd, if there is one.
#[derive(Debug)]
pub struct Notifier {
    systemd: Option<(UnixDatagram, SocketAddr)>,
    told: Wanted,
    retry: Option<Instant>,
    /// Whether systemd was told of a reload that is not done yet.
    reloading: bool,
    /// Between two signs of life, and when the next is due.
    watchdog: Option<(Duration, Instant)>,
}

impl Notifier {
    /// A notifier by the environment, as systemd set it for the process `pid`. `now` is when the
    /// first sign of life is due, if systemd wants any.
    pub fn new(env: impl Fn(&str) -> Option<OsString>, pid: u32, now: Instant) -> Notifier {
        let systemd = env("NOTIFY_SOCKET")
            .filter(|path| !path.is_empty())
            .and_then(|path| {
                connect(path.as_bytes())
                    .inspect_err(|error| {
                        log::warn!("systemd cannot be told how drainit is: {path:?}: {error}");
                    })
                    .ok()
            });
        let number = |name: &str| env(name)?.to_str()?.parse::<u64>().ok();
        let ours = match env("WATCHDOG_PID") {
            Some(_) => number("WATCHDOG_PID") == Some(u64::from(pid)),
            None => true,
        };
        let watchdog = number("WATCHDOG_USEC")
            .filter(|limit| ours && systemd.is_some() && *limit > 0)
            .map(|limit| (Duration::from_micros(limit / 2), now));
        Notifier {
            systemd,
            told: Wanted::default(),
            retry: None,
            reloading: false,
            watchdog,
        }
    }

    /// When there is something to send even if nothing happens.
    pub fn wake_at(&self) -> Option<Instant> {
        let beat = self.watchdog.map(|(_, due)| due);
        [self.retry, beat].into_iter().flatten().min()
    }

    /// Whether a sign of life is due.
    pub fn is_beat_due(&self, now: Instant) -> bool {
        self.watchdog.is_some_and(|(_, due)| due <= now)
    }

    /// Sends the sign of life that is due, unless drainit is not `healthy`.
    pub fn beat(&mut self, now: Instant, healthy: bool) {
        let sent = !healthy || self.send("WATCHDOG=1");
        if let Some((pause, due)) = &mut self.watchdog {
            *due = now + if sent { *pause } else { RETRY.min(*pause) };
        }
    }

    /// Tells systemd what has changed.
    pub fn tell(&mut self, now: Instant, wanted: &Wanted) {
        if self.systemd.is_none() || *wanted == self.told {
            self.retry = None;
            return;
        }
        if self.retry.is_some_and(|retry| now < retry) {
            return;
        }
        let mut message = String::new();
        if wanted.ready && !self.told.ready {
            message.push_str("READY=1\n");
        }
        if wanted.stopping && !self.told.stopping {
            message.push_str("STOPPING=1\n");
        }
        let status = format!("{}{}", wanted.status, wanted.reload_failed);
        let status = status.replace(char::is_control, " ");
        message.push_str("STATUS=");
        message.extend(status.chars().take(STATUS));
        if let Some(until) = wanted.until {
            let left = until.saturating_duration_since(now) + MARGIN;
            let _ = write!(message, "\nEXTEND_TIMEOUT_USEC={}", left.as_micros());
        }
        if self.send(&message) {
            self.told.clone_from(wanted);
            self.retry = None;
        } else {
            self.retry = Some(now + RETRY);
        }
    }

    /// Tells systemd that a reload begins, which `Type=notify-reload` waits for.
    pub fn begin_reload(&mut self) {
        if !self.told.ready || self.told.stopping {
            return;
        }
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        let now = now.as_micros();
        self.reloading |= self.send(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
    }

    /// The reload is done: with the next message, drainit is ready again.
    pub fn end_reload(&mut self) {
        if std::mem::take(&mut self.reloading) && !self.told.stopping {
            self.told.ready = false;
        }
    }

    fn send(&self, message: &str) -> bool {
        self.systemd.as_ref().is_some_and(|(socket, address)| {
            socket.send_to_addr(message.as_bytes(), address).is_ok()
        })
    }
}

/// The socket is not connected: systemd may make a new one at the same place.
fn connect(path: &[u8]) -> std::io::Result<(UnixDatagram, SocketAddr)> {
    let address = match path.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        Some((b'/', _)) => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
        _ => return Err(std::io::Error::other("neither a path nor @name")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A systemd at an abstract address, and the environment that it gives.
    fn systemd(watchdog: &str, pid: Option<&str>) -> (UnixDatagram, Notifier, Instant) {
        let name = format!("drainit-notify/{}/{watchdog}/{pid:?}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_nonblocking(true).unwrap();
        let now = Instant::now();
        let env = |variable: &str| match variable {
            "NOTIFY_SOCKET" => Some(format!("@{name}").into()),
            "WATCHDOG_USEC" => Some(watchdog.into()),
            _ => pid.map(OsString::from),
        };
        let notifier = Notifier::new(env, 42, now);
        (socket, notifier, now)
    }

    fn heard(socket: &UnixDatagram) -> Vec<String> {
        let mut datagram = [0; 4096];
        std::iter::from_fn(|| {
            let length = socket.recv(&mut datagram).ok()?;
            Some(String::from_utf8_lossy(&datagram[..length]).into_owned())
        })
        .collect()
    }

    #[test]
    fn what_changed_is_told_once() {
        let (socket, mut notifier, now) = systemd("", None);
        let mut wanted = Wanted {
            status: "starting: a\nREADY=1".into(),
            ..Wanted::default()
        };
        notifier.begin_reload();
        notifier.end_reload();
        notifier.tell(now, &wanted);
        notifier.tell(now, &wanted);
        assert_eq!(heard(&socket), ["STATUS=starting: a READY=1"]);
        wanted.ready = true;
        wanted.status = "live".into();
        notifier.tell(now, &wanted);
        assert_eq!(heard(&socket), ["READY=1\nSTATUS=live"]);
        notifier.begin_reload();
        notifier.tell(now, &wanted);
        let reload = heard(&socket);
        assert_eq!(reload.len(), 1);
        assert!(reload[0].starts_with("RELOADING=1\nMONOTONIC_USEC="));
        notifier.end_reload();
        notifier.tell(now, &wanted);
        notifier.tell(now, &wanted);
        assert_eq!(heard(&socket), ["READY=1\nSTATUS=live"]);
        // A drain comes into this one.
        notifier.begin_reload();
        assert_eq!(heard(&socket).len(), 1);
        wanted.stopping = true;
        wanted.until = Some(now + 27 * SECOND);
        notifier.tell(now, &wanted);
        wanted.status = "draining".into();
        notifier.tell(now + 10 * SECOND, &wanted);
        notifier.begin_reload();
        notifier.end_reload();
        notifier.tell(now + 10 * SECOND, &wanted);
        assert_eq!(
            heard(&socket),
            [
                "STOPPING=1\nSTATUS=live\nEXTEND_TIMEOUT_USEC=32000000",
                "STATUS=draining\nEXTEND_TIMEOUT_USEC=22000000"
            ]
        );
        assert_eq!(notifier.wake_at(), None);
    }

    #[test]
    fn a_long_status_is_cut_and_not_lost() {
        let (socket, mut notifier, now) = systemd("", None);
        let wanted = Wanted {
            ready: true,
            status: "\u{20ac}".repeat(5_000),
            until: Some(now + 27 * SECOND),
            ..Wanted::default()
        };
        notifier.tell(now, &wanted);
        let told = heard(&socket);
        assert!(told[0].len() < 4096 && told[0].ends_with("EXTEND_TIMEOUT_USEC=32000000"));
    }

    #[test]
    fn a_full_queue_blocks_nobody_and_nothing_is_lost() {
        let (socket, mut notifier, now) = systemd("", Some("1"));
        let mut wanted = Wanted::default();
        let mut sent = 0;
        while notifier.wake_at().is_none() {
            wanted.status = sent.to_string();
            notifier.tell(now, &wanted);
            sent += 1;
        }
        wanted.ready = true;
        notifier.tell(now, &wanted);
        let queued = heard(&socket);
        assert_eq!(queued.len(), sent - 1);
        assert!(notifier.wake_at() > Some(now));
        notifier.tell(now + SECOND, &wanted);
        assert_eq!(heard(&socket), [format!("READY=1\nSTATUS={}", sent - 1)]);
        assert_eq!(notifier.wake_at(), None);
    }

    #[test]
    fn signs_of_life_come_at_half_the_time_while_it_is_healthy() {
        let (socket, mut notifier, now) = systemd("3000000", Some("42"));
        assert!(notifier.is_beat_due(now));
        notifier.beat(now, true);
        assert_eq!(notifier.wake_at(), Some(now + 3 * SECOND / 2));
        assert!(!notifier.is_beat_due(now + SECOND));
        notifier.beat(now + 2 * SECOND, false);
        assert_eq!(heard(&socket), ["WATCHDOG=1"]);
        assert_eq!(notifier.wake_at(), Some(now + 7 * SECOND / 2));
    }

    #[test]
    fn without_systemd_nothing_wakes() {
        for (watchdog, pid) in [("3000000", Some("43")), ("0", Some("42")), ("x", None)] {
            let (_socket, notifier, _) = systemd(watchdog, pid);
            assert_eq!(notifier.wake_at(), None, "{watchdog} {pid:?}");
        }
        for path in ["", "relative", "vsock:2:1234"] {
            let now = Instant::now();
            let env = |variable: &str| match variable {
                "NOTIFY_SOCKET" => Some(path.into()),
                "WATCHDOG_USEC" => Some("3000000".into()),
                _ => None,
            };
            let mut notifier = Notifier::new(env, 42, now);
            notifier.tell(
                now,
                &Wanted {
                    ready: true,
                    ..Wanted::default()
                },
            );
            assert_eq!(notifier.wake_at(), None, "{path}");
        }
    }
}
