//! The keys that are pressed while a picture is shown, each at once and without its echo.

use std::io::{self, IsTerminal, Stdin};
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::termios::{
    LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr,
};
use nix::unistd::read;

/// The terminal on stdin, until this is dropped: then it is as before.
pub struct Keys {
    stdin: Stdin,
    before: Termios,
}

impl Keys {
    /// Takes stdin, if that is a terminal. Only for who is in its foreground: the kernel would
    /// stop another.
    pub fn take() -> Option<Keys> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        // Signals stay: Ctrl-C, Ctrl-\ and Ctrl-Z are the terminal's.
        raw.local_flags
            .remove(LocalFlags::ICANON | LocalFlags::ECHO);
        // A read takes what is there, and does not wait for it.
        raw.control_chars[SpecialCharacterIndices::VMIN as usize] = 0;
        raw.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        tcsetattr(&stdin, SetArg::TCSADRAIN, &raw).ok()?;
        Some(Keys { stdin, before })
    }

    /// Whether `q` was pressed since this was last asked.
    pub fn quits(&self) -> bool {
        let mut keys = [0; 64];
        let mut quits = false;
        while let Ok(length @ 1..) = read(&self.stdin, &mut keys) {
            let pressed = keys.get(..length).unwrap_or_default();
            quits |= pressed.iter().any(|key| matches!(key, b'q' | b'Q'));
        }
        quits
    }
}

impl AsFd for Keys {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stdin.as_fd()
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.stdin, SetArg::TCSADRAIN, &self.before);
    }
}
