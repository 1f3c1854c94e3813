//! Words of other programs in the place of a subcommand, and what does the same here.

/// Words in the place of a subcommand, and what does the same here. A pair such as `member add` comes before its first
/// word alone.
pub(super) const WORDS: &[(&[&str], &str)] = &[
    (
        &[
            "start", "run", "serve", "server", "agent", "daemon", "node", "up",
        ],
        "raftkvd without a subcommand runs a member; leave this word out",
    ),
    (
        &["put", "set"],
        "curl -X PUT -d VALUE http://127.0.0.1:9121/KEY writes a key",
    ),
    (
        &["get"],
        "curl http://127.0.0.1:9121/KEY reads a key, and curl 'http://127.0.0.1:9121/-/kv?prefix=P&values=true' reads all keys \
         that start with P",
    ),
    (
        &["del", "delete"],
        "curl -X DELETE http://127.0.0.1:9121/KEY deletes a key",
    ),
    (
        &["watch"],
        "curl -N 'http://127.0.0.1:9121/-/watch?prefix=P' prints every change of a key that starts with P",
    ),
    (
        &["txn"],
        "POST /-/txn at the port for clients checks conditions and changes several keys at once; curl http://127.0.0.1:9121/ \
         lists all requests",
    ),
    (
        &["ls", "list", "keys", "scan"],
        "curl 'http://127.0.0.1:9121/-/kv?prefix=P' lists the keys that start with P",
    ),
    (
        &["kv"],
        "clients use HTTP, as in curl http://127.0.0.1:9121/greeting",
    ),
    (
        &["member add"],
        "start the new member with --join URL, where URL is the one at which clients reach any member; or send POST \
         /-/members/ID before that",
    ),
    (
        &["member remove", "remove", "leave"],
        "curl -X DELETE http://127.0.0.1:9121/-/members/ID, sent to any member, removes member ID",
    ),
    (
        &["member list", "members"],
        "curl http://127.0.0.1:9121/-/members lists the members",
    ),
    (
        &["member update"],
        "stop the member, and start it on its data directory with the new --peer-url",
    ),
    (
        &["member promote"],
        "a new member becomes a voter without a request, once it has caught up",
    ),
    (
        &["member"],
        "GET /-/members lists the members, DELETE /-/members/ID removes one, and a new member starts with --join URL",
    ),
    (
        &["move-leader", "transfer-leadership"],
        "curl -X POST -d ID http://127.0.0.1:9121/-/leader hands leadership to member ID",
    ),
    (
        &["endpoint health", "health"],
        "curl http://127.0.0.1:9121/-/ready answers 200 if the member serves clients",
    ),
    (
        &["endpoint hashkv"],
        "curl http://127.0.0.1:9121/-/hash answers with the hash of all keys of this member",
    ),
    (
        &["operator", "status", "endpoint", "leader"],
        "ask a member by HTTP, as in curl http://127.0.0.1:9121/-/status; curl http://127.0.0.1:9121/ lists all requests",
    ),
    (
        &["metrics"],
        "curl http://127.0.0.1:9121/-/metrics answers with the metrics",
    ),
    (
        &["join"],
        "start the new member with --join URL, where URL is the one at which clients reach any member",
    ),
    (
        &["snapshot restore", "import", "load"],
        "raftkvd restore FILE makes a new cluster from a backup",
    ),
    (
        &["snapshot status"],
        "raftkvd inspect FILE checks a backup, and shows what it holds",
    ),
    (
        &["snapshot", "dump", "export", "save"],
        "raftkvd backup URL FILE fetches a backup from a member",
    ),
    (
        &["check", "verify", "fsck", "info", "show"],
        "raftkvd inspect checks a data directory or a backup",
    ),
    (
        &["completion"],
        "raftkvd completions prints the script for a shell",
    ),
    (
        &["gencert", "tls ca", "tls cert", "tls"],
        "raftkvd cert DIR --cluster URLS makes the certificates of a cluster, and raftkvd cert --help has the rest",
    ),
    (
        &["cert revoke"],
        "write the fingerprint of the key, as raftkvd cert show prints it, into the file revoked in the directory of --tls of \
         each member; DELETE /-/members/ID revokes the key of a member",
    ),
    (
        &["cert list", "cert ls"],
        "raftkvd cert show DIR lists the certificates; revoked keys are in the file revoked in the directory of --tls of each \
         member",
    ),
    (
        &["lease"],
        "keys do not expire; a client that needs this deletes its keys",
    ),
    (
        &["compact", "compaction"],
        "there is nothing to compact, because only the newest value of a key is kept",
    ),
    (
        &["defrag"],
        "there is nothing to defragment, because every snapshot is a new file",
    ),
    (
        &["user", "role", "auth", "login"],
        "there are no users and no roles; let clients use a proxy that checks them",
    ),
    (
        &["alarm"],
        "there are no alarms to disarm; a member whose disk is full takes writes again once it has room",
    ),
    (
        &["lock", "elect"],
        "there are no locks; a PUT with the header If-None-Match: * creates a key only if the key is absent",
    ),
];

/// The words that are known, and their sentence, for the first word of a command line and the word behind it.
pub(super) fn known(first: &str, second: Option<&str>) -> Option<(String, &'static str)> {
    let pair = second.map(|second| format!("{first} {second}"));
    let single = first.to_owned();
    [pair, Some(single)].into_iter().flatten().find_map(|said| {
        let mut known = WORDS.iter();
        let (_, sentence) = known.find(|(words, _)| words.contains(&said.as_str()))?;
        Some((said, *sentence))
    })
}
