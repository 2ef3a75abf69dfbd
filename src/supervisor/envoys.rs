//! The Envoy processes: one, or with hot restart a newest and an old one that drains beside it.

mod next;
mod shown;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::libc;

use super::OURS;
use super::child::Child;
use super::decide::Who;
use crate::client::Address;
use crate::envoy::address::{ADMIN_BLOCK, AddressFile, Pipe, Place};
use crate::envoy::flags;
use crate::envoy::hot_restart::Family;
use crate::envoy::kin;
use crate::envoy::question::Processes;
use crate::envoy::stand_in::StandIn;
use crate::options::Options;
use crate::process::{self, Exit, Process, Spawn};

/// What is to be changed so that Envoy can be asked how it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Nothing: where to ask is known.
    None,
    /// The operator is to change this.
    Change(String),
    /// What to change cannot be told yet: no Envoy runs that has come as far as its admin
    /// interface.
    Wait,
}

/// What the log says when no Envoy has told its admin address for long.
pub const NO_ENVOY: &str = "no envoy has told its admin address yet: until one does, nothing is \
    known of it, and a drain is blind";

/// Whose end a process's end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// An Envoy's: this one's.
    Envoy(Who),
    /// A start script's, behind which an Envoy lives on: the newest, or the old one.
    Script { newest: bool },
    /// An orphan's, or a trial's.
    Another,
}

/// All Envoys of this drainit.
#[derive(Debug)]
pub struct Envoys {
    options: Arc<Options>,
    line: Vec<OsString>,
    /// With hot restart, what the generations have in common.
    family: Option<Family>,
    /// The newest generation's number.
    epoch: u32,
    newest: Option<Child>,
    old: Option<Child>,
    /// The copy of a configuration that Envoy runs instead of its file, and the one that the next
    /// Envoy is to run.
    copy: Option<PathBuf>,
    next_copy: Option<PathBuf>,
    /// Whoever answers the newest in the place of the one before.
    stand_in: Option<StandIn>,
    /// What the newest was last started with.
    started_with: Vec<OsString>,
    /// Whether what was run last is an Envoy, and no script or another program that starts one.
    envoy_itself: bool,
    /// Whether an Envoy was seen to have been given what was added to the command line.
    hands_on: bool,
    /// The newest Envoy that ended last: something of its process tree may live on.
    gone: Option<Child>,
    /// Whether the newest's start script was told to end, after Envoy.
    script_told: bool,
}

impl Envoys {
    /// The Envoys of this command line, of which none runs yet.
    ///
    /// # Errors
    /// One line, when `--hot-restart` cannot work here.
    pub fn new(options: Arc<Options>, line: Vec<OsString>) -> Result<Envoys, String> {
        let family = match line.get(1..) {
            Some(args) if options.hot_restart => Some(Family::new(args, options.limits.timeout)?),
            _ => None,
        };
        Ok(Envoys {
            options,
            line,
            family,
            epoch: 0,
            newest: None,
            old: None,
            copy: None,
            next_copy: None,
            stand_in: None,
            started_with: Vec::new(),
            envoy_itself: false,
            hands_on: false,
            gone: None,
            script_told: false,
        })
    }

    /// The program that is run.
    pub fn program(&self) -> &OsStr {
        self.line
            .first()
            .map_or(OsStr::new(""), OsString::as_os_str)
    }

    /// With hot restart: when an old generation ends by itself.
    pub fn old_time(&self) -> Option<Duration> {
        self.family
            .as_ref()
            .map(|family| family.parent_shutdown_time)
    }

    /// The newest generation's number.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The newest Envoy's pid.
    pub fn pid(&self) -> Option<i32> {
        self.newest.as_ref().map(Child::envoy)
    }

    /// The newest Envoy has answered: it is there to be found, behind a start script or not.
    pub fn identify(&mut self) {
        self.newest.iter_mut().for_each(Child::look);
    }

    /// The newest Envoy has not answered yet, and may never do.
    pub fn look_for_flags(&mut self) {
        if !self.envoy_itself && !self.hands_on {
            self.hands_on = self.newest.as_ref().is_some_and(Child::hands_on);
        }
    }

    /// The old generation's pid, while that drains.
    pub fn old(&self) -> Option<i32> {
        self.old.as_ref().map(Child::envoy)
    }

    /// The processes that have connections. The next Envoy has none while it starts.
    pub fn processes(&self, starts: bool) -> Processes {
        match (self.pid(), self.old()) {
            (Some(newest), Some(old)) if !starts => Processes::Both { newest, old },
            (None, Some(old)) => Processes::Retired(old),
            (newest, old) => Processes::Serving(old.or(newest)),
        }
    }

    /// Where to ask how Envoy is.
    pub fn place(&self) -> Place {
        self.newest
            .as_ref()
            .map_or(Place::Unknown, |child| child.place.clone())
    }

    /// Whether the newest Envoy has an admin interface, as far as is known: it may yet tell of one.
    pub fn may_answer(&self) -> bool {
        self.pipe().is_some() || !matches!(self.place(), Place::Unknown)
    }

    /// Whether what is run is an Envoy, and no script or another program that starts one.
    pub fn is_envoy_itself(&self) -> bool {
        self.envoy_itself
    }

    /// The command line that tells whether Envoy refuses what it was last started with; none where
    /// it might start a second Envoy that serves: a script may drop its arguments.
    pub fn trial_of_start(&self) -> Option<Vec<OsString>> {
        if !self.envoy_itself && !self.hands_on {
            return None;
        }
        let mut line = vec![self.program().to_owned()];
        line.extend_from_slice(&self.started_with);
        if !flags::has(&line, "--mode") {
            line.extend(["--mode", "validate"].map(OsString::from));
        }
        Some(flags::audible(&line))
    }

    /// The command line on which a candidate Envoy tries this file; none where that might start a second
    /// Envoy that serves, as [`Envoys::trial_of_start`] has it.
    pub fn candidate(&self, file: &Path) -> Option<Vec<OsString>> {
        let is_program = |word: &&OsString| !word.as_bytes().starts_with(b"-");
        let program = self.line.iter().take_while(is_program).last();
        let name = program.and_then(|word| Path::new(word).file_name());
        // Before the first start nothing but the name tells.
        let is_envoy = self.envoy_itself || self.hands_on || name == Some(OsStr::new("envoy"));
        // Where a script alone knows the configuration, there is nothing to put the file in place of.
        let is_told =
            flags::config(&self.line).is_some() || flags::has(&self.line, "--config-yaml");
        (is_envoy && is_told).then(|| flags::trial_of(&self.line, file))
    }

    /// What is to be changed where Envoy's admin address is not known.
    pub fn advice(&self) -> Advice {
        let Some(child) = &self.newest else {
            return Advice::None;
        };
        if matches!(child.place, Place::Known(..) | Place::Told(_)) {
            return Advice::None;
        }
        let change = |what: &str| {
            Advice::Change(format!(
                "envoy has told no admin address, so nothing is known of it and a drain is blind: \
                 {what}"
            ))
        };
        if !self.options.add_envoy_flags && !matches!(child.place, Place::File(..)) {
            return change("add --admin-address ADDR, which --envoy-flags keep needs");
        }
        let Some(envoy) = child.with_watchdog() else {
            return Advice::Wait;
        };
        if flags::has(&kin::arguments(envoy), "--admin-address-path") {
            change(&format!("add to its configuration {ADMIN_BLOCK}"))
        } else {
            change("let the start script hand its arguments on, as in `exec envoy ... \"$@\"`")
        }
    }

    /// Whether Envoy is going to write its admin address to a file of the operator's.
    pub fn tells_by_file(&self) -> bool {
        self.options.admin_address.is_none()
            && flags::value(&self.line, "--admin-address-path").is_some()
    }

    /// What is polled for the newest Envoy's admin address.
    pub fn pipe(&self) -> Option<&Pipe> {
        self.newest.as_ref()?.pipe.as_ref()
    }

    /// Envoy's admin address was in the file that it was to be in.
    pub fn on_address(&mut self, address: &Address) {
        if let Some(child) = &mut self.newest
            && let Place::File(..) = child.place
        {
            child.place = Place::Known(address.clone(), None);
        }
    }

    /// Reads the admin address from the pipe, if it has come; whether it has.
    pub fn read_address(&mut self) -> bool {
        let Some(child) = &mut self.newest else {
            return false;
        };
        let Some(told) = child.pipe.as_mut().map(Pipe::read) else {
            return false;
        };
        match told {
            Ok(None) => return false,
            Ok(Some(address)) => {
                log::debug!("envoy's admin interface is {address}");
                if let Some(family) = &self.family {
                    family.close_directory();
                }
                child.place = Place::Told(address);
                // It was told by whoever got our flag.
                self.hands_on = true;
            }
            Err(why) => log::debug!("{why}"),
        }
        child.pipe = None;
        true
    }

    /// Spawns Envoy: the first generation, or while an old one is there the same one again.
    ///
    /// # Errors
    /// Those of [`process::spawn`].
    pub fn spawn(&mut self) -> io::Result<i32> {
        if self.old.is_none() {
            self.end_gone(libc::SIGKILL);
            self.epoch = 0;
            self.stand_in = None;
        } else {
            self.mend();
        }
        let line = flags::with_config(&self.line, self.copy.as_deref());
        let child = self.start(line, self.epoch)?;
        let pid = child.pid;
        self.newest = Some(child);
        Ok(pid)
    }

    /// Spawns the next generation beside the newest, which becomes the old one.
    ///
    /// # Errors
    /// Those of [`process::spawn`].
    pub fn spawn_next(&mut self) -> io::Result<i32> {
        if let Some(family) = &self.family {
            family.close_directory();
        }
        let child = self.start(self.next_line(), self.epoch + 1)?;
        let pid = child.pid;
        self.epoch += 1;
        self.old = self.newest.replace(child);
        Ok(pid)
    }

    /// The generation that started is no more: the one before is the newest again. The next attempt
    /// has the same number.
    pub fn fall_back(&mut self) {
        self.newest = self.old.take();
        self.epoch = self.epoch.saturating_sub(1);
        self.mend();
    }

    /// A generation may have ended while it started, and no other starts now.
    fn mend(&self) {
        if let Some(Err(why)) = self.family.as_ref().map(Family::mend) {
            log::error!(
                "the next hot restart may fail: the mark of the generation that ended may still be there: {why}"
            );
        }
    }

    /// A process ended: whose was it? The core says who the `newest` Envoy is.
    pub fn on_exit(&mut self, pid: i32, newest: Who) -> Whose {
        for (child, is_newest) in [(&mut self.newest, true), (&mut self.old, false)] {
            if let Some(child) = child
                && child.pid == pid
                && child.outlives_script()
            {
                return Whose::Script { newest: is_newest };
            }
        }
        if let Some(child) = self.newest.take_if(|child| child.pid == pid) {
            self.gone = Some(child);
            Whose::Envoy(newest)
        } else if self.old.take_if(|child| child.pid == pid).is_some() {
            Whose::Envoy(Who::Old)
        } else {
            Whose::Another
        }
    }

    /// Whether the newest, which ended so, was a start script that has not handed on how Envoy had
    /// ended behind it: it was killed, or told to end.
    pub fn was_script(&self, exit: Exit) -> bool {
        let ended_itself = self.script_told || matches!(exit, Exit::Signal(_));
        ended_itself && self.gone.as_ref().is_some_and(Child::is_script)
    }

    /// Whether drainit has sent SIGKILL to the newest, which has ended.
    pub fn was_killed(&self) -> bool {
        self.gone.as_ref().is_some_and(|child| child.is_killed)
    }

    /// Whether the newest Envoy has a handler for this signal.
    pub fn handles(&self, signal: i32) -> bool {
        self.pid().is_some_and(|pid| process::handles(pid, signal))
    }

    /// Sends the newest Envoy SIGTERM.
    pub fn terminate(&mut self) {
        self.newest.iter_mut().for_each(Child::terminate);
    }

    /// Sends the old generation SIGTERM.
    pub fn terminate_old(&mut self) {
        self.old.iter_mut().for_each(Child::terminate);
    }

    /// Has every Envoy reopen its logs, behind a start script, too: that would die of the signal.
    pub fn reopen_logs(&mut self) {
        self.newest.iter_mut().for_each(Child::reopen_logs);
        self.old.iter_mut().for_each(Child::reopen_logs);
    }

    /// Sends the newest Envoy SIGKILL, and what belongs to it.
    pub fn kill_newest(&mut self) {
        self.newest.iter_mut().for_each(Child::kill);
    }

    /// Sends SIGKILL to all that descends from us.
    pub fn kill_all(&mut self) {
        let envoys = self.newest.iter_mut().chain(&mut self.old);
        envoys.for_each(Child::kill);
        process::kill_descendants(<[Process]>::to_vec);
    }

    /// Sends a signal to what the newest Envoy has left behind, which is to be started again.
    pub fn end_gone(&self, signal: i32) {
        if let Some(gone) = &self.gone
            && process::has_children()
        {
            process::signal_descendants(&gone.tree(&process::descendants()), signal);
        }
    }

    /// Sends SIGTERM to all that descends from us, but to no Envoy: each has its own.
    pub fn terminate_rest(&mut self) {
        if !process::has_children() {
            return;
        }
        let mut rest = process::descendants();
        rest.retain(|process| {
            let envoys = [self.pid(), self.old()];
            !envoys.contains(&Some(process.pid))
        });
        if let Some(first) = rest.first() {
            let (count, pid) = (rest.len(), first.pid);
            log::info!("sending SIGTERM to what runs beside envoy: process {pid}, one of {count}");
            process::signal_descendants(&rest, libc::SIGTERM);
        }
        let script = self.newest.as_ref().map(|child| child.pid);
        self.script_told |= rest.iter().any(|process| Some(process.pid) == script);
    }

    /// All Envoys are gone, and drainit is about to be.
    pub fn clean_up(&self) {
        if let Some(family) = &self.family {
            family.remove();
        }
    }

    fn start(&mut self, line: Vec<OsString>, epoch: u32) -> io::Result<Child> {
        let (program, args) = line
            .split_first()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let mut args = args.to_vec();
        let has_predecessor = self.family.is_some() && epoch > 0;
        let (place, mut pipe) = self.admin(&args, has_predecessor.then_some(epoch));
        if let Some(family) = &self.family {
            family.complete(&mut args, epoch);
        }
        if self.options.add_envoy_flags {
            let path = pipe.as_ref().and_then(Pipe::path);
            let drain_time = flags::drain_time(self.options.limits.timeout);
            flags::complete(&mut args, drain_time, path, self.family.is_some());
        }
        let pid = process::spawn(&Spawn {
            program,
            args: &args,
            without: &OURS,
            inherit: pipe.as_ref().and_then(Pipe::write_end),
            output: None,
            mute: None,
        })?;
        if let Some(pipe) = &mut pipe {
            pipe.close_write_end();
        }
        self.started_with.clone_from(&args);
        self.script_told = false;
        let added = (args.len() + 1).saturating_sub(line.len());
        let child = Child::new(pid, (program, &args), added, place, pipe);
        self.envoy_itself = child.is_envoy_itself;
        log::info!(pid = pid; "envoy started, pid {pid}: {}", shown::show(program, &args));
        Ok(child)
    }

    /// How the next Envoy's admin address will be known.
    fn admin(&self, args: &[OsString], epoch: Option<u32>) -> (Place, Option<Pipe>) {
        if let Some(address) = &self.options.admin_address {
            return (Place::Known(address.clone(), epoch), None);
        }
        if let Some(path) = flags::value(args, "--admin-address-path") {
            let told = AddressFile::new(PathBuf::from(path));
            return (Place::File(Arc::new(told)), None);
        }
        if !self.options.add_envoy_flags {
            return (Place::Unknown, None);
        }
        let pipe = Pipe::new()
            .inspect_err(|error| log::warn!("envoy cannot tell its admin address: {error}"));
        (Place::Unknown, pipe.ok())
    }
}
