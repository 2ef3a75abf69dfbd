//! What drainit cannot know because of how Envoy is set up or started: said early, once, and with
//! what to change; or no obstacle at all.

use std::fs;

use crate::support::clients::HttpConnection;
use crate::support::drainit::{Drainit, Setting};
use crate::support::envoy_config::Admin;
use crate::support::fake_envoy::shell;
use crate::support::http::Address;
use crate::support::scene;
use crate::support::{PATIENCE, envoy, wait_for};

/// The only warning, which comes while nobody has asked for anything.
#[track_caller]
fn only_warning(drainit: &Drainit) -> String {
    let warnings = || {
        let lines = drainit.log.lines().into_iter();
        let lines = lines.filter(|line| line.contains("WARN") || line.contains("ERROR"));
        lines.collect::<Vec<_>>()
    };
    wait_for("a warning", PATIENCE, || !warnings().is_empty());
    // A probe must not add another.
    let (status, why) = drainit.get("/ready");
    assert_eq!(status, 503, "{why}");
    let warnings = warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    warnings.into_iter().next().unwrap()
}

#[test]
fn without_an_admin_interface_the_one_warning_says_what_to_add() {
    let (_upstream, config) = scene::of(Admin::None);
    let warning = only_warning(&Drainit::envoy(&[], &config));
    assert!(warning.contains("admin: { address:"), "{warning}");
}

#[test]
fn a_start_script_that_drops_its_arguments_is_told_by_what_it_should_do() {
    let (_upstream, config) = scene::of(Admin::Unix);
    let arguments = config.arguments().join(" ");
    let script = format!(
        "exec {} --disable-hot-restart {arguments}",
        envoy().display()
    );
    let warning = only_warning(&Drainit::start(&[], &shell(&script)));
    assert!(warning.contains("\"$@\""), "{warning}");
}

#[test]
fn a_script_that_takes_its_time_before_envoy_is_no_cause_for_a_warning() {
    let (_upstream, config) = scene::of(Admin::Unix);
    let mut command = shell("sleep 3; exec \"$@\"");
    command.extend(["sh".into(), envoy().display().to_string()]);
    command.extend(config.arguments());
    let drainit = Drainit::start(&[], &command);
    drainit.wait_ready();
    assert_eq!(drainit.log.find("WARN"), None);
}

#[test]
fn an_admin_socket_with_a_relative_path_is_found_in_envoys_directory() {
    let (_upstream, config) = scene::of(Admin::Unix);
    let Some(Address::Unix(path)) = &config.admin else {
        panic!("a unix socket");
    };
    config.replace(&format!("path: {}", path.display()), "path: admin.sock");
    let dir = config.dir.path().display();
    let mut command = shell(&format!("cd {dir}; exec \"$@\""));
    command.extend(["sh".into(), envoy().display().to_string()]);
    command.extend(config.arguments());
    for script in ["cd {dir}; exec \"$@\"", "cd {dir}; \"$@\""] {
        command[2] = script.replace("{dir}", &dir.to_string());
        let drainit = Drainit::start(&["--drain-timeout", "1s"], &command);
        drainit.wait_ready();
        HttpConnection::idle(config.http);
        drop(drainit);
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_kernel_that_refuses_fchmod_on_a_pipe_does_no_harm() {
    let (_upstream, config) = scene::of(Admin::Unix);
    // As gVisor does. The program: load the call's number; is it fchmod, then fail with EPERM.
    let script = "import ctypes, os, platform, struct, sys
number = {'x86_64': 91, 'aarch64': 52}[platform.machine()]
rules = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x50001), (6, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *rule) for rule in rules))
program = struct.pack('HxxxxxxP', len(rules), ctypes.addressof(code))
prctl = ctypes.CDLL(None, use_errno=True).prctl
assert prctl(38, 1, 0, 0, 0) == 0
assert prctl(22, 2, program, 0, 0) == 0, os.strerror(ctypes.get_errno())
try:
    os.fchmod(os.pipe()[0], 0o222)
    sys.exit('fchmod is not refused')
except PermissionError:
    os.execv(sys.argv[1], sys.argv[1:])";
    let setting = Setting::default().behind(&["python3", "-c", script]);
    let drainit = setting.envoy(&[], &config);
    drainit.wait_ready();
    assert_eq!(drainit.log.find("WARN"), None);
}
