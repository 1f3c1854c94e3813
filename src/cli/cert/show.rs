//! `raftkvd cert show`: prints the contents of certificates.

use super::next::{day, days};
use crate::certificates::files::{self, CA_FILE, CLIENT_FILE, MEMBER_FILE};
use crate::certificates::order::hosts;
use crate::certificates::{AltHost, FolderError, KeyFingerprint, Validity, ca_facts, facts, pem};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Shows the certificates in a file, or in a directory and the directories in it.
pub(super) fn show(path: &Path, now: SystemTime) -> Result<String, FolderError> {
    let files = match path.is_dir() {
        true => files_in(path)?,
        false => vec![path.to_owned()],
    };
    if files.is_empty() {
        return Err(FolderError::Refused(format!(
            "{} has no {CA_FILE}, {MEMBER_FILE} or {CLIENT_FILE}, nor has a directory in it; name a directory that raftkvd cert \
             has made, or a file with a certificate",
            path.display()
        )));
    }
    let mut text = String::new();
    for file in files {
        for der in certificates(&file)? {
            let block = block(&der, now).map_err(|why| bad(&file, why))?;
            let gap = if text.is_empty() { "" } else { "\n" };
            let _ = write!(text, "{gap}{}\n{block}", file.display());
        }
    }
    Ok(text)
}

fn bad(file: &Path, why: String) -> FolderError {
    FolderError::Bad {
        path: file.to_owned(),
        why: format!(
            "{why}; name a directory that raftkvd cert has made, or a file with a certificate"
        ),
    }
}

fn certificates(file: &Path) -> Result<Vec<Vec<u8>>, FolderError> {
    pem::read_certificates(&files::read(file)?).map_err(|why| bad(file, why))
}

fn files_in(path: &Path) -> Result<Vec<PathBuf>, FolderError> {
    let all = [CA_FILE, MEMBER_FILE, CLIENT_FILE];
    let own = all.map(|file| path.join(file)).into_iter();
    let mut found: Vec<PathBuf> = own.filter(|file| file.exists()).collect();
    for name in files::names(path)? {
        // Their ca.pem is a copy of that in the directory above.
        let below = [MEMBER_FILE, CLIENT_FILE].map(|file| path.join(&name).join(file));
        let below = below.into_iter().filter(|file| file.exists());
        found.extend(below.filter(|_| !name.ends_with(".part")));
    }
    Ok(found)
}

fn block(der: &[u8], now: SystemTime) -> Result<String, String> {
    if let Ok(ca) = ca_facts(der) {
        let name = format!("CA with the tag {}", ca.tag);
        return Ok(lines(&name, ca.fingerprint, ca.validity, &[], now));
    }
    let read = facts(der).map_err(|why| why.to_string())?;
    let hosts = hosts(der).map_err(|why| why.to_string())?;
    let validity = Validity {
        not_before: read.not_before,
        not_after: read.not_after,
    };
    let name = read.name.to_string();
    Ok(lines(&name, read.fingerprint, validity, &hosts, now))
}

fn lines(
    name: &str,
    key: KeyFingerprint,
    validity: Validity,
    hosts: &[AltHost],
    now: SystemTime,
) -> String {
    let (from, until) = (day(validity.not_before), day(validity.not_after));
    let times = if now > validity.not_after {
        format!("not valid since {until}")
    } else if now < validity.not_before {
        format!("not valid before {from}")
    } else {
        format!("valid until {}", days(validity.not_after))
    };
    let mut text = format!("  {name}\n  key {key}\n  {times}\n");
    if !hosts.is_empty() {
        let hosts: Vec<String> = hosts.iter().map(AltHost::to_string).collect();
        let _ = writeln!(text, "  hosts {}", hosts.join(", "));
    }
    text
}
