//! Whether files may have changed, without reading them: a quarter of the work of reading,
//! which would be done every second for ever.
//!
//! The contents decide, so this errs on one side only. A file that changed is noticed at once
//! where the file system tells the truth; a change so close to the last look that the clock of
//! the file system cannot tell them apart is read again; and every now and then all is read,
//! whatever the file system says.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::read::{File, Files};
use crate::file::{self, FileStamp};
use crate::pulse::Pulse;

/// Far above the granularity of any file system's clock.
const GRANULARITY: Duration = Duration::from_secs(2);
/// All is read at every so manieth look, and so long after the last time.
const READ_EVERY: u32 = 10;
const READ_AFTER: Duration = Duration::from_secs(10);

/// The files as they were just before they were read.
#[derive(Debug, Default)]
pub struct ChangeCheck {
    prints: Option<Vec<Option<FileStamp>>>,
    trusted: bool,
    looks: u32,
    read: Option<SystemTime>,
    new: bool,
}

impl ChangeCheck {
    /// Whether the files have to be read at `now`; `pulse` shows which one is looked at.
    pub fn must_read(&mut self, files: &Files, now: SystemTime, pulse: &Pulse) -> bool {
        let prints = prints(files, pulse);
        self.looks = self.looks.saturating_add(1);
        self.new = !self.trusted || prints != self.prints;
        let age = self.read.and_then(|read| now.duration_since(read).ok());
        let fresh = self.looks < READ_EVERY && age.is_some_and(|age| age < READ_AFTER);
        if fresh && !self.new {
            return false;
        }
        let old = |print: &FileStamp| {
            let [.., seconds, nanoseconds] = *print;
            let changed = Duration::new(
                seconds.try_into().unwrap_or(0),
                nanoseconds.try_into().unwrap_or(0),
            );
            let age = SystemTime::UNIX_EPOCH.checked_add(changed);
            age.and_then(|changed| now.duration_since(changed).ok())
                .is_some_and(|age| age > GRANULARITY)
        };
        self.trusted = prints
            .as_ref()
            .is_some_and(|prints| prints.iter().flatten().all(old));
        self.prints = prints;
        self.looks = 0;
        self.read = Some(now);
        true
    }

    /// Whether the last look found other files than the one before, as far as is known.
    pub fn is_new(&self) -> bool {
        self.new
    }
}

/// What the file system says of each file; none where a file that is needed cannot be looked at:
/// then it is for the reader to say why.
fn prints(files: &Files, pulse: &Pulse) -> Option<Vec<Option<FileStamp>>> {
    let print = |(file, path): (File, &Path)| {
        match pulse.during(path, || file::stamp(path)) {
            Ok(stamp) => Some(Some(stamp)),
            // It may well be missing for long.
            Err(_) if file == File::Staple => Some(None),
            Err(_) => None,
        }
    };
    files.each().map(print).collect()
}

#[cfg(test)]
mod tests {
    use super::super::read::Source;
    use super::*;
    use crate::testing::TempDir;
    use std::fs;
    use std::io::Write;

    #[test]
    fn only_what_may_have_changed_is_read() {
        let dir = TempDir::new();
        let (cert, key) = (dir.join("cert"), dir.join("key"));
        let files = Files(vec![Source::Pair {
            cert: cert.clone(),
            key: key.clone(),
            staple: Some(dir.join("staple")),
        }]);
        let pulse = Pulse::default();
        let mut change_check = ChangeCheck::default();
        let now = SystemTime::now();
        assert!(
            change_check.must_read(&files, now, &pulse),
            "there is nothing"
        );
        assert!(
            change_check.must_read(&files, now, &pulse),
            "there is nothing still"
        );
        fs::write(&cert, "a").unwrap();
        fs::write(&key, "a").unwrap();
        assert!(change_check.must_read(&files, now, &pulse));
        assert!(
            change_check.must_read(&files, now, &pulse),
            "it may have changed again since"
        );
        let later = now + Duration::from_secs(10);
        assert!(change_check.must_read(&files, later, &pulse));
        assert!(!change_check.must_read(&files, later, &pulse));
        // In place, of the same size: the change time tells.
        std::thread::sleep(Duration::from_millis(20));
        let mut file = fs::OpenOptions::new().write(true).open(&key).unwrap();
        file.write_all(b"b").unwrap();
        assert!(change_check.must_read(&files, later, &pulse));
        let reads = (0..30)
            .filter(|_| change_check.must_read(&files, later, &pulse))
            .count();
        assert_eq!(reads, 3, "every tenth look reads all");
        fs::rename(&key, &cert).unwrap();
        assert!(change_check.must_read(&files, later, &pulse));
    }
}
