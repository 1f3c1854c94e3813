//! The directory of a CA, as `raftkvd cert DIR` makes it: `ca.pem` and `ca.key`, and a directory for each member and
//! each client. An operator copies these directories to their machines.
//!
//! Invariants:
//! - Only a renewal replaces a certificate, and only a rotation replaces a file of the CA. A key is never replaced,
//!   except that of the CA.
//! - A run that is interrupted leaves certificates that are valid as before, and can be repeated.

use super::ca::{Ca, CaError, ca_facts, has_issued, new_key, public_key};
use super::facts::{Facts, KeyFingerprint, facts};
use super::files::{
    self, CA_FILE, CA_KEY_FILE, CLIENT_FILE, CLIENT_KEY_FILE, FileError, MEMBER_FILE,
    MEMBER_KEY_FILE, Unfinished,
};
use super::name::{Subject, Tag};
use super::order::{Order, Validity, hosts};
use super::pem;
use crate::exit_code::ExitCode;
use rcgen::{KeyPair, PublicKeyData as _};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use thiserror::Error;

/// The directory of a CA.
#[derive(Debug)]
pub struct Folder {
    pub(super) path: PathBuf,
    pub(super) ca: Ca,
    /// The certificates in `ca.pem`: that of the CA, and during a rotation that of the CA before.
    pub(super) trusted: Vec<Vec<u8>>,
}

/// A member or a client that has a directory here.
#[derive(Debug)]
pub struct Owner {
    /// Its directory.
    pub directory: PathBuf,
    /// What its certificate says.
    pub facts: Facts,
    pub(super) certificate: Vec<u8>,
}

/// All members and clients that have a directory here.
#[derive(Debug, Default)]
pub struct Owners {
    /// The owners whose directories have their names.
    pub found: Vec<Owner>,
    /// Directories with the certificate of another owner: for each one a path with the reason.
    pub skipped: Vec<String>,
}

/// Why a directory can't be used. Each text is one line that says what to do.
#[derive(Debug, Error)]
pub enum FolderError {
    /// A file can't be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The path of a new directory is taken.
    #[error("{} {why}", path.display())]
    Taken {
        /// The path.
        path: PathBuf,
        /// What is there, and what to do.
        why: String,
    },
    /// The directory has no CA.
    #[error(
        "{} has no {CA_KEY_FILE}, so raftkvd cert has not made it; name the directory that holds {CA_FILE} and {CA_KEY_FILE}",
        shown(.0)
    )]
    NoCa(PathBuf),
    /// A file has the wrong contents.
    #[error("{}: {why}", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The command does not fit the state of the directory. The text is one line.
    #[error("{0}")]
    Refused(String),
    /// The CA could not make a certificate.
    #[error("can't make a certificate: {0}")]
    Ca(#[from] CaError),
}

impl FolderError {
    /// The exit code of a command that fails for this reason.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            FolderError::File(error) => error.exit_code(),
            FolderError::Ca(CaError::Random(_) | CaError::Library(_)) => ExitCode::Failure,
            _ => ExitCode::Usage,
        }
    }
}

impl Subject {
    /// The name of its directory.
    pub fn directory(&self) -> String {
        match self {
            Subject::Member(id) => format!("member-{id}"),
            Subject::Client { name, .. } => name.clone(),
        }
    }

    /// The names of its files: the certificate and the key.
    pub fn files(&self) -> (&'static str, &'static str) {
        match self {
            Subject::Member(_) => (MEMBER_FILE, MEMBER_KEY_FILE),
            Subject::Client { .. } => (CLIENT_FILE, CLIENT_KEY_FILE),
        }
    }
}

/// Makes the directory of a new CA, with a directory for each of these owners. The directory may exist if it is empty.
pub fn create(
    path: &Path,
    tag: Tag,
    orders: &[Order],
    now: SystemTime,
    validity: Validity,
) -> Result<Folder, FolderError> {
    let exists = check_vacant(path)?;
    let key = new_key()?;
    let key_text = key.serialize_pem();
    let ca = Ca::make(tag, key, now)?;
    let mut folder = Folder {
        path: path.to_owned(),
        trusted: vec![ca.certificate().to_owned()],
        ca,
    };
    if !exists {
        files::make_directories_above(path)?;
    }
    let unfinished = match exists {
        true => Unfinished::beside(&path.join("new"))?,
        false => Unfinished::beside(path)?,
    };
    folder.path = unfinished.path().to_owned();
    files::write_new(&folder.path.join(CA_FILE), folder.trusted_text().as_bytes())?;
    files::write_new(&folder.path.join(CA_KEY_FILE), key_text.as_bytes())?;
    for order in orders {
        folder.add(order, validity)?;
    }
    folder.path = path.to_owned();
    if !exists {
        let finished = unfinished.finish(path);
        return finished
            .map(|()| folder)
            .map_err(|error| taken(path, error));
    }
    // The key comes last, so the directory of an interrupted run counts as one without a CA.
    let mut names = files::names(unfinished.path())?;
    names.sort_by_key(|name| name == CA_KEY_FILE);
    for name in names {
        files::rename(&unfinished.path().join(&name), &path.join(&name))?;
    }
    Ok(folder)
}

/// Whether the directory exists, and is empty.
fn check_vacant(path: &Path) -> Result<bool, FolderError> {
    let refused = |why: &str| {
        Err(FolderError::Taken {
            path: path.to_owned(),
            why: why.to_owned(),
        })
    };
    if fs::symlink_metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        return Ok(false);
    }
    match fs::metadata(path) {
        Ok(found) if found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() => {}
        Ok(found) if found.is_dir() => {
            return refused("belongs to another user; name a directory that does not exist");
        }
        Ok(_) => return refused("is no directory; name one that does not exist"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return refused("is a symbolic link to nothing; name a directory that does not exist");
        }
        // The error of the list below has the reason.
        Err(_) => {}
    }
    let names = files::names(path)?;
    match names.iter().any(|name| name == CA_KEY_FILE) {
        true => refused(
            "has a CA already, and nothing is overwritten; add to it with raftkvd cert member or raftkvd cert client, or \
             name another directory",
        ),
        false if !names.is_empty() => refused(
            "is not empty, and nothing is overwritten; name a directory that does not exist",
        ),
        false => Ok(true),
    }
}

/// The error of a rename that failed because another process has made the directory meanwhile.
fn taken(path: &Path, error: FileError) -> FolderError {
    match error.is_taken() {
        true => FolderError::Taken {
            path: path.to_owned(),
            why: "exists, and nothing is overwritten; name a directory that does not exist"
                .to_owned(),
        },
        false => error.into(),
    }
}

impl Owner {
    /// The first host in the certificate of a member.
    pub fn first_host(&self) -> Option<String> {
        let hosts = hosts(&self.certificate).ok()?;
        hosts.first().map(|host| host.to_string())
    }
}

impl Folder {
    /// Reads the CA of a directory.
    pub fn open(path: &Path) -> Result<Folder, FolderError> {
        let key_path = path.join(CA_KEY_FILE);
        if fs::symlink_metadata(&key_path)
            .is_err_and(|error| is_missing(error.kind()) && path.exists())
        {
            return Err(FolderError::NoCa(path.to_owned()));
        }
        let key = read_key(&key_path)?;
        let trusted = read_trusted(&path.join(CA_FILE))?;
        let print = KeyFingerprint::of(&key.subject_public_key_info());
        let of_key = |certificate: &&Vec<u8>| {
            ca_facts(certificate).is_ok_and(|facts| facts.fingerprint == print)
        };
        let own = trusted.iter().find(of_key);
        let ca = own.map(|own| Ca::load(own, key)).transpose()?.flatten();
        let Some(ca) = ca else {
            return Err(FolderError::Bad {
                path: path.join(CA_FILE),
                why: format!(
                    "it has no certificate for {CA_KEY_FILE}; put back the file that was made with this key"
                ),
            });
        };
        Ok(Folder {
            path: path.to_owned(),
            ca,
            trusted,
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its CA.
    pub fn ca(&self) -> &Ca {
        &self.ca
    }

    /// Whether a rotation is under way.
    pub fn trusts_two(&self) -> bool {
        self.trusted.len() > 1
    }

    /// The text of each `ca.pem`.
    pub(super) fn trusted_text(&self) -> String {
        let texts = self.trusted.iter();
        texts.map(|der| pem::write_certificate(der)).collect()
    }

    /// Makes a key and a certificate for a member or a client. Returns its directory, which is new.
    pub fn add(&self, order: &Order, validity: Validity) -> Result<Owner, FolderError> {
        let directory = self.path.join(order.subject.directory());
        if fs::symlink_metadata(&directory).is_ok() {
            return Err(owner_exists(&directory, &order.subject));
        }
        let key = new_key()?;
        let certificate = self.ca.issue(order, &key, validity)?;
        let unfinished = Unfinished::beside(&directory)?;
        let (file, key_file) = order.subject.files();
        let text = pem::write_certificate(&certificate);
        for (name, text) in [
            (CA_FILE, self.trusted_text()),
            (key_file, key.serialize_pem()),
            (file, text),
        ] {
            files::write_new(&unfinished.path().join(name), text.as_bytes())?;
        }
        unfinished
            .finish(&directory)
            .map_err(|error| match error.is_taken() {
                true => owner_exists(&directory, &order.subject),
                false => error.into(),
            })?;
        Ok(Owner {
            facts: facts(&certificate).map_err(CaError::from)?,
            directory,
            certificate,
        })
    }

    /// Finds all members and clients.
    pub fn owners(&self) -> Result<Owners, FolderError> {
        let mut owners = Owners::default();
        for name in files::names(&self.path)? {
            let directory = self.path.join(&name);
            let file = [MEMBER_FILE, CLIENT_FILE]
                .into_iter()
                .find(|file| directory.join(file).exists());
            let Some(file) = file.filter(|_| !name.ends_with(".part")) else {
                continue;
            };
            if directory.is_symlink() {
                let line = format!("{}: it is a symbolic link", directory.display());
                owners.skipped.push(line);
                continue;
            }
            let owner = read_owner(&directory, file)?;
            let (tag, subject) = (owner.facts.name.tag, &owner.facts.name.subject);
            let why = if tag != self.ca.facts().tag {
                format!("its certificate is of the CA with the tag {tag}")
            } else if subject.directory() != name || subject.files().0 != file {
                format!("it has the certificate of {subject}")
            } else {
                owners.found.push(owner);
                continue;
            };
            owners
                .skipped
                .push(format!("{}: {why}", directory.display()));
        }
        // As numbers, so that member 2 comes before member 10.
        owners
            .found
            .sort_by_key(|owner| match &owner.facts.name.subject {
                Subject::Member(id) => (*id, String::new()),
                Subject::Client { name, .. } => (u64::MAX, name.clone()),
            });
        Ok(owners)
    }

    /// Replaces the certificate of an owner by a new one for the same key, and its `ca.pem` by that of the CA.
    pub fn renew(&self, owner: &mut Owner, validity: Validity) -> Result<(), FolderError> {
        let subject = &owner.facts.name.subject;
        let (file, _) = subject.files();
        let path = owner.directory.join(file);
        let trusts = |ca: &Vec<u8>| has_issued(ca, &owner.certificate);
        if !self.trusted.iter().any(trusts) {
            return Err(FolderError::Bad {
                path,
                why: format!(
                    "the CA in {} has not issued this certificate, so it is not renewed; move {} away, and make a new one",
                    self.path.display(),
                    owner.directory.display()
                ),
            });
        }
        let order = Order {
            subject: subject.clone(),
            hosts: hosts(&owner.certificate).map_err(CaError::from)?,
        };
        let key = public_key(&owner.certificate)?;
        let certificate = self.ca.issue(&order, &key, validity)?;
        let renewed = facts(&certificate).map_err(CaError::from)?;
        assert_eq!(
            renewed.fingerprint, owner.facts.fingerprint,
            "the key is kept"
        );
        self.write_trusted(owner)?;
        files::replace(&path, pem::write_certificate(&certificate).as_bytes())?;
        owner.facts = renewed;
        owner.certificate = certificate;
        Ok(())
    }

    /// Writes the `ca.pem` of the CA into the directory of an owner.
    pub(super) fn write_trusted(&self, owner: &Owner) -> Result<(), FolderError> {
        let (path, text) = (owner.directory.join(CA_FILE), self.trusted_text());
        match files::read(&path) {
            Ok(found) if found == text.as_bytes() => Ok(()),
            _ => Ok(files::replace(&path, text.as_bytes())?),
        }
    }
}

/// A path in a sentence.
fn shown(path: &Path) -> String {
    match path == Path::new(".") {
        true => "the current directory".to_owned(),
        false => path.display().to_string(),
    }
}

fn is_missing(kind: std::io::ErrorKind) -> bool {
    matches!(
        kind,
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
    )
}

fn owner_exists(directory: &Path, subject: &Subject) -> FolderError {
    let shown = directory.display();
    let why = match subject {
        Subject::Member(id) => format!(
            "exists, and nothing is overwritten; to renew its certificate, use raftkvd cert renew --id {id}; if member {id} has \
             lost its disk, or its key is known to others, move the directory away first, as in mv {shown} {shown}.old"
        ),
        Subject::Client { .. } => "exists, and nothing is overwritten; to renew its certificate, use raftkvd cert renew; for \
                                   another client, choose another name"
            .to_owned(),
    };
    FolderError::Taken {
        path: directory.to_owned(),
        why,
    }
}

pub(super) fn read_key(path: &Path) -> Result<KeyPair, FolderError> {
    let text = String::from_utf8(files::read(path)?).unwrap_or_default();
    // The error of the library could quote a part of the key.
    KeyPair::from_pem(&text).map_err(|_| FolderError::Bad {
        path: path.to_owned(),
        why: "it holds no private key in PEM that can be used; put back the file that raftkvd cert has made".to_owned(),
    })
}

/// The certificates of a `ca.pem`. They have the same tag.
fn read_trusted(path: &Path) -> Result<Vec<Vec<u8>>, FolderError> {
    let bad = |why: String| FolderError::Bad {
        path: path.to_owned(),
        why: format!("{why}; put back the file that raftkvd cert has made"),
    };
    let certificates = pem::read_certificates(&files::read(path)?).map_err(bad)?;
    let mut tags = Vec::new();
    for certificate in &certificates {
        let facts = ca_facts(certificate).map_err(|why| bad(why.to_string()))?;
        tags.push(facts.tag);
    }
    tags.dedup();
    match tags.len() {
        1 => Ok(certificates),
        _ => Err(bad("its certificates have different tags".to_owned())),
    }
}

/// Reads the certificate of a member or a client: the first one in the file.
pub fn read_owner(directory: &Path, file: &str) -> Result<Owner, FolderError> {
    let path = directory.join(file);
    let bad = |why: String| FolderError::Bad {
        path: path.clone(),
        why: format!(
            "{why}; put back the file that raftkvd cert has made, or move {} away",
            directory.display()
        ),
    };
    let certificates = pem::read_certificates(&files::read(&path)?).map_err(bad)?;
    let certificate = certificates.into_iter().next().unwrap_or_default();
    let facts = facts(&certificate).map_err(|why| bad(why.to_string()))?;
    Ok(Owner {
        directory: directory.to_owned(),
        facts,
        certificate,
    })
}
