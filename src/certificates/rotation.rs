//! Replacing the key of the CA while the cluster serves, in two steps. [`Folder::rotate`] makes a new key, and every
//! `ca.pem` gets the new and the old certificate of the CA: certificates of both are trusted. After all certificates are
//! renewed, [`Folder::finish_rotation`] takes the old one out again. The tag stays, so every name stays.
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
    /// Replaces the key of the CA. Both the new and the old certificate are in every `ca.pem` then.
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

    /// Takes the old CA out of every `ca.pem`. Refused as long as a certificate here is of the old CA.
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
