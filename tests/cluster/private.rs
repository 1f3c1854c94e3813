//! Who may read what a member and its subcommands write, and what they refuse to read or to write into.

use crate::harness::{Cluster, daemon, run_to_end};
use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Everything below a directory, and the directory.
fn all_below(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![path.to_owned()];
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("list") {
            found.extend(all_below(&entry.expect("list").path()));
        }
    }
    found
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("it is there").mode() & 0o7777
}

/// Only its owner can do anything with what is here.
#[track_caller]
fn assert_private(path: &Path) {
    for path in all_below(path) {
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(
            mode(&path),
            expected,
            "{}: {:o}",
            path.display(),
            mode(&path)
        );
    }
}

#[test]
fn data_backups_and_restored_directories_are_their_owners_alone() {
    // What a shell has, what hides nothing, and what leaves a new file without any right.
    for umask in ["022", "000", "777"] {
        let mut cluster = Cluster::prepare(1, &["--snapshot-bytes", "1"]);
        let script = format!("umask {umask}; exec \"$@\"");
        let wrapper = ["sh", "-c", &script, "sh"].map(str::to_owned);
        cluster.node(1).wrapper = wrapper.into();
        cluster.start_all();
        for number in 0..10 {
            cluster.put(1, &format!("key-{number}"), "secret");
        }
        let url = cluster.client_url(1);
        let binary = crate::process::BINARY;
        let home = cluster.path();
        for line in [
            format!("{binary} backup {url} b.snap"),
            format!("{binary} restore b.snap --data-dir new/er"),
        ] {
            let mut command = std::process::Command::new("sh");
            let script = format!("umask {umask}; exec {line}");
            command.current_dir(home).args(["-c", &script]);
            let ended = run_to_end(&mut command);
            assert_eq!(ended.code, Some(0), "{ended:?}");
        }
        assert_private(&cluster.nodes[&1].data_dir);
        assert_private(&cluster.path().join("b.snap"));
        assert_private(&cluster.path().join("new"));
    }
}

#[test]
fn a_directory_that_others_can_read_is_closed_with_a_line() {
    let mut cluster = Cluster::start(1);
    cluster.put(1, "foo", "bar");
    let data_dir = cluster.nodes[&1].data_dir.clone();
    let quiet = cluster.nodes[&1].last_log();
    assert!(!quiet.contains("other users"), "{quiet}");
    let absolute = format!(
        "dir: {}",
        fs::canonicalize(&data_dir).expect("it is there").display()
    );
    assert!(quiet.contains(&absolute), "{absolute}: {quiet}");
    cluster.node(1).kill();
    for path in all_below(&data_dir) {
        let open = if path.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(&path, Permissions::from_mode(open)).expect("set the mode");
    }
    cluster.node(1).start();
    cluster.node(1).wait_ready();
    let log = cluster.nodes[&1].last_log();
    assert!(
        log.contains("other users could read the data directory"),
        "{log}"
    );
    assert_private(&data_dir);
    cluster.assert_value(1, "foo", "bar");
}

#[test]
fn the_data_directory_may_be_a_link_and_nothing_in_it() {
    let mut cluster = Cluster::start(1);
    cluster.put(1, "foo", "bar");
    cluster.node(1).kill();
    let data_dir = cluster.nodes[&1].data_dir.clone();
    let elsewhere = cluster.path().join("elsewhere");
    fs::rename(&data_dir, &elsewhere).expect("move it");
    symlink(&elsewhere, &data_dir).expect("make a link");
    cluster.node(1).start();
    cluster.node(1).wait_ready();
    cluster.assert_value(1, "foo", "bar");
    cluster.node(1).kill();
    let victim = cluster.path().join("victim");
    fs::write(&victim, "untouched").expect("write");
    // A start makes the file again: through a link, this would change the victim.
    fs::remove_file(elsewhere.join("meta.tmp")).expect("remove");
    for name in ["LOCK", "meta", "meta.tmp", "wal", "snap"] {
        let (path, aside) = (elsewhere.join(name), cluster.path().join("aside"));
        let was_there = path.exists();
        if was_there {
            fs::rename(&path, &aside).expect("put it aside");
        }
        symlink(if was_there { &aside } else { &victim }, &path).expect("make a link");
        cluster.node(1).start_expecting_exit(2);
        let said = cluster.nodes[&1].last_log();
        assert!(
            said.contains("symbolic link") && said.contains(name),
            "{said}"
        );
        fs::remove_file(&path).expect("remove the link");
        if was_there {
            fs::rename(&aside, &path).expect("put it back");
        }
    }
    assert_eq!(fs::read_to_string(&victim).expect("read"), "untouched");
    cluster.node(1).start();
    cluster.node(1).wait_ready();
}

#[test]
fn a_directory_of_another_user_is_refused() {
    let mut cluster = Cluster::start(1);
    cluster.node(1).kill();
    let data_dir = cluster.nodes[&1].data_dir.clone();
    if chown(data_dir.join("meta"), Some(12_345), None).is_err() {
        crate::skipped::skipped("another owner: only root can give a file away");
        return;
    }
    cluster.node(1).start_expecting_exit(2);
    let said = cluster.nodes[&1].last_log();
    assert!(said.contains("belongs to user 12345"), "{said}");
}

#[test]
fn a_first_start_among_other_files_is_refused_and_touches_nothing() {
    let directory = TempDir::new().expect("create a directory");
    let data = directory.path().join("data");
    fs::create_dir(&data).expect("create a directory");
    fs::create_dir(data.join("lost+found")).expect("create a directory");
    fs::write(data.join("photo.jpg"), "x").expect("write");
    fs::set_permissions(&data, Permissions::from_mode(0o755)).expect("set the mode");
    let started = |command: &[&str]| {
        run_to_end(
            daemon(directory.path())
                .args(command)
                .args(["--data-dir", "data"]),
        )
    };
    let ended = started(&["--peer-url", "http://127.0.0.1:1", "--port", "2"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("data holds photo.jpg"), "{ended:?}");
    assert_eq!(all_below(&data).len(), 3, "{:?}", all_below(&data));
    assert_eq!(mode(&data), 0o755);
    fs::remove_file(data.join("photo.jpg")).expect("remove");
    let mut cluster = Cluster::prepare(1, &[]);
    let data_dir = cluster.nodes[&1].data_dir.clone();
    fs::create_dir_all(data_dir.join("lost+found")).expect("create a directory");
    cluster.start_all();
    cluster.put(1, "foo", "bar");
    assert_eq!(mode(&data_dir), 0o700);
}

#[test]
fn what_is_no_regular_file_is_not_read() {
    let directory = TempDir::new().expect("create a directory");
    let pipe = directory.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("run mkfifo").success());
    let directory_file = directory.path().join("folder");
    fs::create_dir(&directory_file).expect("create a directory");
    for path in ["pipe", "/dev/zero"] {
        for command in ["inspect", "restore"] {
            let ended = run_to_end(daemon(directory.path()).args([command, path]));
            assert_eq!(ended.code, Some(2), "{command} {path}: {ended:?}");
            assert!(
                ended.stderr.contains("regular file"),
                "{command} {path}: {ended:?}"
            );
        }
    }
    let ended = run_to_end(daemon(directory.path()).args(["restore", "folder"]));
    assert_eq!(ended.code, Some(2), "{ended:?}");
    // In the place of a file of the data directory.
    let data = directory.path().join("raftkvd-1");
    fs::create_dir(&data).expect("create a directory");
    fs::rename(&pipe, data.join("meta")).expect("move it");
    let ended = run_to_end(daemon(directory.path()).args(["inspect", "raftkvd-1"]));
    assert!(ended.code != Some(0), "{ended:?}");
    let ended = run_to_end(&mut daemon(directory.path()));
    assert!(ended.code != Some(0), "{ended:?}");
    assert!(ended.stderr.contains("regular file"), "{ended:?}");
}

/// A server that pretends to be a member may send bytes for ever.
#[test]
fn a_backup_ends_at_the_first_block_that_is_wrong() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    let server = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("accept");
        // An answer that comes before the request is none.
        let mut request = [0; 4_096];
        let read = client.read(&mut request).expect("read the request");
        assert!(read > 0, "there is a request");
        let head = "HTTP/1.1 200 OK\r\nContent-Disposition: attachment; filename=\"raftkvd-1-2.snap\"\r\n\
                    Content-Length: 1099511627776\r\nX-Raftkvd-Estimated-Bytes: 1099511627776\r\n\r\n";
        client.write_all(head.as_bytes()).expect("send the head");
        client
            .write_all(b"rkvdsnap")
            .expect("send the magic number");
        let mut sent = 0;
        // Until nobody takes it any more.
        while client.write_all(&[0; 65_536]).is_ok() {
            sent += 65_536;
        }
        sent
    });
    let directory = TempDir::new().expect("create a directory");
    let ended = run_to_end(daemon(directory.path()).args(["backup", &url]));
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert_eq!(all_below(directory.path()).len(), 1, "nothing is left");
    let sent = server.join().expect("the server ends");
    assert!(sent < 64 << 20, "{sent} bytes were taken");
}
