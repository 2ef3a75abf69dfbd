//! A terminal on which pictures are drawn one over the other.

use std::io::{self, IsTerminal, Write};

use nix::libc;
use nix::unistd::{getpgrp, tcgetpgrp};
use serde_json::Value;

use super::keys::Keys;
use super::paint::Style;
use super::table::{picture, render};

/// The alternate screen, without a cursor; `\e[?7l`, so that nothing wraps.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// The terminal, until this is dropped: then it is as before, with the last picture below.
pub struct Screen {
    last: String,
    /// Whether the terminal is ours at this moment.
    taken: bool,
    /// What is pressed while it is.
    keys: Option<Keys>,
}

impl Screen {
    /// Takes stdout, if that is a terminal which can do it.
    pub fn open() -> Option<Screen> {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        if dumb || !io::stdout().is_terminal() {
            return None;
        }
        Some(Screen {
            last: String::new(),
            taken: false,
            keys: None,
        })
    }

    /// The keys, while they are ours.
    pub fn keys(&self) -> Option<&Keys> {
        self.keys.as_ref()
    }

    /// Forgets the last picture: what it shows is so no more.
    pub fn forget(&mut self) {
        self.last.clear();
    }

    /// Draws `status` over what was there. Not while the shell has put us into the background:
    /// the terminal is another's then.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn draw(&mut self, status: &Value) -> io::Result<()> {
        let (width, height) = size().unwrap_or((80, 24));
        let whole = Style {
            color: colors(),
            width,
            height: usize::MAX,
        };
        self.last = render(status, whole);
        if in_background() {
            return Ok(());
        }
        if !self.taken {
            write(ENTER)?;
            self.taken = true;
            self.keys = Keys::take();
        }
        // Each line clears what is right of it, and the last one what is below: clearing all
        // before would flicker. Behind the last column there is nothing, and the cursor stays on it.
        let mut drawn = String::from("\x1b[H");
        let lines = picture(status, width, height);
        let below = if lines.len() < height {
            "\r\n\x1b[J"
        } else {
            ""
        };
        for (at, line) in lines.into_iter().enumerate() {
            let clear = if line.width() < width { "\x1b[K" } else { "" };
            let next = if at > 0 { "\r\n" } else { "" };
            drawn = format!(
                "{drawn}{next}{}{clear}",
                line.draw(whole).trim_end_matches('\n')
            );
        }
        write(&format!("{drawn}{below}"))
    }

    /// Gives the terminal back until the next picture.
    pub fn leave(&mut self) {
        self.keys = None;
        if std::mem::take(&mut self.taken) {
            let _ = write(LEAVE);
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
        let _ = write(&self.last);
    }
}

/// Whether the terminal on stdout is ours, and another job's turn.
fn in_background() -> bool {
    tcgetpgrp(io::stdout()).is_ok_and(|foreground| foreground != getpgrp())
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Whether colours are wanted: see no-color.org.
pub fn colors() -> bool {
    let term = std::env::var_os("TERM");
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && term.is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// Columns and rows of stdout, if that is a terminal that knows them.
pub fn size() -> Option<(usize, usize)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the kernel writes one winsize, to memory that is ours.
    let asked = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    let (width, height) = (usize::from(size.ws_col), usize::from(size.ws_row));
    (asked == 0 && width > 0 && height > 0).then_some((width, height))
}
