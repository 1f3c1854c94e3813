//! `raftkvd cert`: the files that it makes, what other programs read in them, and the command lines that it refuses.

use crate::harness::{daemon, run_to_end};
use crate::process::{BINARY, Ended};
use crate::skipped::skipped;
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const CLUSTER: &str = "http://127.0.0.1:9021,http://kv2.example.com:9021,http://[::1]:9021";

fn run(home: &Path, line: &str) -> Ended {
    let words = line.split_whitespace();
    run_to_end(daemon(home).arg("cert").args(words))
}

/// Runs a command that succeeds. Returns what it prints.
#[track_caller]
fn cert(home: &Path, line: &str) -> String {
    let ended = run(home, line);
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{line}");
    ended.stdout
}

/// Runs a command that is refused with exit code 2 and one line, and changes nothing. Returns the line.
#[track_caller]
fn refused(home: &Path, line: &str) -> String {
    let before = contents(home);
    let ended = run(home, line);
    assert_eq!(
        (ended.code, &*ended.stdout),
        (Some(2), ""),
        "{line}: {ended:?}"
    );
    assert_eq!(ended.stderr.lines().count(), 1, "{line}: {ended:?}");
    assert_eq!(contents(home), before, "{line}");
    ended.stderr
}

/// A directory with the certificates of three members.
fn made() -> TempDir {
    let home = TempDir::new().expect("create a directory");
    cert(home.path(), &format!("certs --cluster {CLUSTER}"));
    home
}

/// Everything in a directory: modes, and contents of files. Links are not followed.
fn contents(path: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(path).expect("list") {
        let path = entry.expect("list").path();
        let metadata = fs::symlink_metadata(&path).expect("it is there");
        let bytes = match metadata.is_file() {
            true => fs::read(&path).expect("read"),
            false => Vec::new(),
        };
        if metadata.is_dir() {
            found.extend(contents(&path));
        }
        found.insert(path, (metadata.permissions().mode() & 0o7777, bytes));
    }
    found
}

/// What openssl prints, if it succeeds.
fn openssl(home: &Path, line: &str) -> Option<String> {
    let mut command = Command::new("openssl");
    let output = command.current_dir(home).args(line.split_whitespace());
    let output = output.output().expect("run openssl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}

fn has_openssl() -> bool {
    let has = Command::new("openssl").arg("version").output().is_ok();
    if !has {
        skipped("openssl");
    }
    has
}

/// The lines of `cert show` that name keys.
fn keys(home: &Path) -> Vec<String> {
    let shown = cert(home, "show certs");
    let keys = shown.lines().filter(|line| line.starts_with("  key "));
    keys.map(str::to_owned).collect()
}

#[test]
fn only_the_owner_can_read_what_is_made_and_nothing_else_is_left() {
    for umask in ["022", "000", "777"] {
        let home = TempDir::new().expect("create a directory");
        let script = format!("umask {umask}; exec {BINARY} cert new/certs --cluster {CLUSTER}");
        let mut command = Command::new("sh");
        command.current_dir(home.path()).args(["-c", &script]);
        let ended = run_to_end(&mut command);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let found = contents(home.path());
        for (path, (mode, _)) in &found {
            let expected = if path.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(*mode, expected, "{umask}: {}", path.display());
        }
        let names = found.keys().map(|path| {
            let path = path.strip_prefix(home.path()).expect("it is below");
            path.to_str().expect("UTF-8").to_owned()
        });
        let names: Vec<String> = names.filter(|name| name.contains('.')).collect();
        let mut expected = vec!["new/certs/ca.key".to_owned(), "new/certs/ca.pem".to_owned()];
        for owner in [
            "admin/client",
            "member-1/member",
            "member-2/member",
            "member-3/member",
        ] {
            let (directory, _) = owner.split_once('/').expect("a path");
            expected.push(format!("new/certs/{directory}/ca.pem"));
            expected.push(format!("new/certs/{owner}.key"));
            expected.push(format!("new/certs/{owner}.pem"));
        }
        expected.sort();
        assert_eq!(names, expected);
    }
}

#[test]
fn openssl_finds_each_certificate_valid_for_its_purpose_and_its_hosts() {
    if !has_openssl() {
        return;
    }
    let home = made();
    let home = home.path();
    cert(
        home,
        "member certs --id 4 --url kv4.example.com:9021 --host kv.example.com --days 7",
    );
    let verify = |options: &str, file: &str| {
        let line = format!("verify -x509_strict -CAfile certs/ca.pem {options} certs/{file}");
        openssl(home, &line).is_some()
    };
    for (file, purpose, is_valid) in [
        ("member-1/member.pem", "sslserver", true),
        ("member-1/member.pem", "sslclient", true),
        ("admin/client.pem", "sslclient", true),
        ("admin/client.pem", "sslserver", false),
    ] {
        let found = verify(&format!("-purpose {purpose}"), file);
        assert_eq!(found, is_valid, "{file} {purpose}");
    }
    for (file, option) in [
        ("member-1/member.pem", "-verify_ip 127.0.0.1"),
        ("member-2/member.pem", "-verify_hostname kv2.example.com"),
        ("member-2/member.pem", "-verify_hostname localhost"),
        ("member-3/member.pem", "-verify_ip ::1"),
        ("member-4/member.pem", "-verify_hostname kv.example.com"),
        ("member-4/member.pem", "-verify_hostname kv4.example.com"),
    ] {
        assert!(verify(option, file), "{file} {option}");
    }
    assert!(!verify(
        "-verify_hostname kv2.example.com",
        "member-1/member.pem"
    ));
    let text = openssl(home, "x509 -noout -text -in certs/member-2/member.pem");
    let text = text.expect("openssl reads it");
    let tag = text
        .split("URI:raftkvd://")
        .nth(1)
        .and_then(|rest| rest.get(..32));
    let tag = tag.expect("it has a name");
    for part in [
        "CA:FALSE",
        "Digital Signature",
        "prime256v1",
        &format!("URI:raftkvd://{tag}/member/2, DNS:kv2.example.com"),
        &format!("Issuer: CN = raftkvd CA {tag}").replace(" = ", "="),
    ] {
        // Versions of openssl differ in the spaces.
        assert!(text.replace(" = ", "=").contains(part), "{part}: {text}");
    }
}

#[test]
fn openssl_finds_the_key_of_a_certificate_and_its_last_day() {
    if !has_openssl() {
        return;
    }
    let home = made();
    let home = home.path();
    cert(home, "member certs --id 4 --days 7");
    // Each key goes with its certificate, and the fingerprint is that of the key.
    let shown = cert(home, "show certs/member-2");
    let of_certificate = openssl(home, "x509 -noout -pubkey -in certs/member-2/member.pem");
    let of_key = openssl(home, "pkey -pubout -in certs/member-2/member.key");
    assert_eq!(of_certificate, of_key);
    fs::write(home.join("public.pem"), of_key.expect("a key")).expect("write");
    openssl(
        home,
        "pkey -pubin -in public.pem -outform der -out public.der",
    )
    .expect("a key");
    let digest = openssl(home, "dgst -sha256 -r public.der").expect("a digest");
    let digest = digest.split(' ').next().expect("a word");
    assert!(
        shown.contains(&format!("key {digest}\n")),
        "{digest}: {shown}"
    );
    // From one hour ago, for clocks that differ, to 7 days from now.
    let ends = |seconds: u64| {
        let line = format!("x509 -noout -checkend {seconds} -in certs/member-4/member.pem");
        openssl(home, &line).is_none()
    };
    let day = 24 * 60 * 60;
    assert!(!ends(7 * day - 600) && ends(7 * day + 1));
}

#[test]
fn a_renewal_keeps_keys_and_a_rotation_keeps_names() {
    let home = made();
    let home = home.path();
    let read = |file: &str| fs::read(home.join("certs").join(file)).expect("read");
    let before = (
        keys(home),
        read("member-2/member.pem"),
        read("member-3/member.pem"),
    );
    // Keys of members can be elsewhere.
    fs::remove_file(home.join("certs/member-2/member.key")).expect("remove");
    let said = cert(home, "renew certs --id 2 --days 365");
    assert!(
        said.contains("renewed certs/member-2/member.pem: valid until "),
        "{said}"
    );
    assert!(said.contains("(365 days)"), "{said}");
    assert_ne!(read("member-2/member.pem"), before.1);
    assert_eq!(read("member-3/member.pem"), before.2);
    cert(home, "renew certs");
    assert_eq!(keys(home), before.0);
    let name = |shown: &str| {
        let mut lines = shown.lines().filter(|line| line.contains("raftkvd://"));
        lines.next().expect("a name").to_owned()
    };
    let named = name(&cert(home, "show certs/member-1"));
    cert(home, "rotate certs");
    assert!(refused(home, "rotate certs").contains("run raftkvd cert renew"));
    assert!(
        refused(home, "rotate certs --finish")
            .contains("member 1, member 2, member 3, client admin")
    );
    if has_openssl() {
        // Both CAs are trusted, so old and new certificates are valid.
        for file in ["member-1/member.pem", "admin/client.pem"] {
            let line = format!("verify -CAfile certs/member-3/ca.pem certs/{file}");
            assert!(openssl(home, &line).is_some(), "{file}");
        }
    }
    cert(home, "client later certs");
    cert(home, "renew certs");
    cert(home, "rotate certs --finish");
    assert_eq!(read("later/ca.pem"), read("ca.pem"));
    let after = keys(home);
    assert_ne!(after[0], before.0[0], "the CA has a new key");
    assert_eq!(after[1], before.0[1], "the others have theirs");
    assert_eq!(name(&cert(home, "show certs/member-1")), named);
    if has_openssl() {
        let line = "verify -CAfile certs/ca.pem certs/member-1/member.pem certs/later/client.pem";
        assert!(openssl(home, line).is_some());
    }
}

#[test]
fn nothing_that_exists_is_overwritten() {
    let home = made();
    let home = home.path();
    for (line, said) in [
        (
            &*format!("certs --cluster {CLUSTER}"),
            "certs has a CA already",
        ),
        (&*format!(". --cluster {CLUSTER}"), "is not empty"),
        (
            &*format!("certs/ca.pem --cluster {CLUSTER}"),
            "is no directory",
        ),
        (
            "member certs --id 3",
            "mv certs/member-3 certs/member-3.old",
        ),
        ("member certs --id 3", "raftkvd cert renew --id 3"),
        ("client admin certs", "choose another name"),
        ("client ca.key certs", "certs/ca.key exists"),
        ("client member-9 certs", "not member- in front"),
    ] {
        let found = refused(home, line);
        assert!(found.contains(said), "{line}: {found}");
    }
    // A member that has lost its disk gets another key for the same name.
    let before = keys(home);
    fs::rename(home.join("certs/member-3"), home.join("certs/member-3.old")).expect("move");
    cert(home, "member certs --id 3 --url http://[::1]:9021");
    assert!(keys(home).iter().any(|key| !before.contains(key)));
    let old = fs::read(home.join("certs/member-3.old/member.pem")).expect("read");
    let said = cert(home, "renew certs");
    assert!(said.contains("left alone certs/member-3.old"), "{said}");
    let kept = fs::read(home.join("certs/member-3.old/member.pem")).expect("read");
    assert_eq!(kept, old);
}

#[test]
fn a_directory_that_is_not_that_of_a_ca_is_refused() {
    let home = made();
    let home = home.path();
    symlink("nothing", home.join("dangling")).expect("link");
    symlink("certs", home.join("link")).expect("link");
    fs::create_dir(home.join("empty")).expect("make");
    for (line, said) in [
        ("renew", "the current directory has no ca.key"),
        (
            "client certs",
            "certs was taken for the name of the client; write raftkvd cert client NAME certs",
        ),
        ("renew empty", "empty has no ca.key"),
        ("renew certs/member-1", "certs/member-1 has no ca.key"),
        ("renew nowhere", "can't read nowhere/ca.key"),
        ("renew certs/ca.pem", "certs/ca.pem has no ca.key"),
        ("renew certs --id 9", "raftkvd cert member certs --id 9"),
        ("show empty", "empty has no ca.pem"),
        ("show certs/ca.key", "it holds no certificate"),
        ("show /dev/null", "it is no regular file"),
        ("show nowhere", "can't read nowhere"),
        ("dangling --cluster a:1", "a symbolic link to nothing"),
        ("link --cluster a:1", "link has a CA already"),
        ("/proc/certs --cluster a:1", "can't make /proc/certs"),
        ("new --cluster a:1 --days 0", "from 1 to 3650"),
        ("new --cluster a:1 --host http://a", "--host \"http://a\""),
        ("new --cluster a:1,a:1", "--cluster lists"),
        ("new", "--cluster is missing"),
    ] {
        let found = refused(home, line);
        assert!(found.contains(said), "{line}: {found}");
    }
    // An empty directory can be used like a missing one, also through a link.
    symlink("empty", home.join("to_empty")).expect("link");
    cert(home, "to_empty --cluster a:1");
    cert(&home.join("empty"), "renew");
    cert(home, "renew to_empty");
    let other = home.join("other");
    fs::create_dir(&other).expect("make");
    if chown(&other, Some(12_345), None).is_err() {
        skipped("the right to give a directory away");
        return;
    }
    let found = refused(home, "other --cluster a:1");
    assert!(found.contains("belongs to another user"), "{found}");
}

#[test]
fn a_damaged_file_is_named_and_nothing_is_renewed() {
    let home = made();
    let home = home.path();
    let pem = |file: &str| home.join("certs").join(file);
    let foreign = TempDir::new().expect("create a directory");
    cert(foreign.path(), &format!("certs --cluster {CLUSTER}"));
    let foreign = |file: &str| fs::read(foreign.path().join("certs").join(file)).expect("read");
    for (file, bytes, said) in [
        (
            "member-2/member.pem",
            b"hello".to_vec(),
            "certs/member-2/member.pem: it holds no certificate",
        ),
        (
            "member-2/member.pem",
            foreign("ca.pem"),
            "it names no member",
        ),
        (
            "ca.pem",
            foreign("ca.pem"),
            "certs/ca.pem: it has no certificate for ca.key",
        ),
        (
            "ca.pem",
            foreign("member-1/member.pem"),
            "it is not the certificate of a CA",
        ),
        (
            "ca.pem",
            Vec::new(),
            "certs/ca.pem: it holds no certificate",
        ),
        (
            "ca.key",
            b"hello".to_vec(),
            "certs/ca.key: it holds no private key",
        ),
        ("ca.key", vec![b' '; 2 << 20], "it is too large"),
    ] {
        let kept = fs::read(pem(file)).expect("read");
        fs::write(pem(file), &bytes).expect("write");
        let found = refused(home, "renew certs");
        assert!(found.contains(said), "{file}: {found}");
        fs::write(pem(file), kept).expect("write");
    }
    fs::write(pem("member-2/member.pem"), foreign("member-2/member.pem")).expect("write");
    let found = cert(home, "renew certs");
    assert!(
        found.contains("left alone certs/member-2: its certificate is of the CA with the tag"),
        "{found}"
    );
    // Other users can't read a file that was replaced, also if they could read the old file.
    fs::set_permissions(pem("member-1/member.pem"), Permissions::from_mode(0o644)).expect("set");
    cert(home, "renew certs");
    let mode = fs::metadata(pem("member-1/member.pem")).expect("it is there");
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
}

#[test]
fn the_commands_that_it_prints_can_be_typed() {
    let home = TempDir::new().expect("create a directory");
    let home = home.path();
    let mut command = daemon(home);
    let ended = run_to_end(command.args(["cert", "my certs", "--cluster", CLUSTER]));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let commands = ended.stdout.lines().filter(|line| line.starts_with("  "));
    let commands: Vec<&str> = commands.map(str::trim).collect();
    let [start, curl, renew] = commands[..] else {
        panic!("{commands:?}");
    };
    assert!(
        start.starts_with(&format!(
            "raftkvd --id 1 --cluster {CLUSTER} --tls 'my certs/member-1'"
        )),
        "{start}"
    );
    assert!(
        curl.starts_with("curl --cacert 'my certs/admin/ca.pem' --cert "),
        "{curl}"
    );
    assert!(curl.ends_with(" https://127.0.0.1:9121/-/status"), "{curl}");
    let typed = renew.replacen("raftkvd", BINARY, 1);
    let mut shell = Command::new("sh");
    let ended = run_to_end(shell.current_dir(home).args(["-c", &typed]));
    assert_eq!(ended.code, Some(0), "{ended:?}");
}
