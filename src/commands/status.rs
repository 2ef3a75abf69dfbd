//! `drainit status`: what the running drainit is doing, for a person.

mod screen;
mod table;
pub(super) mod view;

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde_json::Value;

use super::{complain, is_obeyed, say};
use crate::control::{self, Target};
use crate::fault;
use crate::options::{Look, Options};

use screen::Screen;
pub use table::{Style, render};

/// Between two looks.
const REST: Duration = Duration::from_secs(1);

/// The same while something moves.
const MOVING: Duration = Duration::from_millis(250);

/// What does not answer twice, this far apart, is gone.
const SECOND_TRY: Duration = Duration::from_millis(300);

/// Shows the status, once or again and again: 0, or 1 when nothing runs.
pub fn run(options: &Options, look: Look) -> u8 {
    let asked =
        control::find(options).and_then(|target| Ok((super::read_status(&target, false)?, target)));
    match asked {
        Ok((first, target)) if look.watch => watch(&target, first, look.json),
        Ok((first, _)) => {
            show(&first, look.json);
            0
        }
        Err(why) => {
            complain(&why);
            1
        }
    }
}

fn show(status: &Value, json: bool) {
    if json {
        let _ = writeln!(std::io::stdout(), "{}", json_line(status));
        return;
    }
    // What is too long for the terminal may wrap: nothing is drawn over it.
    let style = Style {
        color: std::io::stdout().is_terminal() && screen::colors(),
        width: usize::MAX,
        height: usize::MAX,
    };
    let _ = write!(std::io::stdout(), "{}", render(status, style));
}

/// The JSON in one line. What a terminal would obey is escaped in it, as serde_json does with a
/// part of that.
pub fn json_line(status: &Value) -> String {
    let mut line = String::new();
    for c in status.to_string().chars() {
        // All of them are within the basic multilingual plane, and within strings.
        match is_obeyed(c) {
            true => line.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => line.push(c),
        }
    }
    line
}

/// Where the pictures go.
enum Output {
    /// One over the other.
    Screen(Screen),
    /// One JSON each.
    Json,
    /// A line whenever it differs from the last.
    Lines(String),
}

impl Output {
    /// Shows a picture; whether somebody is there to see it.
    fn show(&mut self, status: &Value) -> bool {
        match self {
            Output::Screen(screen) => screen.draw(status).is_ok(),
            Output::Json => writeln!(std::io::stdout(), "{}", json_line(status)).is_ok(),
            Output::Lines(last) => {
                let line = table::line(status);
                let shown = line == *last || writeln!(std::io::stdout(), "{line}").is_ok();
                *last = line;
                shown
            }
        }
    }

    /// Gives the terminal back until the next picture, if it has taken it.
    fn leave(&mut self) {
        if let Output::Screen(screen) = self {
            screen.leave();
        }
    }
}

/// Shows the status until drainit is gone, or somebody has seen enough.
fn watch(target: &Target, first: Value, json: bool) -> u8 {
    // The terminal must get its cursor back, whatever ends this.
    let signals = match catch() {
        Ok(signals) => signals,
        Err(error) => {
            complain(&format!("cannot handle signals: {error}"));
            return 1;
        }
    };
    let mut output = if json {
        Output::Json
    } else {
        Screen::open().map_or(Output::Lines(String::new()), Output::Screen)
    };
    let mut status = first;
    let gone = loop {
        let drawn = Instant::now();
        if !output.show(&status) {
            break false;
        }
        fault::point("watch");
        let pause = if !json && table::moves(&status) {
            MOVING
        } else {
            REST
        };
        if !rest(&signals, drawn + pause, &mut output) {
            break false;
        }
        let again = super::read_status(target, false).or_else(|_| {
            thread::sleep(SECOND_TRY);
            super::read_status(target, false)
        });
        match again {
            Ok(next) => status = next,
            Err(_) => break true,
        }
    };
    // Leaves the screen, where there is one, with the last picture on it.
    drop(output);
    if gone && !json {
        say("drainit is gone");
    }
    0
}

/// The signals that end a watch...
const ENDS: [Signal; 4] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGQUIT,
    Signal::SIGHUP,
];
/// ... the one that stops it for a while...
const PAUSES: Signal = Signal::SIGTSTP;
/// ... and those after which the picture is drawn anew.
const REDRAWS: [Signal; 2] = [Signal::SIGWINCH, Signal::SIGCONT];

/// Keeps them from having their default effect: from now on they are read.
fn catch() -> nix::Result<SignalFd> {
    let signals: SigSet = ENDS.into_iter().chain([PAUSES]).chain(REDRAWS).collect();
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

/// Waits until then, or until a signal calls for another picture; whether to go on.
fn rest(signals: &SignalFd, until: Instant, output: &mut Output) -> bool {
    let left = until.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
    let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    let _ = poll(&mut fds, timeout);
    while let Ok(Some(signal)) = signals.read_signal() {
        let is = |one: Signal| one as u32 == signal.ssi_signo;
        if ENDS.into_iter().any(is) {
            return false;
        }
        if is(PAUSES) {
            output.leave();
            pause();
        }
    }
    true
}

/// Stops, as everybody does on Ctrl-Z, until the shell has it go on.
fn pause() {
    let signal = SigSet::from(PAUSES);
    let _ = raise(PAUSES);
    // It takes effect between these two.
    let _ = signal.thread_unblock();
    let _ = signal.thread_block();
}
