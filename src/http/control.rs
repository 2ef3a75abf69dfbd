//! The names of the control sockets, on which drainit serves the same as on its port.
//!
//! The names are in Linux' abstract namespace, made of drainit's pid and pid namespace: that needs
//! no port, no writable file system and no configuration, and is there with `--listen off`. Anybody
//! may bind such a name first, in every container on the same network. So there are two sockets,
//! and the second's name has a tail that nobody can guess, which /proc/net/unix shows.

use std::hash::{BuildHasher, Hasher, RandomState};

use crate::process;

/// What the name of the control socket of the drainit with this pid begins with.
pub fn socket_name(pid: i32) -> String {
    // Pods on the host's network share one abstract namespace, and each has a pid 1.
    format!("{}{pid}", prefix())
}

/// What the names of all control sockets of our pid namespace begin with.
pub fn prefix() -> String {
    format!("drainit/{}/", process::pid_namespace())
}

/// The names of our own control sockets: the name that a command looks for first, and the name that
/// nobody can take before us.
pub fn own_names() -> [String; 2] {
    let name = socket_name(i32::try_from(std::process::id()).unwrap_or_default());
    // The kernel's randomness.
    let tail = RandomState::new().build_hasher().finish();
    let secret = format!("{name}/{tail:016x}");
    [name, secret]
}
