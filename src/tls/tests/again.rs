//! Files that change: when they are read again, and what is used of them.

use super::*;
use crate::metrics::TlsMetrics;
use crate::tls::Tls;
use crate::tls::reload::{Changes, Stamps, load_again, take};
use slog::{Discard, Logger, o};

/// Reads the directory again as the thread does. Returns the error, if there is one.
fn read_again(tls: &Tls, metrics: &TlsMetrics) -> Option<String> {
    let loaded = load_again(tls);
    let error = loaded.as_ref().err().map(ToString::to_string);
    take(tls, loaded, metrics, &Logger::root(Discard, o!()));
    error
}

#[test]
fn a_revocation_counts_also_while_another_file_is_bad() {
    let made = Made::new();
    let tls = Tls::load(made.options()).unwrap();
    let metrics = TlsMetrics::default();
    let (own, first) = (made.print("member-1/member.pem"), tls.credentials());
    let (two, ops) = (
        made.print("member-2/member.pem"),
        made.print("ops/client.pem"),
    );

    // The list is the same for all members, and names the key of this member.
    fs::write(made.path("revoked"), format!("{own}\n{two}\n")).unwrap();
    let error = read_again(&tls, &metrics).unwrap();
    assert!(error.contains("its key is revoked"), "{error}");
    let now = tls.credentials();
    assert!(now.revokes(two) && now.revokes(own) && !first.revokes(two));
    assert_eq!(now.own(), first.own());
    assert_eq!(metrics.reloads_failed.get(), 1);

    // The own certificate has expired.
    let end = SystemTime::now() - DAY;
    made.reissue(Validity {
        not_before: end - DAY,
        not_after: end,
    });
    fs::write(made.path("revoked"), ops.to_string()).unwrap();
    let error = read_again(&tls, &metrics).unwrap();
    assert!(error.contains("it expired on"), "{error}");
    let now = tls.credentials();
    assert!(now.revokes(ops) && now.revokes(two), "{now:?}");
    // An error in the list itself changes nothing.
    fs::write(made.path("revoked"), "abc").unwrap();
    read_again(&tls, &metrics).unwrap();
    assert!(Arc::ptr_eq(&now, &tls.credentials()));

    made.reissue(Validity::days(SystemTime::now(), 9));
    fs::write(made.path("revoked"), ops.to_string()).unwrap();
    assert_eq!(read_again(&tls, &metrics), None);
    let now = tls.credentials();
    assert!(now.revokes(ops) && !now.revokes(two) && !now.revokes(own));
    assert_eq!(metrics.reloads_failed.get(), 3);
}

#[test]
fn the_directory_of_another_cluster_is_not_taken() {
    let made = Made::new();
    let tls = Tls::load(made.options()).unwrap();
    let before = tls.credentials();
    let other = made.0.path().join("other");
    let now = SystemTime::now();
    let orders = [Order::member(1, [])];
    folder::create(&other, Tag(8), &orders, now, Validity::days(now, 90)).unwrap();
    for file in ["ca.pem", "member.pem", "member.key"] {
        fs::copy(other.join("member-1").join(file), made.path(file)).unwrap();
    }
    made.load().unwrap();
    let error = read_again(&tls, &TlsMetrics::default()).unwrap();
    let dir = made.ca().join("member-1").display().to_string();
    let expected = format!(
        "the certificates in {dir} are of another cluster (tag {}); restart with them if that is meant",
        Tag(8)
    );
    assert_eq!(error, expected);
    assert!(Arc::ptr_eq(&before, &tls.credentials()));
}

#[test]
fn files_count_once_they_stay_as_they_are() {
    let state = |size| -> Stamps { [Some((1, 2, size, 4)), None, None, None] };
    let mut changes = Changes::new(state(1));
    assert!(!changes.are_complete(state(1)));
    // A copy that grows.
    assert!(!changes.are_complete(state(2)));
    assert!(!changes.are_complete(state(3)));
    assert!(changes.are_complete(state(3)));
    // It grows again while it is read.
    assert!(!changes.were_read(state(3), state(4)));
    assert!(changes.are_complete(state(4)));
    assert!(changes.were_read(state(4), state(4)));
    assert!(!changes.are_complete(state(4)));
}
