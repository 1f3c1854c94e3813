//! What `raftkvd cert` prints at the end: the files that it has made, and the next steps.

use super::{ADMIN, ends_early};
use crate::certificates::files::{CA_FILE, CA_KEY_FILE};
use crate::certificates::order::days_until;
use crate::certificates::{Ca, Folder, Owner, Owners, Subject, Validity};
use crate::logging::timestamp;
use crate::peer_url::PeerUrl;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::time::SystemTime;

/// The default port for clients.
const CLIENT_PORT: u16 = 9121;

/// A path, quoted for a shell.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:,@%=".contains(c);
    // A path that starts with a dash would be taken for an option.
    let text = match text.starts_with('-') {
        true => format!("./{text}"),
        false => text,
    };
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// The day of a time, in UTC.
pub(super) fn day(time: SystemTime) -> String {
    timestamp(time).chars().take(10).collect()
}

/// The day of a time, and how far away it is.
pub(super) fn days(time: SystemTime) -> String {
    let left = days_until(time, SystemTime::now());
    let unit = if left == 1 { "day" } else { "days" };
    format!("{} ({left} {unit})", day(time))
}

/// The directories that were not changed, each with the reason.
pub(super) fn skipped(owners: &Owners) -> String {
    let lines = owners.skipped.iter();
    lines.map(|line| format!("left alone {line}\n")).collect()
}

pub(super) fn after_new(
    dir: &Path,
    cluster: &BTreeMap<u64, PeerUrl>,
    validity: Validity,
) -> String {
    let urls: Vec<String> = cluster.values().map(PeerUrl::to_string).collect();
    let hosts: BTreeSet<&str> = cluster.values().map(PeerUrl::host).collect();
    let members = match cluster.len() {
        1 => "member 1".to_owned(),
        last => format!("members 1 to {last}"),
    };
    let mut text = format!(
        "made {}: a CA, and certificates for {members} and for the client {ADMIN}, valid until {}\n\n",
        dir.display(),
        days(validity.not_after)
    );
    let _ = writeln!(
        text,
        "Copy each member's directory to its machine. Keep {} where nobody else can read it.\n",
        quoted(&dir.join(CA_KEY_FILE))
    );
    let _ = writeln!(
        text,
        "Start member 1:\n\n  raftkvd --id 1 --cluster {} --tls {}\n",
        urls.join(","),
        quoted(&dir.join("member-1"))
    );
    if cluster.len() > 1 {
        let port = match hosts.len() < cluster.len() {
            true => ", and on one machine in --port",
            false => "",
        };
        let _ = writeln!(
            text,
            "Start the other members with the same --cluster: they differ in --id and --tls{port}.\n"
        );
    }
    let host = cluster.values().next().map(PeerUrl::host);
    text += &ask(&dir.join(ADMIN), host.unwrap_or("localhost"));
    let _ = writeln!(
        text,
        "\nRenew the certificates before they end:\n\n  raftkvd cert renew {}",
        quoted(dir)
    );
    text
}

/// An example of a request, with the files of this client.
fn ask(directory: &Path, host: &str) -> String {
    let host = match host.contains(':') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    };
    let file = |name: &str| quoted(&directory.join(name));
    format!(
        "Ask a member, when it runs with --tls:\n\n  curl --cacert {} --cert {} --key {} https://{host}:{CLIENT_PORT}/-/status\n",
        file(CA_FILE),
        file("client.pem"),
        file("client.key"),
    )
}

pub(super) fn after_add(
    folder: &Folder,
    owner: &Owner,
    owners: &Owners,
    url: Option<&PeerUrl>,
) -> String {
    let directory = &owner.directory;
    let mut text = format!(
        "made {}: the certificate of {}, valid until {}\n\n",
        directory.display(),
        owner.facts.name.subject,
        days(owner.facts.not_after)
    );
    match owner.facts.name.subject {
        Subject::Member(id) => {
            let url = url.map_or("http://HOST:PORT".to_owned(), PeerUrl::to_string);
            let _ = writeln!(
                text,
                "Copy the directory to the machine of member {id}. To add the member to a running cluster, start it with the \
                 address at which clients reach any member:\n\n  raftkvd --id {id} --peer-url {url} --join \
                 https://CLIENT_ADDRESS --tls {}",
                quoted(directory)
            );
        }
        Subject::Client { .. } => {
            let members = owners.found.iter();
            let host = members.filter_map(Owner::first_host).next();
            text += &ask(directory, host.as_deref().unwrap_or("localhost"));
        }
    }
    if folder.trusts_two() {
        text += "\nA rotation of the CA is under way: every member needs the new ca.pem before it trusts this certificate.\n";
    }
    text
}

pub(super) fn after_renewal(dir: &Path, ca: &Ca, validity: Validity) -> String {
    let mut text =
        "\nCopy each of them over the old one on its machine. The keys are the same.\n".to_owned();
    if ends_early(ca, validity) {
        let _ = write!(
            text,
            "\nThe CA itself is valid until {} only. Replace its key before that:\n\n  raftkvd cert rotate {}\n",
            days(ca.facts().validity.not_after),
            quoted(dir)
        );
    }
    text
}

pub(super) fn after_rotation(dir: &Path, is_finished: bool) -> String {
    let shown = dir.display();
    match is_finished {
        false => format!(
            "made a new key for the CA in {shown}; every {CA_FILE} there has the new CA and the old one\n\n\
             Copy each {CA_FILE} to its machine. When all members and clients have theirs, renew the certificates:\n\n  \
             raftkvd cert renew {dir}\n\n\
             Copy them too. When all members and clients have theirs, take the old CA out of each {CA_FILE}:\n\n  \
             raftkvd cert rotate {dir} --finish\n",
            dir = quoted(dir)
        ),
        true => format!(
            "every {CA_FILE} in {shown} has the new CA alone\n\nCopy each {CA_FILE} to its machine.\n"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_of_a_shell() {
        for (path, word) in [
            ("certs", "certs"),
            ("/etc/raftkvd/member-1", "/etc/raftkvd/member-1"),
            ("-certs", "./-certs"),
            ("", "''"),
            ("my certs", "'my certs'"),
            ("a'b", "'a'\\''b'"),
            ("$(x)", "'$(x)'"),
            ("~x", "'~x'"),
        ] {
            assert_eq!(quoted(Path::new(path)), word);
        }
    }
}
