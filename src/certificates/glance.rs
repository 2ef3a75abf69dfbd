//! Whether files may have changed, without reading them: a quarter of the work of reading,
//! which would be done every second for ever.
//!
//! The contents decide, so this errs on one side only. A file that changed is noticed at once
//! where the file system tells the truth; a change so close to the last look that the clock of
//! the file system cannot tell them apart is read again; and every now and then all is read,
//! whatever the file system says.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::read::Files;
use crate::pulse::Pulse;

/// Far above the granularity of any file system's clock.
const GRANULARITY: Duration = Duration::from_secs(2);
/// All is read at every so manieth look.
const READ_EVERY: u32 = 10;

/// What a file system says of a file: device, inode, links, size, and when it changed.
type Print = [i64; 6];

/// The files as they were just before they were read.
#[derive(Debug, Default)]
pub struct Glance {
    prints: Option<[Option<Print>; 3]>,
    trusted: bool,
    looks: u32,
}

impl Glance {
    /// Whether the files have to be read at `now`; `pulse` shows which one is looked at.
    pub fn must_read(&mut self, files: &Files, now: SystemTime, pulse: &Pulse) -> bool {
        let prints = prints(files, pulse);
        self.looks = self.looks.saturating_add(1);
        if self.trusted && self.looks < READ_EVERY && prints == self.prints {
            return false;
        }
        let old = |print: &Print| {
            let [.., seconds, nanoseconds] = *print;
            let changed = Duration::new(
                seconds.try_into().unwrap_or(0),
                nanoseconds.try_into().unwrap_or(0),
            );
            let age = SystemTime::UNIX_EPOCH.checked_add(changed);
            age.and_then(|changed| now.duration_since(changed).ok())
                .is_some_and(|age| age > GRANULARITY)
        };
        self.trusted = prints.is_some_and(|prints| prints.iter().flatten().all(old));
        self.prints = prints;
        self.looks = 0;
        true
    }
}

/// None where a file cannot be looked at: then it is for the reader to say why.
fn prints(files: &Files, pulse: &Pulse) -> Option<[Option<Print>; 3]> {
    let print = |path: &Path| {
        let file = pulse.during(path, || fs::metadata(path)).ok()?;
        // Nobody can set the change time, unlike the modification time.
        Some([
            file.dev().cast_signed(),
            file.ino().cast_signed(),
            file.nlink().cast_signed(),
            file.size().cast_signed(),
            file.ctime(),
            file.ctime_nsec(),
        ])
    };
    let ca = match &files.ca {
        Some(ca) => Some(print(ca)?),
        None => None,
    };
    Some([Some(print(&files.cert)?), Some(print(&files.key)?), ca])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn only_what_may_have_changed_is_read() {
        let dir = std::env::temp_dir().join(format!("drainit-glance-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let files = Files {
            cert: dir.join("cert"),
            key: dir.join("key"),
            ca: None,
        };
        let pulse = Pulse::default();
        let mut glance = Glance::default();
        let now = SystemTime::now();
        assert!(glance.must_read(&files, now, &pulse), "there is nothing");
        assert!(
            glance.must_read(&files, now, &pulse),
            "there is nothing still"
        );
        fs::write(&files.cert, "a").unwrap();
        fs::write(&files.key, "a").unwrap();
        assert!(glance.must_read(&files, now, &pulse));
        assert!(
            glance.must_read(&files, now, &pulse),
            "it may have changed again since"
        );
        let later = now + Duration::from_secs(10);
        assert!(glance.must_read(&files, later, &pulse));
        assert!(!glance.must_read(&files, later, &pulse));
        // In place, of the same size: the change time tells.
        std::thread::sleep(Duration::from_millis(20));
        let mut file = fs::OpenOptions::new().write(true).open(&files.key).unwrap();
        file.write_all(b"b").unwrap();
        assert!(glance.must_read(&files, later, &pulse));
        let reads = (0..30)
            .filter(|_| glance.must_read(&files, later, &pulse))
            .count();
        assert_eq!(reads, 3, "every tenth look reads all");
        fs::rename(&files.key, &files.cert).unwrap();
        assert!(glance.must_read(&files, later, &pulse));
        fs::remove_dir_all(&dir).unwrap();
    }
}
