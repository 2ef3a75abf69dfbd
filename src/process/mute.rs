//! A program that is not to be noticed: the kernel says yes to what would open a door, and opens
//! none (seccomp(2)).
//!
//! It needs no privilege, no namespace and no writable file system, and works where a container's
//! seccomp profile forbids namespaces.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::mem::offset_of;

use nix::libc::{
    self, BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO, SYS_bind, SYS_connect, SYS_fchmodat, SYS_listen, SYS_sendmmsg, SYS_sendmsg,
    SYS_sendto, SYS_setsockopt, SYS_unlinkat, c_long, seccomp_data, sock_filter,
};

/// The length of an answering program's name, in bytes. The filter sees lengths and no names: that
/// of an IPv4 address is 16, of an IPv6 address 28, of a path (Envoy gives all of the structure)
/// 110.
const NAME: usize = 91;

/// The length of an abstract address: its family, a zero, and the name.
const ABSTRACT: u32 = 2 + 1 + NAME as u32;

/// The length of a netlink address: libc asks for the network's interfaces by such a socket.
const NETLINK: u32 = 12;

/// A name for a [`Mute::answering`] program, in the abstract namespace of unix sockets: of the right
/// length, and one that nobody can guess.
pub fn name_of_answering() -> String {
    // The kernel's randomness.
    let random = RandomState::new().build_hasher().finish();
    format!(
        "drainit-check-{random:0width$x}",
        width = NAME - "drainit-check-".len()
    )
}

/// What a muted program may not do. Addresses are bound, files removed and options set for all that
/// it is told; nobody is reached.
#[derive(Clone, Debug)]
pub struct Mute(Vec<sock_filter>);

impl Mute {
    /// A program that serves nobody.
    pub fn silent() -> Mute {
        Mute::new(&[SYS_listen])
    }

    /// A program that serves who knows its [name](name_of_answering). A socket of TCP that listens
    /// without an address is given a port by the kernel: the program must not come to listen on
    /// one, or be where nobody can reach it.
    pub fn answering() -> Mute {
        Mute::new(&[])
    }

    fn new(also: &[c_long]) -> Mute {
        let done = SECCOMP_RET_ERRNO;
        let unreachable = SECCOMP_RET_ERRNO | libc::ENETUNREACH as u32;
        let mut code = vec![load(offset_of!(seccomp_data, nr))];
        let mut answer = |call: c_long, with: u32| {
            code.extend([skip_unless(call, 1), ret(with)]);
        };
        for call in DOORS.into_iter().chain(also.iter().copied()) {
            answer(call, done);
        }
        for call in [SYS_connect, SYS_sendmsg, SYS_sendmmsg] {
            answer(call, unreachable);
        }
        // By the length of the address, which is none where a connection is there.
        for (call, length, with, allowed) in [
            (SYS_bind, 2, done, [NETLINK, ABSTRACT]),
            (SYS_sendto, 5, unreachable, [NETLINK, 0]),
        ] {
            let [one, other] = allowed;
            code.extend([
                skip_unless(call, 5),
                load(offset_of!(seccomp_data, args) + length * 8 + LOW),
                jump(one, 1, 0),
                jump(other, 0, 1),
                ret(SECCOMP_RET_ALLOW),
                ret(with),
            ]);
        }
        code.push(ret(SECCOMP_RET_ALLOW));
        Mute(code)
    }

    /// Mutes the calling thread, and what it starts, for ever. Allocates nothing.
    ///
    /// # Errors
    /// When the kernel has no such filters.
    pub(super) fn apply(&self) -> nix::Result<()> {
        nix::sys::prctl::set_no_new_privs()?;
        let program = libc::sock_fprog {
            len: self.0.len() as u16,
            filter: self.0.as_ptr().cast_mut(),
        };
        // SAFETY: the kernel copies the program, which lives as long as `self`. nix has no call for
        // it.
        let set = unsafe {
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            )
        };
        nix::errno::Errno::result(set).map(drop)
    }
}

/// What seems done and is not. By an option a socket could need a privilege or an interface that
/// this program has not.
#[cfg(target_arch = "x86_64")]
const DOORS: [c_long; 5] = [
    SYS_setsockopt,
    SYS_unlinkat,
    SYS_fchmodat,
    libc::SYS_unlink,
    libc::SYS_chmod,
];
#[cfg(not(target_arch = "x86_64"))]
const DOORS: [c_long; 3] = [SYS_setsockopt, SYS_unlinkat, SYS_fchmodat];

/// Where the low half of an argument is.
const LOW: usize = if cfg!(target_endian = "little") { 0 } else { 4 };

fn load(offset: usize) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, offset as u32, 0, 0)
}

fn jump(value: u32, yes: u8, no: u8) -> sock_filter {
    instruction(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no)
}

fn skip_unless(call: c_long, count: u8) -> sock_filter {
    // A number of a system call is a small one.
    jump(call as u32, 0, count)
}

fn ret(value: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, value, 0, 0)
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    let code = code as u16;
    sock_filter { code, jt, jf, k }
}

/// Moves this process into a network namespace of its own, in which there is nothing: not even
/// loopback is up. Only while it has a single thread.
///
/// # Errors
/// When the kernel does not let us.
pub fn leave_network() -> io::Result<()> {
    use nix::sched::{CloneFlags, unshare};
    let net = CloneFlags::CLONE_NEWNET;
    let left = unshare(net).or_else(|error| {
        // Root would lose its right to read others' files with a user namespace.
        match nix::unistd::geteuid().is_root() {
            true => Err(error),
            false => unshare(CloneFlags::CLONE_NEWUSER | net),
        }
    });
    Ok(left?)
}
