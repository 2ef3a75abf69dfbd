//! The parts of `drainit`, for its tests and fuzzers. The program is `src/main.rs`; what it does for
//! its users is in README.md, and how it compares in `src/others.md`. This page is for whoever
//! changes it.
//!
//! # Which file to read first
//!
//! [`drain`], the drain as a pure state machine, and then `src/supervisor/decide`, which has all
//! that a signal, an answer or an end of Envoy may lead to. Both are fed with times and with what
//! was observed, and do no I/O. `src/supervisor/mod.rs` is the main loop around them.
//!
//! # One thread decides
//!
//! | thread | does |
//! | --- | --- |
//! | main | signals, reaping, decisions; it spawns Envoy |
//! | `admin` | asks Envoy's admin interface and the kernel, one question at a time |
//! | `http` | the port and the control socket: one `poll` for all connections |
//! | `log` | writes stderr; a full pipe blocks this thread and no other |
//! | `certificates` | reads the certificate files when the kernel tells of a change, and compares them now and then; writes the SDS files; only where asked to |
//! | `probe`, 16 at the most | tries whether a certificate file's file system answers, before `certificates` reads it |
//! | `configuration` | compares Envoy's configuration file and keeps copies of it; only with `--watch-config` |
//!
//! Answers, requests and reports are events (`src/supervisor/event.rs`) on one channel to the main
//! thread ([`mailbox`]); it takes signals from [`process::Signals`], and the time from its clock. It
//! waits in one `poll` for all of them and for nothing else, but that it execs Envoy (Envoy asks the
//! kernel for a signal when the *thread* that spawned it ends) and writes the last words. What else
//! may block, a helper thread does. Each is started again when it ends or panics: the release build
//! unwinds, so a panic in a helper is not the end of pid 1.
//!
//! # The way of the data
//!
//! SIGTERM comes in at [`process`], and `src/supervisor/inputs.rs` makes it the order to drain and stop
//! (`Order::Stop`) for the decision core. The core asks the drain what is next, the drain says 'fail
//! the health check', the admin thread does it, and its answer comes back as an event with a time on
//! it; and so on, until the drain is over and the core says 'stop Envoy'. `/shutdown` and USR2 are
//! another order, `Order::Drain`, after which Envoy stays. Whoever wants to know how things are looks
//! at the [`status::Snapshot`]; nobody asks a thread.
//!
//! # Where to look
//!
//! - Where a SIGTERM is decided, in every phase of Envoy's life: `src/supervisor/decide/orders.rs`;
//!   with `--hot-restart`, `generations/orders.rs` beside it sees each order first. What a drain does
//!   next: `src/drain.rs`.
//! - Where a drain's figures come from: [`envoy`] (statistics, listeners, what Envoy hides) and
//!   [`connections`] (the kernel's word on Envoy's sockets).
//! - Where a certificate is refused: [`certificates`], in `read.rs`, `check.rs`, `trust.rs` and, if it
//!   is expired or not valid yet, `usable.rs`; where a candidate Envoy refuses it:
//!   `decision/answered.rs`; where Envoy is asked whether it took it: `confirm.rs`; what follows from
//!   each of these: `decision.rs`.
//! - Who may order a shutdown: `src/process/credentials.rs` and `src/http/listen.rs`.
//! - How a command finds the drainit that runs: `src/commands/find.rs`.
//! - What the last line of the log says: `src/supervisor/verdict.rs`.
//! - What a hot restart does when something goes wrong: `src/supervisor/decide/generations.rs`; when
//!   a configuration that is followed is gone back from: `src/supervisor/probation.rs`. Outside of
//!   its rooms (tests/dependencies/rooms.rs) hardly a line speaks of a second Envoy.
//! - What `drainit check` finds: [`check`], a rule each in its `rules*.rs`.
//! - Everything that is `unsafe`: [`process`] and a few more lines, each with its reason.
//!
//! # What to touch for one more of something
//!
//! - An option: a row in `src/options/flags.rs` and a field in [`options::Options`]; parser, help, man
//!   page and the README's table (a test prints it) come from the row. What an option that may be
//!   given again forgets: `Settings::clear` in the same file. What holds between options:
//!   `src/options.rs`.
//! - A limit of the drain: the same, but that the field is one of [`drain::Limits`]; and
//!   `src/drain/tests/weather.rs`, which tries any limits. The walk over every state tries it only
//!   with the value that `LIMITS` in `src/supervisor/decide/explore.rs` gives it.
//! - A command: a row in `src/options/entries.rs`, its value of [`options::Command`], which
//!   `src/options/parse.rs` makes and `src/commands/mod.rs` runs, and a file in `src/commands`.
//! - A metric: `src/status/metrics.rs`, and a row in the README. Its figure is a field of
//!   [`status::Snapshot`], which `src/supervisor/report.rs` and `notes.rs` beside it write.
//! - An endpoint: `src/http/endpoints.rs`, `src/commands/help.rs`, and a row in the README. If it
//!   orders something, it is a `Wish` in `src/http/handler.rs`, too.
//! - A question to Envoy: `src/envoy/question.rs`, `src/envoy/admin.rs`, and what Envoy may answer in
//!   `src/supervisor/decide/explore/events.rs`, for the walk. When it is asked:
//!   `src/supervisor/decide/asking.rs`. What becomes of the answer: `src/supervisor/report.rs`. A new
//!   path: `ASKED` in `src/check/rules.rs`.
//! - A state, or what leads to it: `src/supervisor/decide`. The walk there (`explore.rs`) tries every
//!   order of events, as far as 20,000 states where new connections are waited for, 30,000 where a
//!   configuration is followed and 60,000 where a hold meets a hot restart, and compares what it
//!   found with the README's diagram.
//!
//! # Choices that would puzzle
//!
//! - `tiny_http`'s `Response`, not its `Server`: that has a thread for every connection, without a limit
//!   or a timeout, and its accept loop ends for ever at the first error. Anybody in a cluster can reach
//!   a pod's health port. So the loop is our own, and httparse reads the heads.
//! - Envoy is told `--admin-address-path /proc/self/fd/N`, a pipe: Envoy writes the address there, with
//!   port 0 resolved, and no writable directory is needed.
//! - Envoy's process group is in the background of the terminal: with the terminal handed over, a
//!   Ctrl-C would reach Envoy and not drainit.
//! - Linux only: `PR_SET_CHILD_SUBREAPER` (3.4), `getrandom` and `memfd_create` (3.17), unix sockets in
//!   the abstract namespace, `/proc`; `pidfd_open` (5.3) is used where it is there. It was run on 6.18,
//!   and as pid 1 of a virtual machine on 5.10 and 6.1.
//!
//! # Tests
//!
//! `scripts/test` runs every test, on real Envoys and in real containers. Slower, and not part of
//! it: `scripts/soak 30` (minutes; everything at once), `scripts/fuzz` (whatever reads what
//! strangers write), `scripts/sanitize` (ThreadSanitizer, valgrind and Miri),
//! `scripts/test-every-envoy` (one of each minor version), `TEST_STRANGERS_SECONDS=60 scripts/test
//! --test strangers` and `TEST_REQUESTS=100000 scripts/test --test http`. With `UPDATE_README=1`,
//! `scripts/test --test readme` writes the README's captures anew.

pub mod certificates;
pub mod check;
pub mod cidr;
pub mod client;
pub mod clock;
pub mod commands;
pub mod connections;
pub mod drain;
pub mod duration;
pub mod envoy;
pub mod fault;
mod file;
pub mod http;
mod json;
pub mod logging;
pub mod mailbox;
pub mod notify;
pub mod options;
pub mod process;
pub mod pulse;
pub mod status;
pub mod supervisor;
#[cfg(test)]
mod testing;
