//! What the kernel says of real files.

use super::*;
use crate::mailbox::{Mailbox, Waker};
use crate::testing::TempDir;
use std::fs::{self, hard_link, rename};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::Instant;

const LIMIT: Duration = Duration::from_secs(10);

struct Scene {
    dir: TempDir,
    file: PathBuf,
    notify: Notify,
    commands: (Mailbox<CertificateCommand>, Inbox<CertificateCommand>),
    tells_all: bool,
}

impl Scene {
    /// Watches `file`, relative to a directory of its own that `make` has filled.
    fn new(file: &str, make: impl FnOnce(&Path)) -> Scene {
        let dir = TempDir::new();
        make(&dir);
        let (waker, wakeups) = Waker::new().unwrap();
        let mut scene = Scene {
            file: dir.join(file),
            dir,
            notify: Notify::new(Some(wakeups), true),
            commands: Mailbox::new(Some(waker)),
            tells_all: false,
        };
        scene.watch();
        scene
    }

    fn watch(&mut self) {
        let files = [self.file.as_path()].into_iter();
        self.tells_all = self.notify.watch(7, files, &Pulse::default());
    }

    /// Waits until the kernel has said this.
    fn wait_for(&mut self, wanted: FileEvent) {
        let start = Instant::now();
        let mut all = Vec::new();
        while !all.contains(&wanted) {
            assert!(start.elapsed() < LIMIT, "{wanted:?} is not in {all:?}");
            assert!(self.notify.wait(&self.commands.1, LIMIT).is_none());
            for (set, word) in self.notify.words() {
                assert!(set.is_none_or(|set| set == 7));
                all.push(word);
            }
        }
        // Later names may be others.
        self.watch();
    }

    fn says_nothing(&mut self) {
        self.commands.0.send(CertificateCommand::EnvoyGone);
        assert!(self.notify.wait(&self.commands.1, LIMIT).is_some());
        assert_eq!(self.notify.words(), []);
    }
}

#[test]
fn whoever_changes_a_file_or_what_its_name_leads_to_is_told_of() {
    let mut scene = Scene::new("live/tls.crt", |dir| {
        fs::create_dir(dir.join("live")).unwrap();
        fs::write(dir.join("live/tls.crt"), "1").unwrap();
    });
    let (dir, file) = (scene.dir.to_path_buf(), scene.file.clone());
    scene.says_nothing();
    // In its place, and by another name of it.
    hard_link(&file, dir.join("other")).unwrap();
    scene.wait_for(FileEvent::Touched);
    let mut open = fs::File::options().append(true).open(dir.join("other"));
    open.as_mut().unwrap().write_all(b"2").unwrap();
    scene.wait_for(FileEvent::Writing(0));
    drop(open);
    scene.wait_for(FileEvent::Written(0));
    // Another in its place, three times: each is watched in turn.
    for _ in 0..3 {
        fs::write(dir.join("new"), "3").unwrap();
        rename(dir.join("new"), &file).unwrap();
        scene.wait_for(FileEvent::Renamed(0));
        scene.notify.words();
        scene.says_nothing();
    }
    fs::write(&file, "4").unwrap();
    scene.wait_for(FileEvent::Written(0));
    // What does not matter is not told, nor that it is read.
    fs::write(dir.join("live/another"), "5").unwrap();
    rename(dir.join("live/another"), dir.join("live/still another")).unwrap();
    fs::read(&file).unwrap();
    scene.says_nothing();
    // Gone, and there again, with its directory.
    fs::remove_file(&file).unwrap();
    scene.wait_for(FileEvent::Renamed(0));
    assert!(!scene.tells_all);
    fs::write(&file, "6").unwrap();
    scene.wait_for(FileEvent::Created(0));
    rename(dir.join("live"), dir.join("old")).unwrap();
    scene.wait_for(FileEvent::Renamed(0));
    fs::create_dir(dir.join("live")).unwrap();
    scene.wait_for(FileEvent::Created(0));
    fs::write(&file, "7").unwrap();
    scene.wait_for(FileEvent::Created(0));
    scene.notify.words();
    fs::write(dir.join("old/tls.crt"), "8").unwrap();
    scene.says_nothing();
}

#[test]
fn a_link_on_the_way_that_leads_elsewhere_is_told_of() {
    let mut scene = Scene::new("live/tls.crt", |dir| {
        fs::create_dir_all(dir.join("real/..1")).unwrap();
        symlink("real", dir.join("live")).unwrap();
        symlink("..1", dir.join("real/..data")).unwrap();
        symlink("..data/tls.crt", dir.join("real/tls.crt")).unwrap();
        fs::write(dir.join("real/..1/tls.crt"), "1").unwrap();
    });
    let dir = scene.dir.to_path_buf();
    // As the kubelet does.
    fs::create_dir(dir.join("real/..2")).unwrap();
    fs::write(dir.join("real/..2/tls.crt"), "2").unwrap();
    symlink("..2", dir.join("real/..data_tmp")).unwrap();
    scene.says_nothing();
    rename(dir.join("real/..data_tmp"), dir.join("real/..data")).unwrap();
    scene.wait_for(FileEvent::Renamed(0));
    fs::remove_dir_all(dir.join("real/..1")).unwrap();
    scene.notify.words();
    // It is the new one that is watched.
    fs::write(dir.join("real/..2/tls.crt"), "3").unwrap();
    scene.wait_for(FileEvent::Written(0));
    fs::create_dir(dir.join("other")).unwrap();
    fs::remove_file(dir.join("live")).unwrap();
    scene.wait_for(FileEvent::Renamed(0));
    symlink("other", dir.join("live")).unwrap();
    scene.wait_for(FileEvent::Created(0));
    fs::write(dir.join("other/tls.crt"), "4").unwrap();
    scene.wait_for(FileEvent::Created(0));
}

#[test]
fn words_that_were_lost_are_told_of_and_what_cannot_be_watched_is_known() {
    let mut scene = Scene::new("a", |dir| {
        fs::write(dir.join("a"), "1").unwrap();
        hard_link(dir.join("a"), dir.join("b")).unwrap();
    });
    let known = |path: &str| SEEN.contains(&kind(path));
    assert_eq!(scene.tells_all, known(&scene.file.display().to_string()));
    // More than the kernel keeps (fs.inotify.max_queued_events); the same twice is one.
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let file = fs::File::options().append(true).open(&scene.file).unwrap();
    for n in 0..limit.trim().parse::<u32>().unwrap() {
        let mode = fs::Permissions::from_mode(0o600 + n % 2);
        (&file).write_all(b"1").unwrap();
        file.set_permissions(mode).unwrap();
    }
    scene.wait_for(FileEvent::Unknown);

    for path in ["/proc/self/status", "/sys/kernel/notes", "/dev/null", "/"] {
        scene.file = path.into();
        scene.watch();
        assert!(!scene.tells_all, "{path}");
    }
}

fn kind(path: &str) -> u32 {
    fstatfs(fs::File::open(path).unwrap())
        .unwrap()
        .filesystem_type()
        .0 as u32
}
