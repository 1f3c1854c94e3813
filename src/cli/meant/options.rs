//! Options of other programs, and what raftkvd has in their place.

/// Options of other programs, and what does the same here.
pub(super) struct Foreign {
    /// Without dashes.
    pub(super) names: &'static [&'static str],
    /// The option of raftkvd with a value, or empty.
    pub(super) ours: &'static str,
    /// An explanation of `ours`. Without `ours`: why there is no such option.
    pub(super) sentence: &'static str,
}

const fn foreign(
    names: &'static [&'static str],
    ours: &'static str,
    sentence: &'static str,
) -> Foreign {
    Foreign {
        names,
        ours,
        sentence,
    }
}

/// Of etcd, Consul, rqlite, hraftd and similar programs.
pub(super) const OPTIONS: &[Foreign] = &[
    foreign(
        &[
            "name",
            "n",
            "node",
            "node-id",
            "node-name",
            "nodeid",
            "server-id",
            "member-id",
        ],
        "--id N",
        "an id is a number from 1 on, the member's place in --cluster",
    ),
    foreign(
        &[
            "initial-cluster",
            "peers",
            "members",
            "bootstrap-expect",
            "discovery",
            "disco-mode",
        ],
        "--cluster URLS",
        "it lists the peer URLs of all members of a new cluster, separated by commas",
    ),
    foreign(
        &["bootstrap", "bootstrap-cluster", "initial-cluster-token"],
        "",
        "a first start without --join creates the cluster, of the members in --cluster or of this one alone, and gives it an \
         id",
    ),
    foreign(
        &["initial-cluster-state"],
        "",
        "for \"new\", leave it out; for \"existing\", use --join",
    ),
    foreign(
        &[
            "join-addr",
            "join-address",
            "join-as",
            "retry-join",
            "start-join",
        ],
        "--join URL",
        "URL is the one at which clients reach any member, as in --join http://10.0.0.1:9121",
    ),
    foreign(
        &[
            "raddr",
            "raft-addr",
            "raft-address",
            "raft-adv-addr",
            "peer-addr",
            "initial-advertise-peer-urls",
            "advertise",
            "advertise-addr",
            "advertise-peer-urls",
        ],
        "--peer-url http://HOST:PORT",
        "it is the URL at which the other members reach this one",
    ),
    foreign(
        &["bind", "bind-addr", "listen-peer-urls"],
        "--listen-peer IP",
        "the port for the other members is that of --peer-url or of the member's URL in --cluster",
    ),
    foreign(
        &["raft-port", "peer-port"],
        "--peer-url http://HOST:PORT",
        "the port for the other members is that of this URL, or of the member's URL in --cluster",
    ),
    foreign(
        &[
            "haddr",
            "http-addr",
            "http-adv-addr",
            "http-address",
            "listen-client-urls",
            "advertise-client-urls",
            "listen-addr",
            "listen-address",
            "client-addr",
            "addr",
            "address",
            "host",
            "client",
        ],
        "--port PORT",
        "it is the port for clients, and --listen IP sets the address for clients",
    ),
    foreign(
        &["p", "http-port", "client-port"],
        "--port PORT",
        "it is the port for clients",
    ),
    foreign(
        &[
            "data",
            "d",
            "dir",
            "datadir",
            "data-path",
            "data-directory",
            "storage-dir",
            "raft-dir",
            "wal-dir",
            "db",
        ],
        "--data-dir DIR",
        "one directory holds everything that belongs to a member",
    ),
    foreign(
        &["inmem", "in-memory", "memory"],
        "--data-dir DIR",
        "raftkvd always writes to disk; for a short test, DIR can be on a RAM disk",
    ),
    foreign(
        &["heartbeat-interval", "raft-heartbeat", "heartbeat-timeout"],
        "--heartbeat DURATION",
        "a duration has a unit, as in 100ms",
    ),
    foreign(
        &["raft-timeout", "raft-election-timeout", "election-tick"],
        "--election-timeout DURATION",
        "a duration has a unit, as in 1s",
    ),
    foreign(
        &["snapshot-count", "raft-snap", "raft-snap-threshold"],
        "--snapshot-bytes SIZE",
        "the size of the log decides when a snapshot is due",
    ),
    foreign(
        &["quota-backend-bytes"],
        "--max-store-bytes SIZE",
        "it limits the size of all keys and values",
    ),
    foreign(
        &["max-request-bytes"],
        "--max-value-bytes SIZE",
        "it limits the size of one value",
    ),
    foreign(
        &["force-new-cluster"],
        "",
        "raftkvd restore makes a new cluster from a backup or a snapshot",
    ),
    foreign(
        &["v", "debug", "verbose", "raft-log-level", "loglevel"],
        "--log-level debug",
        "to print the version, use --version",
    ),
    foreign(
        &["log-json", "json", "logger"],
        "--log-format json",
        "the log goes to stderr",
    ),
    foreign(
        &["log-file", "log-outputs", "logfile", "syslog"],
        "",
        "the log goes to stderr; redirect that, or let a supervisor keep it",
    ),
    foreign(
        &["config", "config-file", "config-dir", "conf", "c", "f"],
        "",
        "there is no file of options; each option can be set by an environment variable, such as RAFTKVD_ID",
    ),
    foreign(
        &["server", "dev", "agent", "ui", "single-node", "standalone"],
        "",
        "raftkvd without options runs a single member; leave this option out",
    ),
    foreign(
        &["daemon", "daemonize", "background", "foreground", "detach"],
        "",
        "raftkvd runs in the foreground; leave this option out, and let a supervisor run it",
    ),
    foreign(
        &[
            "cert-file",
            "key-file",
            "trusted-ca-file",
            "ca-file",
            "client-cert-auth",
            "auto-tls",
            "peer-cert-file",
            "peer-key-file",
            "peer-trusted-ca-file",
            "peer-client-cert-auth",
            "peer-auto-tls",
            "http-cert",
            "http-key",
            "http-ca-cert",
            "node-cert",
            "node-key",
            "node-ca-cert",
            "client-cert",
            "client-key",
            "http-verify-client",
            "node-verify-client",
            "encrypt",
        ],
        "--tls DIR",
        "both ports speak TLS, with the certificates in DIR, as raftkvd cert makes them",
    ),
    foreign(
        &["crl-file", "client-crl-file", "peer-crl-file"],
        "",
        "with --tls DIR, the file revoked in DIR has the fingerprints of revoked keys, one a line",
    ),
    foreign(
        &[
            "no-tls",
            "disable-tls",
            "without-tls",
            "allow-insecure",
            "plaintext",
        ],
        "--insecure",
        "raftkvd has no TLS without --tls, and --insecure allows ports that other machines reach without TLS",
    ),
    foreign(
        &[
            "auth",
            "auth-token",
            "token",
            "user",
            "password",
            "username",
        ],
        "",
        "there are no users and passwords; with --tls DIR, a client shows a certificate, which raftkvd cert makes",
    ),
    foreign(
        &["listen-metrics-urls", "metrics", "metrics-addr"],
        "",
        "GET /-/metrics at the port for clients has the metrics; leave this option out",
    ),
    foreign(
        &[
            "auto-compaction-retention",
            "auto-compaction-mode",
            "experimental-compaction-batch-limit",
        ],
        "",
        "only the newest value of a key is kept, so there is nothing to compact; leave this option out",
    ),
    foreign(
        &["enable-pprof", "enable-v2", "enable-grpc-gateway"],
        "",
        "there are no such requests; leave this option out",
    ),
    foreign(
        &["strict-reconfig-check", "pre-vote"],
        "",
        "this is always so; leave this option out",
    ),
    foreign(
        &["max-snapshots", "max-wals"],
        "",
        "older snapshots and logs are deleted without an option; leave this option out",
    ),
    foreign(
        &["max-txn-ops"],
        "",
        "a transaction has at most 1,024 operations; leave this option out",
    ),
    foreign(
        &["endpoints", "endpoint"],
        "",
        "clients use HTTP, as in curl http://127.0.0.1:9121/greeting",
    ),
];
