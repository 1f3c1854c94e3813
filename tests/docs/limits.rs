//! Limits that the pages name: each stands there as the code has it.

use crate::book::Page;
use raftkvd::limits::*;
use std::time::Duration;

/// With commas between the thousands.
fn count(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// In the largest unit that leaves a whole number.
fn size(bytes: u64) -> String {
    let units = [
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
        (1, "bytes"),
    ];
    let (unit, name) = units
        .into_iter()
        .find(|(unit, _)| bytes.is_multiple_of(*unit))
        .expect("1 fits");
    format!("{} {name}", bytes / unit)
}

fn time(duration: Duration) -> String {
    match duration.as_millis() {
        ms if ms.is_multiple_of(1000) => format!("{} s", ms / 1000),
        ms => format!("{ms} ms"),
    }
}

/// Each of these stands on the page, in the lines as they are or across their ends.
#[track_caller]
fn assert_says(path: &str, says: &[String]) {
    let text = Page::read(path).text;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let missing: Vec<_> = says.iter().filter(|words| !text.contains(*words)).collect();
    assert!(missing.is_empty(), "{path} does not say {missing:#?}");
}

fn row(what: &str, limit: &str) -> String {
    format!("| {what} | {limit} |")
}

fn bytes(number: usize) -> String {
    size(number as u64)
}

#[test]
fn the_table_of_limits_in_the_reference_of_the_api_is_that_of_the_code() {
    let page = count(LIST_KEYS_MAX) + ", in " + &bytes(LIST_BYTES_MAX);
    let waiting = count(PROPOSALS_MAX) + ", and " + &bytes(PROPOSAL_BYTES_MAX);
    let body = row(
        "bodies that are being read or wait for their outcome",
        &bytes(BODY_BYTES_MAX),
    );
    let stalled = row(
        "time in which a client takes no byte of its response",
        &time(WRITE_STALL_TIMEOUT),
    );
    let txn = row(
        "body of a transaction or of `POST /key`",
        &bytes(TXN_BODY_BYTES_MAX),
    );
    let says = [
        format!(
            "`--max-key-bytes`: 4 KiB, at most {} |",
            bytes(KEY_BYTES_LIMIT)
        ),
        format!(
            "`--max-value-bytes`: 1 MiB, at most {} |",
            bytes(VALUE_BYTES_LIMIT)
        ),
        format!(
            "pairs of `POST /key` | {} each |",
            count(TXN_OPERATIONS_MAX)
        ),
        format!("ends after the same time | {} |", time(HEADER_TIMEOUT)),
        format!("lists and pairs | {} |", bytes(JSON_BYTES_MAX)),
        format!("large events of watches | {} |", bytes(WATCHES_BYTES_MAX)),
        format!("answers to transactions | {} |", bytes(ANSWERS_BYTES_MAX)),
        body,
        stalled,
        txn,
        row(
            "body with a peer URL or an id",
            &bytes(MEMBER_URL_BYTES_MAX),
        ),
        row("ETags in one header", &count(ETAGS_MAX)),
        row("keys on a page of a list", &page),
        row(
            "head of a request",
            &format!("{}, about", bytes(HEADER_BYTES_MAX)),
        ),
        format!("| connections | {}; fewer", count(CLIENT_CONNECTIONS_MAX)),
        format!(
            "| {}; heads up to {} beyond that |",
            bytes(HEADS_BYTES_MAX),
            bytes(HEAD_SMALL_BYTES)
        ),
        format!("they get {SCANS_PROCESSOR_PERCENT} % of one processor"),
        row(
            "writes that wait in one member",
            &format!("{waiting} of keys and values"),
        ),
        row(
            "linearizable reads that wait in one member",
            &count(READS_MAX),
        ),
        row("watchers of one member", &count(WATCHERS_MAX)),
        row("members of a cluster", &count(MEMBERS_MAX)),
    ];
    assert_says("src/docs/reference/api.md", &says);
}

#[test]
fn the_text_of_the_reference_of_the_api_has_the_limits_of_the_code() {
    let says = [
        format!(
            "acknowledges nothing that the member sends | {} |",
            time(CLIENT_SILENCE_MAX)
        ),
        format!(
            "takes no byte for {} is disconnected",
            time(WRITE_STALL_TIMEOUT)
        ),
        format!("| `limit` | {} |", count(LIST_KEYS_DEFAULT)),
        format!("the cluster has {} members already", count(MEMBERS_MAX)),
        format!(
            "or {} changes of other members waited",
            count(CHANGES_WAITING_MAX)
        ),
        format!("lacks at most {PROMOTION_LAG_ENTRIES_MAX} entries"),
        format!("At most {TRANSFERS_MAX} such requests wait"),
        format!("wait at most {} for the raft loop", time(STATUS_TIMEOUT)),
        format!("waits at most {} for its read", time(READY_TIMEOUT)),
        format!("after {} without an event", time(WATCH_ID_INTERVAL)),
    ];
    assert_says("src/docs/reference/api.md", &says);
}

#[test]
fn the_page_of_the_options_has_the_limits_of_the_code() {
    let hours = DURATION_LIMIT.as_secs() / 3600;
    assert_says(
        "src/docs/reference/options.md",
        &[
            format!("at most {hours} h"),
            format!(
                "the peer URLs of all members, at most {}",
                count(MEMBERS_MAX)
            ),
            format!("at least {}", size(LOG_CACHE_BYTES_LEAST)),
            format!("1 byte to {}", size(VALUE_BYTES_LIMIT as u64)),
            format!("1 byte to {}", size(KEY_BYTES_LIMIT as u64)),
            format!("`{DATA_DIR_PREFIX}<id>`"),
            format!("`{DEFAULT_PEER_URL}` for a new cluster of one"),
            format!("the {} newest URLs", FORMER_PLACES_MAX),
        ],
    );
    assert_eq!(
        HISTORY_SHARE, 4,
        "the page says that watches reach back over a quarter"
    );
}

#[test]
fn the_page_of_the_formats_has_the_sizes_of_the_code() {
    assert_says(
        "src/docs/reference/formats.md",
        &[
            size(SEGMENT_BYTES_MAX),
            format!("Blocks have about {}", size(SNAPSHOT_BLOCK_BYTES as u64)),
            format!("A frame, of at most {}:", size(FRAME_BYTES_MAX as u64)),
            format!("the newest {}, with their incarnations", count(REMOVED_MAX)),
            format!("the {FORMER_PLACES_MAX} newest places"),
            format!("`{DATA_DIR_PREFIX}<id>`"),
        ],
    );
    assert_eq!(
        BROKEN_FILES_KEPT, 3,
        "the page says that the newest three are kept"
    );
    assert_eq!(
        SNAPSHOTS_KEPT, 2,
        "the page says that the two newest are kept"
    );
}

#[test]
fn the_page_of_the_exit_codes_has_the_limits_of_the_code() {
    let patience = time(START_PATIENCE);
    assert_says(
        "src/docs/reference/exit_codes.md",
        &[
            format!("steps it tries for {patience}."),
            format!("still not there after {patience},"),
            format!("may take {} in all", time(LOOK_UP_TIMEOUT)),
        ],
    );
}

#[test]
fn the_page_of_the_logs_has_the_limits_of_the_code() {
    assert_says(
        "src/docs/reference/logs.md",
        &[
            format!("every {}", time(PROGRESS_INTERVAL)),
            format!("took over {}", time(SLOW_WRITE_TOLD)),
        ],
    );
    let (lines, window) = (LOG_REPEATS_MAX, LOG_REPEAT_WINDOW.as_secs());
    assert_eq!(
        (lines, window),
        (10, 10),
        "the page says: ten within ten seconds"
    );
}

#[test]
fn the_guide_has_the_limits_of_the_code() {
    let power = |number: u64| {
        assert!(number.is_power_of_two(), "{number}");
        format!("2^{}", number.ilog2())
    };
    assert_says(
        "src/docs/guide/backup.md",
        &[
            format!("no bytes for {}", time(WRITE_STALL_TIMEOUT)),
            format!(
                "less than {} within {}",
                bytes(BACKUP_PIECE_BYTES),
                time(BACKUP_SILENCE_MAX)
            ),
            format!(
                "plus {}, plus a random number below {}",
                power(RESTORE_SKIP),
                power(RESTORE_SPREAD)
            ),
            format!("Indexes stay below {}", power(RESTORED_INDEX_MAX)),
        ],
    );
    assert_eq!(
        (ADDRESS_SHARE, FILES_SHARE),
        (4, 4),
        "the pages say: a quarter"
    );
    let connections = count(PEER_CONNECTIONS_MAX);
    assert_says(
        "src/docs/guide/security.md",
        &[
            format!("The peer port holds {connections} connections. At most {PEER_NEWCOMERS_MAX}"),
            format!(
                "its handshake is not complete after {}",
                time(PEER_HEAD_TIMEOUT)
            ),
            format!("hold {}", bytes(PEER_WAITING_FRAME_BYTES_MAX)),
            format!(
                "dials it every {}, or at most every {}",
                time(PEER_OPEN_BACKOFF_MAX),
                time(PEER_OPEN_DIAL_INTERVAL)
            ),
        ],
    );
    assert_says(
        "src/docs/guide/operations.md",
        &[
            format!(
                "up to {} connections of clients and {connections} of peers",
                count(CLIENT_CONNECTIONS_MAX)
            ),
            format!("from {} to {}, for its own files", FILES_OWN.0, FILES_OWN.1),
            format!("from {PEER_CONNECTIONS_LEAST} to {connections}, for connections from"),
            format!("With less than {FILES_LEAST}, the start ends"),
            format!("A cluster has at most {} members", count(MEMBERS_MAX)),
            format!("sent at {}/s at most", size(SNAPSHOT_BYTES_PER_SECOND)),
            format!("up to {}", size(PINNED_LOG_BYTES_MAX)),
            format!("files of {}", size(SEGMENT_BYTES_MAX)),
        ],
    );
}
