//! An Envoy that is run for a moment to hear what it makes of its configuration. It serves nobody,
//! reaches nobody and opens no configured address ([`Mute`]), wherever that is.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::libc::SIGKILL;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::facts::AdminSetting;
use super::overlay;
use crate::client::{Address, ExchangeLimits, Method, Peer, fetch_from};
use crate::envoy::address::Pipe;
use crate::envoy::{flags, refusal};
use crate::process::mute::{Mute, name_of_answering};
use crate::process::{self, Exit, Spawn};

/// An Envoy is live in 50 ms; with a large configuration, in some seconds.
const LIMIT: Duration = Duration::from_secs(15);

/// How many bytes of what Envoy says are read: the reason is in the last lines.
const OUTPUT: u64 = 64 * 1024;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// What xDS files tell comes a moment after the rest.
const PATIENCE: Duration = Duration::from_secs(1);

/// The limits on the whole configuration: 10,000 clusters have 40 MB.
pub const DUMP: ExchangeLimits = ExchangeLimits {
    time: Duration::from_secs(15),
    body: 256 << 20,
};

/// What an Envoy without an admin interface says (seen on 1.36.4 and 1.40.0).
const NO_ADMIN: &str = "No admin address given";

/// An Envoy that can be run.
#[derive(Debug)]
pub struct Candidate {
    /// The program.
    pub path: PathBuf,
    /// Envoy's arguments, as an operator gives them.
    pub args: Vec<OsString>,
    /// Whether we are in a network namespace of our own.
    pub alone: bool,
}

impl Candidate {
    /// Why Envoy refuses configuration or command line, if it does.
    ///
    /// # Errors
    /// One line, when it cannot be run, or does not come to an end.
    pub fn refusal(&self) -> Result<Option<String>, String> {
        let mut args = flags::audible(&self.args);
        if !flags::has(&args, "--mode") {
            args.extend(["--mode", "validate"].map(OsString::from));
        }
        let mut run = self.start(&args, &Mute::silent(), None)?;
        let until = Instant::now() + LIMIT;
        while run.exit.is_none() && Instant::now() < until {
            thread::sleep(LOOK);
            run.look();
        }
        let exit = run
            .exit
            .ok_or("`--mode validate` does not come to an end")?;
        let said = run.said().map_err(|error| error.to_string())?;
        if exit == Exit::Code(0) {
            return Ok(None);
        }
        let why = refusal::of_configuration(&said).or_else(|| refusal::last_word(&said));
        match (exit, why) {
            (Exit::Code(1), Some(why)) => Ok(Some(why)),
            _ => Err(format!("`--mode validate` ended with {}", exit.code())),
        }
    }

    /// Where this Envoy's admin interface would be.
    ///
    /// # Errors
    /// One line, when it cannot be run.
    pub fn admin(&self) -> Result<AdminSetting, String> {
        let mut pipe = Pipe::new().map_err(|error| error.to_string())?;
        let mut args = overlay::apart(&self.args);
        let path = pipe.path().ok_or("no pipe")?;
        args.extend(["--admin-address-path".into(), path]);
        let mut run = self.start(&args, &Mute::silent(), pipe.write_end())?;
        pipe.close_write_end();
        let until = Instant::now() + LIMIT;
        while run.exit.is_none() && Instant::now() < until {
            thread::sleep(LOOK);
            run.look();
            match pipe.read() {
                Ok(Some(address)) => return Ok(AdminSetting::At(address)),
                _ if run.said().is_ok_and(|said| said.contains(NO_ADMIN)) => {
                    return Ok(AdminSetting::Missing);
                }
                _ => {}
            }
        }
        Ok(AdminSetting::Unknown)
    }

    /// The answer to `/config_dump`, and whether one more of `admin.allow_paths`, the last, is ours.
    ///
    /// # Errors
    /// One line that says why there is none.
    pub fn dump(&self) -> Result<(String, bool), String> {
        match self.try_dump(false) {
            Err((403, _)) => self.try_dump(true).map(|dump| (dump, true)),
            answer => answer.map(|dump| (dump, false)),
        }
        .map_err(|(_, why)| why)
    }

    /// Tries to get the answer to `/config_dump`. The error has the status of an answer, or 0.
    fn try_dump(&self, open: bool) -> Result<String, (u16, String)> {
        let none = |why: String| (0, why);
        let name = name_of_answering();
        let lay = overlay::lay(&self.args, &name, open, !self.alone);
        let args = lay.map_err(none)?;
        let mut run = self.start(&args, &Mute::answering(), None).map_err(none)?;
        let address = Address::Abstract(name);
        let get = |path| fetch_from(Peer::Descendant, &address, Method::Get, path, DUMP);
        let until = Instant::now() + LIMIT;
        let mut answered = None;
        while run.exit.is_none() && Instant::now() < until {
            if let Ok((_, said)) = get("/ready") {
                let since = *answered.get_or_insert_with(Instant::now);
                // In the caller's network it is kept from being live.
                if !self.alone || said.starts_with("LIVE") || since.elapsed() > PATIENCE {
                    let (status, body) = get("/config_dump").map_err(none)?;
                    let why = || (status, format!("/config_dump answers with {status}"));
                    return (status == 200).then_some(body).ok_or_else(why);
                }
            }
            thread::sleep(LOOK);
            run.look();
        }
        let said = run.said().unwrap_or_default();
        let last = said.lines().last().unwrap_or("it printed nothing");
        Err(none(format!(
            "Envoy ended, or took too long, before it told its configuration: {last}"
        )))
    }

    fn start(&self, args: &[OsString], mute: &Mute, pipe: Option<&OwnedFd>) -> Result<Run, String> {
        let explain = |error: io::Error| match error.raw_os_error() {
            Some(nix::libc::EINVAL | nix::libc::ENOSYS | nix::libc::EPERM) => {
                "the kernel has no filter of system calls to run it behind".into()
            }
            _ => process::spawn_failure(OsStr::new(&self.path), &error).1,
        };
        let output = memfd_create("candidate", MFdFlags::MFD_CLOEXEC);
        let output = File::from(output.map_err(|error| error.to_string())?);
        let pid = process::spawn(&Spawn {
            program: self.path.as_os_str(),
            args,
            without: &["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"],
            inherit: pipe,
            output: Some(&output),
            mute: Some(mute),
        });
        let pid = pid.map_err(explain)?;
        let exit = None;
        Ok(Run { pid, output, exit })
    }
}

/// An Envoy that runs until this is dropped.
struct Run {
    pid: i32,
    output: File,
    /// How the Envoy ended, once it has.
    exit: Option<Exit>,
}

impl Run {
    /// Looks whether the Envoy has ended.
    fn look(&mut self) {
        if self.exit.is_some() {
            return;
        }
        let pid = Pid::from_raw(self.pid);
        self.exit = match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => Some(Exit::Code(code as u8)),
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(Exit::Signal(signal as u8)),
            _ => None,
        };
    }

    /// The end of what it said. It writes on meanwhile, by the same descriptor: nobody else may move
    /// that.
    fn said(&self) -> io::Result<String> {
        let length = self.output.metadata()?.len();
        let from = length.saturating_sub(OUTPUT);
        let mut said = vec![0; (length - from) as usize];
        let length = self.output.read_at(&mut said, from)?;
        said.truncate(length);
        Ok(String::from_utf8_lossy(&said).into_owned())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.exit.is_none() {
            // All of its group.
            process::kill(-self.pid, SIGKILL);
            let _ = waitpid(Pid::from_raw(self.pid), None);
        }
    }
}
