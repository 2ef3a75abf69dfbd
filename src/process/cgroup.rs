//! What the kernel tells of our memory cgroup.

use std::fs;

/// How many processes of our memory cgroup (and, by cgroup v2, of those below it) the kernel has
/// killed because memory ran out; none where it does not tell.
///
/// By v2 that is `oom_kill` in `memory.events`, by v1 in `memory.oom_control` (from Linux 4.13).
pub fn oom_kills() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    files(&own).into_iter().find_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        count(&text)
    })
}

/// Whether the kernel has killed more since then. A count that could not be read tells nothing.
pub fn has_risen(before: Option<u64>, now: Option<u64>) -> bool {
    before.zip(now).is_some_and(|(before, now)| now > before)
}

/// Where to look. A container may see its own cgroup as the root of all, and yet be told its path
/// from outside.
fn files(own: &str) -> [String; 2] {
    let memory = own.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers
            .split(',')
            .any(|name| name == "memory")
            .then_some(path)
    });
    let (root, file, path) = match memory {
        Some(path) => ("/sys/fs/cgroup/memory", "memory.oom_control", path),
        None => {
            let path = own.lines().find_map(|line| line.strip_prefix("0::"));
            ("/sys/fs/cgroup", "memory.events", path.unwrap_or("/"))
        }
    };
    let path = path.trim_end_matches('/');
    [format!("{root}{path}/{file}"), format!("{root}/{file}")]
}

fn count(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_known() {
        let v1 = "9:name=systemd:/a\n4:cpu,memory:/pods/b\n0::/c\n";
        let file = "/sys/fs/cgroup/memory/pods/b/memory.oom_control";
        assert_eq!(files(v1)[0], file);
        let v2 = files("0::/system.slice/envoy.service\n");
        let file = "/sys/fs/cgroup/system.slice/envoy.service/memory.events";
        assert_eq!(v2[0], file);
        assert_eq!(files("0::/\n")[0], "/sys/fs/cgroup/memory.events");
        assert_eq!(count("oom 3\noom_kill 2\noom_group_kill 0\n"), Some(2));
        assert_eq!(
            count("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"),
            Some(7)
        );
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\n"), None);
    }

    #[test]
    fn a_count_that_could_not_be_read_tells_nothing() {
        assert!(has_risen(Some(2), Some(3)) && !has_risen(Some(3), Some(3)));
        assert!(!has_risen(None, Some(3)) && !has_risen(Some(3), None));
    }
}
