//! Whether the directory of `--tls` is one of those that `raftkvd cert` makes for this purpose.
//!
//! The command makes `certs` with a directory for each member and each client in it. Who names the wrong one of these gets
//! a line with the right one. Every other error is found when the files are read.

use crate::certificates::files::{CA_KEY_FILE, CLIENT_FILE, MEMBER_FILE};
use std::path::{Path, PathBuf};

/// Who reads the directory.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reader {
    /// The daemon, with the id on its command line.
    Member(Option<u64>),
    /// A command that asks a member. It can use the directory of a member too.
    Client,
}

impl Reader {
    fn accepts(self, dir: &Path) -> bool {
        let has_member = dir.join(MEMBER_FILE).exists();
        match self {
            Reader::Member(_) => has_member,
            Reader::Client => has_member || dir.join(CLIENT_FILE).exists(),
        }
    }

    fn name(self) -> String {
        match self {
            Reader::Member(id) => format!("member-{}", id.unwrap_or(1)),
            Reader::Client => "admin".to_owned(),
        }
    }
}

/// Checks the directory. An error is one line.
pub(super) fn check(path: &Path, reader: Reader) -> Result<(), String> {
    let what = if path.is_file() {
        "--tls takes a directory"
    } else if reader.accepts(path) {
        return Ok(());
    } else if path.join(CLIENT_FILE).exists() {
        "this is the directory of a client"
    } else if is_of_ca(path) {
        "this is the directory of the CA"
    } else {
        return Ok(());
    };
    let advice = match meant(path, reader) {
        Some(dir) => format!("give {} to --tls", dir.display()),
        None => format!("give --tls a directory such as certs/{}", reader.name()),
    };
    Err(format!("--tls {}: {what}; {advice}", path.display()))
}

/// The key of the CA may be kept elsewhere.
fn is_of_ca(path: &Path) -> bool {
    let has_member = || path.join("member-1").join(MEMBER_FILE).exists();
    path.join(CA_KEY_FILE).exists() || has_member()
}

/// The directory that the reader can use, near the one that was given.
fn meant(path: &Path, reader: Reader) -> Option<PathBuf> {
    let places = path.ancestors().take(3);
    let named = places.map(|place| place.join(reader.name()));
    let own = path.parent().filter(|_| path.is_file());
    let mut all = own.map(Path::to_owned).into_iter().chain(named);
    all.find(|dir| reader.accepts(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_for_another_purpose_is_refused_with_the_right_one() {
        let place = tempfile::tempdir().unwrap();
        let certs = place.path().join("certs");
        for file in [
            "ca.key",
            "admin/client.pem",
            "member-1/member.pem",
            "member-2/member.pem",
        ] {
            let path = certs.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let member = Reader::Member(Some(2));
        let all = [
            (
                "",
                member,
                "this is the directory of the CA; give certs/member-2 to --tls",
            ),
            (
                "",
                Reader::Client,
                "this is the directory of the CA; give certs/admin to --tls",
            ),
            (
                "admin",
                member,
                "this is the directory of a client; give certs/member-2 to --tls",
            ),
            (
                "admin/client.pem",
                member,
                "--tls takes a directory; give certs/member-2 to --tls",
            ),
            (
                "admin/client.pem",
                Reader::Client,
                "--tls takes a directory; give certs/admin to --tls",
            ),
            (
                "ca.key",
                Reader::Member(None),
                "--tls takes a directory; give certs/member-1 to --tls",
            ),
            (
                "admin",
                Reader::Member(Some(9)),
                "this is the directory of a client; give --tls a directory such as certs/member-9",
            ),
        ];
        for (path, reader, said) in all {
            let line = check(&certs.join(path), reader).unwrap_err();
            let line = line.replace(&format!("{}/", place.path().display()), "");
            let (_, line) = line.split_once(": ").unwrap();
            assert_eq!(line, said, "{path}");
        }
        for (path, reader) in [
            ("member-1", member),
            ("member-1", Reader::Client),
            ("admin", Reader::Client),
            ("absent", member),
        ] {
            assert_eq!(check(&certs.join(path), reader), Ok(()), "{path}");
        }
    }
}
