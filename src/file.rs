//! What tells a file that has changed, without reading it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a file system says of a file: device, inode, links, size, and when it changed.
pub type FileStamp = [i64; 6];

/// Looks at the file at this path, and follows links.
///
/// # Errors
/// Those of the file system.
pub fn stamp(path: &Path) -> io::Result<FileStamp> {
    let file = fs::metadata(path)?;
    // Nobody can set the change time, unlike the modification time.
    Ok([
        file.dev().cast_signed(),
        file.ino().cast_signed(),
        file.nlink().cast_signed(),
        file.size().cast_signed(),
        file.ctime(),
        file.ctime_nsec(),
    ])
}
