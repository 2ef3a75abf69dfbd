//! What may happen, and what it is to the core.

use super::*;

/// What Envoy's admin interface may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Says {
    Nothing,
    Live,
    HealthFailed,
    Initializing,
    Version,
    Done,
    /// Nothing is left.
    Zero,
    /// An idle connection is left.
    Idle,
    /// A request is left.
    Busy,
    /// A UDP session is left, without a connection.
    Udp,
    /// Nothing is left, as far as Envoy tells, and Envoy does not tell all.
    Partial,
    /// No request was answered since the counters were last asked, or there was one.
    Still,
    Moved,
    /// Nothing is left, and Envoy sends access logs elsewhere.
    Logs,
    /// Nothing is left, and the kernel still sends to a client.
    Sending,
    /// Nothing is left, and somebody has reverted the health check's failure.
    Reverted,
    /// Nothing is left, also of an old generation: Envoy has flushed its statistics.
    Flushed,
    /// Nothing is left any more: the old generation is about to end.
    Ending,
    /// Envoy accepts nothing, as the kernel says.
    Closed,
}

impl Says {
    pub(super) fn to(ask: Ask) -> &'static [Says] {
        use Says::*;
        match ask {
            Ask::Ready => &[Nothing, Live, HealthFailed, Initializing],
            Ask::ServerInfo => &[Nothing, Version],
            Ask::FailHealthCheck
            | Ask::PassHealthCheck
            | Ask::DrainListeners
            | Ask::StopListeners => &[Nothing, Done],
            Ask::Stats => &[
                Nothing, Zero, Idle, Busy, Udp, Partial, Logs, Sending, Reverted, Flushed, Ending,
            ],
            Ask::Traffic => &[Nothing, Done],
            Ask::Activity => &[Nothing, Still, Moved],
            Ask::Sockets => &[Nothing, Zero, Busy, Closed],
        }
    }

    /// Whether this answer leads somewhere else than the others.
    pub(super) fn is_main(&self) -> bool {
        use Says::*;
        !matches!(
            self,
            HealthFailed | Idle | Udp | Partial | Logs | Sending | Reverted
        )
    }

    pub(super) fn answer(self) -> Option<Answer> {
        let load = |connections, requests, udp_sessions, health_failed| {
            Answer::Stats(Load {
                listeners: vec![ListenerLoad {
                    name: "a".into(),
                    address: None,
                    connections,
                    excluded: false,
                }],
                requests,
                udp_sessions,
                old_open: Some(OldOpen {
                    clients: connections,
                    is_exact: true,
                    is_all: true,
                    ends: self == Says::Ending,
                }),
                uptime: Some(u64::from(self == Says::Flushed)),
                health_failed,
                sends_logs: self == Says::Logs,
                unsent: Some(Unsent {
                    closed: u32::from(self == Says::Sending),
                    ..Unsent::default()
                }),
                sight: match self {
                    Says::Partial => load::Sight::Partial,
                    _ => load::Sight::Whole,
                },
                ..Load::default()
            })
        };
        Some(match self {
            Says::Nothing => return None,
            Says::Live => Answer::Ready(Readiness::Live),
            Says::HealthFailed => Answer::Ready(Readiness::Draining),
            Says::Initializing => Answer::Ready(Readiness::Initializing),
            Says::Version => Answer::Version("1.40.0".into()),
            Says::Done => Answer::Done,
            Says::Zero
            | Says::Partial
            | Says::Logs
            | Says::Sending
            | Says::Flushed
            | Says::Ending => load(0, 0, 0, true),
            Says::Still => Answer::Activity(Counters::default()),
            Says::Moved => Answer::Activity(Counters {
                activity: 1,
                arrivals: 1,
            }),
            Says::Idle => load(1, 0, 0, true),
            Says::Busy => load(1, 1, 0, true),
            Says::Udp => load(0, 0, 1, true),
            Says::Reverted => load(0, 0, 0, false),
            Says::Closed => Answer::Closed,
        })
    }
}

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happening {
    Start,
    Tick,
    Order(Order),
    Hold,
    Resume,
    Probe,
    Look,
    ConnectionEnded,
    CertificatesMissing,
    Certificates,
    HandlersSeen,
    AdminKnown,
    Answer(Ask, Says),
    ScriptEnded,
    Exited(Exit),
    Judged(bool),
    Spawned,
    SpawnFailed,
    Reload,
    GoBack,
    Weigh,
    Tried(bool),
    NextSpawned(bool),
    OldRelieved(bool),
    OldExited(Exit),
}

pub(super) const COMMAND_NOT_FOUND: u8 = 127;

/// How long an old generation is waited for by who goes back.
const HURRY: Duration = ms(1_000);

impl Happening {
    pub(super) fn input(self, now: Time, core: &Core) -> Input {
        match self {
            Happening::Start | Happening::Tick => Input::Tick,
            Happening::Order(order) => Input::Order(order, "a signal".into()),
            Happening::Hold => Input::Hold("a person".into()),
            Happening::Resume => Input::Resume("a person".into()),
            Happening::Probe => Input::Probe,
            Happening::Look => Input::Look,
            Happening::ConnectionEnded => Input::ConnectionEnded,
            Happening::CertificatesMissing => Input::CertificatesMissing("a certificate".into()),
            Happening::Certificates => Input::CertificatesReady,
            Happening::HandlersSeen => Input::HandlersSeen,
            Happening::AdminKnown => Input::AdminKnown,
            Happening::Answer(_, says) => {
                Input::Answer(core.asked().map_or(0, |asked| asked.number), says.answer())
            }
            Happening::ScriptEnded => Input::ScriptEnded(Exit::Code(1)),
            Happening::Exited(exit) => Input::Exited(core.generations.newest(), exit),
            Happening::Judged(refused) => Input::Judged(refused.then(|| "why".into())),
            Happening::Spawned => Input::Spawned,
            Happening::SpawnFailed => Input::SpawnFailed(COMMAND_NOT_FOUND),
            Happening::Reload => Input::HotRestart(News::Reload),
            Happening::GoBack => Input::HotRestart(News::GoBack(now + HURRY)),
            Happening::Weigh => Input::Weigh(true),
            Happening::Tried(passed) => Input::HotRestart(News::Tried(passed)),
            Happening::NextSpawned(spawned) => Input::HotRestart(News::Spawned(spawned)),
            Happening::OldRelieved(relieved) => Input::HotRestart(News::OldRelieved(relieved)),
            Happening::OldExited(exit) => Input::Exited(Who::Old, exit),
        }
    }
}
