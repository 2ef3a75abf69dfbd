//! What counts as complete, and when to look.

use super::*;
use crate::certificates::read::Material;
use crate::certificates::secret::SecretBytes;
use crate::testing::ms;

/// A watch whose files held 1 and were acted on, and the time.
fn calm(kernel: bool) -> (Watch, Instant) {
    let now = Instant::now();
    let mut watch = Watch::new(ms(1000), now);
    watch.rely_on_kernel(kernel);
    look(&mut watch, now, 1);
    watch.act(Term::default());
    watch.looked(now, SystemTime::now(), true, None);
    (watch, now)
}

fn look(watch: &mut Watch, now: Instant, bytes: u8) {
    let trust = Material::Trust {
        ca: SecretBytes::copy(&[bytes]).unwrap(),
        crl: None,
        leaf_only: false,
    };
    watch.see(now, Ok(vec![trust]));
    watch.looked(now, SystemTime::now(), true, None);
}

#[test]
fn whole_files_are_complete_as_soon_as_nothing_more_comes() {
    let (mut watch, start) = calm(true);
    for (file, at) in [(0, 100), (1, 110), (2, 112)] {
        watch.hear(start + ms(at), FileEvent::Renamed(file));
    }
    let due = watch.due();
    assert_eq!(due, start + ms(112) + QUIET);
    look(&mut watch, due, 2);
    assert!(watch.is_news() && watch.is_complete(due, true));
    assert!(!watch.is_settled(due));
}

#[test]
fn a_file_that_somebody_writes_is_complete_once_it_is_closed() {
    let (mut watch, start) = calm(true);
    watch.hear(start + ms(100), FileEvent::Writing(1));
    let mut now = watch.due();
    look(&mut watch, now, 2);
    for _ in 0..3 {
        assert!(!watch.is_complete(now, false));
        now = watch.due();
        look(&mut watch, now, 2);
    }
    // Another file's end is not this one's.
    watch.hear(now, FileEvent::Written(0));
    let due = watch.due();
    look(&mut watch, due, 2);
    assert!(!watch.is_complete(due, false));
    watch.hear(due, FileEvent::Written(1));
    let due = watch.due();
    look(&mut watch, due, 2);
    assert!(watch.is_complete(due, false));
    assert!(!watch.is_complete(due, true), "the rest may be to come");
    // Whoever never closes it is waited for no longer than a writer of whom nothing is known.
    let (mut watch, start) = calm(true);
    watch.hear(start, FileEvent::Writing(1));
    while !watch.is_settled(watch.due()) {
        let due = watch.due();
        look(&mut watch, due, 2);
    }
    assert!(watch.due() < start + SETTLE + QUIET + QUICK);
}

#[test]
fn a_change_without_a_word_is_complete_only_when_it_has_settled() {
    let (mut watch, start) = calm(false);
    // A word that a later change does not belong to.
    watch.hear(start + ms(10), FileEvent::Renamed(0));
    let mut now = watch.due();
    look(&mut watch, now, 2);
    now += ms(50);
    look(&mut watch, now, 3);
    assert!(!watch.is_complete(now + ms(100), false));
    watch.hear(now, FileEvent::Renamed(0));
    watch.hear(now, FileEvent::Unknown);
    assert_eq!(watch.due(), now);
    look(&mut watch, now, 4);
    assert!(!watch.is_complete(now + ms(100), false));
    assert!(watch.is_settled(now + SETTLE));
}

#[test]
fn a_writer_that_never_pauses_does_not_keep_files_from_being_looked_at() {
    let (mut watch, start) = calm(true);
    for at in 0..1000 {
        watch.hear(start + ms(at), FileEvent::Writing(0));
    }
    assert_eq!(watch.due(), start + SETTLE);
}

#[test]
fn looks_are_rare_where_the_kernel_tells_and_news_of_the_same_bytes_is_none() {
    let (watch, start) = calm(false);
    assert_eq!(watch.due(), start + ms(1000));
    let (mut watch, start) = calm(true);
    assert_eq!(watch.due(), start + NET);
    watch.hear(start + ms(100), FileEvent::Touched);
    let due = watch.due();
    look(&mut watch, due, 1);
    assert!(!watch.is_news());
    assert_eq!(watch.due(), start + NET);
    // A certificate that is not valid yet is looked at when it is.
    let later = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    let wall = later - ms(5000);
    let mut term = Term::default();
    term.note(later, wall);
    watch.act(term);
    watch.looked(due, wall, true, None);
    assert_eq!(watch.due(), due + ms(5000));
    // So is one when it expires.
    let end = wall + ms(3000);
    watch.looked(due, wall, true, Some(end));
    assert_eq!(watch.due(), due + ms(3000));
    watch.looked(due + ms(3000), end, true, Some(end + ms(9000)));
    assert_eq!(watch.due(), due + ms(5000));
}
