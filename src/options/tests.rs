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

/// What is forgotten in `Settings::clear` would be added to the environment's.
#[test]
fn every_repeatable_option_of_the_command_line_replaces_the_environments() {
    let mut repeatable = 0;
    for flag in FLAGS {
        let Value::Each(words) = flag.value else {
            continue;
        };
        repeatable += 1;
        let [first, second] = match flag.name {
            "exclude-listener" => ["a", "b"],
            "secret" => ["a=c,k", "b=c,k"],
            "validation" => ["a=c", "b=c"],
            name => panic!("--{name} {words}: give two values of it here"),
        };
        let variable = flag.variables().next().unwrap();
        let dir = [
            "--envoy-cert-file=c",
            "--envoy-key-file=k",
            "--envoy-cafile=a",
        ];
        let option = format!("--{}={second}", flag.name);
        let mut line = vec!["--resources-dir=/d", &option];
        line.extend(dir);
        line.push("x");
        let [alone, both] = [vec![], vec![(variable.as_str(), first)]]
            .map(|env| format!("{:?}", options(&line, &env)));
        assert_eq!(both, alone, "--{}", flag.name);
    }
    assert!(repeatable > 2);
    let each = |value| matches!(value, Value::Each(_));
    assert!(!bootstrap::FLAGS.iter().any(|flag| each(flag.value)));
}

#[test]
fn every_command_of_the_table_is_parsed_to_its_own() {
    for entry in ENTRIES {
        let mut line = vec![entry.name];
        if entry.arguments.contains("PATH") || entry.arguments.contains("ENVOY") {
            line.push("x");
        }
        let command = format!("{:?}", read(&line, &[]).unwrap());
        let word = command.split('(').next().unwrap().to_lowercase();
        assert_eq!(word, entry.name, "{command}");
    }
}

#[test]
fn bad_input_gets_one_line_that_says_what_would_be_right() {
    for (line, hint) in [
        (&[][..], "drainit -- envoy -c envoy.yaml"),
        (&["--"], "drainit -- envoy -c envoy.yaml"),
        (&["--", ""], "drainit -- envoy -c envoy.yaml"),
        (&["check", "", "-c", "x"], "drainit -- envoy -c envoy.yaml"),
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
        (
            &["--secret", "www=a,b,c", "x"],
            "--secret: `www=a,b,c` has `c` too much: write NAME=CERT,KEY[,ocsp=FILE]",
        ),
        (
            &["--secret", "www=a,ocsp=c", "x"],
            "lacks a file: write NAME",
        ),
        (&["--secret", "www=a,b,ocsp=", "x"], "no file behind ocsp="),
        (
            &["--secret", "www=a,b,ocsp=c,ocsp=d", "x"],
            "has ocsp= twice",
        ),
        (&["--secret", "www=a,b,crl=c", "x"], "has `crl=c` too much"),
        (
            &["--validation", "www=ca.pem,x.crl", "x"],
            "--validation: `www=ca.pem,x.crl` has `x.crl` too much: write NAME=CA[,crl=FILE]",
        ),
        (
            &["--validation", "www", "x"],
            "`www` has no '=': write NAME=CA",
        ),
        (
            &["--validation", "www=", "x"],
            "lacks a file: write NAME=CA",
        ),
        (
            &["--validation", "=ca.pem", "x"],
            "a secret's name is not empty",
        ),
        (
            &["--validation", "www=a", "x"],
            "--resources-dir is missing",
        ),
        (
            &["--secret", "www=a,b", "--validation", "www=a", "x"],
            "--validation www is given twice",
        ),
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
            &["--secret", "a b=a,b", "--resources-dir", "/d", "x"],
            "white space",
        ),
        (
            &["--secret", "a://b=a,b", "--secret", "a_b=a,b", "x"],
            "--secret a_b: Envoy has it under one name with a://b",
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
        (&["status", "--wtach"], "did you mean --watch?"),
        (&["health", "--drain-timeout=5s"], "drainit help health"),
        (
            &["--drain-time", "5s", "x"],
            "did you mean --drain-timeout?",
        ),
        (&["--listne=off", "x"], "did you mean --listen?"),
        (&["help", "stats"], "help is there on all, shutdown"),
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
    // Where it is used, and where the command line does not say otherwise.
    let env = [("DRAINIT_SETTLE", "soon"), ("DRAINIT_LISTEN", "nowhere")];
    let refusal = read(&["health"], &env).unwrap_err();
    assert!(refusal.starts_with("DRAINIT_LISTEN: "), "{refusal}");
    for line in [
        &["health", "--listen=unix:/x"][..],
        &["help"],
        &["install", "x"],
    ] {
        assert!(read(line, &env).is_ok(), "{line:?}");
    }
}

#[test]
fn every_default_is_taken_by_its_own_option() {
    let mut options = Options::blank();
    for flag in FLAGS {
        assert_eq!(flag.take_default(&mut options), Ok(()), "--{}", flag.name);
    }
    // Words that stand for what nobody sets.
    let listen = FLAGS.iter().find(|flag| flag.name == "listen").unwrap();
    assert!(listen.default.starts_with(&Listen::Default.to_string()));
    let options = Options::default();
    assert!(!options.listen_given && !options.log_level_given);
    assert_eq!(options.limits.timeout, Duration::from_secs(25));
    assert_eq!(options.log_level, log::LevelFilter::Info);
    assert!(options.add_envoy_flags && options.resources_dir.is_none());
}

#[test]
fn a_word_that_is_nearly_a_command_is_a_question() {
    for (word, meant) in [
        ("statsu", "status"),
        ("shutdow", "shutdown"),
        ("heallth", "health"),
        ("relaod", "reload"),
        ("instal", "install"),
        ("bootsrap", "bootstrap"),
        ("Help", "help"),
    ] {
        let question = read(&[word], &[]).unwrap_err();
        assert!(
            question.contains(&format!("`drainit {meant}`")),
            "{question}"
        );
        assert!(
            question.contains(&format!("`drainit -- {word}`")),
            "{question}"
        );
        for line in [&["--", word][..], &["--settle", "0", "--", word]] {
            assert!(matches!(read(line, &[]), Ok(Command::Run(..))), "{line:?}");
        }
    }
    for word in ["envoy", "state", "/opt/statsu", "sh"] {
        assert!(matches!(read(&[word], &[]), Ok(Command::Run(..))), "{word}");
    }
}

#[test]
fn the_grace_period_makes_the_drain_timeout_unless_that_is_given() {
    let seconds = |line: &[&str], env: &[(&str, &str)]| {
        let mut line = line.to_vec();
        line.push("envoy");
        options(&line, env).limits.timeout.as_secs_f64()
    };
    let kubernetes = "TERMINATION_GRACE_PERIOD_SECONDS";
    assert_eq!(seconds(&[], &[]), 25.0);
    assert_eq!(seconds(&["--grace-period", "60s"], &[]), 55.0);
    assert_eq!(seconds(&[], &[(kubernetes, "300")]), 295.0);
    assert_eq!(seconds(&[], &[("DRAINIT_GRACE_PERIOD", "1m")]), 55.0);
    // The nearer one counts.
    assert_eq!(
        seconds(&["--grace-period", "60s"], &[(kubernetes, "300")]),
        55.0
    );
    let both = [("DRAINIT_GRACE_PERIOD", "1m"), (kubernetes, "300")];
    assert_eq!(seconds(&[], &both), 55.0);
    assert_eq!(
        seconds(&["--grace-period=60s", "--kill-timeout=7s"], &[]),
        50.0
    );
    // At least half of it.
    assert_eq!(seconds(&["--grace-period", "8s"], &[]), 4.0);
    assert_eq!(seconds(&["--grace-period", "0s"], &[]), 0.0);
    assert_eq!(
        seconds(&["--grace-period=60s", "--drain-timeout=9s"], &[]),
        9.0
    );
    let timeout = ("DRAINIT_DRAIN_TIMEOUT", "9s");
    assert_eq!(seconds(&["--grace-period", "60s"], &[timeout]), 9.0);
    assert_eq!(seconds(&[], &[(kubernetes, "300"), timeout]), 9.0);
    assert_eq!(
        options(&["envoy"], &[(kubernetes, "30")]).grace_period,
        Some(Duration::from_secs(30))
    );
    for wrong in ["30s", "soon", "-1", "2592001"] {
        let refusal = read(&["envoy"], &[(kubernetes, wrong)]).unwrap_err();
        assert!(refusal.starts_with(kubernetes), "{refusal}");
    }
    let refusal = read(&["--grace-period=10s", "--drain-delay=8s", "envoy"], &[]).unwrap_err();
    assert!(refusal.contains("--drain-timeout (5 s)"), "{refusal}");
}

#[test]
fn auto_leaves_a_part_of_the_drains_time_and_lasts_five_seconds_without_an_orchestrator() {
    let auto = |line: &[&str], env: &[(&str, &str)]| {
        let line = [line, &["envoy"]].concat();
        match options(&line, env).limits.min {
            MinDrain::Auto { most, reserve } => (most.as_secs_f64(), reserve.as_secs_f64()),
            min => panic!("{min:?}"),
        }
    };
    let pod = [("KUBERNETES_SERVICE_HOST", "10.96.0.1")];
    assert_eq!(auto(&[], &[]), (5.0, 5.0));
    assert_eq!(auto(&["--drain-timeout=8s"], &[]), (5.0, 4.0));
    assert_eq!(auto(&["--drain-timeout=0"], &[]), (5.0, 0.0));
    assert_eq!(auto(&[], &pod), (25.0, 5.0));
    assert_eq!(auto(&["--drain-timeout=8s"], &pod), (8.0, 5.0));
    assert_eq!(auto(&["--grace-period=60s"], &[]), (55.0, 5.0));
    let given = [("DRAINIT_MIN_DRAIN", "3s")];
    let given = options(&["envoy"], &given).limits.min;
    assert_eq!(given, MinDrain::For(Duration::from_secs(3)));
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
