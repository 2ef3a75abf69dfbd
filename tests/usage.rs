//! Bad input, and what a child is given and gives back.

mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use support::drainit::{Drainit, run, run_command, run_with};
use support::fake_envoy::{self, SharedModel, shell};
use support::http::Address;
use support::process::spoil_signals;
use support::{Loopback, PATIENCE, TempDir, wait_for};

/// The options that keep a run from touching anything but its child.
const QUIET: [&str; 4] = ["--listen", "off", "--envoy-flags", "keep"];

/// Runs a shell script as the child: exit code and standard output.
fn child(script: &str) -> (i32, String) {
    let mut arguments = Vec::from(QUIET);
    arguments.extend(["--", "sh", "-c", script]);
    let (code, out, _) = run(&arguments);
    (code, out)
}

/// Checks that this is refused with one line that holds `text`, and that nothing was started.
#[track_caller]
fn refused(options: &[&str], variables: &[(&str, &str)], text: &str) {
    let dir = TempDir::new();
    let file = dir.join("started").display().to_string();
    let mut arguments = Vec::from(options);
    arguments.extend(["--", "touch", &file]);
    let (code, out, err) = run_with(&arguments, variables);
    assert_eq!(code, 2, "{err}");
    assert_eq!(out, "");
    assert_eq!(err.lines().count(), 1, "{err}");
    assert!(err.contains(text), "{text} is not in: {err}");
    assert!(!dir.join("started").exists(), "it was started");
}

#[test]
fn an_unknown_option_is_refused_and_the_likely_one_named() {
    refused(&["--drain-timeuot", "3s"], &[], "mean --drain-timeout?");
    refused(&["--listn", "off"], &[], "mean --listen?");
}

#[test]
fn a_bad_value_is_refused_with_what_would_be_right() {
    for (option, value) in [
        ("--drain-timeout", "25"),
        ("--drain-timeout", "-3s"),
        ("--drain-timeout", "soon"),
        ("--settle", ""),
        ("--check-interval", "1 s"),
        ("--open-connections", "many"),
        ("--open-connections", "-1"),
        ("--envoy-flags", "some"),
        ("--log-format", "xml"),
        ("--log-level", "loud"),
        ("--listen", "nowhere"),
        ("--shutdown-from", "10.0.0.0/33"),
        ("--admin-address", "127.0.0.1:70000"),
        ("--admin-address", "http://127.0.0.1:9901"),
        ("--admin-address", "unix:@x"),
        ("--secret", "www=a,b,c"),
        ("--drain-timeout", "--"),
        ("--restart", "always"),
    ] {
        refused(&[option, value], &[], option);
    }
}

#[test]
fn a_bad_value_in_the_environment_is_refused_by_its_variable() {
    let variable = ("DRAINIT_DRAIN_TIMEOUT", "soon");
    refused(&[], &[variable], "DRAINIT_DRAIN_TIMEOUT");
}

#[test]
fn the_command_line_wins_over_the_environment() {
    let mut arguments = vec!["--drain-timeout", "3s"];
    arguments.extend(QUIET);
    arguments.extend(["--", "true"]);
    let (code, _, err) = run_with(&arguments, &[("DRAINIT_DRAIN_TIMEOUT", "7s")]);
    assert_eq!(code, 0, "{err}");
}

#[test]
fn a_missing_command_is_refused() {
    for arguments in [&[][..], &["--"], &["--drain-timeout", "3s"]] {
        let (code, _, err) = run(arguments);
        assert_eq!(code, 2, "{arguments:?}: {err}");
        assert_eq!(err.lines().count(), 1, "{err}");
    }
}

#[test]
fn a_missing_value_is_refused() {
    let (code, _, err) = run(&["--drain-timeout"]);
    assert_eq!(code, 2);
    assert!(err.contains("--drain-timeout"), "{err}");
}

#[test]
fn help_fits_on_a_screen_and_help_all_names_every_option_and_its_variable() {
    for ask in [&["--help"][..], &["-h"], &["help"]] {
        let (code, out, err) = run(ask);
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(out.lines().count() <= 40, "{out}");
        assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
        for word in ["shutdown", "status", "--drain-timeout DUR", "[25s]"] {
            assert!(out.contains(word), "{word} is not in the help");
        }
    }
    let (code, out, err) = run(&["help", "all"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    for option in [
        "admin-address",
        "listen",
        "shutdown-from",
        "drain-delay",
        "drain-timeout",
        "grace-period",
        "min-drain",
        "settle",
        "open-connections",
        "check-interval",
        "kill-timeout",
        "exclude-listener",
        "envoy-flags",
        "log-format",
        "log-level",
    ] {
        assert!(
            out.contains(&format!("--{option}")),
            "--{option} is not in the help"
        );
        let variable = format!("DRAINIT_{}", option.replace('-', "_").to_uppercase());
        assert!(out.contains(&variable), "{variable} is not in the help");
    }
}

#[test]
fn each_command_has_a_page_of_its_own() {
    for (command, option) in [
        ("shutdown", "--listen"),
        ("health", "--listen"),
        ("status", "--watch"),
        ("reload", "--listen"),
        ("bootstrap", "--xds-address"),
        ("install", "PATH"),
    ] {
        let (code, page, err) = run(&[command, "--help"]);
        assert_eq!((code, err.as_str()), (0, ""), "{command}");
        assert!(page.contains(&format!("drainit {command}")), "{page}");
        assert!(page.contains(option), "{page}");
        assert!(!page.contains("--drain-timeout"), "{page}");
        assert_eq!(run(&["help", command]).1, page);
    }
    assert_eq!(run(&["help", "stop"]).0, 2);
}

#[test]
fn a_word_that_is_nearly_a_command_is_a_question_and_starts_nothing() {
    let (code, out, err) = run(&["statsu"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert_eq!(err.lines().count(), 1, "{err}");
    assert!(err.contains("did you mean `drainit status`?"), "{err}");
    // Behind the dashes it is a program, though there is none of that name.
    let (code, _, err) = run(&["--listen", "off", "--", "statsu"]);
    assert_eq!(code, 127, "{err}");
}

#[test]
fn a_variable_that_means_nothing_is_told_with_the_likely_one() {
    let mut arguments = Vec::from(QUIET);
    arguments.extend(["--", "true"]);
    let variables = [
        ("DRAINIT_DRAIN_TIMOT", "5s"),
        // A Service by the name of drainit makes these.
        ("DRAINIT_SERVICE_HOST", "10.0.0.1"),
        ("DRAINIT_SERVICE_PORT_HTTP", "8090"),
        ("DRAINIT_PORT", "tcp://10.0.0.1:8090"),
        ("DRAINIT_PORT_8090_TCP_ADDR", "10.0.0.1"),
    ];
    let (code, _, err) = run_with(&arguments, &variables);
    assert_eq!(code, 0, "{err}");
    let warnings: Vec<_> = err.lines().filter(|line| line.contains("WARN")).collect();
    let [warning] = warnings[..] else {
        panic!("{err}");
    };
    assert!(
        warning.contains("DRAINIT_DRAIN_TIMOT") && warning.contains("mean DRAINIT_DRAIN_TIMEOUT?"),
        "{warning}"
    );
}

#[test]
fn the_man_page_is_the_tables() {
    let (code, page, _) = run(&["help", "man"]);
    assert_eq!(code, 0);
    assert!(page.starts_with(".TH DRAINIT 8"), "{page}");
    assert!(page.contains(".B \\-\\-drain\\-timeout DUR"), "{page}");
    assert!(page.lines().all(|line| !line.starts_with('\'')), "{page}");
}

#[test]
fn the_version_is_the_crates() {
    let (code, out, _) = run(&["--version"]);
    assert_eq!(code, 0);
    assert!(out.contains(env!("CARGO_PKG_VERSION")), "{out}");
}

#[test]
fn a_command_that_is_not_there_gives_127() {
    for command in ["/nowhere/envoy", "no-such-envoy"] {
        let (code, _, err) = run(&["--listen", "off", "--", command]);
        assert_eq!(code, 127);
        assert!(err.contains(command), "{err}");
    }
}

#[test]
fn a_command_that_cannot_be_executed_gives_126() {
    let dir = TempDir::new();
    let file = dir.join("envoy");
    fs::write(&file, "not a program").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    for command in [&file, dir.path()] {
        let command = command.display().to_string();
        let (code, _, err) = run(&["--listen", "off", "--", &command]);
        assert_eq!(code, 126, "{err}");
        assert!(err.contains(&command), "{err}");
    }
}

#[test]
fn the_childs_exit_code_is_ours() {
    assert_eq!(child("exit 42").0, 42);
    assert_eq!(child("exit 0").0, 0);
    assert_eq!(child("kill -KILL $$").0, 137);
    assert_eq!(child("kill -ABRT $$").0, 134);
}

#[test]
fn a_child_starts_with_every_signal_as_it_should_be_whatever_we_inherited() {
    let mut command = Command::new(support::drainit());
    command.args(QUIET).args(["--", "cat", "/proc/self/status"]);
    spoil_signals(&mut command);
    let (code, out, err) = run_command(&mut command);
    assert_eq!(code, 0, "{err}");
    for name in ["SigPnd", "SigBlk", "SigIgn", "SigCgt"] {
        let set = out
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        assert_eq!(set, ":\t0000000000000000", "{name}");
    }
}

#[test]
fn the_childs_exit_code_is_ours_whatever_we_inherited() {
    let mut command = Command::new(support::drainit());
    command.args(QUIET).args(["--", "sh", "-c", "exit 42"]);
    spoil_signals(&mut command);
    assert_eq!(run_command(&mut command).0, 42);
}

#[test]
fn a_child_gets_no_descriptor_of_ours() {
    // What we were given it gets, as it would without us.
    let list = ["ls", "/proc/self/fd"];
    let (_, given, _) = run_command(Command::new(list[0]).arg(list[1]));
    let mut arguments = Vec::from(QUIET);
    arguments.push("--");
    arguments.extend(list);
    assert_eq!(run(&arguments).1, given);
}

#[test]
fn every_orphan_is_reaped() {
    let admin = SharedModel::default().admin();
    let script = "for n in 1 2 3 4 5; do (sleep 0.05 & sleep 0.1 &) ; done; sleep 1000 & \
                  trap 'kill $!; exit 0' TERM; wait $!";
    let mut drainit = fake_envoy::start_with(&[], &admin.address, &shell(script));
    drainit.wait_ready();
    let zombies = |pid| {
        let stats = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok());
        let parent = format!(") Z {pid} ");
        stats.filter(|stat| stat.contains(&parent)).count()
    };
    // Only the shell, and the sleep that it waits for, remain.
    wait_for("the orphans to go", PATIENCE, || {
        support::process::children(drainit.pid()).len() == 1 && zombies(drainit.pid()) == 0
    });
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
}

#[test]
fn a_taken_port_turns_health_off_and_traffic_goes_on() {
    let loopback = Loopback::claim();
    let taken = TcpListener::bind((loopback.ip, 8090)).unwrap();
    let listen = taken.local_addr().unwrap();
    let address = listen.to_string();
    let admin = SharedModel::default().admin();
    let mut drainit = fake_envoy::start(&["--listen", &address], &admin.address);
    drainit.wait_log(&address);
    let envoy = drainit.envoy_pid();
    drop(taken);
    wait_for("health on the port once it is free", PATIENCE * 2, || {
        Address::Tcp(listen)
            .request("GET", "/healthz", Duration::from_secs(1))
            .is_ok_and(|answer| answer.status == 200)
    });
    assert_eq!(drainit.envoy_pid(), envoy);
    drainit.signal(Signal::SIGTERM);
    assert_eq!(drainit.wait_exit(PATIENCE), 0);
}

#[test]
fn a_command_needs_no_dashes_before_it() {
    let mut arguments = Vec::from(QUIET);
    arguments.extend(["sh", "-c", "exit 7"]);
    assert_eq!(run(&arguments).0, 7);
}

#[test]
fn install_copies_the_program_whole() {
    let dir = TempDir::new();
    let copy = dir.join("drainit");
    assert_eq!(run(&["install", &copy.display().to_string()]).0, 0);
    assert_eq!(
        fs::read(&copy).unwrap(),
        fs::read(support::drainit()).unwrap()
    );
    assert_eq!(
        fs::metadata(&copy).unwrap().permissions().mode() & 0o777,
        0o755
    );
}

#[test]
fn nothing_to_shut_down_or_to_ask_is_said_in_one_line() {
    let (code, _, err) = run(&["health", "tired"]);
    assert_eq!(code, 2, "{err}");
    let nowhere = [("DRAINIT_LISTEN", "unix:/nowhere/health.sock")];
    for question in [&["health"][..], &["health", "live"], &["health", "ready"]] {
        let (code, out, err) = run_with(question, &nowhere);
        assert_eq!(code, 1, "{err}");
        assert_eq!(out.lines().count() + err.lines().count(), 1, "{out}{err}");
    }
}

#[test]
fn health_asks_the_running_one() {
    let admin = SharedModel::default().admin();
    let drainit: Drainit = fake_envoy::start(&[], &admin.address);
    drainit.wait_ready();
    let listen = format!("unix:{}", drainit.health.text());
    for question in [&["health"][..], &["health", "live"], &["health", "ready"]] {
        let (code, out, err) = run_with(question, &[("DRAINIT_LISTEN", &listen)]);
        assert_eq!(code, 0, "{err}");
        assert_eq!(out.lines().count() + err.lines().count(), 1, "{out}{err}");
    }
}

#[test]
fn health_finds_every_address_where_there_is_only_ipv4() {
    let free = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let admin = SharedModel::default().admin();
    let listen = format!("0.0.0.0:{port}");
    let drainit: Drainit = fake_envoy::start(&["--listen", &listen], &admin.address);
    drainit.wait_log(&listen);
    wait_for("an answer", PATIENCE, || {
        run(&["health", "--listen", &format!("[::]:{port}")]).0 == 0
    });
}

#[test]
fn a_reload_where_there_is_nothing_to_reload_fails_and_says_what_to_add() {
    let admin = SharedModel::default().admin();
    let drainit: Drainit = fake_envoy::start(&[], &admin.address);
    drainit.wait_ready();
    let listen = format!("unix:{}", drainit.health.text());
    let (code, out, err) = run(&["reload", "--listen", &listen]);
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
    for option in ["--hot-restart", "--secret", "--envoy-cert-file"] {
        assert!(err.contains(option), "{err}");
    }
    // Who sends the signal alone learns it from the log.
    let warning = drainit.wait_log("reload failed: there is nothing to reload");
    assert!(warning.contains(" WARN "), "{warning}");
}

/// From another container of a pod, say: there, its pid is somebody else's.
#[test]
fn a_drainit_of_another_pid_namespace_is_not_sent_a_signal() {
    let admin = SharedModel::default().admin();
    let drainit: Drainit = fake_envoy::start(&[], &admin.address);
    drainit.wait_ready();
    let listen = format!("unix:{}", drainit.health.text());
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc"]);
    command.arg(support::drainit());
    command.args(["reload", "--listen", &listen]);
    let (code, _, err) = run_command(&mut command);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("another container"), "{err}");
    assert!(drainit.log.find("SIGHUP").is_none());
}

#[test]
fn the_health_sockets_file_goes_with_drainit_and_a_killed_ones_is_replaced() {
    let model = SharedModel::default();
    let admin = model.admin();
    let dir = TempDir::new();
    let path = dir.join("health.sock");
    let health = Address::Unix(path.clone());
    let listen = format!("unix:{}", path.display());
    for end in [Signal::SIGKILL, Signal::SIGTERM] {
        let mut drainit = fake_envoy::start(&["--listen", &listen], &admin.address);
        wait_for("an answer on the socket", PATIENCE, || {
            health.request("GET", "/healthz", PATIENCE).is_ok()
        });
        drainit.signal(end);
        // What a killed one leaves behind goes with the test.
        wait_for("the end", PATIENCE, || drainit.has_exited());
        assert_eq!(path.exists(), end == Signal::SIGKILL);
    }
}

/// What `readelf` has in a line that begins so.
fn elf_line(listing: &str, kind: &str) -> Vec<String> {
    let line = listing
        .lines()
        .find(|line| line.trim_start().starts_with(kind));
    let line = line.unwrap_or_else(|| panic!("no {kind} in {listing}"));
    line.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn the_program_lies_at_any_address_and_only_its_data_can_be_written() {
    let listing = Command::new("readelf")
        .args(["--wide", "--file-header", "--program-headers", "--dynamic"])
        .arg(support::drainit())
        .output()
        .expect("readelf, of binutils");
    let listing = String::from_utf8(listing.stdout).unwrap();
    assert_eq!(
        elf_line(&listing, "Type:")[1],
        "DYN",
        "position independent"
    );
    assert!(!listing.contains("INTERP") && !listing.contains("NEEDED"));
    assert!(listing.contains("BIND_NOW") && !listing.contains("TEXTREL"));
    assert!(!elf_line(&listing, "GNU_STACK").contains(&"RWE".to_owned()));
    let relro = elf_line(&listing, "GNU_RELRO");
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    let (from, length) = (number(&relro[2]), number(&relro[5]));
    assert!(length >= 4_096, "{relro:?}");

    let admin = SharedModel::default().admin();
    let drainit = fake_envoy::start(&[], &admin.address);
    drainit.wait_ready();
    let maps = fs::read_to_string(format!("/proc/{}/maps", drainit.pid())).unwrap();
    let places: Vec<(u64, u64, String, bool)> = maps
        .lines()
        .map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let (start, end) = fields[0].split_once('-').unwrap();
            let is_program = line.ends_with(&support::drainit().display().to_string());
            (number(start), number(end), fields[1].to_owned(), is_program)
        })
        .collect();
    let program = places.iter().find(|place| place.3).unwrap().0;
    for (start, end, access, _) in &places {
        assert!(!(access.contains('w') && access.contains('x')), "{maps}");
        // Whole pages of it.
        let is_relro = *start < program + ((from + length) & !4_095) && *end > program + from;
        assert!(!is_relro || access == "r--p", "{maps}");
    }
    assert!(maps.contains("[stack]"));
}

/// What every binary of a release goes through, aarch64's under qemu.
#[test]
fn the_program_passes_the_smoke_test_of_a_release() {
    let smoke = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/smoke");
    let (code, _, told) = run_command(Command::new(smoke).arg(support::drainit()));
    assert_eq!(code, 0, "{told}");
}
