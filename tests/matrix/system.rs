//! File systems that cannot be written to.

use crate::support::drainit::Setting;
use crate::support::envoy_config::Admin;
use crate::support::scene;

/// Whatever is mounted read-only here is so for this drainit and its Envoy alone.
fn lives_and_drains_where(script: &str) {
    // The admin interface is on a port: a socket would need a place.
    let (upstream, config) = scene::of(Admin::Tcp);
    config.replace(&config.access_log.display().to_string(), "/dev/null");
    let mut drainit = Setting::default()
        .behind(&["unshare", "--mount", "--propagation", "private", "--"])
        .behind_script(&format!("{script}; exec \"$@\""))
        .health((config.ip(), 8090).into())
        .ready(&[], &config);
    scene::a_request_is_waited_for(&mut drainit, &config, &upstream);
}

/// Shell words: this is read-only from here on, and that is seen to be true.
const READ_ONLY: &str = "read_only() { mount -o remount,bind,ro $1; \
                         if touch $1/drainit-was-here 2>/dev/null; then exit 99; fi; }; ";

#[test]
fn a_read_only_dev_shm() {
    lives_and_drains_where(&format!("{READ_ONLY} read_only /dev/shm"));
}

#[test]
fn a_read_only_root() {
    // And everything that is mounted below it, but for what the kernel makes up.
    let mounts = "cut -d' ' -f2 /proc/mounts | grep -vE '^/(proc|sys|dev)(/|$)' | sort -u";
    lives_and_drains_where(&format!(
        "{READ_ONLY} read_only /dev/shm; for place in $({mounts}); do \
         [ ! -d $place ] || read_only $place; done"
    ));
}
