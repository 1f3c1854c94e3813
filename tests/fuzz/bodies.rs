//! What is done with the bytes of a fuzzer: one function for each target. The fuzzers (`fuzz_targets/`) and the plain
//! tests (`stable.rs`) call the same ones.
//!
//! Bytes at random rarely get past a checksum. So some targets have modes, chosen by the first byte: bytes as they are,
//! bytes that damage something valid, and bytes that are given right checksums.

// A fuzzer calls one of them.
#![allow(dead_code)]

use crate::allocation::bounded;
use crate::disk::FakeDisk;
use bytes::Bytes;
use crc32c::{crc32c, crc32c_append};
use hyper::header::{HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use protobuf::Message as _;
use raft::eraftpb::{Entry, HardState};
use raftkvd::certificates::{self, Name, ca_facts, facts, order, pem};
use raftkvd::command::{self, SnapshotHeader};
use raftkvd::limits;
use raftkvd::members::{Decision, Members};
use raftkvd::peer_url::PeerUrl;
use raftkvd::storage::wal::record;
use raftkvd::storage::wal::segment;
use raftkvd::storage::wal::segment::SegmentReader;
use raftkvd::storage::{
    DataDir, Mark, Opened, ReceiveError, Save, SnapshotMeta, Start, StorageError, WalOptions,
};
use raftkvd::transport::fuzzing::Carries;
use raftkvd::{api, transport};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Memory that anything may take, whatever it reads.
const SOME: usize = 1 << 20;
/// What the decoder of protobuf reserves at most for a field before it finds that there are fewer bytes.
const DECODER: usize = 10_000_000;

fn split(data: &[u8]) -> (u8, &[u8]) {
    data.split_first()
        .map_or((0, data), |(first, rest)| (*first, rest))
}

/// Changes bytes: each three of the data are an offset and what is to be flipped there.
fn damage(bytes: &mut [u8], data: &[u8]) {
    for patch in data.chunks_exact(3) {
        let at = u16::from_le_bytes([patch[0], patch[1]]) as usize % bytes.len();
        bytes[at] ^= patch[2];
    }
}

// ---- peer frames ----

/// The stream of a peer: as it is; with a right length and checksum; and what it says in a handshake.
pub fn peer_frames(data: &[u8]) {
    let (mode, rest) = split(data);
    let piece = 1 + usize::from(mode >> 3) * 7;
    let carries = match mode & 4 {
        0 => Carries::Messages,
        _ => Carries::Snapshot,
    };
    let limit = SOME + DECODER + 64 * data.len();
    match mode % 4 {
        0 => {
            let _ = bounded(limit, || transport::fuzzing::stream(rest, piece, carries));
        }
        1 => {
            let mut bytes = (rest.len() as u32).to_le_bytes().to_vec();
            bytes.extend_from_slice(&crc32c(rest).to_le_bytes());
            bytes.extend_from_slice(rest);
            let read = || transport::fuzzing::stream(&bytes, piece, carries);
            if let Ok(messages) = bounded(limit, read)
                && !messages.is_empty()
            {
                let again = transport::fuzzing::encode(&messages);
                let again = transport::fuzzing::stream(&again, 1 << 20, carries);
                let again = again.expect("what was encoded decodes");
                // Their texts: unknown fields are kept, but in any order.
                assert_eq!(format!("{again:?}"), format!("{messages:?}"));
            }
        }
        2 => {
            bounded(limit, || transport::fuzzing::refusal(rest));
        }
        _ => {
            let names = [
                "version",
                "cluster",
                "from",
                "to",
                "incarnation",
                "bound",
                "run",
                "url",
                "receiver",
                "commands",
            ];
            let mut headers = HeaderMap::new();
            for (name, line) in names.iter().zip(rest.split(|b| *b == b'\n')) {
                let name = HeaderName::try_from(format!("raftkvd-{name}")).unwrap();
                if let Ok(value) = HeaderValue::from_bytes(line) {
                    headers.insert(name, value);
                }
            }
            bounded(limit, || transport::fuzzing::handshake(&headers));
        }
    }
}

// ---- storage ----

const OPTIONS: WalOptions = WalOptions {
    segment_bytes: 4096,
    batch_bytes: limits::BATCH_BYTES_TARGET,
    cache_bytes: u64::MAX,
};

fn dir() -> &'static Path {
    Path::new("/data")
}

fn url(id: u64) -> PeerUrl {
    format!("http://a:{id}").parse().unwrap()
}

fn members() -> Members {
    Members::of((1..=3).map(|id| (id, url(id), 10 * id)))
}

fn open(disk: &FakeDisk) -> Result<Opened, StorageError> {
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let start = Start::First([(3, url(3))].into());
    DataDir::new(Arc::new(disk.clone()), dir()).open_with(3, start, OPTIONS, &logger)
}

fn snapshot_meta(index: u64) -> SnapshotMeta {
    let mut meta = SnapshotMeta {
        index,
        term: 1,
        conf_state: members().conf_state(),
        ..SnapshotMeta::default()
    };
    members().write_to(&mut meta.state);
    meta
}

/// A data directory with entries in two segments, and a snapshot of its own.
fn template() -> &'static (FakeDisk, Vec<Entry>) {
    static TEMPLATE: OnceLock<(FakeDisk, Vec<Entry>)> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let disk = FakeDisk::new(1);
        raftkvd::storage::disk::Disk::create_dir_all(&disk, dir()).unwrap();
        let mut opened = open(&disk).unwrap();
        let mut entries = Vec::new();
        for index in 2..9 {
            let mut entry = Entry::default();
            entry.index = index;
            entry.term = 1;
            entry.data = vec![index as u8; 800].into();
            let mut hard_state = HardState::default();
            hard_state.term = 1;
            hard_state.commit = index - 1;
            let save = Save {
                entries: vec![entry.clone()],
                hard_state: Some(hard_state.clone()),
                sync: true,
                ..Save::default()
            };
            opened.wal.save(&[save]).unwrap();
            entries.push(entry);
            if index == 5 {
                let key_values = [(&b"a"[..], 2, &b"one"[..]), (b"b", 3, b"")];
                let cluster = opened.meta.cluster();
                let meta = snapshot_meta(4);
                opened
                    .snapshots
                    .write(&meta, cluster, key_values.into_iter())
                    .unwrap();
                let mark = Mark {
                    index: 4,
                    term: 1,
                    hard_state,
                    installed: false,
                };
                let save = Save {
                    mark: Some(mark),
                    sync: true,
                    ..Save::default()
                };
                opened.wal.save(&[save]).unwrap();
            }
        }
        drop(opened);
        (disk, entries.split_off(3))
    })
}

fn last_segment(disk: &FakeDisk) -> PathBuf {
    let mut paths = disk.paths();
    paths.retain(|path| path.extension().is_some_and(|e| e == "wal"));
    paths.pop().unwrap()
}

/// The last segment of a WAL: other bytes; damaged; records of any kind in a right batch; a head of any kind.
pub fn wal(data: &[u8]) {
    let (mode, rest) = split(data);
    let (disk, entries) = template();
    let disk = disk.after_kill();
    let path = last_segment(&disk);
    let name = path.file_name().unwrap().to_str().unwrap();
    let name = segment::Name::parse(name).unwrap();
    let to_the_end = || {
        let mut reader = SegmentReader::open(&disk, &dir().join("wal"), name).unwrap();
        while reader.next(&mut |_| Ok(())).unwrap() == segment::BatchStep::Batch {}
        reader
    };
    match mode % 4 {
        0 => disk.tamper(&path, |bytes| *bytes = rest.to_vec()),
        1 => disk.tamper(&path, |bytes| damage(bytes, rest)),
        2 => {
            let mut batch = record::Batch::default();
            batch.clear();
            batch.bytes_mut().extend_from_slice(rest);
            if !batch.is_empty() {
                let mut writer = to_the_end().into_writer().unwrap();
                writer.append(&mut batch).unwrap();
            }
        }
        _ => {
            let reader = to_the_end();
            let (at, salt, previous) = (reader.offset(), reader.header().salt, reader.crc());
            let mut head = [0; record::HEAD_BYTES];
            for (place, byte) in head[4..].iter_mut().zip(rest) {
                *place = *byte;
            }
            head[8..12].copy_from_slice(&previous.to_le_bytes());
            head[20..].copy_from_slice(b"rkvB");
            let seed = crc32c_append(crc32c(&salt.to_le_bytes()), &at.to_le_bytes());
            let crc = crc32c_append(seed, &head[4..]);
            head[..4].copy_from_slice(&crc.to_le_bytes());
            let at = at as usize;
            disk.tamper(&path, |bytes| {
                bytes[at..at + head.len()].copy_from_slice(&head)
            });
        }
    }
    // A window of the file, and what it holds decoded.
    match bounded(3 * SOME + DECODER + 64 * data.len(), || open(&disk)) {
        Ok(opened) => {
            let found = &opened.recovered;
            let first = found.snapshot.as_ref().map_or(0, |snapshot| snapshot.index) + 1;
            for (entry, index) in found.entries.iter().zip(first..) {
                assert_eq!(entry.index, index);
            }
            if mode % 4 == 3 {
                // A batch that was never written as a whole takes nothing with it.
                assert_eq!(&found.entries, entries);
            }
        }
        Err(StorageError::Io(error)) => panic!("{error}"),
        Err(error) => assert!(!error.to_string().contains('\n')),
    }
}

/// A snapshot that is received and one that is loaded: other bytes; damaged; a header, blocks and entries of any kind,
/// with right checksums.
pub fn snapshot(data: &[u8]) {
    let (mode, rest) = split(data);
    let (disk, _) = template();
    let disk = disk.after_kill();
    let opened = open(&disk).unwrap();
    let path = opened.snapshots.path(4, 1);
    let bytes = match mode % 3 {
        0 => rest.to_vec(),
        1 => {
            let mut bytes = disk.read(&path);
            damage(&mut bytes, rest);
            bytes
        }
        _ => sealed_snapshot(opened.meta.cluster(), mode / 3, rest),
    };
    disk.tamper(&path, |file| *file = bytes.clone());
    bounded(3 * SOME + DECODER + 64 * bytes.len(), || {
        let held = AtomicUsize::new(0);
        let visit = |key: &[u8], _: u64, value: &[u8]| {
            held.fetch_add(key.len() + value.len(), Ordering::Relaxed);
        };
        match opened.snapshots.load(4, 1, visit, |_, _| ()) {
            Ok((header, _)) => {
                assert_eq!((header.index, header.term), (4, 1));
                let _ = Members::from_state(header.get_state());
                assert!(held.into_inner() <= bytes.len());
            }
            Err(StorageError::Io(error)) => panic!("{error}"),
            Err(error) => assert!(!error.to_string().contains('\n')),
        }
        let cluster = opened.meta.cluster();
        let mut sink = opened.snapshots.receive(cluster).unwrap();
        for piece in bytes.chunks(1 + rest.len() / 3) {
            sink.write(piece).unwrap();
        }
        match sink.finish(&snapshot_meta(4)) {
            Ok(()) => assert!(opened.snapshots.load(4, 1, |_, _, _| (), |_, _| ()).is_ok()),
            Err(ReceiveError::Disk(error)) => panic!("{error}"),
            Err(ReceiveError::Invalid(_)) => {}
        }
    });
}

/// A file whose checksums are right. The data begins with a length of the header, 0 for one as it has to be.
fn sealed_snapshot(cluster: u64, kind: u8, data: &[u8]) -> Vec<u8> {
    let (length, rest) = split(data);
    let (given, payload) = rest.split_at(usize::from(length).min(rest.len()));
    let header = match given {
        [] => snapshot_meta(4)
            .to_header(cluster)
            .write_to_bytes()
            .unwrap(),
        given => given.to_vec(),
    };
    let mut bytes = b"rkvdsnap".to_vec();
    bytes.extend_from_slice(&2u32.to_le_bytes());
    bytes.extend_from_slice(&(header.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&header);
    let mut crc = crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    if !payload.is_empty() {
        // A block that says of itself what it likes.
        let length = match kind & 1 {
            0 => payload.len() as u32,
            _ => u32::MAX >> (kind & 0x1f),
        };
        let head = [length.to_le_bytes(), u32::from(kind >> 1).to_le_bytes()].concat();
        crc = crc32c_append(crc32c_append(crc, &head), payload);
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(payload);
    }
    let mut footer = 0u32.to_le_bytes().to_vec();
    footer.extend_from_slice(b"rkvdends");
    footer.extend_from_slice(&u64::from(kind >> 1).to_le_bytes());
    footer.extend_from_slice(&u64::from(!payload.is_empty()).to_le_bytes());
    crc = crc32c_append(crc, &footer);
    bytes.extend_from_slice(&footer);
    bytes.extend_from_slice(&crc.to_le_bytes());
    if let Ok(header) = SnapshotHeader::parse_from_bytes(&header) {
        let _ = SnapshotMeta::from_header(&header);
    }
    bytes
}

// ---- commands ----

/// The data of an entry.
pub fn commands(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let Ok(batch) = bounded(SOME + DECODER + 64 * data.len(), || command::decode(&bytes)) else {
        return;
    };
    let mut members = members();
    for (command, index) in batch.commands.iter().zip(2..) {
        let _ = command.member_url.parse::<PeerUrl>();
        if let Ok(Decision::Change(_)) = members.decide(command) {
            members.apply(command, index);
            let mut state = command::ReplicatedState::new();
            members.write_to(&mut state);
            assert_eq!(Members::from_state(&state).as_ref(), Ok(&members));
        }
    }
    if !batch.commands.is_empty() {
        let again = command::encode(&batch);
        let again = command::decode(&again).expect("what was encoded decodes");
        // Their texts: unknown fields are kept, but in any order.
        assert_eq!(format!("{again:?}"), format!("{batch:?}"));
    }
}

// ---- HTTP ----

/// A request's path, query and conditions, in lines.
pub fn http(data: &[u8]) {
    let mut lines = data.split(|b| *b == b'\n');
    let path = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let query = lines
        .next()
        .map(|line| String::from_utf8_lossy(line).into_owned());
    let mut headers = HeaderMap::new();
    for (line, name) in lines.zip([IF_MATCH, IF_NONE_MATCH].iter().cycle()) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(name, value);
        }
    }
    bounded(SOME + 64 * data.len(), || {
        match api::fuzzing::key(&path) {
            Ok(key) => {
                assert!(key.len() <= path.len());
                let escaped: String = key.iter().map(|byte| format!("%{byte:02x}")).collect();
                assert_eq!(api::fuzzing::key(&format!("/{escaped}")), Ok(key.clone()));
                if let Some(id) = api::fuzzing::member_id(&key) {
                    assert_eq!(id.to_string().as_bytes(), key);
                }
            }
            Err(status) => assert_eq!(status, 400),
        }
        if let Err(status) = api::fuzzing::stale(query.as_deref()) {
            assert_eq!(status, 400);
        }
        match api::fuzzing::conditions(&headers) {
            Ok(count) => assert!(count <= 2 * limits::ETAGS_MAX),
            Err(status) => assert_eq!(status, 400),
        }
    });
}

// ---- JSON ----

/// A key that may be read or deleted. `key_bytes_max` is for keys that are written.
fn is_key(key: &[u8]) -> bool {
    !key.is_empty() && key.len() <= limits::KEY_BYTES_LIMIT
}

/// A body of `POST /key` and of `POST /-/txn`, and the query of a list and of a watch.
pub fn json(data: &[u8]) {
    let limits = api::Limits {
        key_bytes_max: 64,
        value_bytes_max: 1_000,
        request_timeout: Duration::ZERO,
        header_timeout: Duration::ZERO,
        connections_max: 0,
        spare_connections_max: 0,
        address_max: 0,
        body_bytes_max: 0,
        json_bytes_max: 1 << 20,
        store_bytes_max: 0,
        watchers_max: 0,
        watch_id_interval: Duration::ZERO,
    };
    let fits = |key: &[u8], value: &[u8]| {
        !key.is_empty()
            && key.len() <= limits.key_bytes_max
            && value.len() <= limits.value_bytes_max
    };
    let refused = |status: u16| assert!(matches!(status, 400 | 413), "{status}");
    let limit = SOME + 64 * data.len();
    match bounded(limit, || api::fuzzing::pairs(data, &limits)) {
        Ok(pairs) => {
            assert!(pairs.len() <= limits::TXN_OPERATIONS_MAX);
            assert!(pairs.iter().all(|(key, value)| fits(key, value)));
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("it was JSON");
            let members = pairs
                .iter()
                .map(|(key, value)| (text(key), text(value).into()));
            let again = serde_json::Value::Object(members.collect()).to_string();
            assert_eq!(api::fuzzing::pairs(again.as_bytes(), &limits), Ok(pairs));
        }
        Err(status) => refused(status),
    }
    match bounded(limit, || api::fuzzing::transaction(data, &limits)) {
        Ok(transaction) => {
            let (checks, writes) = (&transaction.checks, &transaction.writes);
            assert!(checks.len().max(writes.len()) <= limits::TXN_OPERATIONS_MAX);
            assert!(checks.iter().all(|check| is_key(&check.key)));
            assert!(writes.iter().all(|write| match write.delete {
                true => is_key(&write.key),
                false => fits(&write.key, &write.value),
            }));
            let keys: BTreeSet<&[u8]> = writes.iter().map(|write| &*write.key).collect();
            assert_eq!(keys.len(), writes.len(), "a key is written once");
            // What a list says of a key and a value is taken back as it was.
            let operations = writes.iter().map(|write| {
                let (key, value) = api::fuzzing::members(&write.key, &write.value);
                match write.delete {
                    true => format!("{{\"op\":\"delete\",{key}}}"),
                    false => format!("{{\"op\":\"put\",{key},{value}}}"),
                }
            });
            let operations: Vec<String> = operations.collect();
            if !operations.is_empty() {
                let again = format!("{{\"operations\":[{}]}}", operations.join(","));
                let again = api::fuzzing::transaction(again.as_bytes(), &limits);
                assert_eq!(again.as_ref().map(|again| &again.writes), Ok(writes));
            }
        }
        Err(status) => refused(status),
    }
    query(&String::from_utf8_lossy(data), limit);
}

/// The options of a list and of a watch.
fn query(query: &str, limit: usize) {
    match bounded(limit, || api::fuzzing::range(Some(query))) {
        Ok(range) => {
            assert!((1..=limits::LIST_KEYS_MAX).contains(&range.limit));
            assert!(range.prefix.len() + range.after.len() <= query.len());
        }
        Err(status) => assert_eq!(status, 400),
    }
    match bounded(limit, || api::fuzzing::watched(Some(query))) {
        Ok((prefix, _)) => assert!(prefix.len() <= query.len()),
        Err(status) => assert_eq!(status, 400),
    }
}

// ---- certificates ----

/// The certificate of a peer; its name alone; and a file of certificates.
pub fn certificate(data: &[u8]) {
    let (mode, rest) = split(data);
    let limit = SOME + 64 * data.len();
    match mode % 3 {
        0 => der(rest, limit),
        1 => {
            let text = String::from_utf8_lossy(rest);
            if let Ok(name) = bounded(limit, || text.parse::<Name>()) {
                assert_eq!(name.to_string(), text, "a name has one spelling");
            }
        }
        _ => {
            let read = bounded(limit, || pem::read_certificates(rest));
            for certificate in read.unwrap_or_default() {
                let again = pem::write_certificate(&certificate);
                let again = pem::read_certificates(again.as_bytes());
                assert_eq!(again.as_ref(), Ok(&vec![certificate.clone()]));
                der(&certificate, limit);
            }
        }
    }
}

fn der(bytes: &[u8], limit: usize) {
    if let Ok(facts) = bounded(limit, || facts(bytes)) {
        let name = facts.name.to_string();
        assert_eq!(name.parse(), Ok(facts.name));
        assert!(
            bytes
                .windows(name.len())
                .any(|part| part == name.as_bytes())
        );
        assert_eq!(facts.fingerprint.to_string().parse(), Ok(facts.fingerprint));
    }
    if let Ok(facts) = bounded(limit, || ca_facts(bytes)) {
        assert_eq!(facts.tag.to_string().parse(), Ok(facts.tag));
    }
    for host in bounded(limit, || order::hosts(bytes)).unwrap_or_default() {
        assert_eq!(host.to_string().parse(), Ok(host));
    }
    bounded(limit, || certificates::ca::has_issued(bytes, bytes));
}
