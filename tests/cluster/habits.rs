//! What people type who come from other programs, and small mistakes: each gets one line that says what to type instead.

use crate::harness::{Cluster, daemon, run_to_end};
use crate::skipped::skipped;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use tempfile::TempDir;

/// Arguments, and all that stderr says.
const MISTAKES: &[(&[&str], &str)] = &[
    (
        &["-haddr", "localhost:11001"],
        "-haddr is no option of raftkvd; use --port PORT: it is the port for clients, and --listen IP sets the address for \
         clients; see raftkvd --help",
    ),
    (
        &["--data-dir", "d", "-raddr", "localhost:12001"],
        "-raddr is no option of raftkvd; use --peer-url http://HOST:PORT: it is the URL at which the other members reach \
         this one; see raftkvd --help",
    ),
    (
        &["--name=infra0"],
        "--name is no option of raftkvd; use --id N: an id is a number from 1 on, the member's place in --cluster; see \
         raftkvd --help",
    ),
    (
        &["--initial-cluster", "infra0=http://10.0.0.1:2380"],
        "--initial-cluster is no option of raftkvd; use --cluster URLS: it lists the peer URLs of all members of a new \
         cluster, separated by commas; see raftkvd --help",
    ),
    (
        &["--bootstrap"],
        "--bootstrap is no option of raftkvd: a first start without --join creates the cluster, of the members in \
         --cluster or of this one alone, and gives it an id; see raftkvd --help",
    ),
    (
        &["--data", "d"],
        "--data is no option of raftkvd; use --data-dir DIR: one directory holds everything that belongs to a member; see \
         raftkvd --help",
    ),
    (
        &["-id", "1", "-port", "12380"],
        "-id: write --id; -port: write --port; see raftkvd --help",
    ),
    (
        &["--id", "1", "-port", "12380"],
        "-port: options have two dashes: --port; see raftkvd --help",
    ),
    (
        &["-cluster=http://127.0.0.1:12379"],
        "-cluster: options have two dashes: --cluster; see raftkvd --help",
    ),
    (
        &["--id", "2", "-join"],
        "-join: options have two dashes: --join; see raftkvd --help",
    ),
    (
        &["--cluster", "http://a:1", "http://b:1"],
        "\"http://b:1\" is not part of --cluster; separate the URLs by commas without spaces, as in --cluster URL,URL; see \
         raftkvd --help",
    ),
    (
        &["--cluster", "http://a:1,", "http://b:1"],
        "\"http://b:1\" is not part of --cluster; separate the URLs by commas without spaces, as in --cluster URL,URL; see \
         raftkvd --help",
    ),
    (
        &["--id", "2", "--join", "a:1", "b:1"],
        "\"b:1\" is not part of --join; separate the URLs by commas without spaces, as in --join URL,URL; see raftkvd \
         --help",
    ),
    (
        &["/var/node0"],
        "\"/var/node0\" has no option before it; if it is the data directory, use --data-dir /var/node0; see raftkvd --help",
    ),
    (
        &["--id", "1", "node0"],
        "\"node0\" has no option before it; if it is the data directory, use --data-dir node0; see raftkvd --help",
    ),
    (
        &["start"],
        "there is no subcommand \"start\": raftkvd without a subcommand runs a member; leave this word out; see raftkvd \
         --help",
    ),
    (
        &["--listen", "127.0.0.1:9121"],
        "--listen \"127.0.0.1:9121\": give the IP alone, and the port as --port PORT; see raftkvd --help",
    ),
    (
        &["--listen-peer", "http://127.0.0.1:9021"],
        "--listen-peer \"http://127.0.0.1:9021\": give the IP alone, and the port in --peer-url, or in the member's URL of \
         --cluster; see raftkvd --help",
    ),
    (
        &["--port", "127.0.0.1:9121"],
        "--port \"127.0.0.1:9121\": give the port alone, as in --port 9121, and the IP for clients as --listen IP; see \
         raftkvd --help",
    ),
    (
        &["--port", ":9121"],
        "--port \":9121\": give the port alone, without the colon; see raftkvd --help",
    ),
    (
        &["--listen", "224.0.0.1"],
        "--listen \"224.0.0.1\": this is a multicast address, at which no member can listen; write an IP address of this \
         machine, or 0.0.0.0 for all of them; see raftkvd --help",
    ),
    (
        &["--listen-peer", "255.255.255.255"],
        "--listen-peer \"255.255.255.255\": this is a broadcast address, at which no member can listen; write an IP address \
         of this machine, or 0.0.0.0 for all of them; see raftkvd --help",
    ),
    (
        &["--peer-url", "http://[ff02::1]:9021"],
        "--peer-url: \"http://[ff02::1]:9021\" is not a peer URL: this is a multicast address; write the address or name by \
         which others reach the member",
    ),
    (
        &["--cluster", "http://0.0.0.0:9021"],
        "URL 1 of --cluster: \"http://0.0.0.0:9021\" is not a peer URL: this address is only to listen on (that is what \
         --listen and --listen-peer are for); write the address or name by which others reach the member",
    ),
    (&["backup"], "URL is missing; see raftkvd backup --help"),
    (
        &["backup", "-stale", "http://a:1"],
        "-stale: options have two dashes: --stale; see raftkvd backup --help",
    ),
];

/// Every further option that is one of another program.
const FURTHER: &[&str] = &[
    "--http-addr",
    "--raft-addr",
    "--bootstrap-expect",
    "--join-addr",
    "--listen-client-urls",
    "--advertise-client-urls",
    "--node-id",
    "-inmem",
    "--initial-cluster-state",
    "--listen-peer-urls",
    "--initial-advertise-peer-urls",
    "-bind",
    "-client",
    "-retry-join",
    "-p",
    "-v",
];

/// Of etcd, hraftd and others: words, and all that stderr says before `; see raftkvd --help`.
const OF_ETCD: &[(&str, &str)] = &[
    (
        "--initial-cluster-state new",
        "--initial-cluster-state is no option of raftkvd: for \"new\", leave it out; for \"existing\", use --join",
    ),
    (
        "--name infra0 --initial-cluster-state=new",
        "--name: use --id N; --initial-cluster-state: for \"new\", leave it out; for \"existing\", use --join",
    ),
    (
        "-id node0 -haddr localhost:11001 -raddr localhost:12001 ~/node0",
        "-id: write --id; -haddr: use --port PORT; -raddr: use --peer-url http://HOST:PORT; \"node0\": an id is a number \
         from 1 on; \"~/node0\": use --data-dir ~/node0",
    ),
    (
        "put a 1",
        "there is no subcommand \"put\": curl -X PUT -d VALUE http://127.0.0.1:9121/KEY writes a key",
    ),
    (
        "del a",
        "there is no subcommand \"del\": curl -X DELETE http://127.0.0.1:9121/KEY deletes a key",
    ),
    (
        "watch --prefix a",
        "there is no subcommand \"watch\": curl -N 'http://127.0.0.1:9121/-/watch?prefix=P' prints every change of a key \
         that starts with P",
    ),
    (
        "snapshot restore b.snap",
        "there is no subcommand \"snapshot restore\": raftkvd restore FILE makes a new cluster from a backup",
    ),
    (
        "snapshot save b.snap",
        "there is no subcommand \"snapshot\": raftkvd backup URL FILE fetches a backup from a member",
    ),
    (
        "member list",
        "there is no subcommand \"member list\": curl http://127.0.0.1:9121/-/members lists the members",
    ),
    (
        "tls ca create",
        "there is no subcommand \"tls ca\": raftkvd cert DIR --cluster URLS makes the certificates of a cluster, and raftkvd \
         cert --help has the rest",
    ),
    (
        "cert list",
        "there is no subcommand \"cert list\": raftkvd cert show DIR lists the certificates; revoked keys are in the file \
         revoked in the directory of --tls of each member",
    ),
    (
        "--crl-file revoked.pem",
        "--crl-file is no option of raftkvd: with --tls DIR, the file revoked in DIR has the fingerprints of revoked keys, one \
         a line",
    ),
    (
        "lease grant 60",
        "there is no subcommand \"lease\": keys do not expire; a client that needs this deletes its keys",
    ),
    (
        "--metrics extensive",
        "--metrics is no option of raftkvd: GET /-/metrics at the port for clients has the metrics; leave this option out",
    ),
];

/// Values and words that other programs accept: the arguments, and what the one line has in it.
const VALUES: &[(&str, &str)] = &[
    (
        "--cluster infra0=http://127.0.0.1:2380,infra1=http://127.0.0.1:2381",
        "URL 1 of --cluster: leave out \"infra0=\": the place in the list is the id",
    ),
    (
        "--peer-url :12000",
        "--peer-url: \":12000\" is not a peer URL: it has no host; write 127.0.0.1:12000",
    ),
    (
        "--id 2 --join :11000",
        "--join: \":11000\" is not the URL of a member: it has no host; write 127.0.0.1:11000",
    ),
    (
        "--cluster :1,:2",
        "URL 1 of --cluster: \":1\" is not a peer URL: it has no host; write 127.0.0.1:1",
    ),
    (
        "bakcup http://a:1",
        "there is no subcommand \"bakcup\"; did you mean backup?",
    ),
    ("restore z.snap piped", "use --data-dir piped"),
    (
        "backup -o f http://a:1",
        "write FILE behind the URL, as in raftkvd backup URL FILE",
    ),
    (
        "cert revoke nightly-backup certs",
        "write the fingerprint of the key, as raftkvd cert show prints it, into the file revoked",
    ),
    (
        "--cacert ca.pem",
        "for the member's own certificates use --tls DIR",
    ),
    (
        "restore -",
        "restore reads no pipe: write the backup to a file first",
    ),
    (
        "restore hello.txt",
        "hello.txt does not start like a snapshot, so it is no backup of raftkvd",
    ),
];

#[test]
fn commands_of_etcd_get_the_line_to_type_here() {
    let directory = TempDir::new().expect("create a directory");
    fs::write(directory.path().join("hello.txt"), "hello\n").expect("write a file");
    for (line, said) in OF_ETCD {
        let ended = run_to_end(daemon(directory.path()).args(line.split(' ')));
        let all = format!("raftkvd: {said}; see raftkvd --help\n");
        assert_eq!((ended.code, &*ended.stderr), (Some(2), &*all), "{line}");
    }
    for (line, said) in VALUES {
        let ended = run_to_end(daemon(directory.path()).args(line.split(' ')));
        assert_eq!(ended.code, Some(2), "{line}: {ended:?}");
        assert!(ended.stderr.contains(said), "{line}: {ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{line}: {ended:?}");
        assert!(!ended.stderr.contains("peers"), "{line}: {ended:?}");
    }
    let left = fs::read_dir(directory.path()).expect("list").count();
    assert_eq!(left, 1, "no line makes a file");
}

#[test]
fn a_put_to_a_pair_names_the_put_that_writes_the_key() {
    let cluster = Cluster::start(1);
    let refused = cluster.send(1, "PUT", "/key/user1", &[], b"batman");
    assert_eq!(
        (refused.status, refused.text().as_str()),
        (
            403,
            "paths whose first part is - or key are reserved; to write the key user1, use PUT /user1; the key of that \
             name is at /-/kv/key/user1\n"
        )
    );
    assert_eq!(
        cluster.send(1, "PUT", "/keyboard", &[], b"1").status,
        204,
        "only the first part counts"
    );
}

#[test]
fn what_other_programs_call_it_gets_a_line_that_says_what_to_type() {
    let directory = TempDir::new().expect("create a directory");
    for (arguments, said) in MISTAKES {
        let ended = run_to_end(daemon(directory.path()).args(*arguments));
        assert_eq!(ended.code, Some(2), "{arguments:?}: {ended:?}");
        assert_eq!(
            ended.stderr,
            format!("raftkvd: {said}\n"),
            "{arguments:?}: {ended:?}"
        );
    }
    for option in FURTHER {
        let ended = run_to_end(daemon(directory.path()).args([option, "x"]));
        assert_eq!((ended.code, &*ended.stdout), (Some(2), ""), "{ended:?}");
        let start = format!("raftkvd: {option} is no option of raftkvd");
        assert!(ended.stderr.starts_with(&start), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    }
    let left = fs::read_dir(directory.path()).expect("list").count();
    assert_eq!(left, 0, "no mistake makes a file");
}

#[test]
fn help_and_version_are_words_too() {
    let directory = TempDir::new().expect("create a directory");
    for (word, option) in [
        (&["help"][..], &["--help"][..]),
        (&["help", "backup"], &["backup", "--help"]),
        (&["version"], &["--version"]),
    ] {
        let by_word = run_to_end(daemon(directory.path()).args(word));
        let by_option = run_to_end(daemon(directory.path()).args(option));
        assert_eq!(by_word.code, Some(0), "{by_word:?}");
        assert_eq!(by_word.stdout, by_option.stdout);
        assert!(!by_word.stdout.is_empty() && by_word.stderr.is_empty());
    }
}

#[test]
fn the_scheme_of_a_url_may_be_left_out_everywhere() {
    let mut cluster = Cluster::prepare(1, &[]);
    let list = cluster.nodes[&1].url().replace("http://", "");
    cluster.node(1).set_flag("--cluster", &list);
    cluster.start_all();
    cluster.lay_out_alone(2, &[1]);
    let asked = cluster.client_url(1).replace("http://", "");
    let own = cluster.nodes[&2].url().replace("http://", "");
    cluster.node(2).set_flag("--join", &asked);
    cluster.node(2).set_flag("--peer-url", &own);
    cluster.node(2).start();
    cluster.node(2).wait_ready();
    let ended = run_to_end(daemon(cluster.path()).args(["backup", &asked, "b.snap"]));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for (path, body) in [
        ("/-/members/3", "127.0.0.1:7"),
        ("/join", "{\"id\":3,\"addr\":\"127.0.0.1:7\"}"),
    ] {
        let added = cluster.send(1, "POST", path, &[], body.as_bytes());
        assert_eq!(added.status, 204, "{path}: {added:?}");
    }
    let refused = cluster.send(1, "POST", "/-/members/4", &[], b"http://224.0.0.1:7");
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(refused.text().contains("multicast"), "{refused:?}");
}

#[test]
fn a_member_that_was_never_reached_is_not_active() {
    let cluster = Cluster::start(1);
    let added = cluster.send(1, "POST", "/-/members/2", &[], b"http://127.0.0.1:7");
    assert_eq!(added.status, 204, "{added:?}");
    let status = cluster.send(1, "GET", "/-/status", &[], b"");
    let member =
        r#"{"id":2,"url":"http://127.0.0.1:7","role":"learner","match_index":0,"active":false,"#;
    assert!(status.text().contains(member), "{status:?}");
}

#[test]
fn a_post_to_a_key_says_to_use_put_and_a_missing_member_is_no_key() {
    let cluster = Cluster::start(1);
    let posted = cluster.send(1, "POST", "/greeting", &[], b"x");
    assert_eq!(posted.status, 400, "{posted:?}");
    assert_eq!(
        posted.text(),
        "POST writes no key: use PUT, as in curl -X PUT -d VALUE URL; POST adds a member, whose id is a number: see POST \
         /-/members/<id>\n"
    );
    let removed = cluster.send(1, "DELETE", "/-/members/7", &[], b"");
    assert_eq!(
        (removed.status, removed.text().as_str()),
        (404, "there is no such member 7\n")
    );
    let removed = cluster.send(1, "DELETE", "/7", &[], b"");
    assert_eq!(
        (removed.status, removed.text().as_str()),
        (
            404,
            "there is no such member 7; the key of that name is at /-/kv/7\n"
        )
    );
}

#[test]
fn values_of_options_in_a_query_are_decoded_and_numbers_have_no_sign() {
    let cluster = Cluster::start(1);
    cluster.put(1, "a", "1");
    for (path, status) in [
        ("/a?consistency=st%61le", 200),
        ("/-/kv?limit=%35", 200),
        ("/-/kv?values=tru%65&consistency=linearizabl%65", 200),
        ("/-/kv?limit=+5", 400),
        ("/-/kv?limit=%2B5", 400),
        ("/-/kv?limit=5+", 400),
        ("/-/watch?after=+1", 400),
        ("/a?consistency=+stale", 400),
    ] {
        let answer = cluster.send(1, "GET", path, &[], b"");
        assert_eq!(answer.status, status, "{path}: {answer:?}");
    }
}

#[test]
fn the_line_that_says_what_to_curl_has_a_host_that_works() {
    let cluster = Cluster::start_with(1, &["--listen", "0.0.0.0", "--insecure"]);
    let log = cluster.nodes[&1].log_text();
    let works = format!("{}/greeting", cluster.client_url(1));
    assert!(
        log.contains(&works) && !log.contains("http://0.0.0.0"),
        "{log}"
    );
}

#[test]
fn a_lock_that_is_no_file_is_named_with_what_to_do() {
    let directory = TempDir::new().expect("create a directory");
    let lock = directory.path().join("data").join("LOCK");
    fs::create_dir_all(&lock).expect("create");
    let ended = run_to_end(daemon(directory.path()).args(["--data-dir", "data"]));
    assert_eq!(ended.code, Some(2), "{ended:?}");
    let said = "it is no regular file; move it away, and raftkvd makes another";
    assert!(ended.stderr.contains(said), "{ended:?}");
}

#[test]
fn a_directory_that_only_another_user_can_read_is_refused_with_what_to_do() {
    let directory = TempDir::new().expect("create a directory");
    let data_dir = directory.path().join("data");
    fs::create_dir(&data_dir).expect("create");
    fs::set_permissions(&data_dir, Permissions::from_mode(0o700)).expect("set the mode");
    let open = Permissions::from_mode(0o755);
    fs::set_permissions(directory.path(), open).expect("set the mode");
    let mut command = daemon(directory.path());
    command.args(["--data-dir", "data"]).uid(65_534);
    // The user may be none that can change to another, or the program may be where only its owner is let in.
    if !rustix::process::geteuid().is_root() || command.arg("--version").output().is_err() {
        skipped("a start as another user");
        return;
    }
    let mut command = daemon(directory.path());
    let ended = run_to_end(command.args(["--data-dir", "data"]).uid(65_534));
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(
        ended
            .stderr
            .contains("run raftkvd as the owner of the data directory"),
        "{ended:?}"
    );
}

#[test]
fn a_fresh_directory_is_closed_without_a_warning() {
    let mut cluster = Cluster::prepare(1, &[]);
    let data_dir = cluster.nodes[&1].data_dir.clone();
    fs::create_dir(&data_dir).expect("create");
    fs::set_permissions(&data_dir, Permissions::from_mode(0o755)).expect("set the mode");
    cluster.start_all();
    let log = cluster.nodes[&1].log_text();
    assert!(!log.contains("WARN"), "{log}");
    let mode = fs::metadata(&data_dir).expect("look").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}
