use super::super::load::Unsent;
use super::*;

#[test]
fn the_last_bytes_are_known_though_it_is_not_known_which_listeners_are_excluded() {
    let unsent = Some(Unsent {
        closed: 700,
        ..Unsent::default()
    });
    let seen = Seen {
        load: Load {
            unsent,
            ..Load::default()
        },
        elsewhere: 0,
        accepts: true,
        has_any: true,
        doors: Vec::new(),
        all_doors: Vec::new(),
        sockets: 1,
        is_apart: true,
        quiet: None,
        knows_excluded: false,
    };
    let witnesses = Witnesses::new(Measure {
        excluded: &[],
        settle: Duration::ZERO,
    });
    let told = stats::ToldLoad {
        hidden: Vec::new(),
        ..stats::ToldLoad::nothing()
    };
    let load = witnesses.weigh(told, Some(seen), true);
    assert_eq!(load.unsent, unsent);
}

#[test]
fn a_roll_call_without_an_answer_leaves_what_the_same_envoy_answered_before() {
    let measure = Measure {
        excluded: &[],
        settle: Duration::ZERO,
    };
    let of = |pid| Subject {
        pid: Some(pid),
        listeners: Some(1),
    };
    // Nobody listens there.
    let nowhere = Address::Tcp("127.0.0.1:1".into());
    let mut witnesses = Witnesses::new(measure);
    let called = Some(Instant::now());
    let mut answered = RollCall::of_a_stand_in();
    answered.called = called;
    witnesses.roll = Some((answered, Instant::now(), of(7)));
    let more = Subject {
        listeners: Some(2),
        ..of(7)
    };
    for subject in [of(7), more] {
        let roll = witnesses.roll_call(Peer::Anyone, &nowhere, subject);
        assert_eq!(roll.called, called, "{subject:?}");
    }
    assert_eq!(witnesses.more_failed, 2);
    let rests = |witnesses: &Witnesses| {
        let until = witnesses.roll.as_ref().map(|(_, until, _)| *until);
        until.is_some_and(|until| until <= Instant::now() + ROLL_CALL_REST)
    };
    assert!(rests(&witnesses), "it is not asked again soon");
    // Of another Envoy nothing is known.
    let roll = witnesses.roll_call(Peer::Anyone, &nowhere, of(8));
    assert_eq!(roll.called, None);
    assert!(rests(&witnesses), "it is not asked again soon");
}

#[test]
fn an_envoy_that_has_not_answered_the_roll_call_is_not_said_to_have_a_matcher() {
    let mut witnesses = Witnesses::new(Measure {
        excluded: &[],
        settle: Duration::ZERO,
    });
    let hidden = |witnesses: &Witnesses| {
        let told = stats::ToldLoad {
            hidden: vec![Hidden::Listeners],
            ..stats::ToldLoad::nothing()
        };
        witnesses.weigh(told, None, true).hidden.unwrap()
    };
    let of = Subject {
        pid: Some(7),
        listeners: Some(1),
    };
    let mut roll = roll_call::RollCallReader::default().finish();
    roll.called = Some(Instant::now());
    witnesses.roll = Some((roll, Instant::now(), of));
    assert!(hidden(&witnesses).contains("stats_matcher"));
    witnesses.roll = Some((RollCall::default(), Instant::now(), of));
    assert_eq!(hidden(&witnesses), UNHEARD);
}
