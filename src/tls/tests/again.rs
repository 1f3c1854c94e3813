//! Files that change: when they are read again, and what is used of them.

use super::*;
use crate::metrics::TlsMetrics;
use crate::tls::reload::{Changes, Stamps, load_again, take};
use crate::tls::shown::Side;
use crate::tls::{AcceptError, NoLonger, Shown, Tls};
use slog::{Discard, Logger, o};
use std::io::Write as _;
use tokio::net::TcpListener;

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

/// What the other side has shown, with these files, in a handshake that these credentials accept.
fn shown(made: &Made, side: Side, file: &str, own: &Arc<Credentials>) -> Shown {
    let certificate = made.certificate(file);
    let facts = facts(&certificate).unwrap();
    Shown::new(facts, side, vec![certificate], own.clone())
}

#[test]
fn a_certificate_that_was_accepted_is_refused_once_its_ca_is_gone() {
    let made = Made::new();
    let tls = Tls::load(made.options()).unwrap();
    let metrics = TlsMetrics::default();
    let own = tls.credentials();
    let all = || {
        [
            shown(&made, Side::Client, "ops/client.pem", &own),
            shown(&made, Side::Peer, "member-2/member.pem", &own),
            shown(&made, Side::Dialled, "member-2/member.pem", &own),
        ]
    };
    let before = all();
    let (now, validity) = (SystemTime::now(), Validity::days(SystemTime::now(), 9));
    let mut folder = Folder::open(&made.ca()).unwrap();
    folder.rotate(now).unwrap();
    assert_eq!(read_again(&tls, &metrics), None);
    for shown in &before {
        assert_eq!(shown.check(&tls), Ok(()), "{shown:?}");
        assert!(!shown.is_renewed(&tls));
    }
    let mut owners = folder.owners().unwrap().found;
    for owner in &mut owners {
        folder.renew(owner, validity).unwrap();
    }
    assert_eq!(read_again(&tls, &metrics), None);
    let after = all();
    folder.finish_rotation().unwrap();
    assert_eq!(read_again(&tls, &metrics), None);
    for shown in &before {
        let why = NoLonger::Invalid("no CA in ca.pem has signed it".to_owned());
        assert_eq!(shown.check(&tls), Err(why), "{shown:?}");
        assert!(shown.is_renewed(&tls));
        assert_eq!(shown.own_key(), tls.credentials().own().fingerprint);
    }
    for shown in &after {
        assert_eq!(shown.check(&tls), Ok(()), "{shown:?}");
    }
    fs::write(made.path("revoked"), after[0].key().to_string()).unwrap();
    assert_eq!(read_again(&tls, &metrics), None);
    assert_eq!(after[0].check(&tls), Err(NoLonger::Revoked));
    assert_eq!(after[1].check(&tls), Ok(()));
}

#[test]
fn a_certificate_that_was_accepted_is_refused_once_it_has_ended() {
    let made = Made::new();
    let tls = Tls::load(made.options()).unwrap();
    let own = tls.credentials();
    let mut shown = shown(&made, Side::Client, "ops/client.pem", &own);
    assert_eq!(shown.check(&tls), Ok(()));
    shown.facts.not_after = SystemTime::now() - Duration::from_secs(1);
    let why = NoLonger::Invalid("it has expired".to_owned());
    assert_eq!(shown.check(&tls), Err(why));
}

/// How a member accepts a connection that the other side has left after these bytes.
async fn left_after(tls: &Tls, bytes: &[u8], is_reset: bool) -> AcceptError {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut probe = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    probe.write_all(bytes).unwrap();
    if is_reset {
        let linger = Some(Duration::ZERO);
        socket2::SockRef::from(&probe).set_linger(linger).unwrap();
    }
    drop(probe);
    tls.accept_client(socket).await.unwrap_err()
}

#[tokio::test]
async fn a_probe_is_no_handshake_and_half_a_handshake_is_a_failed_one() {
    let made = Made::new();
    let tls = Tls::load(made.options()).unwrap();
    for is_reset in [false, true] {
        let probed = left_after(&tls, b"", is_reset).await;
        assert!(matches!(probed, AcceptError::Closed), "{probed:?}");
    }
    let half = left_after(&tls, &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3], false).await;
    assert!(matches!(half, AcceptError::Failed(_)), "{half:?}");
    let line = "it closed the connection during the TLS handshake";
    assert_eq!(half.to_string(), line);
}
