//! Who is believed, and who is obeyed, among strangers of the same machine: other users, and
//! other containers in the same network.

use std::time::Instant;

use nix::sys::signal::{Signal, kill};

use super::support::{PATIENCE, wait_for};
use super::world::{NOBODY, STRANGER, World};

const ROOT: u32 = 0;

#[track_caller]
fn says(outcome: &(i32, String, String), code: i32, text: &str) {
    let (got, out, err) = outcome;
    assert_eq!(*got, code, "{out}{err}");
    assert!(format!("{out}{err}").contains(text), "{text}: {out}{err}");
    let is_plain = |text: &str| text.chars().all(|c| c == '\n' || !c.is_control());
    assert!(is_plain(out) && is_plain(err), "{out:?} {err:?}");
}

#[test]
fn nobody_is_signalled_because_a_stranger_says_so() {
    let world = World::new();
    let victim = world.victim();
    let claim = victim.pid.to_string();
    let name = world.name(1);
    let _squatter = world.squatter(STRANGER, &["--claim", &claim, &name]);
    for uid in [ROOT, NOBODY] {
        says(&world.run(uid, &["shutdown"]), 2, "no drainit runs here");
        for command in [
            &["reload"][..],
            &["health"],
            &["health", "ready"],
            &["status"],
        ] {
            says(&world.run(uid, command), 1, "no drainit runs here");
        }
    }
    let at = format!("unix:@{name}");
    says(
        &world.run(NOBODY, &["health", "--listen", &at]),
        1,
        "uid 4711",
    );
    // Nor is the stranger himself sent anything that is meant for another.
    says(
        &world.run(ROOT, &["shutdown", "--pid", &claim]),
        2,
        "no drainit",
    );
    assert!(victim.log.find("got").is_none(), "{:?}", victim.log.lines());
}

#[test]
fn eight_thousand_names_taken_before_are_no_dead_end() {
    let mut world = World::new();
    let name = world.name(1);
    let tails = format!("{name}/");
    let squatter = world.squatter(
        STRANGER,
        &["--names", &tails, "8000", "--claim", "1", &name],
    );
    world.become_pid_1(&world.drainit(NOBODY, &["--listen", "off"]));
    for uid in [NOBODY, ROOT] {
        wait_for("a drainit that is ready", PATIENCE, || {
            world.run(uid, &["health", "ready"]).0 == 0
        });
        let asked = Instant::now();
        says(&world.run(uid, &["health", "ready"]), 0, "LIVE");
        assert!(asked.elapsed() < PATIENCE / 4, "{:?}", asked.elapsed());
        says(&world.run(uid, &["status"]), 0, "live");
    }
    world.run(ROOT, &["reload"]);
    assert!(world.log.find("SIGHUP").is_some());
    says(&world.run(NOBODY, &["shutdown"]), 0, "drained after");
    drop(squatter);
}

#[test]
fn a_name_that_hangs_is_no_dead_end() {
    let mut world = World::new();
    let name = world.name(1);
    let _squatter = world.squatter(STRANGER, &["--hang", &name]);
    world.become_pid_1(&world.drainit(NOBODY, &["--listen", "off"]));
    wait_for("a drainit that is ready", PATIENCE, || {
        world.run(NOBODY, &["health", "ready"]).0 == 0
    });
    says(&world.run(ROOT, &["shutdown"]), 0, "drained after");
}

#[test]
fn what_an_answer_says_reaches_no_terminal_as_a_control_character() {
    let world = World::new();
    let squatter = world.squatter(ROOT, &["evil"]);
    let at = |command: &'static str| [command, "--listen", "unix:@evil"];
    says(&world.run(ROOT, &at("health")), 0, "LIVE");
    says(&world.run(ROOT, &at("status")), 0, "live");
    says(
        &world.run(ROOT, &["status", "--json", "--listen", "unix:@evil"]),
        0,
        "u001b",
    );
    drop(squatter);
}

#[test]
fn orders_come_from_root_and_its_own_user_and_from_nobody_else() {
    let mut world = World::new();
    world.serve(NOBODY, &["--listen", "unix:@door"]);
    // A stranger may look, if whom he looks at is root's or his own.
    says(&world.run(STRANGER, &["health"]), 1, "uid 65534");
    let post = |uid| {
        let script = "import socket\n\
            for path in (b'hold', b'resume', b'shutdown'):\n \
            s = socket.socket(socket.AF_UNIX); s.connect('\\0door')\n \
            s.sendall(b'POST /' + path + b' HTTP/1.0\\r\\n\\r\\n'); print(path, s.recv(99))";
        let uid: u32 = uid;
        let line = [
            "setpriv",
            "--reuid",
            &uid.to_string(),
            "--clear-groups",
            "/usr/bin/python3",
            "-c",
            script,
        ]
        .map(str::to_owned);
        world.spawn(&line)
    };
    let stranger = post(STRANGER);
    for path in ["hold", "resume", "shutdown"] {
        let answer = stranger.wait_log(path);
        assert!(answer.contains("HTTP/1.1 403"), "{answer}");
    }
    // A process of its user, and root, in containers beside and below.
    let beside = world.beside();
    for uid in [NOBODY, ROOT] {
        let answer = beside.run(uid, &["shutdown", "--listen", "unix:@door"]);
        says(&answer, 1, "may not shut down");
    }
    assert!(world.log.find("/shutdown from").is_none());
    says(&world.run(ROOT, &["health", "ready"]), 0, "LIVE");
    says(&world.run(NOBODY, &["shutdown"]), 0, "drained after");
    assert!(world.log.find("of uid 65534").is_some());
}

#[test]
fn containers_in_one_network_find_their_own_drainit_and_move_no_other() {
    for uid in [NOBODY, ROOT] {
        let mut one = World::new();
        let mut other = one.beside();
        one.serve(uid, &["--listen", "off"]);
        other.serve(uid, &["--listen", "off"]);
        let door = format!("unix:@{}", one.name(1));
        let answer = other.run(uid, &["shutdown", "--listen", &door]);
        says(&answer, 1, "may not shut down");
        says(&one.run(uid, &["health", "ready"]), 0, "LIVE");
        says(&other.run(uid, &["shutdown"]), 0, "drained after");
        says(&other.run(uid, &["health", "ready"]), 1, "DRAINING");
        says(&one.run(uid, &["health", "ready"]), 0, "LIVE");
        // A third one has none.
        let third = one.beside();
        says(&third.run(uid, &["health"]), 1, "no drainit runs here");
    }
}

#[test]
fn a_container_below_cannot_move_the_hosts_drainit() {
    let world = World::new();
    let drainit = world.guest(ROOT, &["--listen", "unix:@door"]);
    // In a pid namespace below that of the drainit, which sees its processes.
    let line = [
        "unshare",
        "--pid",
        "--fork",
        "--mount-proc",
        &world.program(),
    ];
    let mut line = line.map(str::to_owned).to_vec();
    line.extend(["shutdown", "--listen", "unix:@door"].map(str::to_owned));
    let below = world.spawn(&line);
    below.wait_log("may not shut down");
    // Nor can whoever goes on once who connected has ended, and its pid is another's.
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/network/heir.py");
    let heir = world.spawn(&["/usr/bin/python3", script, "door"].map(str::to_owned));
    heir.wait_log("the pid is another's");
    let answer = heir.wait_log("HTTP/1.1");
    assert!(answer.contains("403"), "{answer}");
    assert!(drainit.log.find("/shutdown from").is_none());
}

#[test]
fn the_pid_that_was_given_is_meant_and_no_other() {
    let world = World::new();
    let drainit = world.guest(NOBODY, &["--listen", "off"]);
    let victim = world.victim();
    let hanging = world.guest(NOBODY, &["--listen", "off"]);
    kill(hanging.outside(), Signal::SIGSTOP).unwrap();
    for pid in [999_999, victim.pid, hanging.pid] {
        let pid = pid.to_string();
        for (command, code) in [("shutdown", 2), ("reload", 1), ("health", 1), ("status", 1)] {
            let told = world.run_with(ROOT, &[("MAINPID", &pid)], &[command]);
            says(&told, code, &pid);
            says(&world.run(ROOT, &[command, "--pid", &pid]), code, &pid);
        }
    }
    says(
        &world.run_with(ROOT, &[("MAINPID", "x")], &["reload"]),
        1,
        "no pid",
    );
    says(
        &world.run(ROOT, &["shutdown", "--listen", "unix:@nowhere"]),
        2,
        "nowhere",
    );
    assert!(victim.log.find("got").is_none());
    assert!(
        drainit.log.find("SIG").is_none(),
        "{:?}",
        drainit.log.lines()
    );
    kill(hanging.outside(), Signal::SIGCONT).unwrap();
    let pid = drainit.pid.to_string();
    let told = world.run_with(NOBODY, &[("MAINPID", &pid)], &["shutdown"]);
    says(&told, 0, "drained after");
    assert!(hanging.log.find("SIGUSR2").is_none());
}

#[test]
fn where_several_run_an_order_says_which_there_are() {
    let world = World::new();
    let one = world.guest(ROOT, &["--listen", "unix:@one"]);
    says(&world.run(ROOT, &["health", "ready"]), 0, "LIVE");
    let other = world.guest(NOBODY, &["--listen", "off"]);
    for (command, code) in [("shutdown", 2), ("reload", 1)] {
        let told = world.run(ROOT, &[command]);
        says(&told, code, "--pid");
        let line = format!("{}{}", told.1, told.2);
        assert_eq!(line.lines().count(), 1, "{line}");
        says(&told, code, &format!("{} (unix:@one, sh -c trap", one.pid));
        says(&told, code, &format!("{} (off, sh -c trap", other.pid));
    }
    let pid = other.pid.to_string();
    says(
        &world.run(ROOT, &["shutdown", "--pid", &pid]),
        0,
        "drained after",
    );
    assert!(one.log.find("SIGUSR2").is_none());
    // Who is neither root nor of its user has one to choose from.
    says(&world.run(STRANGER, &["health", "ready"]), 0, "LIVE");
}

#[test]
fn over_tcp_a_command_goes_on_by_the_control_socket() {
    let mut world = World::new();
    world.serve(NOBODY, &["--listen", "127.0.0.1:8090"]);
    let at = ["--listen", "127.0.0.1:8090"];
    let victim = world.victim();
    let claim = victim.pid.to_string();
    let _squatter = world.squatter(STRANGER, &["--port", "8099", "--claim", &claim]);
    let _other = world.squatter(STRANGER, &["--port", "8098", "--claim", "1"]);
    for port in ["127.0.0.1:8099", "127.0.0.1:8098"] {
        for (command, code) in [("shutdown", 2), ("reload", 1), ("health", 1), ("status", 1)] {
            says(&world.run(ROOT, &[command, "--listen", port]), code, port);
        }
    }
    let _elsewhere = world.squatter(STRANGER, &["--port", "8097", "--claim=-1"]);
    for (command, why) in [
        ("shutdown", "nothing proves"),
        ("reload", "another container"),
    ] {
        let told = world.run(ROOT, &[command, "--listen", "127.0.0.1:8097"]);
        says(&told, 1, why);
    }
    assert!(victim.log.find("got").is_none());
    assert!(world.log.find("SIG").is_none());
    says(&world.run(NOBODY, &["health", at[0], at[1]]), 0, "OK");
    // The port itself would refuse it.
    let answer = world.spawn(
        &["/usr/bin/python3", "-c", "import urllib.request as r, urllib.error as e\ntry: r.urlopen('http://127.0.0.1:8090/shutdown')\nexcept e.HTTPError as x: print(x.code, x.read().decode())"]
            .map(str::to_owned),
    );
    answer.wait_log("403 127.0.0.1 may not shut down");
    says(
        &world.run(ROOT, &["shutdown", at[0], at[1]]),
        0,
        "drained after",
    );
    wait_for("the signal", PATIENCE, || {
        world.log.find("SIGUSR2").is_some()
    });
}

#[test]
fn root_from_outside_and_beside_reaches_a_drainit_without_privilege() {
    let mut world = World::new();
    world.serve(NOBODY, &["--listen", "off"]);
    // `nsenter` without the mounts: /proc is the host's.
    let init = world.init().to_string();
    let outside = |arguments: &[&str]| {
        let mut command = std::process::Command::new("nsenter");
        command.args(["-t", &init, "-n", "-p", "--", &world.program()]);
        super::support::drainit::run_command(command.args(arguments).env_remove("MAINPID"))
    };
    says(&outside(&["health", "ready"]), 0, "LIVE");
    // Root without a capability, as a container's is: it may not even signal.
    let bare = [
        "setpriv",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--no-new-privs",
    ];
    let mut line = bare.map(str::to_owned).to_vec();
    line.extend([world.program(), "status".into()]);
    world.spawn(&line).wait_log("live");
    line.pop();
    line.push("shutdown".into());
    let start = Instant::now();
    world.spawn(&line).wait_log("drained after");
    assert!(start.elapsed() < PATIENCE);
    says(&outside(&["shutdown"]), 0, "drained after");
}

#[test]
fn a_rootless_container_is_probed_and_drained_from_inside_and_by_the_hosts_root() {
    let mut world = World::rootless();
    world.serve(ROOT, &["--listen", "off"]);
    says(&world.run(ROOT, &["health", "ready"]), 0, "LIVE");
    says(&world.run(ROOT, &["status"]), 0, "live");
    // Its user's other processes are in none of its namespaces: they find nothing to move.
    let init = world.init().to_string();
    let outside = |uid: u32, enter: &[&str], arguments: &[&str]| {
        let mut command = std::process::Command::new("nsenter");
        command.args(["-t", &init, "-n"]).args(enter);
        command.args(["--", "setpriv", "--reuid", &uid.to_string()]);
        command.args(["--clear-groups", &world.program()]);
        super::support::drainit::run_command(command.args(arguments).env_remove("MAINPID"))
    };
    let door = format!("unix:@{}", world.name(1));
    let order = ["shutdown", "--listen", &door];
    says(
        &outside(super::world::STRANGER, &[], &order),
        1,
        "may not shut down",
    );
    assert!(world.log.find("/shutdown from").is_none());
    // The host's root, in its pid namespace and not in its user namespace.
    says(&outside(ROOT, &["-p"], &["health", "ready"]), 0, "LIVE");
    says(&world.run(ROOT, &["shutdown"]), 0, "drained after");
}
