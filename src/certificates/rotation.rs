//! Replaces the key of the CA in two steps, while the cluster serves. [`Folder::rotate`] makes a new key, and writes the
//! new and the old certificate of the CA into every `ca.pem`, so certificates of both are trusted. After all certificates
//! are renewed, [`Folder::finish_rotation`] removes the old certificate. The tag stays the same, and so do all names.
//!
//! A rotation that is interrupted is repeated: the new key is durable, under a name of its own, before anything else
//! changes, and gets its final name last.

use super::ca::{Ca, ca_facts, has_issued, new_key};
use super::facts::KeyFingerprint;
use super::files::{self, CA_FILE, CA_KEY_FILE};
use super::folder::{Folder, FolderError, Owners, read_key};
use rcgen::PublicKeyData as _;
use std::time::SystemTime;

/// The new key of the CA, until every `ca.pem` has its certificate.
const NEXT_KEY_FILE: &str = "ca.key.next";

impl Folder {
    /// Replaces the key of the CA. Every `ca.pem` then has both the new and the old certificate.
    pub fn rotate(&mut self, now: SystemTime) -> Result<Owners, FolderError> {
        let next = self.path.join(NEXT_KEY_FILE);
        let was_interrupted = next.exists();
        if self.trusts_two() && !was_interrupted {
            return Err(FolderError::Refused(format!(
                "a rotation is under way in {}; run raftkvd cert renew, copy all files, and then run raftkvd cert rotate \
                 --finish",
                self.path.display()
            )));
        }
        let owners = self.owners()?;
        if !was_interrupted {
            files::replace(&next, new_key()?.serialize_pem().as_bytes())?;
        }
        let key = read_key(&next)?;
        let print = KeyFingerprint::of(&key.subject_public_key_info());
        let known = self.trusted.iter().find(|certificate| {
            ca_facts(certificate).is_ok_and(|facts| facts.fingerprint == print)
        });
        let loaded = match known {
            Some(known) => Ca::load(known, key)?,
            None => Some(Ca::make(self.ca.facts().tag, key, now)?),
        };
        let new = loaded.expect("the certificate was found by this key");
        self.trusted = vec![
            new.certificate().to_owned(),
            self.ca.certificate().to_owned(),
        ];
        self.trusted.dedup();
        files::replace(&self.path.join(CA_FILE), self.trusted_text().as_bytes())?;
        for owner in &owners.found {
            self.write_trusted(owner)?;
        }
        files::rename(&next, &self.path.join(CA_KEY_FILE))?;
        self.ca = new;
        Ok(owners)
    }

    /// Removes the old CA from every `ca.pem`. Refused while the directory has a certificate that the old CA has issued.
    pub fn finish_rotation(&mut self) -> Result<Owners, FolderError> {
        if self.path.join(NEXT_KEY_FILE).exists() {
            return Err(FolderError::Refused(format!(
                "the rotation in {} was interrupted; run raftkvd cert rotate again",
                self.path.display()
            )));
        }
        let owners = self.owners()?;
        let of_old = owners
            .found
            .iter()
            .filter(|owner| !has_issued(self.ca.certificate(), &owner.certificate))
            .map(|owner| owner.facts.name.subject.to_string());
        let of_old: Vec<String> = of_old.collect();
        if !of_old.is_empty() {
            return Err(FolderError::Refused(format!(
                "the old CA has issued the certificate of {}; run raftkvd cert renew, copy all files, and then finish the \
                 rotation",
                of_old.join(", ")
            )));
        }
        self.trusted = vec![self.ca.certificate().to_owned()];
        for owner in &owners.found {
            self.write_trusted(owner)?;
        }
        files::replace(&self.path.join(CA_FILE), self.trusted_text().as_bytes())?;
        Ok(owners)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::ca::new_tag;
    use crate::certificates::folder::create;
    use crate::certificates::{Order, Validity, ca_facts, pem};
    use std::fs;
    use std::path::Path;

    fn new(path: &Path) -> Folder {
        let now = SystemTime::now();
        let orders = [1, 2].map(|id| Order::member(id, []));
        let validity = Validity::days(now, 90);
        create(path, new_tag().unwrap(), &orders, now, validity).unwrap()
    }

    /// The keys of the CAs in a `ca.pem`.
    fn trusted(path: &Path) -> Vec<KeyFingerprint> {
        let text = fs::read(path.join(CA_FILE)).unwrap();
        let read = pem::read_certificates(&text).unwrap();
        let print = |der: &Vec<u8>| ca_facts(der).unwrap().fingerprint;
        read.iter().map(print).collect()
    }

    #[test]
    fn a_rotation_that_is_interrupted_anywhere_is_repeated() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("certs");
        let old = new(&path).ca().facts().fingerprint;
        let file = |name: &str| path.join(name);
        let read = |name: &str| fs::read(file(name)).unwrap();
        let (old_key, old_ca) = (read(CA_KEY_FILE), read(CA_FILE));
        let mut folder = Folder::open(&path).unwrap();
        folder.rotate(SystemTime::now()).unwrap();
        let new = folder.ca().facts().fingerprint;
        // As after a crash just before the last step, and after the first step.
        for ca in [read(CA_FILE), old_ca] {
            fs::rename(file(CA_KEY_FILE), file(NEXT_KEY_FILE)).unwrap();
            fs::write(file(CA_KEY_FILE), &old_key).unwrap();
            fs::write(file(CA_FILE), &ca).unwrap();
            let mut folder = Folder::open(&path).unwrap();
            assert_eq!(folder.ca().facts().fingerprint, old);
            let refused = folder.finish_rotation().unwrap_err().to_string();
            assert!(
                refused.contains("run raftkvd cert rotate again"),
                "{refused}"
            );
            folder.rotate(SystemTime::now()).unwrap();
            let folder = Folder::open(&path).unwrap();
            assert_eq!(folder.ca().facts().fingerprint, new);
            for directory in [&path, &file("member-1"), &file("member-2")] {
                assert_eq!(trusted(directory), [new, old]);
            }
        }
        let refused = folder.rotate(SystemTime::now()).unwrap_err().to_string();
        assert!(refused.contains("a rotation is under way"), "{refused}");
    }

    #[test]
    fn the_old_ca_is_trusted_until_nothing_needs_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("certs");
        let mut folder = new(&path);
        let (tag, old) = (folder.ca().facts().tag, folder.ca().facts().fingerprint);
        folder.rotate(SystemTime::now()).unwrap();
        let new = folder.ca().facts().fingerprint;
        assert_eq!(folder.ca().facts().tag, tag);
        let validity = Validity::days(SystemTime::now(), 90);
        let mut owners = folder.owners().unwrap().found;
        for owner in &mut owners {
            let refused = folder.finish_rotation().unwrap_err().to_string();
            assert!(refused.contains("member 2"), "{refused}");
            assert_eq!(trusted(&owner.directory), [new, old]);
            folder.renew(owner, validity).unwrap();
        }
        folder.finish_rotation().unwrap();
        folder.finish_rotation().unwrap();
        for owner in &owners {
            assert_eq!(trusted(&owner.directory), [new]);
        }
        assert_eq!(trusted(&path), [new]);
    }

    #[test]
    fn only_what_this_ca_has_issued_under_its_own_name_is_renewed() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("certs");
        let folder = new(&path);
        let copy = |from: &Path, to: &Path| {
            fs::create_dir(to).unwrap();
            fs::copy(from.join("member.pem"), to.join("member.pem")).unwrap();
        };
        copy(&path.join("member-1"), &path.join("member-1.old"));
        copy(&path.join("member-1"), &path.join("member-3"));
        std::os::unix::fs::symlink(path.join("member-1"), path.join("member-4")).unwrap();
        let owners = folder.owners().unwrap();
        assert_eq!(owners.found.len(), 2);
        assert_eq!(owners.skipped.len(), 3, "{:?}", owners.skipped);
        // The same tag and name, by another CA.
        let other = home.path().join("other");
        let now = SystemTime::now();
        let validity = Validity::days(now, 90);
        let order = Order::member(9, []);
        create(&other, folder.ca().facts().tag, &[order], now, validity).unwrap();
        copy(&other.join("member-9"), &path.join("member-9"));
        let mut owners = folder.owners().unwrap().found;
        let forged = owners.last_mut().unwrap();
        let refused = folder.renew(forged, validity).unwrap_err().to_string();
        assert!(refused.contains("has not issued"), "{refused}");
    }
}
