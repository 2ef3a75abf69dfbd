//! `drainit install PATH`: an init container puts drainit into somebody else's image.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{complain, say};

/// Copies this program to `path`, or into it if it is a directory; 0, or 1 and why.
pub fn run(path: &Path) -> u8 {
    let target = if path.is_dir() {
        path.join("drainit")
    } else {
        path.to_owned()
    };
    match copy(&target) {
        Ok(()) => {
            say(&format!("installed {}", target.display()));
            0
        }
        Err(error) => {
            complain(&format!("cannot install {}: {error}", target.display()));
            1
        }
    }
}

/// By a rename: whoever looks sees the whole program or none, and one that runs is not in the way.
fn copy(target: &Path) -> io::Result<()> {
    if fs::metadata(target).is_ok_and(|there| !there.is_file()) {
        return Err(io::Error::other(
            "something is there that is no regular file",
        ));
    }
    let mut source =
        fs::File::open("/proc/self/exe").or_else(|_| fs::File::open(std::env::current_exe()?))?;
    // An init container is always pid 1, and an earlier one may have left its temporary behind.
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut name = target.as_os_str().to_owned();
    name.push(format!(".{}.{}", std::process::id(), now.as_nanos()));
    let temporary = PathBuf::from(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o755)
        .open(&temporary)?;
    let copied = io::copy(&mut source, &mut file)
        // Whatever the umask says.
        .and_then(|_| file.set_permissions(Permissions::from_mode(0o755)))
        .and_then(|()| fs::rename(&temporary, target));
    if copied.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    copied
}
