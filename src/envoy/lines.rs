//! Lines of Envoy's statistics, while they come.

/// The longest line that is looked at; Envoy's names are far shorter. What is longer is no
/// statistic of ours and is skipped.
const LINE_MAX: usize = 4096;

/// Lines of `name: value` that are being read, in bounded memory, however they were cut into
/// pieces.
#[derive(Debug, Default)]
pub struct Lines {
    line: Vec<u8>,
}

impl Lines {
    /// Takes the next bytes of an answer's body.
    pub fn feed(&mut self, bytes: &[u8], mut take: impl FnMut(&str, u64)) {
        for &byte in bytes {
            if byte == b'\n' {
                self.end(&mut take);
            } else if self.line.len() <= LINE_MAX {
                self.line.push(byte);
            }
        }
    }

    /// Takes what has been read as a line.
    pub fn end(&mut self, mut take: impl FnMut(&str, u64)) {
        let line = std::str::from_utf8(&self.line).ok();
        let line = line.filter(|line| line.len() <= LINE_MAX);
        if let Some((name, value)) = line.and_then(|line| line.trim_end().split_once(": "))
            && let Ok(value) = value.parse()
        {
            take(name, value);
        }
        self.line.clear();
    }
}
