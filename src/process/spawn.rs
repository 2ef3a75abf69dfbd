//! How a child is started.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc::{self, c_char, c_int};
use nix::sched::{CloneCb, CloneFlags, clone};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, dup2_stderr, dup2_stdout, getppid, setpgid};

use super::mute::Mute;
use super::signals::{self, without_signals};

/// A child to be.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// A path, or a name on PATH.
    pub program: &'a OsStr,
    /// The program's arguments.
    pub args: &'a [OsString],
    /// Environment variables that the child does not get.
    pub without: &'a [&'a str],
    /// A descriptor that the child inherits.
    pub inherit: Option<&'a OwnedFd>,
    /// Where the child's stdout and stderr go, if not to ours.
    pub output: Option<&'a File>,
    /// What the child may not do.
    pub mute: Option<&'a Mute>,
}

/// Spawns a child, and returns its pid as soon as it has become `program`.
///
/// The child leads a process group of its own, so that what a terminal or somebody else sends to
/// ours (Ctrl-C, `kill -- -PGID`) does not reach it. It gets every signal's default and no blocked
/// ones, and SIGKILL when we end however we do (PR_SET_PDEATHSIG). The kernel sends that when the
/// *thread* that spawned it ends: only spawn from the main thread.
///
/// posix_spawn knows no PR_SET_PDEATHSIG, and a program of ours between would cost a third of
/// tini's start. So this does what posix_spawn does inside of libc, and that call beside it: a
/// child that borrows our memory (CLONE_VM) while we wait for its exec (CLONE_VFORK).
///
/// # Errors
/// Those of exec, among them `NotFound` and `PermissionDenied`; see [`spawn_failure`].
pub fn spawn(spawn: &Spawn<'_>) -> io::Result<i32> {
    let plan = Plan::new(spawn)?;
    // A sandbox that copies the memory all the same (qemu's user mode) passes this on, and not
    // what the child writes to memory.
    let (failure, failed) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let mut stack = vec![0; STACK];
    let child: CloneCb<'_> = Box::new(|| {
        let error = plan.become_program();
        let _ = nix::unistd::write(&failed, &error.to_ne_bytes());
        CANNOT_START
    });
    let flags = match cfg!(sanitized) {
        // ThreadSanitizer takes a child that borrows our memory for a second thread.
        true => CloneFlags::CLONE_VFORK,
        false => CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK,
    };
    // A handler that ran in the child would tell us of a signal that was the child's.
    let pid = without_signals(|| {
        // SAFETY: until its exec the child makes system calls and nothing else: it allocates
        // nothing, takes no lock and cannot panic. What it reads stays, because we wait for it.
        unsafe { clone(child, &mut stack, flags, Some(libc::SIGCHLD)) }
    })?;
    drop(failed);
    let mut error = [0; size_of::<c_int>()];
    match File::from(failure).read_exact(&mut error) {
        // Closed by exec.
        Err(_) => Ok(pid.as_raw()),
        Ok(()) => {
            let _ = waitpid(pid, None);
            Err(io::Error::from_raw_os_error(c_int::from_ne_bytes(error)))
        }
    }
}

/// What a child needs to become its program, made beforehand: it must not allocate.
struct Plan<'a> {
    parent: Pid,
    /// Where to look for the program, one after the other.
    paths: Vec<CString>,
    line: Strings,
    env: Strings,
    inherit: Option<&'a OwnedFd>,
    output: Option<&'a File>,
    mute: Option<&'a Mute>,
}

impl Plan<'_> {
    fn new<'a>(spawn: &Spawn<'a>) -> io::Result<Plan<'a>> {
        let line = std::iter::once(spawn.program).chain(spawn.args.iter().map(OsString::as_os_str));
        let env = std::env::vars_os()
            .filter(|(name, _)| !spawn.without.iter().any(|other| name == other))
            .map(|(mut entry, value)| {
                entry.push("=");
                entry.push(value);
                c_string(&entry)
            });
        Ok(Plan {
            parent: Pid::this(),
            paths: paths(spawn.program, std::env::var_os("PATH"))?,
            line: Strings::new(line.map(c_string).collect::<io::Result<_>>()?),
            env: Strings::new(env.collect::<io::Result<_>>()?),
            inherit: spawn.inherit,
            output: spawn.output,
            mute: spawn.mute,
        })
    }

    /// In the child: becomes the program, or returns why not, as errno has it.
    fn become_program(&self) -> c_int {
        match self.prepare() {
            Ok(()) => self.exec(),
            Err(error) => error as c_int,
        }
    }

    fn prepare(&self) -> nix::Result<()> {
        signals::reset_all();
        // Neither is worth to go without an Envoy: a sandbox may refuse them.
        let _ = set_pdeathsig(Signal::SIGKILL);
        let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
        if getppid() != self.parent {
            // It ended before that call, and nobody will tell us.
            return Err(Errno::ESRCH);
        }
        if let Some(output) = self.output {
            dup2_stdout(output)?;
            dup2_stderr(output)?;
        }
        if let Some(fd) = self.inherit {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        if let Some(mute) = self.mute {
            mute.apply()?;
        }
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
    }

    /// Executes the program as execvp does: what cannot be executed counts only if nothing else is
    /// found.
    fn exec(&self) -> c_int {
        let mut found = Errno::ENOENT;
        for path in &self.paths {
            // SAFETY: a path and two arrays of strings that end as they must. nix's execve
            // allocates.
            unsafe {
                libc::execve(path.as_ptr(), self.line.pointers(), self.env.pointers());
            }
            match Errno::last() {
                Errno::ENOENT | Errno::ENOTDIR => {}
                Errno::EACCES => found = Errno::EACCES,
                error => return error as c_int,
            }
        }
        found as c_int
    }
}

/// Strings as exec wants them.
struct Strings {
    /// What the pointers point to.
    _strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl Strings {
    fn new(strings: Vec<CString>) -> Strings {
        let pointers = strings.iter().map(|string| string.as_ptr());
        let pointers = pointers.chain([std::ptr::null()]).collect();
        Strings {
            _strings: strings,
            pointers,
        }
    }

    /// An array that ends with a null pointer, for as long as this lives.
    fn pointers(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}

/// Where a program is looked for: itself where it is a path, else in each directory of PATH.
fn paths(program: &OsStr, path: Option<OsString>) -> io::Result<Vec<CString>> {
    if program.is_empty() {
        return Ok(Vec::new());
    }
    if program.as_bytes().contains(&b'/') {
        return Ok(vec![c_string(program)?]);
    }
    let path = path.unwrap_or_else(|| DEFAULT_PATH.into());
    // An empty one is the working directory, and joins to the name alone.
    std::env::split_paths(&path)
        .map(|directory| c_string(directory.join(program).as_os_str()))
        .collect()
}

/// What execvp takes for PATH where that is not set; musl's.
const DEFAULT_PATH: &str = "/usr/local/bin:/bin:/usr/bin";

/// The child's stack until its exec, in bytes. The child takes a tenth of it.
const STACK: usize = 16 * 1024;

/// What the child exits with that found nothing to become. Nobody looks at it.
const CANNOT_START: isize = 127;

fn c_string(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}

/// What a failed [`spawn`] means, as tini has it: drainit's exit code, and a line for a person.
pub fn spawn_failure(program: &OsStr, error: &io::Error) -> (u8, String) {
    let name = program.to_string_lossy();
    let exists = name.contains('/') && std::path::Path::new(program).exists();
    match error.kind() {
        io::ErrorKind::NotFound if exists => (
            127,
            match interpreter(program) {
                Some(interpreter) => {
                    format!("{name}: its interpreter {interpreter} is missing from this image")
                }
                None => format!(
                    "{name}: its dynamic loader is missing: this image lacks the libraries it needs"
                ),
            },
        ),
        io::ErrorKind::NotFound if name.contains('/') => (127, format!("{name}: not found")),
        io::ErrorKind::NotFound => (127, format!("{name}: not found on PATH")),
        _ if std::path::Path::new(program).is_dir() => {
            (126, format!("{name}: is a directory, not a program"))
        }
        _ => (126, format!("{name}: cannot be executed: {error}")),
    }
}

/// What a script's first line has it run by.
fn interpreter(program: &OsStr) -> Option<String> {
    let mut start = [0; 256];
    let read = File::open(program).ok()?.read(&mut start).ok()?;
    let line = String::from_utf8_lossy(start.get(..read)?);
    let words = line.lines().next()?.strip_prefix("#!")?;
    words.split_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::wait::WaitStatus;
    use std::io::{Seek, SeekFrom};

    fn run(program: &str, args: &[&str], output: Option<&File>) -> io::Result<Pid> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        spawn(&Spawn {
            program: OsStr::new(program),
            args: &args,
            without: &["HOME"],
            inherit: None,
            output,
            mute: None,
        })
        .map(Pid::from_raw)
    }

    #[test]
    fn a_child_leads_a_group_of_its_own_and_inherits_nothing_of_our_signals() {
        let mut output = tempfile();
        let script = "echo \"${HOME-none} $$ $(ps -o pgid= -p $$)\"; \
                      grep -E '^Sig(Blk|Ign)' /proc/self/status";
        let pid = run("sh", &["-c", script], Some(&output)).unwrap();
        assert_eq!(waitpid(pid, None), Ok(WaitStatus::Exited(pid, 0)));
        let mut said = String::new();
        output.seek(SeekFrom::Start(0)).unwrap();
        output.read_to_string(&mut said).unwrap();
        let words: Vec<_> = said.split_whitespace().collect();
        let pid = pid.to_string();
        let nothing = "0000000000000000";
        assert_eq!(words[..3], ["none", pid.as_str(), pid.as_str()], "{said}");
        assert_eq!(
            words[3..],
            ["SigBlk:", nothing, "SigIgn:", nothing],
            "{said}"
        );
    }

    #[test]
    fn what_cannot_be_executed_is_told_with_its_reason_and_leaves_no_child() {
        for (program, error) in [
            ("/nowhere/envoy", libc::ENOENT),
            ("no-such-envoy", libc::ENOENT),
            ("", libc::ENOENT),
            ("/etc/passwd", libc::EACCES),
            ("/etc", libc::EACCES),
        ] {
            let why = run(program, &[], None).unwrap_err();
            assert_eq!(why.raw_os_error(), Some(error), "{program}");
        }
    }

    #[test]
    fn a_name_is_looked_for_in_each_directory_of_the_path() {
        let found = |program: &str, path: &str| {
            let paths = paths(OsStr::new(program), Some(path.into())).unwrap();
            let paths = paths.into_iter().map(|path| path.into_string().unwrap());
            paths.collect::<Vec<_>>()
        };
        assert_eq!(found("envoy", "/a::/b"), ["/a/envoy", "envoy", "/b/envoy"]);
        assert_eq!(found("bin/envoy", "/a"), ["bin/envoy"]);
        assert_eq!(found("", "/a"), [""; 0]);
    }

    fn tempfile() -> File {
        let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
        nix::sys::memfd::memfd_create("test", flags).unwrap().into()
    }
}
