//! Somebody else may have made what is there. These run as root, who alone has to care.

use super::*;
use crate::testing::TempDir;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::unistd::{setfsgid, setfsuid};

const USER: u32 = 54_321;

struct OwnedDir(TempDir);

impl OwnedDir {
    /// A directory of this user's.
    fn new(user: u32) -> OwnedDir {
        assert!(geteuid().is_root(), "these tests run as root");
        let dir = TempDir::new();
        fs::create_dir(dir.join("root")).unwrap();
        fs::write(dir.join("root/web.json"), "root's").unwrap();
        fs::create_dir(dir.join("resources")).unwrap();
        chown(dir.join("resources"), Some(user), Some(user)).unwrap();
        OwnedDir(dir)
    }

    fn resources(&self) -> PathBuf {
        self.0.join("resources")
    }

    fn publish(&self) -> io::Result<()> {
        Sds::make(&self.resources(), Access::Owner)?.replace(OsStr::new("web.json"), b"a key")
    }

    /// What root has beside it is as it was.
    #[track_caller]
    fn is_untouched(&self) {
        assert_eq!(fs::read(self.0.join("root/web.json")).unwrap(), b"root's");
        assert_eq!(fs::read_dir(self.0.join("root")).unwrap().count(), 1);
        for path in ["root", "root/web.json"] {
            assert_eq!(fs::metadata(self.0.join(path)).unwrap().uid(), 0, "{path}");
        }
    }

    #[track_caller]
    fn refuses(&self, why: &str) {
        let error = self.publish().unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        self.is_untouched();
    }
}

#[test]
fn files_are_given_to_the_user_whose_the_directory_is() {
    let place = OwnedDir::new(USER);
    place.publish().unwrap();
    let sds = place.resources().join("sds");
    for (path, mode) in [(sds.clone(), 0o700), (sds.join("web.json"), 0o600)] {
        let file = fs::metadata(&path).unwrap();
        assert_eq!((file.uid(), file.gid()), (USER, USER));
        assert_eq!(file.mode() & 0o7777, mode);
    }
    let said = Sds::open(&place.resources()).unwrap().describe();
    assert!(said.contains("of uid 54321, mode 0700"), "{said}");
    // Once more, into what is there.
    place.publish().unwrap();
}

#[test]
fn a_missing_directory_is_made_for_root_alone() {
    let place = OwnedDir::new(0);
    let deep = place.resources().join("a/b");
    let sds = Sds::make(&deep, Access::Owner).unwrap();
    sds.replace(OsStr::new("web.json"), b"a key").unwrap();
    assert_eq!(fs::metadata(&deep).unwrap().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(deep.join("sds/web.json")).unwrap().uid(), 0);
}

#[test]
fn a_link_in_the_place_of_the_directory_is_not_followed() {
    let place = OwnedDir::new(USER);
    symlink(place.0.join("root"), place.resources().join("sds")).unwrap();
    place.refuses("is a link or no directory: remove it");
}

#[test]
fn a_link_of_another_users_on_the_way_is_not_followed() {
    let place = OwnedDir::new(USER);
    let link = place.resources().join("link");
    symlink(place.0.join("root"), &link).unwrap();
    std::os::unix::fs::lchown(&link, Some(USER), Some(USER)).unwrap();
    let error = Sds::make(&link, Access::Owner).unwrap_err().to_string();
    assert!(
        error.contains("through a directory or link of uid 54321"),
        "{error}"
    );
    place.is_untouched();
    // Root's own is.
    let link = place.0.join("link");
    symlink("resources", &link).unwrap();
    Sds::make(&link, Access::Owner).unwrap();
}

#[test]
fn a_directory_of_a_third_user_or_of_everybody_is_refused() {
    let place = OwnedDir::new(USER);
    let sds = place.resources().join("sds");
    fs::create_dir(&sds).unwrap();
    chown(&sds, Some(USER + 1), None).unwrap();
    place.refuses("belongs to uid 54322");
    chown(&sds, Some(USER), None).unwrap();
    fs::set_permissions(&sds, fs::Permissions::from_mode(0o777)).unwrap();
    place.refuses("chmod o-w");
}

#[test]
fn a_file_that_is_a_link_is_replaced_and_not_followed() {
    let place = OwnedDir::new(USER);
    place.publish().unwrap();
    let sds = place.resources().join("sds");
    let target = place.0.join("root/web.json");
    for name in ["web.json", ".web.json.tmp"] {
        let _ = fs::remove_file(sds.join(name));
        symlink(&target, sds.join(name)).unwrap();
    }
    let open = Sds::open(&place.resources()).unwrap();
    assert!(open.read(OsStr::new("web.json")).is_err());
    place.publish().unwrap();
    place.is_untouched();
    assert_eq!(fs::read(sds.join("web.json")).unwrap(), b"a key");
}

/// Another user, who swaps the directory for a link, as fast as can be.
fn swap(resources: &Path, root: &Path, over: &AtomicBool) {
    // This thread alone, and with that its capabilities (setfsuid(2)).
    setfsgid(Gid::from_raw(USER));
    setfsuid(Uid::from_raw(USER));
    let sds = resources.join("sds");
    for number in 0_u32.. {
        let _ = fs::rename(&sds, resources.join(format!("old{number}")));
        let _ = symlink(root, &sds);
        // At another moment each time.
        (0..number % 40).for_each(|_| std::hint::spin_loop());
        let _ = fs::remove_file(&sds);
        (0..number % 1000).for_each(|_| std::hint::spin_loop());
        if over.load(Ordering::Relaxed) {
            return;
        }
    }
}

#[test]
fn who_swaps_the_directory_all_the_time_gains_nothing_by_it() {
    let set = std::env::var("TEST_DRAINIT_RACES");
    let races = set.map_or(500, |number| number.parse().unwrap());
    let place = OwnedDir::new(USER);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| swap(&place.resources(), &place.0.join("root"), &over));
        for _ in 0..races {
            let _ = place.publish();
            place.is_untouched();
        }
        over.store(true, Ordering::Relaxed);
    });
}
