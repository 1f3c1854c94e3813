//! All limits. The name of each limit states its unit.

use std::time::Duration;

// ---- Proposals and reads waiting in the node ----

/// Proposals that wait for their outcome in one node. One more is refused with `QueueFull`.
pub const PROPOSALS_MAX: usize = 32_768;
/// Bytes of the keys and values of those proposals. Two of the largest values fit, with their keys. More large values
/// would only wait for the disks until their deadline passes.
pub const PROPOSAL_BYTES_MAX: usize = 2 * VALUE_BYTES_LIMIT + (16 << 20);
/// Linearizable reads that wait in one node.
pub const READS_MAX: usize = 65_536;
/// Requests for another leader that wait in one node.
pub const TRANSFERS_MAX: usize = 16;
/// Bytes of proposals that the leader gathers while it writes. With more it proposes them at once.
pub const GATHERED_BYTES_MAX: usize = 128 << 10;
/// Size up to which commands share one entry, in bytes. A larger command gets its own entry.
pub const ENTRY_BYTES_MAX: usize = 256 << 10;
/// Bytes of the entries of one forwarded proposal message. A single larger entry is still sent, alone.
pub const PROPOSE_BYTES_MAX: usize = 4 << 20;
/// Sets the time until a forward without an outcome is sent again: an election timeout, plus one tick for each of these
/// amounts of bytes without an outcome. At the default tick that is 12 MiB/s.
pub const RESEND_BYTES_PER_TICK: usize = 256 << 10;
/// Commands in one entry, at most.
pub const ENTRY_COMMANDS_MAX: usize = 4_096;

// ---- replicated state ----
//
// Every member applies these limits at the same index. Members with other numbers here would end up with different
// state.

/// Members of a cluster, including learners.
pub const MEMBERS_MAX: usize = 64;
/// Removed ids for which the state keeps the index of the removal and the incarnation. The newest are kept.
pub const REMOVED_MAX: usize = 1_024;
/// Revoked keys of removed members in the table. When there are more, the oldest leave it.
pub const REVOKED_KEYS_MAX: usize = 1_024;
/// Longest client URL of a member, in bytes.
pub const CLIENT_URL_BYTES_MAX: usize = 512;
/// Longest fingerprint of a member's key, in bytes.
pub const KEY_FINGERPRINT_BYTES_MAX: usize = 64;

// ---- raft ----

/// Upper bound of every index and every term. Additions to smaller numbers can't overflow.
pub const INDEX_MAX: u64 = 1 << 62;
/// Bytes of the entries of one append message. A single larger entry is still sent, alone.
pub const APPEND_BYTES_MAX: u64 = 512 << 10;
/// Append messages to one peer without an answer.
pub const APPENDS_IN_FLIGHT_MAX: usize = 128;
/// Bytes of uncommitted entries in a leader's log. With more, further proposals wait.
pub const UNCOMMITTED_BYTES_MAX: u64 = 256 << 20;
/// Bytes of committed entries that one pass of the raft loop publishes.
pub const COMMITTED_BYTES_PER_READY_MAX: u64 = 4 << 20;
/// Bytes of published entries that the store has not applied, approximately. Beyond that, committed entries wait in the
/// log. There they take a third of the memory, because commands of 100 bytes take three times as much when they are
/// decoded.
pub const PUBLISHED_BYTES_MAX: usize = 16 << 20;
/// Bytes of entries in memory that can't be published yet, apart from those that the log caches. With more, a follower
/// accepts no further appends.
pub const UNAPPLIED_BYTES_MAX: usize = 256 << 20;
/// Peer messages that wait for the raft loop. Further messages are dropped, and raft resends them.
pub const INBOX_MESSAGES_MAX: usize = 16_384;
/// Bytes of those messages.
pub const INBOX_MESSAGE_BYTES_MAX: usize = 256 << 20;

/// Forwarded changes of members that wait at the leader for another change. Further changes are refused.
pub const CHANGES_WAITING_MAX: usize = 64;
/// Answers that an empty member sends between two passes of its loop.
pub const EMPTY_ANSWERS_MAX: usize = 256;
/// Members for which the reason is reported that keeps a cluster from forming.
pub const TROUBLES_MAX: usize = 8;
/// Entries that a learner may lack when it is promoted to voter.
pub const PROMOTION_LAG_ENTRIES_MAX: u64 = 128;
/// Bytes of applied entries that stay in memory for followers that are slightly behind, by default
/// (`--log-cache-bytes`).
pub const LOG_CACHE_BYTES_DEFAULT: u64 = 64 << 20;
/// Bytes of entries that one read from the WAL returns. A single larger entry is still read, alone.
pub const READ_BACK_BYTES: u64 = 4 << 20;
/// The smallest `--log-cache-bytes`.
pub const LOG_CACHE_BYTES_LEAST: u64 = 64 << 10;
/// The watchers' history of changes covers this fraction of `--log-cache-bytes`, so that it shares the data of entries
/// with the log in memory.
pub const HISTORY_SHARE: u64 = 4;
/// Pieces of [`READ_BACK_BYTES`] that are being read or are held after they were read.
pub const READ_BACKS_MAX: usize = 4;
/// Interval at which reading back is tried again while no file can be opened.
pub const READ_BACK_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes of log that are kept for a follower that was sent a snapshot, while it is behind. With more, it has to be sent
/// another snapshot.
pub const PINNED_LOG_BYTES_MAX: u64 = 4 << 30;

// ---- members ----

/// The default name of a data directory is this prefix and the member's id (`--data-dir`).
pub const DATA_DIR_PREFIX: &str = "raftkvd-";
/// The default peer URL of a cluster of one.
pub const DEFAULT_PEER_URL: &str = "http://127.0.0.1:9021";
/// Members whose peer URLs a message names. For a larger cluster it states only the number.
pub const MEMBERS_NAMED_MAX: usize = 7;
/// Former URLs of members that have moved or were removed. The newest are remembered.
pub const FORMER_PLACES_MAX: usize = 256;

// ---- joining by address ----

/// First pause before the members are asked again. It doubles with each further failure.
pub const JOIN_BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest of these pauses.
pub const JOIN_BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Time for a member to answer. The member's own `--request-timeout` is most likely shorter.
pub const MEMBER_ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer, in bytes: the status of a cluster.
pub const JOIN_ANSWER_BYTES_MAX: usize = 1 << 20;
/// Length of the reason of a refusal that is logged, in characters. The rest is cut off.
pub const JOIN_REASON_CHARS_MAX: usize = 1_000;

// ---- backups ----

/// Time in which a member may send no piece of a backup. Before the first byte it freezes the map.
pub const BACKUP_SILENCE_MAX: Duration = Duration::from_secs(30);
/// Bytes of a backup that a member has to send in that time. That is 136 bytes/s: no network is slower, so it is the server.
pub const BACKUP_PIECE_BYTES: usize = 4 << 10;
/// A backup may be larger than twice the announced size by this many bytes. Entries that are written meanwhile need room.
pub const BACKUP_BYTES_UNANNOUNCED_MAX: u64 = 1 << 30;
/// Largest backup in bytes, whatever the member announces. The map of a member is in memory.
pub const BACKUP_BYTES_MAX: u64 = 16 << 40;
/// Longest line in which a member refuses a backup, in bytes.
pub const BACKUP_REFUSAL_BYTES_MAX: usize = 64 << 10;
/// A restored cluster starts this far after the index of its backup. That is more than the old cluster can have written
/// since: at a million entries per second it takes twelve days.
pub const RESTORE_SKIP: u64 = 1 << 40;
/// A random number below this is added, so that two restores of one backup do not issue the same ETags.
pub const RESTORE_SPREAD: u64 = 1 << 39;
/// The resulting index must be lower than this, because many JSON readers treat numbers as doubles.
pub const RESTORED_INDEX_MAX: u64 = 1 << 53;

// ---- storage ----

/// Attempts to lock the data directory.
pub const LOCK_TRIES: usize = 5;
/// Pause between two such attempts.
pub const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// Size at which a WAL segment is closed and a new segment is started, in bytes.
pub const SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// A segment divided by this number is the room that a full disk keeps for votes, empty entries and the marks of
/// snapshots. As much room again is kept for the entries of other leaders. With 64 MiB, the room is enough for some ten
/// thousand elections.
pub const LOG_RESERVE_SHARE: u64 = 16;
/// Interval at which the log tries again to reserve its next segment, after an attempt that failed.
pub const SPARE_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Pause before a snapshot that could not be written is tried again: so many times as long as the attempt took, and at
/// least an election timeout.
pub const SNAPSHOT_RETRY_PAUSES: u64 = 4;
/// Longest of these pauses, in election timeouts.
pub const SNAPSHOT_RETRY_ELECTIONS_MAX: u64 = 60;
/// Commands and reads up to which the raft loop itself applies a batch, if the commit channel is empty.
pub const LONE_APPLY_COMMANDS_MAX: usize = 16;
/// Size up to which the raft loop itself writes a job that comes alone, in bytes.
pub const LONE_WRITE_BYTES_MAX: usize = 64 << 10;
/// Duration of the last write above which the disk counts as busy. The WAL thread then does the next write.
pub const LONE_WRITE_SLOW: Duration = Duration::from_millis(5);
/// Duration above which a write of the WAL is logged.
pub const SLOW_WRITE_TOLD: Duration = Duration::from_millis(500);
/// Jobs that may wait for the WAL. At this limit, the node takes no message and no proposal that would add another job.
pub const JOBS_UNWRITTEN_MAX: usize = 4_096;
/// Jobs that one write of the WAL combines.
pub const JOBS_PER_WRITE_MAX: usize = 256;
/// Longest WAL record, in bytes. A longer record is corrupt. The limit exceeds `VALUE_BYTES_LIMIT`, because a record
/// has to hold the largest entry.
pub const RECORD_BYTES_MAX: usize = 128 << 20;
/// Size above which one save of the WAL is written as several batches, each with its own sync.
pub const BATCH_BYTES_TARGET: usize = 32 << 20;
/// Distance in the WAL at which the place of a batch is remembered, in bytes.
pub const READ_BACK_PLACE_BYTES: u64 = 64 << 10;
/// Bytes of a WAL segment that are filled with zeros ahead of the records. An fdatasync over them changes no metadata.
pub const ZEROED_AHEAD_BYTES: u64 = 256 << 10;
/// Largest batch that causes zeros to be written ahead, in bytes. A longer batch serves many writes: its sync takes 90
/// us more without zeros, which is less than writing the same bytes twice.
pub const ZEROED_FOR_BATCH_BYTES_MAX: usize = 8 << 10;
/// Longest header of a snapshot file, in bytes. It holds `MEMBERS_MAX` members and `REMOVED_MAX` removed ids several
/// times over.
pub const SNAPSHOT_HEADER_BYTES_MAX: usize = 1 << 20;
/// Longest message before a snapshot file, in bytes. The message repeats the header.
pub const SNAPSHOT_MESSAGE_BYTES_MAX: usize = SNAPSHOT_HEADER_BYTES_MAX + (64 << 10);
/// Longest `meta` file of any format version, in bytes.
pub const META_BYTES_MAX: usize = 1 << 20;
/// Damaged parts that are kept as `*.broken` for inspection: the newest of the WAL, and as many snapshots.
pub const BROKEN_FILES_KEPT: usize = 3;
/// Snapshot files that are kept.
pub const SNAPSHOTS_KEPT: usize = 2;
/// After a file was deleted, the thread pauses this many times as long as the deletion took.
pub const REMOVAL_PAUSES: u32 = 3;
/// Longest of these pauses.
pub const REMOVAL_PAUSE_MAX: Duration = Duration::from_millis(250);
/// Interval at which the load of a snapshot from the leader is tried again, after a shortage.
pub const LOAD_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Interval at which a deletion that failed is tried again.
pub const REMOVAL_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Target size of a snapshot's blocks, in bytes.
pub const SNAPSHOT_BLOCK_BYTES: usize = 256 << 10;
/// Bytes after which a snapshot file is synced while it is written. The WAL's fdatasync must not wait for more than
/// that.
pub const SNAPSHOT_SYNC_BYTES: u64 = 256 << 10;
/// After such a piece, the writer pauses this many times as long as the piece took.
pub const SNAPSHOT_PAUSES: u32 = 3;
/// Longest of these pauses.
pub const SNAPSHOT_PIECE_PAUSE_MAX: Duration = Duration::from_millis(50);
/// Bytes after which a snapshot file is synced while it is received, at the pace of its sender.
pub const RECEIVED_SYNC_BYTES: u64 = 1 << 20;
/// Bytes of a snapshot for which one more thread loads it.
pub const LOAD_BYTES_PER_THREAD: u64 = 8 << 20;
/// Interval at which the progress of a replay is reported.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);
/// Interval at which the bar of a subcommand is drawn.
pub const BAR_INTERVAL: Duration = Duration::from_millis(100);
/// Time for which a batch with a wrong checksum is read again, in a data directory that a process uses. That process
/// may just be writing the batch.
pub const EXAMINE_RETRY_TIME: Duration = Duration::from_secs(2);
/// Interval of these reads.
pub const EXAMINE_RETRY_INTERVAL: Duration = Duration::from_millis(10);

// ---- the map ----

/// Bytes of a key and its value up to which both lie in one allocation, and a GET copies the value. Beyond that, the
/// value has its own allocation, and a GET shares it.
pub const SMALL_BYTES_MAX: usize = 4 << 10;

// ---- transport ----

/// Longest frame between peers, in bytes. Without the limit, a length field could make a receiver allocate without
/// bound. The limit leaves ample room for the largest message, an append of one entry with a value of
/// `VALUE_BYTES_LIMIT`.
pub const FRAME_BYTES_MAX: usize = 128 << 20;
/// Size up to which messages are combined into one frame, in bytes.
pub const FRAME_BYTES_TARGET: usize = 1 << 20;
/// Size from which the data of an entry is written to the socket directly, instead of being copied into the frame.
pub const FRAME_DATA_APART_BYTES: usize = 64 << 10;
/// Bytes queued for one peer on one connection. Further messages are dropped and reported to raft. All entries that a
/// leader may have uncommitted fit, so that large values are not sent twice. Their memory is shared with the log.
pub const PEER_QUEUE_BYTES_MAX: usize = 256 << 20;
/// Messages queued for one peer on one connection.
pub const PEER_QUEUE_MESSAGES_MAX: usize = 8_192;
/// Connections that the peer port holds at one time. There are fewer where the limit of open files is low.
pub const PEER_CONNECTIONS_MAX: usize = 1_024;
/// Connections among these that may have proved nothing: that have not completed their handshake, or wait to be bound. At
/// most half of all connections.
pub const PEER_NEWCOMERS_MAX: usize = 512;
/// Time from the accept of a connection on the peer port until its handshake is complete: the TLS handshake, if there
/// is one, and the head of its request.
pub const PEER_HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that a peer that waits to be bound may send of a frame. No message passes on its connection anyway.
pub const PEER_WAITING_FRAME_BYTES_MAX: usize = 64 << 10;
/// Bytes of incomplete frames, over all streams of peers. Beyond this limit, a stream is closed if its own frame has
/// more than [`FRAME_BYTES_TARGET`].
pub const PEER_FRAMES_BYTES_MAX: usize = 512 << 20;
/// Longest head of a request on the peer port, in bytes. It has to hold a URL. It is also the size of one read.
pub const PEER_HEAD_BYTES_MAX: usize = 16 << 10;
/// Time to establish a connection to one address of a member.
pub const PEER_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time after which the next address of a member is tried, while the attempts before go on (RFC 8305 advises this).
pub const CONNECT_STAGGER: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried.
pub const CONNECT_ADDRESSES_MAX: usize = 16;
/// Time to look up a name. A resolver asks the next server after 5 s, for every domain that it searches.
pub const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(20);
/// Time for the TLS handshake of a connection that was accepted, on either port.
pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two looks for changes of the files of `--tls`.
pub const TLS_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two looks whether the certificates of connected peers have ended.
pub const TLS_JUDGE_INTERVAL: Duration = Duration::from_secs(5);
/// A member logs a warning when its certificate ends within this time.
pub const TLS_END_WARNED: Duration = Duration::from_secs(30 * 24 * 3600);
/// Time between two such warnings.
pub const TLS_END_WARNED_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// Time for a peer to answer a handshake. The peer may have to sync a file first.
pub const PEER_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// First pause before a failed connection is retried. It doubles with each further failure.
pub const PEER_BACKOFF_MIN: Duration = Duration::from_millis(20);
/// Longest of these pauses.
pub const PEER_BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Longest pause between two attempts to reach an open id. Its URL may be a mistake, and the process there may be another
/// program.
pub const PEER_OPEN_BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Time between two such attempts if a process claims to be the added member and connects. Any process can claim that.
pub const PEER_OPEN_DIAL_INTERVAL: Duration = Duration::from_millis(500);
/// Time after which a connection ends if the peer's kernel has not acknowledged sent bytes. Otherwise TCP would retry
/// for a quarter of an hour, with pauses of up to two minutes after the network is back.
pub const PEER_SILENCE_MAX: Duration = Duration::from_secs(3);
/// Time to write the messages that are queued for a removed peer, or when this member stops.
pub const PEER_FLUSH_TIMEOUT: Duration = Duration::from_millis(500);
/// Peers outside the table that are dialled because they claim a binding above the applied index.
pub const PEERS_AHEAD_MAX: usize = 16;
/// Age at which a connection is made again if no message may pass on it, because one end waits to be added. By then the
/// other end may name another leader.
pub const PEER_GREETING_AGE_MAX: Duration = Duration::from_secs(5);
/// Two processes of one incarnation connect to this member. The second process takes the place when the first has been
/// silent for this time.
pub const PEER_RIVAL_SILENCE: Duration = Duration::from_secs(2);
/// Time after the second process has connected in which messages of the first do not prove that it is alive. They may
/// have been sent earlier: the kernel of its host resends them for up to [`PEER_SILENCE_MAX`].
pub const PEER_RIVAL_GRACE: Duration = Duration::from_secs(5);
/// Size of the pieces in which snapshots are read, sent and received, in bytes.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;
/// Pieces that wait between the file and the network, on either side.
pub const SNAPSHOT_CHUNKS_QUEUED: usize = 4;
/// Time for one piece, after which a snapshot transfer ends. That is 26 kB/s.
pub const SNAPSHOT_STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a snapshot that are sent in one second, at most. The limit lets the sender, and other users of its network
/// and its disks, continue their work. The receiver then needs longer to load the file than to receive it.
pub const SNAPSHOT_BYTES_PER_SECOND: u64 = 256 << 20;
/// Amount of that pace, as a time, for which a delayed transfer may catch up at once.
pub const SNAPSHOT_BURST: Duration = Duration::from_millis(20);
/// Longest pause before a snapshot is sent again to a peer with a failing disk. The first pause is `PEER_BACKOFF_MAX`.
pub const SNAPSHOT_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Time for the receiver of a snapshot to check the file and make it durable after the last byte.
pub const SNAPSHOT_FINISH_TIMEOUT: Duration = Duration::from_secs(120);

// ---- client API ----

/// The largest `--max-value-bytes`: a value travels in one record and one frame.
pub const VALUE_BYTES_LIMIT: usize = 64 << 20;
/// The largest `--max-key-bytes`. The head of a request has to hold the key, percent-encoded.
pub const KEY_BYTES_LIMIT: usize = 16 << 10;
/// Connections that the client port holds at one time. There are fewer where the limit of open files is low.
pub const CLIENT_CONNECTIONS_MAX: usize = 16_384;
/// Connections beyond [`CLIENT_CONNECTIONS_MAX`], for `/-/live` and `/-/ready` only.
pub const SPARE_CONNECTIONS_MAX: usize = 64;
/// Time for a client to send the head of a request on a spare connection.
pub const SPARE_HEADER_TIMEOUT: Duration = Duration::from_secs(1);
/// One address gets this fraction of the connections and of the watches, by default
/// (`--max-per-address`).
pub const ADDRESS_SHARE: usize = 4;
/// IPv6 addresses that have this many first bits in common count as one address.
pub const ADDRESS_PREFIX_BITS: u32 = 64;
/// Pause after a search for a connection that may give way, if the search has found none.
pub const SLOTS_SEARCH_PAUSE: Duration = Duration::from_millis(10);
/// Interval at which the log repeats that connections are refused or give way.
pub const SLOTS_FULL_TOLD: Duration = Duration::from_secs(60);
/// Bytes of incomplete heads of requests, over all connections. Beyond this limit, a connection is closed if its own
/// head has more than [`HEAD_SMALL_BYTES`].
pub const HEADS_BYTES_MAX: usize = 64 << 20;
/// Size up to which the incomplete head of a request is always kept, in bytes.
pub const HEAD_SMALL_BYTES: usize = 4 << 10;
/// Bytes of request bodies that are being read or wait for their outcome, over all connections.
pub const BODY_BYTES_MAX: usize = 256 << 20;
/// Time for a client to send the head of a request.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest head of a request, in bytes.
pub const HEADER_BYTES_MAX: usize = 64 << 10;
/// ETags in one If-Match or If-None-Match.
pub const ETAGS_MAX: usize = 64;
/// The largest duration of an option, so that no sum of instants can overflow.
pub const DURATION_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest body of `POST /-/members/<id>`, in bytes. The body is a URL.
pub const MEMBER_URL_BYTES_MAX: usize = 4 << 10;
/// Operations of a transaction, conditions of a transaction, or pairs of `POST /key`.
pub const TXN_OPERATIONS_MAX: usize = 1_024;
/// Longest body of `POST /-/txn` and of `POST /key`, in bytes. It is small enough to be parsed on a thread of the
/// runtime.
pub const TXN_BODY_BYTES_MAX: usize = 4 << 20;
/// Keys that one `GET /-/kv` lists by default.
pub const LIST_KEYS_DEFAULT: usize = 1_000;
/// Keys that one `GET /-/kv` lists, at most.
pub const LIST_KEYS_MAX: usize = 10_000;
/// Size at which a list ends early, in bytes. A single larger entry is still listed, alone.
pub const LIST_BYTES_MAX: usize = 4 << 20;
/// Bytes of JSON (lists, pairs) on their way to clients, over all connections. A single larger text is still sent,
/// alone.
pub const JSON_BYTES_MAX: usize = 256 << 20;
/// Bytes of large watch events on their way to clients, over all connections.
pub const WATCHES_BYTES_MAX: usize = 256 << 20;
/// Bytes of the answers to transactions, over all connections, counted from the proposal.
pub const ANSWERS_BYTES_MAX: usize = 64 << 20;
/// Bytes of a value that are checked for text before other requests get their turn.
pub const TEXT_PIECE_BYTES: usize = 256 << 10;
/// Size from which equal answers for a pair share one text, in bytes. To make a smaller text is faster than to find it.
pub const JSON_SHARED_BYTES_MIN: usize = 64 << 10;
/// Size from which a value is written as JSON on a blocking thread.
pub const JSON_INLINE_BYTES_MAX: usize = 256 << 10;
/// Election timeouts without a leader after which a member ends its watches, so that their clients go to another member.
pub const LEADERLESS_ELECTIONS: u64 = 3;
/// Members that are named in the line about missing members. Further missing members are only counted.
pub const WAITING_NAMES_MAX: usize = 5;
/// Bytes of the small texts of changes that all watchers share, counted as if every byte needed an escape.
pub const EVENT_TEXTS_BYTES_MAX: usize = 64 << 20;
/// The most that the text of a change takes besides its key and its value, in bytes.
pub const EVENT_FRAME_BYTES: usize = 256;
/// How long a start waits until the member serves clients, before it says what the member waits for.
pub const LISTENING_WAIT: Duration = Duration::from_secs(1);
/// How often such a start looks at the progress of the replay.
pub const LISTENING_POLL: Duration = Duration::from_millis(10);
/// Watchers at one time.
pub const WATCHERS_MAX: usize = 1_024;
/// Approximate size of the pieces in which changes are sent to a watcher, in bytes before they are written as JSON. A
/// single larger entry is still sent, alone, and takes a share of `WATCHES_BYTES_MAX`.
pub const WATCH_PIECE_BYTES: usize = 64 << 10;
/// Entries in one such piece.
pub const WATCH_ENTRIES_MAX: usize = 256;
/// Interval at which a watcher gets the index that it has reached while none of its keys change.
pub const WATCH_ID_INTERVAL: Duration = Duration::from_secs(15);
/// Size up to which a value is copied out of the connection's read buffer, in bytes. The buffer can then be used again.
pub const BODY_COPY_BYTES_MAX: usize = 4 << 10;
/// Time in which a client takes no byte of its response, after which its connection is closed. A client that reads
/// steadily, but less than about half of [`UNSENT_BYTES_MAX`] in this time, is closed too. So is one that reads less in
/// this time than a sixteenth of its receive buffer: its kernel offers no window until then. That is 7 kB/s for a buffer
/// of 6 MiB, to which Linux lets a buffer grow by default.
pub const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Connections that the kernel keeps until they are accepted, if the system allows so many.
pub const LISTEN_BACKLOG: i32 = 4_096;
/// Bytes that the kernel takes for a client and has not sent yet, about.
pub const UNSENT_BYTES_MAX: u32 = 64 << 10;
/// Time for which the kernel of a watcher may be silent while it has to acknowledge bytes. With [`WATCH_ID_INTERVAL`] it is
/// less than a minute: a watcher gets a byte at that interval, so a vanished watcher is noticed within a minute.
pub const CLIENT_SILENCE_MAX: Duration = Duration::from_secs(40);
/// Time after which a keepalive probe is sent on an idle connection.
pub const CLIENT_KEEPALIVE_IDLE: Duration = Duration::from_secs(20);
/// Interval at which the keepalive probe is repeated.
pub const CLIENT_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Keepalive probes without an answer after which the connection ends.
pub const CLIENT_KEEPALIVE_PROBES: u32 = 3;
/// Bytes that are kept for a client that sends its next request during a watch.
pub const AHEAD_BYTES_MAX: usize = 4 << 10;
/// Time for which a connection discards the rest of a request's body after a response that left it unread. It lets the
/// client get the response and not a reset.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a failed accept, most likely because no file descriptor is left.
pub const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// Time for which a connection may stay open during a stop, if it has no current request and has not ended.
pub const CONNECTION_END_TIMEOUT: Duration = Duration::from_millis(500);
/// Time for the raft loop to answer `GET /-/status` and `/-/live`.
pub const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for the read of `GET /-/ready`.
pub const READY_TIMEOUT: Duration = Duration::from_secs(1);

/// Lists, hashes and backups together get this share of one processor.
pub const SCANS_PROCESSOR_PERCENT: u32 = 50;
/// Time for which lists, hashes and backups keep a share that they did not use.
pub const SCANS_BURST: Duration = Duration::from_millis(250);
/// Bytes of entries that lists, hashes and backups read between two pauses, about.
pub const SCAN_PIECE_BYTES: usize = 1 << 20;

// ---- logs ----

/// Time for which the end of the process waits until the last lines are written.
pub const LOG_END_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval at which that wait checks.
pub const LOG_END_POLL: Duration = Duration::from_millis(1);
/// Time within which a panic ends the process. The backtrace, if one is asked for, has to be resolved in this time.
pub const LOG_PANIC_TIMEOUT: Duration = Duration::from_secs(3);
/// Time until a write is tried again if stderr is non-blocking and full.
pub const LOG_WRITE_RETRY: Duration = Duration::from_millis(10);
/// Lines that wait for the thread that writes them. Further lines are dropped and counted.
pub const LOG_LINES_MAX: usize = 4_096;
/// Lines of one kind that are logged in a window. Further lines are counted.
pub const LOG_REPEATS_MAX: u64 = 10;
/// Length of such a window.
pub const LOG_REPEAT_WINDOW: Duration = Duration::from_secs(10);
/// Kinds of lines that are distinguished.
pub const LOG_REPEATS_TRACKED: usize = 256;

// ---- open files ----

/// The lowest limit of open files with which a member starts. It is enough for a cluster of nine members.
pub const FILES_LEAST: u64 = 128;
/// The lowest limit of open files with which a process catches signals: tokio needs four descriptors beside those that
/// are open at a start.
pub const SIGNALS_FILES_LEAST: u64 = 16;
/// The limit of open files divided by this number is the own share: for the files of the data directory, for
/// connections to other members and for lookups. Connections from other members get a share of the same size.
pub const FILES_SHARE: u64 = 4;
/// The least and the most of the own share.
pub const FILES_OWN: (u64, u64) = (64, 512);
/// The least of the share for connections from other members. The most is [`PEER_CONNECTIONS_MAX`].
pub const PEER_CONNECTIONS_LEAST: u64 = 32;
/// The own share divided by this number is the number of spare connections, at most [`SPARE_CONNECTIONS_MAX`]. The rest
/// of the least own share is enough for a member of a cluster of nine: about 20 files, two connections to each of the
/// others, and a file and a connection for each snapshot that it sends.
pub const SPARE_CONNECTIONS_SHARE: u64 = 8;

// ---- systemd ----

/// Time by which a start extends systemd's timeout each time it has advanced by 1 %.
pub const SYSTEMD_START_EXTENSION: Duration = Duration::from_secs(60);

// ---- starting ----

/// Time for which a start tries again to get a port that is in use, or an address or a name that does not exist yet.
/// Each of them gets the whole time. After that the process ends with exit code 1, so that a supervisor starts it
/// again.
pub const START_PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two attempts.
pub const START_RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// An attempt that takes longer than this is logged.
pub const START_SLOW: Duration = Duration::from_millis(500);

// ---- stopping ----

/// A signal of the same kind within this time after the first counts as the first, sent twice.
pub const SIGNAL_REPEAT: Duration = Duration::from_secs(1);
/// Time for which a SIGTERM waits until leadership is transferred and requests are answered.
pub const STOP_TIMEOUT: Duration = Duration::from_millis(1_000);
/// Time for the threads to end after that. A thread that is writing or loading a snapshot takes longer and ends with
/// the process. The next start removes the unfinished file.
pub const THREADS_STOP_TIMEOUT: Duration = Duration::from_millis(300);
/// Interval at which that wait checks.
pub const THREADS_STOP_POLL: Duration = Duration::from_millis(1);
/// Time for the runtime's tasks to end after everything else has ended.
pub const RUNTIME_STOP_TIMEOUT: Duration = Duration::from_millis(100);

// ---- threads ----

/// Threads of the tokio runtime. They serve all connections, of clients and of peers.
pub fn runtime_threads() -> usize {
    // The other half of the processors is for raft, the log, the store and the kernel. With two processors, a second
    // thread here only made each wake the other (measured: one thread has half the context switches and does more
    // writes).
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
    (processors / 2).clamp(1, RUNTIME_THREADS_MAX)
}

/// Upper bound of [`runtime_threads`].
pub const RUNTIME_THREADS_MAX: usize = 8;

/// Threads for work that would hold up the runtime: lists, hashes, large JSON and metrics.
pub const WORKER_THREADS: usize = 3;
/// Before the runtime is made, the machine has to grant its threads and this many more. The runtime itself does not
/// report that it got too few threads. The raft loop and the other threads need more.
pub const THREADS_SPARE: usize = 4;

/// Threads that load a large snapshot: one for each processor.
pub fn load_threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
    processors.min(LOAD_THREADS_MAX)
}

/// Threads that load a large snapshot beside a member's other work: half of [`load_threads`]. The member has to answer
/// heartbeats, and other processes may share the machine.
pub fn load_threads_beside() -> usize {
    load_threads().div_ceil(2)
}

/// Upper bound of [`load_threads`]. The threads take turns to read the next block of the file.
pub const LOAD_THREADS_MAX: usize = 8;
