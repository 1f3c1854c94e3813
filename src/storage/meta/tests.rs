//! Round trips of the `meta` file, and the files that are refused.

use super::*;
use crate::storage::disk::RealDisk;

fn data_dir(path: &Path) -> DataDir {
    DataDir::new(Arc::new(RealDisk), path)
}

fn meta_in(dir: &Path) -> Meta {
    Meta::load(&data_dir(dir)).unwrap().unwrap()
}

fn create(dir: &Path) -> Meta {
    Meta::create(&data_dir(dir), 3, |_| 0, given()).unwrap()
}

fn url(text: &str) -> PeerUrl {
    text.parse().unwrap()
}

fn given() -> Given {
    Given {
        url: Some(url("http://a:3")),
        list: [(1, url("http://[::1]:1")), (3, url("http://a:3"))].into(),
        joins: true,
        join_by: vec![url("http://c:1"), url("http://c:2")],
    }
}

#[test]
fn every_change_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let meta = create(dir.path());
    let incarnation = meta.incarnation();
    assert!(!meta_in(dir.path()).in_use());
    meta.complete_first_start().unwrap();
    meta.pin_cluster(77).unwrap();
    meta.next_boot().unwrap();
    let again = meta_in(dir.path());
    assert!(again.in_use());
    assert_eq!((again.member(), again.cluster(), again.boot()), (3, 77, 2));
    assert_eq!(again.incarnation(), incarnation);
    assert_eq!(again.removed(), None);
    assert_eq!(again.given(), given());
    again.set_url(&url("http://b:3")).unwrap();
    again.set_list(&[(3, url("http://b:3"))].into()).unwrap();
    let other = Given {
        url: Some(url("http://b:3")),
        list: [(3, url("http://b:3"))].into(),
        ..given()
    };
    assert_eq!(meta_in(dir.path()).given(), other);
    again.set_given(Given::default()).unwrap();
    assert_eq!(meta_in(dir.path()).given(), Given::default());
    assert!(!again.is_older_copy());
    again.mark_older_copy().unwrap();
    assert!(meta_in(dir.path()).is_older_copy());
    again.mark_removed(9).unwrap();
    assert_eq!(meta_in(dir.path()).removed(), Some(9));
    let mut names = RealDisk.list(dir.path()).unwrap();
    names.sort();
    assert_eq!(names, ["meta", "meta.tmp"]);
}

#[test]
fn the_cluster_id_follows_from_the_incarnation() {
    let dir = tempfile::tempdir().unwrap();
    let given = Given::default();
    let begin = Meta::create(&data_dir(dir.path()), 3, |n| n ^ 1, given);
    let meta = begin.unwrap();
    assert_eq!(meta.cluster(), meta.incarnation() ^ 1);
    assert_eq!(meta_in(dir.path()).cluster(), meta.cluster());
}

#[test]
fn every_flipped_or_missing_byte_is_corrupt() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path());
    let path = dir.path().join("meta");
    let good = std::fs::read(&path).unwrap();
    for at in 0..good.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            std::fs::write(&path, &bad).unwrap();
            let error = Meta::load(&data_dir(dir.path())).unwrap_err();
            assert_eq!(error.exit_code(), 4, "byte {at}: {error}");
        }
        std::fs::write(&path, &good[..at]).unwrap();
        let error = Meta::load(&data_dir(dir.path())).unwrap_err();
        assert_eq!(error.exit_code(), 4, "{at} bytes: {error}");
    }
}

#[test]
fn another_format_version_is_distinguished_from_corruption() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path());
    let path = dir.path().join("meta");
    let good = std::fs::read(&path).unwrap();
    // Format version 1 had another length.
    for (version, more) in [(1, 8), (1, 56), (9, 0)] {
        let mut bytes = good[..HEAD_BYTES].to_vec();
        bytes[8] = version;
        bytes.resize(HEAD_BYTES + more, 0);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        std::fs::write(&path, &bytes).unwrap();
        let error = Meta::load(&data_dir(dir.path())).unwrap_err();
        assert_eq!(error.exit_code(), if version == 9 { 8 } else { 1 });
        match error {
            StorageError::UnknownVersion { found, .. } => assert_eq!(found, u32::from(version)),
            other => panic!("version {version}: {other}"),
        }
    }
}

#[test]
fn urls_that_do_not_decode_are_corrupt_even_with_a_valid_crc() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path());
    let path = dir.path().join("meta");
    let good = std::fs::read(&path).unwrap();
    let good = &good[..good.len() - CRC_BYTES];
    let with = |at: usize, byte: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = byte;
        bytes
    };
    for bad in [
        good[..HEAD_BYTES].to_vec(),
        good[..good.len() - 1].to_vec(),
        [good, &[0]].concat(),
        with(HEAD_BYTES, FLAG_OLDER_COPY as u8 + 2),
        with(HEAD_BYTES + 7, 0xff),
        with(HEAD_BYTES + 8, b'x'),
        with(HEAD_BYTES + 8, 0xff),
    ] {
        let crc = crc32c::crc32c(&bad).to_le_bytes();
        std::fs::write(&path, [&bad[..], &crc].concat()).unwrap();
        let error = Meta::load(&data_dir(dir.path())).unwrap_err();
        assert_eq!(error.exit_code(), 4, "{error}");
    }
}
