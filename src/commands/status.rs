//! `drainit status`: what the running drainit is doing, for a person.

mod keys;
mod listeners;
pub(super) mod paint;
mod screen;
mod table;
mod trouble;
pub(super) mod view;

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde_json::Value;

use super::find::{self, Target};
use super::{STACK, complain, is_obeyed, say};
use crate::options::{Options, StatusMode};
use crate::{fault, process};

use keys::Keys;
pub use paint::Style;
use screen::Screen;
pub use table::render;
use view::JsonView;

/// Between two looks.
const REST: Duration = Duration::from_secs(1);

/// Between two pictures while something moves.
const MOVING: Duration = Duration::from_millis(250);

/// What does not answer twice, this far apart, is gone.
const SECOND_TRY: Duration = Duration::from_millis(300);

/// Shows the status, once or again and again: 0, or 1 when nothing runs.
pub fn run(options: &Options, look: StatusMode) -> u8 {
    let asked =
        find::target(options).and_then(|target| Ok((super::read_status(&target, false)?, target)));
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
    let _ = write!(std::io::stdout(), "{}", render(status, scrolling()));
}

/// How a picture is drawn once: it scrolls, and no line is left out, whatever the window's height.
pub(super) fn scrolling() -> Style {
    Style {
        color: std::io::stdout().is_terminal() && screen::colors(),
        width: screen::size().map_or(usize::MAX, |(width, _)| width),
        height: usize::MAX,
    }
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
    /// Each picture over the one before.
    Screen(Screen),
    /// A JSON object for each picture.
    Json,
    /// The lines that were not among the last picture's.
    Lines(Vec<String>),
}

impl Output {
    /// Shows a picture; whether somebody is there to see it.
    fn show(&mut self, status: &Value) -> bool {
        match self {
            Output::Screen(screen) => screen.draw(status).is_ok(),
            Output::Json => writeln!(std::io::stdout(), "{}", json_line(status)).is_ok(),
            Output::Lines(last) => {
                let lines = table::lines(status);
                let mut new = lines.iter().filter(|line| !last.contains(line));
                let shown = new.all(|line| writeln!(std::io::stdout(), "{line}").is_ok());
                *last = lines;
                shown
            }
        }
    }

    /// The keys that are pressed, while they are ours.
    fn keys(&self) -> Option<&Keys> {
        match self {
            Output::Screen(screen) => screen.keys(),
            Output::Json | Output::Lines(_) => None,
        }
    }

    /// Shows how drainit ended, below what was there before the pictures.
    fn end(mut self, verdict: &LastStatus) {
        if let Output::Screen(screen) = &mut self {
            // What was so a moment ago is not so any more.
            screen.forget();
        }
        let is_json = matches!(self, Output::Json);
        drop(self);
        match (is_json, verdict) {
            (true, LastStatus::Told(status)) => show(status, true),
            (true, LastStatus::Silent(_)) => {}
            (false, LastStatus::Told(status)) => {
                say(&table::verdict(JsonView(status)).unwrap_or_default());
            }
            (false, LastStatus::Silent(last)) => {
                let last = table::lines(last).into_iter().next();
                let last = last.unwrap_or_default();
                say(&format!(
                    "drainit is gone without a word; last seen: {last}"
                ));
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
        Screen::open().map_or(Output::Lines(Vec::new()), Output::Screen)
    };
    let told = LastWord::await_of(target.clone());
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
    if gone {
        let end = match told {
            Some(told) => told.wait(status),
            None => LastStatus::Silent(status),
        };
        output.end(&end);
    }
    // Else the screen, where there is one, is left with the last picture on it.
    0
}

/// How drainit ended.
enum LastStatus {
    /// The last status of a drainit that ends, with the verdict.
    Told(Value),
    /// What was seen last: it was killed, or is too old to tell.
    Silent(Value),
}

/// Somebody who waits for drainit's last status.
struct LastWord(Arc<OnceLock<Option<Value>>>);

impl LastWord {
    /// Without a thread, the verdict is not known.
    fn await_of(target: Target) -> Option<LastWord> {
        let word = LastWord(Arc::default());
        let told = word.0.clone();
        let read = move || {
            let last = super::read_end(&target).ok();
            let last = last.filter(|status| JsonView(status).at("/verdict").is_some());
            // Nobody else sets it.
            let _ = told.set(last);
        };
        process::start_thread("status", STACK, Box::new(read)).ok()?;
        Some(word)
    }

    /// How the drainit ended that is gone by now, and was last seen like this.
    fn wait(self, seen: Value) -> LastStatus {
        let until = Instant::now() + LAST_WORD;
        while self.0.get().is_none() && Instant::now() < until {
            thread::sleep(MOMENT);
        }
        let told = self.0.get().cloned().flatten();
        told.map_or(LastStatus::Silent(seen), LastStatus::Told)
    }
}

/// How much later than the news that drainit is gone its verdict may come: over another connection.
const LAST_WORD: Duration = Duration::from_secs(1);

/// The time between two looks whether the verdict has come.
const MOMENT: Duration = Duration::from_millis(10);

/// The signals that end a watch.
const ENDS: [Signal; 4] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGQUIT,
    Signal::SIGHUP,
];
/// The signal that stops a watch for a while.
const PAUSES: Signal = Signal::SIGTSTP;
/// The signals after which the picture is drawn anew.
const REDRAWS: [Signal; 2] = [Signal::SIGWINCH, Signal::SIGCONT];

/// Keeps all of these signals from having their default effect: from now on they are read.
fn catch() -> nix::Result<SignalFd> {
    let signals: SigSet = ENDS.into_iter().chain([PAUSES]).chain(REDRAWS).collect();
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

/// What a terminal or a pipe tells that has nobody at its other end.
const CLOSED: PollFlags = PollFlags::POLLHUP
    .union(PollFlags::POLLERR)
    .union(PollFlags::POLLNVAL);

/// Waits until then, or until a signal calls for another picture; whether to go on.
fn rest(signals: &SignalFd, until: Instant, output: &mut Output) -> bool {
    loop {
        let left = until.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let stdout = std::io::stdout();
        let mut fds = vec![
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            // Nobody reads any more: that is told, though nothing is asked for.
            PollFd::new(stdout.as_fd(), PollFlags::empty()),
        ];
        let keys = output.keys().map(AsFd::as_fd);
        fds.extend(keys.map(|keys| PollFd::new(keys, PollFlags::POLLIN)));
        let ready = poll(&mut fds, timeout);
        let told = |at: usize| fds.get(at).and_then(PollFd::revents);
        let told = [0, 1, 2].map(|at| told(at).unwrap_or(PollFlags::empty()));
        let [signalled, _, pressed] = told.map(|flags| flags.contains(PollFlags::POLLIN));
        let closed = told.iter().any(|flags| flags.intersects(CLOSED));
        if closed || pressed && output.keys().is_some_and(Keys::quits) {
            return false;
        }
        if signalled || ready == Ok(0) || Instant::now() >= until {
            break;
        }
    }
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
