//! Directories of `--tls` with which a member does not start: exit 2, and one line that says what to do.

use super::certificates;
use crate::certificates::{client, expired, future, validity};
use crate::harness::{Cluster, PATIENCE};
use raftkvd::certificates::{Order, Subject, ca};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Starts member 1 with this directory, which it has to refuse with this line.
#[track_caller]
fn assert_refused(cluster: &mut Cluster, directory: &Path, line: &str) {
    let node = cluster.node(1);
    node.set_flag("--tls", &directory.display().to_string());
    node.start();
    assert_eq!(node.exit_code(PATIENCE), Some(2), "{}", node.last_log());
    let said = node.last_log();
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    assert!(said.contains(line), "no {line:?} in {said}");
    assert!(
        !node.data_dir.join("meta").exists(),
        "it left something behind"
    );
}

/// A copy of the good directory.
fn copy(cluster: &Cluster, name: &str) -> PathBuf {
    let to = cluster.path().join(name);
    fs::create_dir(&to).expect("create a directory");
    for file in ["ca.pem", "member.pem", "member.key"] {
        let from = certificates(cluster).of_member(1).join(file);
        fs::copy(from, to.join(file)).expect("copy a file");
    }
    to
}

#[test]
fn a_member_refuses_each_bad_directory_with_one_line() {
    let mut cluster = Cluster::prepare(2, &[]);
    cluster.secure();
    let how = "`raftkvd cert --help` says how the files are made";

    let nowhere = cluster.path().join("nowhere");
    let line = format!(
        "--tls: can't read {}/ca.pem: No such file or directory (os error 2); {how}",
        nowhere.display()
    );
    assert_refused(&mut cluster, &nowhere, &line);

    for file in ["ca.pem", "member.pem", "member.key"] {
        let directory = copy(&cluster, &format!("without-{file}"));
        fs::remove_file(directory.join(file)).expect("remove a file");
        let path = directory.join(file).display().to_string();
        let line =
            format!("--tls: can't read {path}: No such file or directory (os error 2); {how}");
        assert_refused(&mut cluster, &directory, &line);

        let directory = copy(&cluster, &format!("garbage-{file}"));
        fs::write(directory.join(file), b"\xff\x00 garbage").expect("write a file");
        let what = match file {
            "member.key" => "holds no private key in PEM form",
            _ => "holds no certificate in PEM form",
        };
        let line = format!("--tls: {} {what}", directory.join(file).display());
        assert_refused(&mut cluster, &directory, &line);

        let directory = copy(&cluster, &format!("cut-{file}"));
        let path = directory.join(file);
        let text = fs::read(&path).expect("read a file");
        fs::write(&path, &text[..text.len() / 2]).expect("write a file");
        assert_refused(&mut cluster, &directory, &path.display().to_string());

        let directory = copy(&cluster, &format!("directory-{file}"));
        let path = directory.join(file);
        fs::remove_file(&path).expect("remove a file");
        fs::create_dir(&path).expect("create a directory");
        let line = format!(
            "--tls: can't read {}: it is no regular file; {how}",
            path.display()
        );
        assert_refused(&mut cluster, &directory, &line);
    }

    let directory = copy(&cluster, "other-key");
    let other = certificates(&cluster).of_member(2).join("member.key");
    fs::copy(other, directory.join("member.key")).expect("copy a file");
    let line = format!(
        "--tls: {0}/member.key is not the key of {0}/member.pem; copy both again from where `raftkvd cert` made them",
        directory.display()
    );
    assert_refused(&mut cluster, &directory, &line);

    let directory = certificates(&cluster).of_member(2);
    let line = format!(
        "--tls: {}/member.pem is the certificate of member 2, and this is member 1; give the directory of member 1 to --tls",
        directory.display()
    );
    assert_refused(&mut cluster, &directory, &line);
}

#[test]
fn a_member_refuses_a_directory_with_an_invalid_certificate() {
    let mut cluster = Cluster::prepare(1, &[]);
    cluster.secure();
    let member = Order::member(1, []);
    let not_valid = |directory: &Path, why: &str| {
        format!(
            "--tls: {}/member.pem is not valid: {why}",
            directory.display()
        )
    };

    let directory = certificates(&cluster).issue(&member, expired());
    let line = not_valid(&directory, "it expired on ");
    assert_refused(&mut cluster, &directory, &line);
    let renew = "; renew it with `raftkvd cert renew` where the CA is, and copy it here";
    assert!(cluster.nodes[&1].last_log().contains(renew));

    let directory = certificates(&cluster).issue(&member, future());
    let line = not_valid(&directory, "it is valid from ");
    assert_refused(&mut cluster, &directory, &line);
    assert!(
        cluster.nodes[&1]
            .last_log()
            .contains("; is the clock of this machine right?")
    );

    let directory = certificates(&cluster).forge(&member);
    let line = not_valid(
        &directory,
        "no CA in ca.pem has signed it; copy all files again from where `raftkvd cert` made them",
    );
    assert_refused(&mut cluster, &directory, &line);

    let other_tag = ca::new_tag().expect("a tag");
    let directory = certificates(&cluster).issue_with_tag(other_tag, Subject::Member(7));
    assert_refused(
        &mut cluster,
        &directory,
        "is the certificate of member 7, and this is member 1",
    );

    // The certificate of a client under the name of a member's.
    let directory = certificates(&cluster).issue(&client("ops"), validity(9));
    for (from, to) in [("client.pem", "member.pem"), ("client.key", "member.key")] {
        fs::rename(directory.join(from), directory.join(to)).expect("rename a file");
    }
    assert_refused(
        &mut cluster,
        &directory,
        "is the certificate of client ops, and this is member 1",
    );
}

#[test]
fn a_member_refuses_a_bad_list_of_revoked_keys_and_its_own_key_in_it() {
    let mut cluster = Cluster::prepare(1, &[]);
    cluster.secure();
    let directory = copy(&cluster, "bad-list");
    fs::write(directory.join("revoked"), "# a comment\n\nabc\n").expect("write a file");
    let line = format!(
        "--tls: {}/revoked has an error in line 3: ",
        directory.display()
    );
    assert_refused(&mut cluster, &directory, &line);

    let own = certificates(&cluster).fingerprint(&certificates(&cluster).of_member(1));
    fs::write(directory.join("revoked"), format!("  {own} # lost\n")).expect("write a file");
    let line = format!(
        "--tls: {}/member.pem is not valid: its key is revoked; make a new one with `raftkvd cert`",
        directory.display()
    );
    assert_refused(&mut cluster, &directory, &line);

    // With a list that names others, it starts.
    fs::write(directory.join("revoked"), "# nobody\n").expect("write a file");
    cluster.node(1).start();
    cluster.node(1).wait_ready();
}

#[test]
fn a_key_that_others_can_read_is_not_the_reason_for_a_refused_start() {
    let mut cluster = Cluster::prepare(1, &[]);
    cluster.secure();
    let key = certificates(&cluster).of_member(1).join("member.key");
    let mode = fs::metadata(&key).expect("the key").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "`raftkvd cert` makes private keys");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("set the mode");
    cluster.start_all();
}
