//! `raftkvd cert`: makes and renews the certificates of a cluster. See `certificates::folder`.
//!
//! Each text that is printed ends with the next step, as commands that a person can type. Words in capitals stand for values
//! that this command does not know.

mod args;
mod next;
mod show;

use super::Quit;
use super::values::parse_cluster;
use crate::certificates::ca::{Ca, new_tag};
use crate::certificates::files::{CA_FILE, CA_KEY_FILE};
use crate::certificates::name::is_client_name;
use crate::certificates::{
    AltHost, Folder, FolderError, Order, Owner, Role, Subject, Validity, folder,
};
use crate::peer_url::PeerUrl;
use args::CertCommand;
use next::{days, quoted};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub(super) use args::CertArgs;

/// The client that `raftkvd cert DIR` makes.
const ADMIN: &str = "admin";

/// What `raftkvd cert` does.
#[derive(Debug, Clone)]
pub enum CertOptions {
    /// Make a CA, with certificates for all members of a new cluster.
    New {
        /// The directory to make.
        dir: PathBuf,
        /// Peer URLs of the members.
        cluster: BTreeMap<u64, PeerUrl>,
        /// Further hosts of all members.
        hosts: Vec<AltHost>,
        /// How long the certificates are valid.
        days: u32,
    },
    /// Make the certificate of one member or one client.
    Add {
        /// The directory of the CA.
        dir: PathBuf,
        /// The owner and the hosts of the certificate.
        order: Order,
        /// The peer URL of a member, if it is known.
        url: Option<PeerUrl>,
        /// How long the certificate is valid.
        days: u32,
    },
    /// Renew certificates.
    Renew {
        /// The directory of the CA.
        dir: PathBuf,
        /// Of this member only.
        id: Option<u64>,
        /// How long the certificates are valid.
        days: u32,
    },
    /// Replace the key of the CA.
    Rotate {
        /// The directory of the CA.
        dir: PathBuf,
        /// Whether this is the second step.
        finish: bool,
    },
    /// Show certificates.
    Show(PathBuf),
}

/// Checks the options.
pub(super) fn check(args: CertArgs) -> Result<CertOptions, Quit> {
    let here = |dir: Option<PathBuf>| dir.unwrap_or_else(|| PathBuf::from("."));
    let Some(command) = args.command else {
        let cluster = args.cluster.unwrap_or_default();
        return Ok(CertOptions::New {
            dir: here(args.dir),
            cluster: parse_cluster(&cluster).map_err(Quit::Usage)?,
            hosts: args.host,
            days: args.days,
        });
    };
    Ok(match command {
        CertCommand::Member {
            dir,
            id,
            url,
            host,
            days,
        } => CertOptions::Add {
            dir: here(dir),
            order: Order::member(id, url.iter().filter_map(host_of).chain(host)),
            url,
            days,
        },
        CertCommand::Client { name, dir, days } => {
            if dir.is_none()
                && is_ca_directory(Path::new(&name))
                && !is_ca_directory(Path::new("."))
            {
                let dir = quoted(Path::new(&name));
                return Err(Quit::Usage(format!(
                    "{name} was taken for the name of the client; write raftkvd cert client NAME {dir}"
                )));
            }
            if !is_client_name(&name) || name.starts_with("member-") {
                return Err(Quit::Usage(format!(
                    "{name:?} can't be the name of a client; use 1 to 64 of the characters a-z 0-9 . _ - with a letter or a digit \
                     in front, and not member- in front"
                )));
            }
            CertOptions::Add {
                dir: here(dir),
                order: client(name),
                url: None,
                days,
            }
        }
        CertCommand::Renew { dir, id, days } => CertOptions::Renew {
            dir: here(dir),
            id,
            days,
        },
        CertCommand::Rotate { dir, finish } => CertOptions::Rotate {
            dir: here(dir),
            finish,
        },
        CertCommand::Show { path } => CertOptions::Show(here(path)),
    })
}

fn client(name: String) -> Order {
    Order {
        subject: Subject::Client {
            name,
            role: Role::Admin,
        },
        hosts: Vec::new(),
    }
}

fn is_ca_directory(path: &Path) -> bool {
    path.join(CA_FILE).is_file() && path.join(CA_KEY_FILE).is_file()
}

/// `None`: no certificate can name the host, for example because of an empty label. Only clients that check hosts need it.
fn host_of(url: &PeerUrl) -> Option<AltHost> {
    url.host().parse().ok()
}

/// Does the work. Returns the text to print.
pub fn run(options: &CertOptions) -> Result<String, FolderError> {
    let now = SystemTime::now();
    match options {
        CertOptions::New {
            dir,
            cluster,
            hosts,
            days,
        } => {
            let validity = Validity::days(now, *days);
            new(dir, cluster, hosts, (now, validity))
        }
        CertOptions::Add {
            dir,
            order,
            url,
            days,
        } => {
            let folder = Folder::open(dir)?;
            let owner = folder.add(order, Validity::days(now, *days))?;
            let owners = folder.owners()?;
            Ok(next::after_add(&folder, &owner, &owners, url.as_ref()))
        }
        CertOptions::Renew { dir, id, days } => renew(dir, *id, Validity::days(now, *days)),
        CertOptions::Rotate { dir, finish } => {
            let mut folder = Folder::open(dir)?;
            let owners = match finish {
                false => folder.rotate(now)?,
                true => folder.finish_rotation()?,
            };
            let skipped = next::skipped(&owners);
            Ok(skipped + &next::after_rotation(dir, *finish))
        }
        CertOptions::Show(path) => show::show(path, now),
    }
}

fn new(
    dir: &Path,
    cluster: &BTreeMap<u64, PeerUrl>,
    hosts: &[AltHost],
    (now, validity): (SystemTime, Validity),
) -> Result<String, FolderError> {
    let members = cluster.iter().map(|(id, url)| {
        let hosts = host_of(url).into_iter().chain(hosts.iter().cloned());
        Order::member(*id, hosts)
    });
    let orders: Vec<Order> = members.chain([client(ADMIN.to_owned())]).collect();
    folder::create(dir, new_tag()?, &orders, now, validity)?;
    Ok(next::after_new(dir, cluster, validity))
}

fn renew(dir: &Path, id: Option<u64>, validity: Validity) -> Result<String, FolderError> {
    let folder = Folder::open(dir)?;
    let mut owners = folder.owners()?;
    let is_meant = |owner: &Owner| match (id, &owner.facts.name.subject) {
        (None, _) => true,
        (Some(id), Subject::Member(own)) => id == *own,
        (Some(_), Subject::Client { .. }) => false,
    };
    let mut text = String::new();
    for owner in owners.found.iter_mut().filter(|owner| is_meant(owner)) {
        folder.renew(owner, validity)?;
        let (file, _) = owner.facts.name.subject.files();
        text += &format!(
            "renewed {}: valid until {}\n",
            owner.directory.join(file).display(),
            days(owner.facts.not_after)
        );
    }
    if text.is_empty() {
        let what = match id {
            Some(id) => format!(
                "{} has no certificate of member {id}; make one with raftkvd cert member {} --id {id}",
                dir.display(),
                quoted(dir)
            ),
            None => format!(
                "{} has no certificates of members or clients; make one with raftkvd cert member {} --id N",
                dir.display(),
                quoted(dir)
            ),
        };
        return Err(FolderError::Refused(what));
    }
    text += &next::skipped(&owners);
    text += &next::after_renewal(dir, folder.ca(), validity);
    Ok(text)
}

/// Whether the CA ends before certificates of this validity should.
fn ends_early(ca: &Ca, validity: Validity) -> bool {
    ca.facts().validity.not_after < validity.not_after
}
