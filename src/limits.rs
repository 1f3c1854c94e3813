//! Every limit, with its unit in its name.

use std::time::Duration;

// ---- Proposals and reads waiting in the node ----

/// Proposals that wait for their outcome in one node; one more is refused with `QueueFull`.
pub const PROPOSALS_MAX: usize = 32_768;
/// Bytes of keys and values of those proposals: two of the largest values, and keys. More of those would only wait for
/// the disks, beyond their deadline.
pub const PROPOSAL_BYTES_MAX: usize = 2 * VALUE_BYTES_LIMIT + (16 << 20);
/// Linearizable reads that wait in one node.
pub const READS_MAX: usize = 65_536;
/// Requests for another leader that wait in one node.
pub const TRANSFERS_MAX: usize = 16;
/// Proposals that gather while the leader writes, in bytes; with more it goes on at once.
pub const GATHERED_BYTES_MAX: usize = 128 << 10;
/// Commands are put into one entry up to this size; a larger command gets an entry of its own.
pub const ENTRY_BYTES_MAX: usize = 256 << 10;
/// Entries of one forwarded proposal message, in bytes; a single larger entry still goes, alone.
pub const PROPOSE_BYTES_MAX: usize = 4 << 20;
/// A forward that has no outcome is sent again after an election timeout, and a tick more for so many bytes that are
/// open: at the default tick, 12 MiB/s.
pub const RESEND_BYTES_PER_TICK: usize = 256 << 10;
/// Commands in one entry at most.
pub const ENTRY_COMMANDS_MAX: usize = 4_096;

// ---- replicated state ----
//
// Every member decides by these at the same index, so members that have other numbers here would differ in what they hold.

/// Members of a cluster, learners among them.
pub const MEMBERS_MAX: usize = 64;
/// Removed ids of which it is known when they were removed and with which incarnation: the newest.
pub const REMOVED_MAX: usize = 1_024;
/// Longest URL at which clients reach a member.
pub const CLIENT_URL_BYTES_MAX: usize = 512;
/// Longest fingerprint of a member's key.
pub const KEY_FINGERPRINT_BYTES_MAX: usize = 64;

// ---- raft ----

/// No index and no term gets this large, and to add to one that is smaller overflows nothing.
pub const INDEX_MAX: u64 = 1 << 62;
/// Entries of one append message, in bytes; a single larger entry still goes, alone.
pub const APPEND_BYTES_MAX: u64 = 512 << 10;
/// Append messages to one peer that are not yet answered.
pub const APPENDS_IN_FLIGHT_MAX: usize = 128;
/// Entries in a leader's log that are not committed; further proposals wait.
pub const UNCOMMITTED_BYTES_MAX: u64 = 256 << 20;
/// Committed entries that one pass of the loop publishes.
pub const COMMITTED_BYTES_PER_READY_MAX: u64 = 4 << 20;
/// Published entries that the store has not applied, about: beyond it the next ones stay in the log. There they take a
/// third of the memory, since commands of 100 bytes do when they are decoded.
pub const PUBLISHED_BYTES_MAX: usize = 16 << 20;
/// Entries in memory, beyond those that the log caches, that can't be published yet; with more a follower takes no further
/// appends.
pub const UNAPPLIED_BYTES_MAX: usize = 256 << 20;
/// Peer messages waiting for the raft loop; further ones are dropped, and raft resends.
pub const INBOX_MESSAGES_MAX: usize = 16_384;
/// Bytes of those messages.
pub const INBOX_MESSAGE_BYTES_MAX: usize = 256 << 20;

/// Changes of members that followers have forwarded and that wait in the leader for another one; more are refused.
pub const CHANGES_WAITING_MAX: usize = 64;
/// Answers of a member that is empty, between two passes of its loop.
pub const EMPTY_ANSWERS_MAX: usize = 256;
/// Members of which it is told what keeps a cluster from forming.
pub const TROUBLES_MAX: usize = 8;
/// A learner that lacks at most this many entries is made a voter.
pub const PROMOTION_LAG_ENTRIES_MAX: u64 = 128;
/// Applied entries that stay in memory for followers that are a little behind, unless `--log-cache-bytes` says otherwise.
pub const LOG_CACHE_BYTES_DEFAULT: u64 = 64 << 20;
/// Entries that are read back from the WAL at one time, in bytes; a single larger one still is, alone.
pub const READ_BACK_BYTES: u64 = 4 << 20;
/// The smallest `--log-cache-bytes`.
pub const LOG_CACHE_BYTES_LEAST: u64 = 64 << 10;
/// The history of changes, for watchers, reaches back over this part of `--log-cache-bytes`: so it shares the data of entries
/// with the log in memory.
pub const HISTORY_SHARE: u64 = 4;
/// Pieces of so many bytes that are being read back, and that are held afterwards.
pub const READ_BACKS_MAX: usize = 4;
/// The log that is kept for a follower that was sent a snapshot, for as long as it is behind. With more it has to be
/// sent another one.
pub const PINNED_LOG_BYTES_MAX: u64 = 4 << 30;

// ---- members ----

/// The data directory of a member is called this and its id, unless `--data-dir` names another.
pub const DATA_DIR_PREFIX: &str = "raftkvd-";
/// The peer URL of a cluster of one, unless an option names another.
pub const DEFAULT_PEER_URL: &str = "http://127.0.0.1:9021";
/// Members whose peer URLs a message names; of a larger cluster it names the number.
pub const MEMBERS_NAMED_MAX: usize = 7;
/// Places at which members were reached before they moved or were removed; the newest are remembered.
pub const FORMER_PLACES_MAX: usize = 256;

// ---- joining by address ----

/// First pause before the members are asked again; doubled with every further failure.
pub const JOIN_BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest such pause.
pub const JOIN_BACKOFF_MAX: Duration = Duration::from_secs(2);
/// How long a member may take to answer; its own `--request-timeout` is most likely shorter.
pub const MEMBER_ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer: the status of a cluster.
pub const JOIN_ANSWER_BYTES_MAX: usize = 1 << 20;

// ---- backups ----

/// How long a member may send nothing of a backup; it freezes the map first.
pub const BACKUP_SILENCE_MAX: Duration = Duration::from_secs(30);
/// Longest line in which a member says why it gives none.
pub const BACKUP_REFUSAL_BYTES_MAX: usize = 64 << 10;
/// A restored cluster begins so far behind the index of its backup, which is more than the old cluster can have written
/// since (a million entries a second would take twelve days),
pub const RESTORE_SKIP: u64 = 1 << 40;
/// and by a random number below this further on, so that two restores of one backup do not give the same ETags.
pub const RESTORE_SPREAD: u64 = 1 << 39;
/// There it has to stay below this: many readers of JSON take numbers for doubles.
pub const RESTORED_INDEX_MAX: u64 = 1 << 53;

// ---- storage ----

/// How often it is tried to lock the data directory,
pub const LOCK_TRIES: usize = 5;
/// and the pause between.
pub const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// A WAL segment is closed, and a new one begun, when it has reached this size.
pub const SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// The raft loop itself applies a batch that finds the commit channel empty, up to this number of commands and reads.
pub const LONE_APPLY_COMMANDS_MAX: usize = 16;
/// The raft loop itself writes a job that comes alone, up to this size.
pub const LONE_WRITE_BYTES_MAX: usize = 64 << 10;
/// When the last write took longer than this, the disk is busy, and the WAL thread does the next one.
pub const LONE_WRITE_SLOW: Duration = Duration::from_millis(5);
/// A write of the WAL that takes longer than this is logged.
pub const SLOW_WRITE_TOLD: Duration = Duration::from_millis(500);
/// Jobs that one write of the WAL takes together.
pub const JOBS_PER_WRITE_MAX: usize = 256;
/// Longest WAL record; a longer one is corrupt. It has to hold the largest entry, so it exceeds `VALUE_BYTES_LIMIT`.
pub const RECORD_BYTES_MAX: usize = 128 << 20;
/// One save of the WAL that exceeds this is written as several batches, each synced.
pub const BATCH_BYTES_TARGET: usize = 32 << 20;
/// The place of a batch in the WAL is remembered every so many bytes.
pub const READ_BACK_PLACE_BYTES: u64 = 64 << 10;
/// Space of a WAL segment that is written with zeros ahead of the records: over it an fdatasync changes no metadata.
pub const ZEROED_AHEAD_BYTES: u64 = 256 << 10;
/// Batches up to this size are what makes zeros be written ahead. A longer one serves many writes: 90 us more of its sync are
/// less than the same bytes written once again.
pub const ZEROED_FOR_BATCH_BYTES_MAX: usize = 8 << 10;
/// Longest header of a snapshot file: it holds `MEMBERS_MAX` members and `REMOVED_MAX` removed ids several times over.
pub const SNAPSHOT_HEADER_BYTES_MAX: usize = 1 << 20;
/// Longest message that goes before a snapshot file; it repeats the header.
pub const SNAPSHOT_MESSAGE_BYTES_MAX: usize = SNAPSHOT_HEADER_BYTES_MAX + (64 << 10);
/// Longest `meta` file, whatever its format version.
pub const META_BYTES_MAX: usize = 1 << 20;
/// Damaged parts that are kept aside for inspection, as `*.broken`: the newest of the WAL, and as many snapshots.
pub const BROKEN_FILES_KEPT: usize = 3;
/// Snapshot files that are kept.
pub const SNAPSHOTS_KEPT: usize = 2;
/// After a file was deleted its thread pauses for so many times as long as that took,
pub const REMOVAL_PAUSES: u32 = 3;
/// but no longer than this.
pub const REMOVAL_PAUSE_MAX: Duration = Duration::from_millis(250);
/// Target size of a snapshot's blocks.
pub const SNAPSHOT_BLOCK_BYTES: usize = 256 << 10;
/// A snapshot file that is written is synced whenever this much was: the WAL's fdatasync must not wait behind more.
pub const SNAPSHOT_SYNC_BYTES: u64 = 256 << 10;
/// After such a piece its writer pauses for so many times as long as the piece took,
pub const SNAPSHOT_PAUSES: u32 = 3;
/// but no longer than this.
pub const SNAPSHOT_PIECE_PAUSE_MAX: Duration = Duration::from_millis(50);
/// The same for one that is received, at the pace of its sender.
pub const RECEIVED_SYNC_BYTES: u64 = 1 << 20;
/// A snapshot is loaded by one thread more for each such part of it.
pub const LOAD_BYTES_PER_THREAD: u64 = 8 << 20;
/// How often it is told how far a replay has come.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);
/// How often the bar of a subcommand is drawn.
pub const BAR_INTERVAL: Duration = Duration::from_millis(100);
/// A batch that does not check, in a data directory that a process uses, is read again for so long: it may just be being
/// written.
pub const EXAMINE_RETRY_TIME: Duration = Duration::from_secs(2);
/// How often.
pub const EXAMINE_RETRY_INTERVAL: Duration = Duration::from_millis(10);

// ---- the map ----

/// A key and its value lie in one allocation up to this size, and a GET copies the value; beyond it the value lies apart,
/// and a GET shares it.
pub const SMALL_BYTES_MAX: usize = 4 << 10;

// ---- transport ----

/// Frames between peers are at most this long, so that a length field can't make a receiver allocate without bound.
/// It exceeds the largest message (an append of one entry with a value of `VALUE_BYTES_LIMIT`) with room to spare.
pub const FRAME_BYTES_MAX: usize = 128 << 20;
/// Messages are coalesced into one frame up to this size.
pub const FRAME_BYTES_TARGET: usize = 1 << 20;
/// The data of an entry from this size on goes to the socket from where it is, instead of being copied into the frame.
pub const FRAME_DATA_APART_BYTES: usize = 64 << 10;
/// Bytes queued for one peer on one connection; further messages are dropped and reported to raft. All that a leader may
/// have uncommitted fits, so that large values are not sent twice; it is shared with the log.
pub const PEER_QUEUE_BYTES_MAX: usize = 256 << 20;
/// Messages queued for one peer on one connection.
pub const PEER_QUEUE_MESSAGES_MAX: usize = 8_192;
/// Connections that the peer port holds at one time.
pub const PEER_CONNECTIONS_MAX: usize = 1_024;
/// Longest head of a request on the peer port; it has to hold a URL. Also the size of what is read at one time.
pub const PEER_HEAD_BYTES_MAX: usize = 16 << 10;
/// Time for a connection to a peer to be made.
pub const PEER_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for a peer to answer a handshake; it may have to sync a file for it.
pub const PEER_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// First pause before a failed connection is tried again; doubled with every further failure.
pub const PEER_BACKOFF_MIN: Duration = Duration::from_millis(20);
/// Longest such pause.
pub const PEER_BACKOFF_MAX: Duration = Duration::from_secs(1);
/// What was sent and is not acknowledged by the peer's kernel for this long ends the connection: otherwise TCP would
/// go on for a quarter of an hour, with pauses of up to two minutes after the network is back.
pub const PEER_SILENCE_MAX: Duration = Duration::from_secs(3);
/// Time to write what is queued for a peer that was removed, or when this member stops.
pub const PEER_FLUSH_TIMEOUT: Duration = Duration::from_millis(500);
/// Peers that are not in the table, and are dialled because they name a binding beyond what is applied.
pub const PEERS_AHEAD_MAX: usize = 16;
/// A connection on which no message passes, since one of its ends waits to be let in, is made again after this time: the
/// other end may have another leader to name.
pub const PEER_GREETING_AGE_MAX: Duration = Duration::from_secs(5);
/// Two processes of one incarnation connect here: so long the older has to say nothing for the other to take its place,
pub const PEER_RIVAL_SILENCE: Duration = Duration::from_secs(2);
/// and so long after the other has come, what the older had sent before may still be read: the kernel of its host sends it
/// again for up to [`PEER_SILENCE_MAX`].
pub const PEER_RIVAL_GRACE: Duration = Duration::from_secs(5);
/// Snapshots are read, sent and received in pieces of this size.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;
/// Such pieces that wait between the file and the network, on either side.
pub const SNAPSHOT_CHUNKS_QUEUED: usize = 4;
/// A snapshot transfer that takes longer than this for one such piece is given up; that is 26 kB/s.
pub const SNAPSHOT_STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a snapshot that are sent in a second, at most: whoever sends it, and whoever shares its network or its disks,
/// goes on serving meanwhile. The receiver then needs longer to load the file than to get it.
pub const SNAPSHOT_BYTES_PER_SECOND: u64 = 256 << 20;
/// What a transfer that was held up may make good of that at once.
pub const SNAPSHOT_BURST: Duration = Duration::from_millis(20);
/// Longest pause before a snapshot is sent again to a peer whose disk refuses it; the first is `PEER_BACKOFF_MAX`.
pub const SNAPSHOT_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Time for the receiver of a snapshot to check it and make it durable once it has every byte.
pub const SNAPSHOT_FINISH_TIMEOUT: Duration = Duration::from_secs(120);

// ---- client API ----

/// The largest `--max-value-bytes`: a value travels in one record and one frame.
pub const VALUE_BYTES_LIMIT: usize = 64 << 20;
/// The largest `--max-key-bytes`; the head of a request has to hold the key, percent-encoded.
pub const KEY_BYTES_LIMIT: usize = 16 << 10;
/// Connections that the client port holds at one time.
pub const CLIENT_CONNECTIONS_MAX: usize = 16_384;
/// Bytes of request bodies that are being read or wait for their outcome, over all connections.
pub const BODY_BYTES_MAX: usize = 256 << 20;
/// Time a client has to send the head of its request.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest head of a request.
pub const HEADER_BYTES_MAX: usize = 64 << 10;
/// Etags in one If-Match or If-None-Match.
pub const ETAGS_MAX: usize = 64;
/// The largest duration of an option, so that no sum of instants can overflow.
pub const DURATION_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);
/// Body of `POST /<id>`, which is a URL.
pub const MEMBER_URL_BYTES_MAX: usize = 4 << 10;
/// Operations of a transaction, likewise its conditions, and pairs of `POST /key`.
pub const TXN_OPERATIONS_MAX: usize = 1_024;
/// Body of `POST /-/txn` and of `POST /key`: few enough that a thread of the runtime may parse it.
pub const TXN_BODY_BYTES_MAX: usize = 4 << 20;
/// Keys that one `GET /-/kv` lists unless it says how many.
pub const LIST_KEYS_DEFAULT: usize = 1_000;
/// Keys that one `GET /-/kv` lists at most.
pub const LIST_KEYS_MAX: usize = 10_000;
/// A list ends early at this size; a single larger entry still goes, alone.
pub const LIST_BYTES_MAX: usize = 4 << 20;
/// Bytes of JSON (lists, pairs) that are on their way to their clients, over all connections; a single larger one still
/// goes, alone.
pub const JSON_BYTES_MAX: usize = 256 << 20;
/// The same for large events of watches.
pub const WATCHES_BYTES_MAX: usize = 256 << 20;
/// The same for what transactions did, counted from when they are proposed.
pub const ANSWERS_BYTES_MAX: usize = 64 << 20;
/// A value from this size on is written as JSON by a thread for what blocks.
pub const JSON_INLINE_BYTES_MAX: usize = 256 << 10;
/// Watchers at one time.
pub const WATCHERS_MAX: usize = 1_024;
/// Changes are sent to a watcher in pieces of about this size, before they are written as JSON; a single larger entry still
/// goes, alone, and takes its share of `JSON_BYTES_MAX` twice over.
pub const WATCH_PIECE_BYTES: usize = 64 << 10;
/// Entries in one such piece.
pub const WATCH_ENTRIES_MAX: usize = 256;
/// How often a watcher is told the index that it has reached, when none of its keys change.
pub const WATCH_ID_INTERVAL: Duration = Duration::from_secs(15);
/// A value up to this size is copied out of the connection's read buffer, which can then be used again.
pub const BODY_COPY_BYTES_MAX: usize = 4 << 10;
/// How long a client may take no byte of its response before its connection is closed.
pub const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// After a response that left the body of its request unread: how long the connection goes on to discard it, so that
/// the client gets the response and not a reset.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// After a failed accept (no file descriptor is left): how long to wait before the next.
pub const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// When stopping: how long a connection may stay that has no request under way but has not ended either.
pub const CONNECTION_END_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the raft loop has to answer `GET /-/status` and `/-/live`.
pub const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the read of `GET /-/ready` may take.
pub const READY_TIMEOUT: Duration = Duration::from_secs(1);

// ---- logs ----

/// How long the end of the process waits for the last lines to be written,
pub const LOG_END_TIMEOUT: Duration = Duration::from_secs(1);
/// and how often it looks.
pub const LOG_END_POLL: Duration = Duration::from_millis(1);
/// Lines that wait for the thread that writes them; further ones are dropped and counted.
pub const LOG_LINES_MAX: usize = 4_096;
/// Lines of one kind that are logged in a window; what comes beyond is counted.
pub const LOG_REPEATS_MAX: u64 = 10;
/// Such a window.
pub const LOG_REPEAT_WINDOW: Duration = Duration::from_secs(10);
/// Kinds of lines that are told apart for this.
pub const LOG_REPEATS_TRACKED: usize = 256;

// ---- systemd ----

/// By how much a start puts off systemd's timeout each time it has come 1 % further.
pub const SYSTEMD_START_EXTENSION: Duration = Duration::from_secs(60);

// ---- stopping ----

/// How long a SIGTERM waits for leadership to be handed over and for requests to be answered.
pub const STOP_TIMEOUT: Duration = Duration::from_millis(1_000);
/// How long the threads may take to end after that. One that is writing or loading a snapshot takes longer, and is
/// left to end with the process: the next start removes what is unfinished.
pub const THREADS_STOP_TIMEOUT: Duration = Duration::from_millis(300);
/// How long the runtime's tasks have to end after everything else has.
pub const RUNTIME_STOP_TIMEOUT: Duration = Duration::from_millis(100);

// ---- threads ----

/// Threads of the tokio runtime: they serve all connections, of clients and of peers.
pub fn runtime_threads() -> usize {
    // The other half of the processors is for raft, the log, the store and the kernel. With two processors a second
    // thread here only made each wake the other (measured: half the context switches with one, and more writes).
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
    (processors / 2).clamp(1, RUNTIME_THREADS_MAX)
}

/// The most that [`runtime_threads`] says.
pub const RUNTIME_THREADS_MAX: usize = 8;

/// Threads that load a large snapshot: as many as there are processors.
pub fn load_threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
    processors.min(LOAD_THREADS_MAX)
}

/// The same beside a member's other work: half of them, for there are heartbeats to be answered, and whoever shares the
/// machine.
pub fn load_threads_beside() -> usize {
    load_threads().div_ceil(2)
}

/// The most that [`load_threads`] says: one thread after the other takes the next block of the file.
pub const LOAD_THREADS_MAX: usize = 8;
