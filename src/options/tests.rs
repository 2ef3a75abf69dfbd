use super::*;

fn read(line: &[&str], env: &[(&str, &str)]) -> Result<Command, String> {
    parse(line.iter().map(OsString::from), |name| {
        let (_, value) = env.iter().find(|(other, _)| *other == name)?;
        Some(OsString::from(value))
    })
}

fn options(line: &[&str], env: &[(&str, &str)]) -> Options {
    match read(line, env) {
        Ok(Command::Run(options, _)) => *options,
        other => panic!("{other:?}"),
    }
}

#[test]
fn envoy_and_its_arguments_are_left_alone() {
    for line in [
        &["--", "envoy", "-c", "envoy.yaml", "--drain-timeout", "x"][..],
        &["envoy", "-c", "envoy.yaml", "--drain-timeout", "x"],
        &[
            "--drain-timeout",
            "9s",
            "--",
            "envoy",
            "-c",
            "envoy.yaml",
            "--drain-timeout",
            "x",
        ],
        &[
            "--drain-timeout=9s",
            "envoy",
            "-c",
            "envoy.yaml",
            "--drain-timeout",
            "x",
        ],
    ] {
        let Ok(Command::Run(_, command)) = read(line, &[]) else {
            panic!("{line:?}");
        };
        assert_eq!(
            command,
            ["envoy", "-c", "envoy.yaml", "--drain-timeout", "x"],
            "{line:?}"
        );
    }
}

#[test]
fn a_program_with_a_commands_name_runs_behind_two_dashes() {
    let Ok(Command::Run(_, command)) = read(&["--", "health", "live"], &[]) else {
        panic!();
    };
    assert_eq!(command, ["health", "live"]);
}

#[test]
fn the_command_line_wins_over_the_environment() {
    let env = [
        ("DRAINIT_DRAIN_TIMEOUT", "7s"),
        ("DRAINIT_EXCLUDE_LISTENER", "a b"),
        ("ENVOY_CAFILE", "/ca"),
    ];
    let read = options(
        &[
            "--certificate-check",
            "3s",
            "--envoy-cert-file",
            "/c",
            "--envoy-key-file",
            "/k",
            "--resources-dir",
            "/d",
            "x",
        ],
        &env,
    );
    assert_eq!(read.limits.timeout, Duration::from_secs(7));
    assert_eq!(read.exclude_listeners, ["a", "b"]);
    assert_eq!(read.ca_file, Some("/ca".into()));
    let read = options(
        &[
            "--drain-timeout",
            "9s",
            "--exclude-listener",
            "c",
            "--exclude-listener",
            "d",
            "x",
        ],
        &env[..2],
    );
    assert_eq!(read.limits.timeout, Duration::from_secs(9));
    assert_eq!(read.exclude_listeners, ["c", "d"]);
}

#[test]
fn bad_input_gets_one_line_that_says_what_would_be_right() {
    for (line, hint) in [
        (&[][..], "drainit -- envoy -c envoy.yaml"),
        (&["--"], "drainit -- envoy -c envoy.yaml"),
        (&["--drain-timeuot", "5s", "x"], "--drain-timeout"),
        (&["--frobnicate", "x"], "drainit help"),
        (&["-x"], "drainit help"),
        (&["--drain-timeout", "5", "x"], "1m30s"),
        (&["--drain-timeout"], "--drain-timeout lacks its value"),
        (
            &["--drain-timeout", "--", "envoy"],
            "--drain-timeout lacks its value",
        ),
        (
            &["--listen", "--settle", "5s", "x"],
            "--listen lacks its value",
        ),
        (&["--drain-timeout", "25", "x"], "write 25s"),
        (&["--shutdown-from", "10.0.0.1:80", "x"], "write 10.0.0.1"),
        (
            &["--shutdown-from", "none,10.0.0.1", "x"],
            "none stands alone",
        ),
        (
            &["--admin-address", "http://127.0.0.1:9901", "x"],
            "write 127.0.0.1:9901",
        ),
        (&["--admin-address", "unix:@x", "x"], "write @x"),
        (&["--listen", "8090", "x"], "write :8090"),
        (&["--secret", "www=a,b,c", "x"], "NAME=CERT,KEY"),
        (&["shutdown", "--pid", "0"], "no pid"),
        (&["shutdown", "--pid"], "--pid lacks its value"),
        (&["status", "--pid", "1", "--listen", ":1"], "give one"),
        (&["--pid", "1", "x"], "unknown option --pid"),
        (&["--listen", "nowhere", "x"], "--listen"),
        (&["--admin-address", "9901", "x"], "host:port"),
        (&["--envoy-flags", "maybe", "x"], "add, keep"),
        (&["--restart", "always", "x"], "never, on-failure"),
        (&["--open-connections", "-1", "x"], "no number"),
        (&["--shutdown-from", "10.0.0.0/33", "x"], "10.0.0.0/8"),
        (&["--hot-restart=maybe", "x"], "takes no value"),
        (&["--secret", "x", "x"], "NAME=CERT,KEY"),
        (
            &["--secret", "../x=a,b", "--resources-dir", "/d", "x"],
            "a secret's name has letters",
        ),
        (&["--drain-delay", "30s", "x"], "--drain-timeout"),
        (&["--min-drain", "30s", "x"], "--drain-timeout"),
        (&["--check-interval", "0", "x"], "10ms"),
        (
            &[
                "--envoy-cert-file",
                "c",
                "--envoy-key-file",
                "k",
                "--resources-dir",
                "d",
                "x",
            ],
            "--envoy-cafile is missing",
        ),
        (
            &[
                "--envoy-cert-file",
                "c",
                "--envoy-key-file",
                "k",
                "--envoy-cafile",
                "a",
                "x",
            ],
            "--resources-dir is missing",
        ),
        (&["--resources-dir", "d", "x"], "--envoy-cert-file"),
        (&["health", "dead"], "drainit health ready"),
        (&["install"], "drainit install PATH"),
        (&["shutdown", "now"], "unexpected argument"),
        (&["status", "--wtach"], "unknown option"),
    ] {
        let refusal = read(line, &[]).expect_err(&format!("{line:?}"));
        assert!(refusal.contains(hint), "{line:?}: {refusal}");
        assert!(!refusal.contains('\n'), "{refusal}");
    }
}

#[test]
fn a_bad_environment_is_named() {
    let refusal = read(&["x"], &[("DRAINIT_SETTLE", "soon")]).unwrap_err();
    assert!(refusal.starts_with("DRAINIT_SETTLE: "), "{refusal}");
}

#[test]
fn help_tells_every_option_with_default_and_variable() {
    let page = help();
    for flag in FLAGS {
        assert!(page.contains(&format!("--{}", flag.name)), "{}", flag.name);
        let variable = flag.variables().next().unwrap();
        assert!(page.contains(&variable), "{}", flag.name);
        assert!(page.contains(flag.default));
    }
    assert!(page.lines().all(|line| line.chars().count() <= 100));
}

#[test]
fn contours_spellings_mean_the_same() {
    assert_eq!(
        options(&["--min-open-connections", "3", "x"], &[])
            .limits
            .open_connections,
        3
    );
    assert_eq!(
        options(&["--exit-at-connections", "4", "x"], &[])
            .limits
            .open_connections,
        4
    );
}

#[test]
fn over_tcp_nobody_may_shut_down_unless_it_is_given() {
    assert_eq!(options(&["x"], &[]).shutdown_from, []);
    for (value, networks) in [("none", 0), ("loopback", 2), ("10.0.0.0/8, fd00::/8", 2)] {
        let read = options(&["--shutdown-from", value, "x"], &[]);
        assert_eq!(read.shutdown_from.len(), networks, "{value}");
    }
    // Also where the environment has another.
    let env = [("DRAINIT_SHUTDOWN_FROM", "loopback")];
    let read = options(&["--shutdown-from", "none", "x"], &env);
    assert_eq!(read.shutdown_from, []);
}

#[test]
fn client_commands_take_options_on_both_sides() {
    for line in [
        &["--listen", "unix:/x", "health", "ready"][..],
        &["health", "--listen", "unix:/x", "ready"],
    ] {
        let Ok(Command::Health(options, probe)) = read(line, &[]) else {
            panic!("{line:?}");
        };
        assert!(options.listen_given);
        assert_eq!(probe, Probe::Ready);
    }
}
