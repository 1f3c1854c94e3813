//! The identity of a process: from its command line where that is given, and otherwise from its data directory.
//!
//! After the first start the directory alone is enough: `meta` holds the id, the peer URL and the list of first
//! members. If an option is missing for a new directory, the start ends with one line before anything is touched.
//! [`prepare`] locks the directory, so that no other process uses it.

use super::exposure;
use super::failure::Failure;
use super::list::{self, Fit};
use super::listen::listen;
use super::port::Port;
use super::start_wait::{NotStarted, StartWait};
use crate::config::{Asked, Config, TlsOptions};
use crate::connect;
use crate::limits;
use crate::peer_url::PeerUrl;
use crate::storage::{Beginning, DataDir, Disk, Given, Meta, Start, inspect};
use crate::tls::client::ClientTls;
use crate::tls::{Tls, TlsError};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A start that has passed all checks.
pub(super) struct StartPlan {
    pub(super) config: Config,
    pub(super) beginning: Beginning,
    pub(super) fit: Fit,
    pub(super) client_port: TcpListener,
    pub(super) peer_port: TcpListener,
    pub(super) tls: Option<Tls>,
    pub(super) join_tls: Option<ClientTls>,
}

/// Takes the lock of the data directory and binds both ports. Does not touch the content of the directory.
pub(super) fn prepare(
    asked: Asked,
    disk: &Arc<dyn Disk>,
    wait: &mut StartWait,
) -> Result<StartPlan, NotStarted> {
    let look_up = &mut |url: &PeerUrl| look_up(url, wait);
    let (config, beginning) = settle(asked, disk, look_up)?;
    exposure::check(&config, wait)?;
    let dir = DataDir::new(disk.clone(), &config.data_dir);
    dir.check_start(&beginning.start)?;
    // The lock is held until the process ends, because a thread may still write while the main thread returns with a
    // failure.
    std::mem::forget(dir.lock()?);
    dir.make_private()?.tell(&config.data_dir, wait.logger);
    let fit = list::check(disk, &config)?;
    let (tls, join_tls) = load_tls(&config)?;
    list::check_join(disk, &config)?;
    // The ports are bound after the lock is taken, so that a second start of the same member reports the lock and not
    // the port. They are bound before the data directory is touched, so that a port in use leaves nothing behind.
    let client_port = listen(config.client_address, Port::Clients, wait)?;
    let peer_port = listen(config.peer_address, Port::Peers, wait)?;
    Ok(StartPlan {
        config,
        beginning,
        fit,
        client_port,
        peer_port,
        tls,
        join_tls,
    })
}

/// Reads the certificates of this member, and the certificates with which it asks to join.
fn load_tls(config: &Config) -> Result<(Option<Tls>, Option<ClientTls>), Failure> {
    let wrong = |option| move |error: TlsError| Failure::Usage(format!("{option}: {error}"));
    let tls = config.tls.clone().map(Tls::load).transpose();
    let tls = tls.map_err(wrong("--tls"))?;
    let join_tls = config.join_files.as_ref().map(ClientTls::load).transpose();
    let join_tls = join_tls.map_err(wrong("--cacert"))?;
    let join_tls = join_tls.or_else(|| tls.clone().map(ClientTls::from));
    Ok((tls, join_tls))
}

/// Looks up the addresses of the host in the member's own peer URL.
pub(super) type LookUp<'a> = &'a mut dyn FnMut(&PeerUrl) -> Result<Vec<SocketAddr>, NotStarted>;

/// Looks up a host, and waits if its name does not resolve yet.
fn look_up(url: &PeerUrl, wait: &mut StartWait) -> Result<Vec<SocketAddr>, NotStarted> {
    let what = format!("{}, the host of peer URL {url}, to resolve", url.host());
    let found = wait.until(&what, |_| false, || connect::look_up(url.host()))?;
    found.map_err(|error| {
        NotStarted::Failed(Failure::Unresolved(format!(
            "the host of peer URL {url} does not resolve ({error}); start again when it does, or give --listen-peer and \
             --listen the IP address to listen on"
        )))
    })
}

/// The identity of this process, and how it starts if its data directory is empty. Touches nothing.
pub(super) fn settle(
    asked: Asked,
    disk: &Arc<dyn Disk>,
    look_up: LookUp,
) -> Result<(Config, Beginning), NotStarted> {
    let data_dir = data_dir_of(&asked);
    // As the log names it, whatever the working directory.
    let data_dir = std::path::absolute(&data_dir).unwrap_or(data_dir);
    let dir = DataDir::new(disk.clone(), &data_dir);
    dir.check_private()?;
    let meta = inspect::meta(&dir)?;
    let id = match &meta {
        Some(meta) => asked.id.unwrap_or(meta.member()),
        None => id_of_new(&asked, disk)?,
    };
    // A first start that did not complete is repeated with its own options.
    let begun = meta
        .as_ref()
        .filter(|meta| !meta.in_use() && !meta.is_restoring());
    let says_join = !asked.join_by.is_empty();
    let asked = match begun.filter(|_| is_silent(&asked)) {
        Some(meta) => as_given(asked, meta.given()),
        None => asked,
    };
    let used = meta.filter(|meta| meta.in_use() && !founds_instead(&asked, meta, id));
    if let Some(meta) = &used {
        dir.check_owner(meta, id)?;
    }
    let beginning = match &used {
        Some(meta) => again(&asked, &data_dir, meta),
        None => first(&asked, &data_dir, id),
    };
    let beginning = beginning.map_err(Failure::Usage)?;
    let may_join = used.is_none_or(|meta| meta.cluster() == 0);
    let mut config = config_of(asked, data_dir, &beginning, may_join, look_up)?;
    config.join_remembered = !says_join && !config.join_by.is_empty();
    Ok((config, beginning))
}

/// Whether this start creates a cluster from its list, although an earlier start has made the data directory for a member
/// that joins: `--join` was a mistake. No cluster has let the member in, so it has never stored an entry or a vote, and a
/// first start in its directory is as good as one in a new directory. A cluster of one would serve clients at once, so it
/// needs a new directory. So does a directory that joins through a URL: a cluster may have bound the id to its incarnation,
/// although it has not sent the first state yet.
fn founds_instead(asked: &Asked, meta: &Meta, id: u64) -> bool {
    let is_unused = meta.cluster() == 0 && meta.removed().is_none() && !meta.is_older_copy();
    let is_unused = is_unused && meta.given().join_by.is_empty();
    let forms = asked.cluster.len() > 1 && asked.cluster.keys().next() == Some(&id);
    forms && !asked.join && is_unused && meta.member() == id
}

/// Whether the command line says nothing about the cluster.
fn is_silent(asked: &Asked) -> bool {
    asked.cluster.is_empty() && asked.peer_url.is_none() && !asked.join
}

fn as_given(asked: Asked, given: Given) -> Asked {
    let Given {
        url,
        list,
        joins,
        join_by,
    } = given;
    Asked {
        peer_url: url.filter(|_| list.is_empty()),
        cluster: list,
        join: joins,
        join_by,
        ..asked
    }
}

fn data_dir_of(asked: &Asked) -> PathBuf {
    let id = asked.id.unwrap_or(1);
    let default = || PathBuf::from(format!("{}{id}", limits::DATA_DIR_PREFIX));
    asked.data_dir.clone().unwrap_or_else(default)
}

/// The id for a directory that holds no member: 1 unless given. But if nothing is given and directories of other
/// members are beside this one, the user may have meant one of them. Then id 1 would start a second cluster.
fn id_of_new(asked: &Asked, disk: &Arc<dyn Disk>) -> Result<u64, Failure> {
    if let Some(id) = asked.id {
        return Ok(id);
    }
    let begins_alone = asked.cluster.len() < 2 && !asked.join;
    if !begins_alone || asked.data_dir.is_some() {
        return Ok(1);
    }
    // Directories that can't be listed or read are ignored.
    let names = disk.list(Path::new(".")).unwrap_or_default();
    let ids = names.iter().filter_map(|name| {
        let id: u64 = name.strip_prefix(limits::DATA_DIR_PREFIX)?.parse().ok()?;
        let meta = inspect::meta(&DataDir::new(disk.clone(), name)).ok()??;
        (meta.in_use() && meta.member() == id).then_some(id)
    });
    match ids.min() {
        None => Ok(1),
        Some(id) => Err(Failure::Usage(format!(
            "raftkvd-{id} holds member {id}, and there is no --id; to start member {id} again, give --id {id}; to create \
             another cluster beside it, give --id 1; to start over, rm -r raftkvd-[0-9]*"
        ))),
    }
}

/// The options of a start on a directory that a member uses. `Start::Existing` ensures that the member does not start
/// if the directory vanishes now.
fn again(asked: &Asked, dir: &Path, meta: &Meta) -> Result<Beginning, String> {
    let stored = meta.given();
    let id = meta.member();
    let dir = dir.display();
    let url = own_url(asked, id).or(stored.url);
    let url =
        url.ok_or_else(|| format!("{dir} has no peer URL of member {id}; give --peer-url"))?;
    Ok(Beginning {
        member: id,
        start: Start::Existing(format!("{dir} was removed during the start; start again")),
        given: Given {
            url: Some(url),
            list: match asked.cluster.is_empty() {
                true => stored.list,
                false => asked.cluster.clone(),
            },
            joins: asked.join || (asked.cluster.is_empty() && stored.joins),
            join_by: match asked.join_by.is_empty() {
                true => stored.join_by,
                false => asked.join_by.clone(),
            },
        },
    })
}

/// The options of a start on a directory that holds no member.
fn first(asked: &Asked, dir: &Path, id: u64) -> Result<Beginning, String> {
    let url = match own_url(asked, id) {
        Some(url) => url,
        None if !asked.cluster.is_empty() => {
            let listed = match asked.cluster.len() {
                1 => "only the URL of member 1".to_owned(),
                count => format!("the URLs of members 1 to {count}"),
            };
            return Err(format!(
                "--id {id} is not in --cluster, which lists {listed}; give an id of the list, or the list of all members"
            ));
        }
        None if !asked.join_by.is_empty() => {
            let line = "--join with a URL needs --peer-url too; give the URL at which the other members reach this one";
            return Err(line.to_owned());
        }
        None if id != 1 && !asked.join => return Err(no_member(dir, id)),
        None => limits::DEFAULT_PEER_URL.parse()?,
    };
    if asked.join && asked.join_by.is_empty() && asked.cluster.is_empty() {
        let line = "--join has no URL, and there is no --cluster; give --join the URL at which clients reach a member, or \
                    list all peer URLs with --cluster";
        return Err(line.to_owned());
    }
    let mut list = asked.cluster.clone();
    let start = match list.keys().next() {
        _ if asked.join => Start::Empty,
        Some(first) if *first == id => Start::First(list.clone()),
        Some(_) => Start::Empty,
        None if id == 1 => {
            list = BTreeMap::from([(1, url.clone())]);
            Start::First(list.clone())
        }
        None => Start::Existing(no_member(dir, id)),
    };
    Ok(Beginning {
        member: id,
        start,
        given: Given {
            url: Some(url),
            list,
            joins: asked.join,
            join_by: asked.join_by.clone(),
        },
    })
}

fn no_member(dir: &Path, id: u64) -> String {
    format!(
        "--id {id}: {} holds no member, and only member 1 can create a cluster; list all peer URLs with --cluster, or, to \
         join a cluster, give --join the URL at which clients reach a member",
        dir.display()
    )
}

fn own_url(asked: &Asked, id: u64) -> Option<PeerUrl> {
    asked
        .peer_url
        .clone()
        .or_else(|| asked.cluster.get(&id).cloned())
}

fn config_of(
    asked: Asked,
    data_dir: PathBuf,
    beginning: &Beginning,
    may_join: bool,
    look_up: LookUp,
) -> Result<Config, NotStarted> {
    let given = beginning.given.clone();
    let peer_url = given.url.expect("every start knows where it is");
    // A lookup may take long, so both addresses use the answer of one.
    let mut resolved = None;
    let mut address = |asked: Option<IpAddr>, option, port| -> Result<SocketAddr, NotStarted> {
        let mut address = match (asked, resolved) {
            (Some(ip), _) => SocketAddr::new(ip, port),
            (None, Some(address)) => address,
            (None, None) => *resolved.insert(resolve(&peer_url, option, &mut *look_up)?),
        };
        address.set_port(port);
        Ok(address)
    };
    let peer_address = address(asked.listen_peer, "--listen-peer", peer_url.port())?;
    let client_address = address(asked.listen, "--listen", asked.port)?;
    let (listen, listen_peer) = (client_address.ip(), peer_address.ip());
    let overlap = listen == listen_peer || listen.is_unspecified() || listen_peer.is_unspecified();
    if asked.port == peer_url.port() && overlap {
        return Err(NotStarted::Failed(Failure::Usage(format!(
            "--port {} is also the port of the peer URL {peer_url}; give clients another port",
            asked.port
        ))));
    }
    Ok(Config {
        id: beginning.member,
        url_given: own_url(&asked, beginning.member).is_some(),
        list_given: !asked.cluster.is_empty(),
        cluster: given.list,
        join: given.joins && may_join,
        join_ignored: asked.join && !may_join,
        join_remembered: false,
        join_urls: given.join_by.clone(),
        join_by: match may_join {
            true => given.join_by,
            false => Vec::new(),
        },
        client_address,
        allowed_hosts: asked.allowed_hosts,
        peer_address,
        peer_url,
        data_dir,
        tls: asked.tls_dir.map(|dir| TlsOptions {
            dir,
            member: beginning.member,
            allows_tls12: asked.allows_tls12,
        }),
        insecure: asked.insecure,
        join_files: asked.join_files,
        tuning: asked.tuning,
    })
}

/// The address of a peer URL's host.
fn resolve(url: &PeerUrl, option: &str, look_up: LookUp) -> Result<SocketAddr, NotStarted> {
    // A name often stands for an IPv6 and an IPv4 address. Peers try both, but people type the IPv4 address, so IPv4
    // comes first.
    let mut found = look_up(url)?;
    found.sort_by_key(|address| !address.is_ipv4());
    found.first().copied().ok_or_else(|| {
        NotStarted::Failed(Failure::Unresolved(format!(
            "the host of peer URL {url} has no address; give {option} the IP address to listen on"
        )))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{self, Task};
    use crate::server::stop::stop_reasons;
    use crate::storage::{self, RealDisk};
    use slog::{Logger, o};

    const THREE: &str = "http://127.0.0.1:1,http://127.0.0.1:2,http://127.0.0.1:3";

    fn asked(line: &str) -> Asked {
        match cli::parse(std::iter::once("raftkvd").chain(line.split_whitespace())) {
            Ok(Task::Run(options)) => options.asked,
            other => panic!("{line}: {other:?}"),
        }
    }

    /// The result for an empty directory, or for this directory.
    fn settled_in(dir: &Path, line: &str) -> Result<(Config, Beginning), Failure> {
        let mut asked = asked(line);
        asked.data_dir.get_or_insert(dir.join("data"));
        let look_up = &mut |url: &PeerUrl| look_up_once(url);
        match settle(asked, &(Arc::new(RealDisk) as Arc<dyn Disk>), look_up) {
            Err(NotStarted::Failed(failure)) => Err(failure),
            other => Ok(other.unwrap()),
        }
    }

    /// Without waiting for a name that does not resolve.
    fn look_up_once(url: &PeerUrl) -> Result<Vec<SocketAddr>, NotStarted> {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let found = runtime.block_on(connect::look_up(url.host()));
        found.map_err(|error| Failure::Unresolved(error.to_string()).into())
    }

    fn settled(line: &str) -> Result<(Config, Beginning), Failure> {
        let dir = tempfile::tempdir().unwrap();
        settled_in(dir.path(), line)
    }

    /// A first start with these options, up to the data directory.
    fn begin(dir: &Path, line: &str) -> Arc<Meta> {
        let (config, beginning) = settled_in(dir, line).unwrap();
        std::fs::create_dir_all(&config.data_dir).unwrap();
        let logger = Logger::root(slog::Discard, o!());
        let check = &mut |_: &storage::Snapshots, _, _| panic!("there is no snapshot");
        let options = storage::WalOptions::default();
        let disk = Arc::new(RealDisk);
        DataDir::new(disk, &config.data_dir)
            .open_and_load(beginning, options, check, &logger)
            .unwrap()
            .meta
    }

    #[test]
    fn without_arguments_it_is_a_single_member() {
        let (config, beginning) = settled("").unwrap();
        assert_eq!(
            (config.id, config.join, config.url_given),
            (1, false, false)
        );
        assert_eq!(config.peer_url.to_string(), "http://127.0.0.1:9021");
        assert_eq!(config.client_address, "127.0.0.1:9121".parse().unwrap());
        assert_eq!(config.peer_address, "127.0.0.1:9021".parse().unwrap());
        assert!(matches!(beginning.start, Start::First(list) if list.len() == 1));
        assert_eq!(data_dir_of(&asked("")), PathBuf::from("raftkvd-1"));
        assert_eq!(data_dir_of(&asked("--id 7")), PathBuf::from("raftkvd-7"));
    }

    #[test]
    fn only_the_first_of_the_list_begins_a_cluster() {
        let start = |line: &str| settled(line).unwrap().1.start;
        match start(&format!("--cluster {THREE}")) {
            Start::First(list) => assert_eq!(list.keys().copied().collect::<Vec<_>>(), [1, 2, 3]),
            other => panic!("{other:?}"),
        }
        for alone in ["", "--peer-url http://127.0.0.1:7"] {
            assert!(matches!(start(alone), Start::First(list) if list.len() == 1));
        }
        for empty in [
            format!("--id 2 --cluster {THREE}"),
            format!("--id 1 --join --cluster {THREE}"),
            "--peer-url http://127.0.0.1:7 --join http://127.0.0.1:9".to_owned(),
        ] {
            assert_eq!(start(&empty), Start::Empty, "{empty}");
        }
        match start("--id 2 --peer-url http://127.0.0.1:7") {
            Start::Existing(line) => assert!(line.contains("only member 1 can create"), "{line}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_new_directory_needs_is_said_in_one_line() {
        for (line, said) in [
            ("--id 2".to_owned(), "--id 2: "),
            (
                "--id 18446744073709551615".to_owned(),
                "--id 18446744073709551615: ",
            ),
            (
                format!("--id 4 --cluster {THREE}"),
                "--id 4 is not in --cluster, which lists the URLs of members 1 to 3",
            ),
            ("--join".to_owned(), "clients reach a member"),
            (
                "--join --peer-url http://a:1".to_owned(),
                "clients reach a member",
            ),
            ("--join http://127.0.0.1:1".to_owned(), "--peer-url"),
            ("--port 9021".to_owned(), "--port 9021"),
            ("--port 9021 --listen 0.0.0.0".to_owned(), "--port 9021"),
        ] {
            let failure = settled(&line).map(|_| ()).unwrap_err();
            let text = failure.to_string();
            assert_eq!(failure.exit_code(), 2, "{line}: {text}");
            assert!(
                text.contains(said) && !text.contains('\n'),
                "{line}: {text}"
            );
        }
        assert!(settled("--port 9021 --listen 127.0.0.2").is_ok());
        let unresolved = settled("--cluster http://name.invalid:1").map(|_| ());
        assert_eq!(unresolved.unwrap_err().exit_code(), 1);
        let not_resolved =
            "--cluster http://name.invalid:1 --listen 127.0.0.1 --listen-peer 127.0.0.1";
        assert!(settled(not_resolved).is_ok());
    }

    #[test]
    fn a_second_start_changes_no_mode() {
        let home = tempfile::tempdir().unwrap();
        begin(home.path(), "");
        let disk = Arc::new(RealDisk) as Arc<dyn Disk>;
        let dir = DataDir::new(disk.clone(), home.path().join("data"));
        let _held = dir.lock().unwrap();
        disk.set_mode(dir.path(), 0o755).unwrap();
        let mut asked = asked("");
        asked.data_dir = Some(dir.path().to_owned());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (_sender, mut reasons) = stop_reasons();
        let logger = Logger::root(slog::Discard, o!());
        let wait = &mut StartWait::new(&runtime, &mut reasons, &logger);
        let Err(NotStarted::Failed(failure)) = prepare(asked, &disk, wait) else {
            panic!("the lock is held");
        };
        assert_eq!(failure.exit_code(), 3, "{failure}");
        let found = disk.attributes(dir.path()).unwrap().unwrap();
        assert_eq!(found.mode, 0o755);
    }

    #[test]
    fn both_addresses_are_those_of_one_lookup() {
        let dir = tempfile::tempdir().unwrap();
        let found = |line: &str| {
            let mut asked = asked(&format!("--cluster http://name.invalid:7 {line}"));
            asked.data_dir = Some(dir.path().join("data"));
            let mut lookups = 0;
            let look_up = &mut |_: &PeerUrl| {
                lookups += 1;
                Ok(vec!["[fe80::7%3]:0".parse().unwrap()])
            };
            let (config, _) = settle(asked, &(Arc::new(RealDisk) as _), look_up).unwrap();
            let addresses = [config.client_address, config.peer_address];
            (lookups, addresses.map(|address| address.to_string()))
        };
        let both = ["[fe80::7%3]:9", "[fe80::7%3]:7"].map(str::to_owned);
        assert_eq!(found("--port 9"), (1, both));
        let one = ["127.0.0.1:9", "[fe80::7%3]:7"].map(str::to_owned);
        assert_eq!(found("--port 9 --listen 127.0.0.1"), (1, one));
    }

    #[test]
    fn a_later_start_needs_no_options() {
        let dir = tempfile::tempdir().unwrap();
        begin(dir.path(), &format!("--id 2 --cluster {THREE}"));
        let (config, _) = settled_in(dir.path(), "").unwrap();
        assert_eq!(
            (config.id, config.cluster.len(), config.join),
            (2, 3, false)
        );
        assert_eq!(config.peer_url.to_string(), "http://127.0.0.1:2");
        assert_eq!((config.url_given, config.list_given), (false, false));
        let (config, _) = settled_in(dir.path(), "--id 2 --port 22380").unwrap();
        assert_eq!(config.client_address, "127.0.0.1:22380".parse().unwrap());
        // A list may lack this member's own URL. If it contains another URL for this member, the member is there from
        // now on.
        let (config, _) = settled_in(dir.path(), "--cluster http://127.0.0.1:1").unwrap();
        assert_eq!(config.peer_url.to_string(), "http://127.0.0.1:2");
        let (config, _) = settled_in(dir.path(), "--peer-url http://127.0.0.1:7").unwrap();
        assert_eq!((config.peer_address.port(), config.url_given), (7, true));
        let failure = settled_in(dir.path(), "--id 3").map(|_| ()).unwrap_err();
        assert_eq!(failure.exit_code(), 5, "{failure}");
    }

    #[test]
    fn join_is_remembered_by_a_member_that_waits_and_ignored_by_one_that_is_in() {
        let dir = tempfile::tempdir().unwrap();
        let meta = begin(dir.path(), &format!("--id 2 --join --cluster {THREE}"));
        let joins = |line: &str| {
            let (config, _) = settled_in(dir.path(), line).unwrap();
            (config.join, config.join_by.len())
        };
        assert_eq!(joins(""), (true, 0));
        assert_eq!(joins(&format!("--cluster {THREE}")), (false, 0));
        assert_eq!(joins("--join http://127.0.0.1:9"), (true, 1));
        meta.pin_cluster(7).unwrap();
        for line in ["", "--join", "--join http://127.0.0.1:9"] {
            assert_eq!(joins(line), (false, 0), "{line}");
        }
    }

    #[test]
    fn the_first_member_of_a_list_takes_a_directory_that_asked_no_cluster_to_join() {
        let founds = |join: &str| {
            let dir = tempfile::tempdir().unwrap();
            begin(dir.path(), &format!("--id 1 --cluster {THREE} {join}"));
            let start = settled_in(dir.path(), &format!("--cluster {THREE}"));
            matches!(start.unwrap().1.start, Start::First(_))
        };
        assert!(founds("--join"));
        assert!(!founds("--join http://127.0.0.1:9"), "it may be bound");
    }

    #[test]
    fn a_first_start_that_did_not_complete_keeps_its_id() {
        let dir = tempfile::tempdir().unwrap();
        begin(dir.path(), &format!("--id 2 --cluster {THREE}"));
        let path = dir.path().join("data").join("meta");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[12] = 1;
        let end = bytes.len() - 4;
        let crc = crc32c::crc32c(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        for said in ["".to_owned(), format!("--cluster {THREE}")] {
            let (config, beginning) = settled_in(dir.path(), &said).unwrap();
            assert_eq!((config.id, config.cluster.len()), (2, 3), "{said}");
            assert_eq!(beginning.start, Start::Empty, "{said}");
        }
    }
}
