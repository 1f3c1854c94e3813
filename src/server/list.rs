//! Checks whether `--cluster` fits a data directory. The list of another cluster ends the start before anything was
//! changed.
//!
//! Without this check, the member would continue with what its directory holds, although the list means another
//! cluster. Two clusters would accept writes, and nobody would notice.
//!
//! [`compare`] is the whole check, as a pure function.

use super::failure::Failure;
use crate::config::Config;
use crate::limits;
use crate::members::Members;
use crate::node::Node;
use crate::peer_url::PeerUrl;
use crate::storage::{DataDir, Disk, Meta, inspect};
use slog::{Logger, info};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

type List = BTreeMap<u64, PeerUrl>;

/// How a list fits a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// A list of this cluster. It only adds URLs at which to look for the other members.
    Known,
    /// The list is to be stored: this member has no table of members yet, or its cluster still forms from this list.
    Taken,
}

/// Why a list is not a list of this directory's cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Misfit {
    /// These ids are not members and never were.
    NeverMembers(Vec<u64>),
    /// No member is or was at a URL of the list. Nor does the list contain all members, or the members of the first
    /// list, at new URLs.
    NothingInCommon,
    /// The cluster forms by another list, and has added members by that list.
    Forming,
}

/// Compares a list with the members that a directory knows. `own` is the directory's member, and `first` is the list of
/// its first start.
pub(super) fn compare(
    own: u64,
    list: &List,
    first: &List,
    members: &Members,
) -> Result<Fit, Misfit> {
    if members.members.is_empty() {
        return Ok(Fit::Taken);
    }
    // The entry of this member itself may be new, which means that this member moves.
    let fits = |(id, url): (&u64, &PeerUrl)| *id == own || members.was_at(*id, url);
    if !members.is_formed() {
        let forming = &members.forming;
        let listed = |(id, url)| fits((id, url)) || forming.get(id) == Some(url);
        return match list.keys().eq(forming.keys()) && list.iter().all(listed) {
            _ if list == forming => Ok(Fit::Taken),
            _ if members.has_only(own) && list.keys().next() == Some(&own) => Ok(Fit::Taken),
            true => Ok(Fit::Known),
            // This list was accepted at the first start, so it is accepted again.
            false if list == first => Ok(Fit::Known),
            false => Err(Misfit::Forming),
        };
    }
    if list == first {
        return Ok(Fit::Known);
    }
    let never = list.keys().filter(|id| !members.had(**id));
    let never: Vec<u64> = never.copied().collect();
    // All members may have moved. A list may lack the members that were added later.
    let all_move = members.members.keys().all(|id| list.contains_key(id));
    let all_move = all_move || list.keys().eq(first.keys());
    let is_there = |(id, url): (&u64, &PeerUrl)| members.was_at(*id, url);
    match list.iter().any(is_there) || all_move {
        _ if !never.is_empty() => Err(Misfit::NeverMembers(never)),
        true => Ok(Fit::Known),
        false => Err(Misfit::NothingInCommon),
    }
}

/// Compares `--cluster`, if it was given, with the data directory, which must be locked. Changes nothing.
pub(super) fn check(disk: &Arc<dyn Disk>, config: &Config) -> Result<Fit, Failure> {
    let Config {
        id,
        cluster: list,
        data_dir: dir,
        ..
    } = config;
    let dir = DataDir::new(disk.clone(), dir);
    let meta = inspect::meta(&dir)?.filter(Meta::in_use);
    let Some(meta) = meta.filter(|_| config.list_given) else {
        return Ok(Fit::Known);
    };
    let first = meta.given().list;
    let Some((index, members)) = dir.snapshot_members(&meta)? else {
        return Ok(Fit::Taken);
    };
    // In a formed cluster, later members can't turn a fit into a misfit, so the log is not read. In a forming cluster
    // they can, and its log is short.
    let early = compare(*id, list, &first, &members);
    if members.is_formed() && early.is_ok() {
        return Ok(Fit::Known);
    }
    let members = dir.known_members(index, members)?;
    compare(*id, list, &first, &members)
        .map_err(|misfit| Failure::Usage(refusal(dir.path(), &meta, &members, &misfit)))
}

/// Refuses `--join` if the data directory holds a cluster that this member was about to create, and no other member was
/// added to it. `--join` would have no effect there, and the member would wait for its list. Changes nothing.
pub(super) fn check_join(disk: &Arc<dyn Disk>, config: &Config) -> Result<(), Failure> {
    let dir = DataDir::new(disk.clone(), &config.data_dir);
    let meta = match config.join_ignored {
        true => inspect::meta(&dir)?.filter(Meta::in_use),
        false => None,
    };
    let Some(meta) = meta else {
        return Ok(());
    };
    let Some((index, members)) = dir.snapshot_members(&meta)? else {
        return Ok(());
    };
    if members.is_formed() || !dir.known_members(index, members)?.has_only(config.id) {
        return Ok(());
    }
    let (path, id) = (dir.path().display(), config.id);
    Err(Failure::Usage(format!(
        "{path} holds a cluster that member {id} has started without --join and that has never formed, so --join has no \
         effect there; to join a cluster, keep {path}, and give --join and a new --data-dir; to go on forming the cluster \
         of {path}, leave out --join"
    )))
}

/// One line: what the directory holds, and what to do.
fn refusal(dir: &Path, meta: &Meta, members: &Members, misfit: &Misfit) -> String {
    let mut line = format!(
        "{} holds member {} of cluster {:016x}, ",
        dir.display(),
        meta.member(),
        meta.cluster()
    );
    let urls = |urls: Vec<String>| urls.join(", ");
    if let Misfit::Forming = misfit {
        let forming = urls(members.forming.values().map(PeerUrl::to_string).collect());
        let _ = write!(
            line,
            "which is forming from {forming} and has added members, so its list can't change any more; leave out --cluster, \
             or, if the list of the cluster is wrong, stop all members, and run raftkvd inspect on each data directory: \
             only if every one says \"unformed\" or \"empty\", remove all of them and start again with the right list"
        );
        return line;
    }
    let count = members.members.len();
    let places = urls(
        members
            .members
            .values()
            .map(|member| member.url.to_string())
            .collect(),
    );
    let _ = match count {
        1 => write!(line, "a cluster of one at {places}"),
        2..=limits::MEMBERS_NAMED_MAX => write!(line, "a cluster of {count} at {places}"),
        _ => write!(line, "a cluster of {count}"),
    };
    // A default directory is in the working directory, and there are those of other members beside it.
    let working = std::env::current_dir().unwrap_or_default();
    let name = dir.strip_prefix(working).unwrap_or(dir).to_str();
    let tried = match name.and_then(|name| name.strip_prefix(limits::DATA_DIR_PREFIX)) {
        Some(id) if id.parse::<u64>().is_ok() => "raftkvd-[0-9]*".to_owned(),
        _ => dir.display().to_string(),
    };
    let why = match misfit {
        Misfit::NeverMembers(ids) => {
            let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
            let members = if ids.len() == 1 { "member" } else { "members" };
            format!(
                "--cluster lists {members} {}, which this cluster has never had, as far as this directory knows",
                ids.join(", ")
            )
        }
        Misfit::NothingInCommon | Misfit::Forming => {
            "none of its members has ever been at the URL that --cluster lists".to_owned()
        }
    };
    let _ = write!(
        line,
        ", but {why}; to start this member, leave out --cluster; to add a member, start the new one with --id, --peer-url, \
         --join and the URL at which clients reach a member; to create another cluster, choose another --data-dir, or, if \
         this directory was only a try, start over: rm -r {tried}"
    );
    line
}

/// Logs where the command line differs from the table of members. The table takes precedence, except for a new URL of
/// this member itself.
pub(super) fn tell_differences(config: &Config, node: &Node, logger: &Logger) {
    let known = node.members();
    let own = known.members.get(&config.id);
    if let Some(own) = own.filter(|own| own.url != config.peer_url) {
        // Without a given URL, the node compares the two URLs itself once it knows the newest members.
        if config.url_given {
            info!(logger, "moved: telling the other members the new peer URL";
                "former_url" => %own.url, "url" => %config.peer_url);
        }
    }
    let mut others = known.members.iter().filter(|(id, _)| **id != config.id);
    let differs = others.any(|(id, member)| config.cluster.get(id) != Some(&member.url));
    if config.list_given && differs {
        let urls = |list: &List| -> String {
            let listed = list.iter().map(|(id, url)| format!("{id}={url}"));
            listed.collect::<Vec<_>>().join(",")
        };
        let known = known.members.iter();
        let known = known.map(|(id, member)| (*id, member.url.clone()));
        info!(logger, "--cluster differs from the members: it only adds URLs to dial while no leader is known";
            "known_urls" => urls(&known.collect()), "given_urls" => urls(&config.cluster));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{self, Task};
    use crate::command::{self, Batch, Command, Kind};
    use crate::server::start;
    use crate::storage::{RealDisk, Save, Start};
    use raft::eraftpb::{Entry, EntryType};

    fn url(text: &str) -> PeerUrl {
        format!("http://{text}").parse().unwrap()
    }

    /// The i-th URL belongs to member i.
    fn list(urls: &str) -> List {
        (1..).zip(urls.split(',').map(url)).collect()
    }

    fn command(kind: Kind, id: u64, at: &str) -> Command {
        let mut command = Command::new();
        command.kind = kind;
        command.member_id = id;
        command.member_url = format!("http://{at}");
        command
    }

    /// Members 1, 2 and 3. Member 4 was added, member 2 has moved from b:1, and member 3 was removed.
    fn changed() -> Members {
        let first = list("a:1,b:1,c:1");
        let mut members = Members::of(first.into_iter().map(|(id, url)| (id, url, id)));
        members.apply(&command(Kind::AddMember, 4, "d:1"), 2);
        members.apply(&command(Kind::MoveMember, 2, "b:2"), 3);
        members.apply(&command(Kind::RemoveMember, 3, ""), 4);
        members
    }

    fn compared(own: u64, urls: &str, members: &Members) -> Result<Fit, Misfit> {
        compare(own, &list(urls), &list("z:1,z:2,z:3"), members)
    }

    #[test]
    fn a_list_of_a_cluster_that_has_formed_is_one_of_its_members_now_or_once() {
        let never = |ids: &[u64]| Err(Misfit::NeverMembers(ids.to_vec()));
        for (own, urls, expected) in [
            (1, "a:1,b:2,c:1,d:1", Ok(Fit::Known)),
            // Lists from before the changes, complete and in part.
            (1, "a:1,b:1,c:1", Ok(Fit::Known)),
            (1, "a:1", Ok(Fit::Known)),
            (4, "a:1,b:1", Ok(Fit::Known)),
            (2, "x:1,x:2,c:1", Ok(Fit::Known)),
            // This member moves, or several members move, or all.
            (1, "a:2,b:2,c:1", Ok(Fit::Known)),
            (1, "a:2,b:3,c:3,d:1", Ok(Fit::Known)),
            (1, "x:1,x:2,x:3,x:4", Ok(Fit::Known)),
            (1, "x:1,x:2,x:3", Ok(Fit::Known)),
            // The list of the first start.
            (1, "z:1,z:2,z:3", Ok(Fit::Known)),
            (1, "a:1,b:2,c:1,d:1,e:1", never(&[5])),
            (1, "x:1,x:2,x:3,x:4,x:5,x:6", never(&[5, 6])),
            (1, "x:1,x:2", Err(Misfit::NothingInCommon)),
            (1, "x:1", Err(Misfit::NothingInCommon)),
            // Known URLs with the wrong members.
            (1, "b:2,a:1", Err(Misfit::NothingInCommon)),
        ] {
            assert_eq!(compared(own, urls, &changed()), expected, "{own}: {urls}");
        }
    }

    #[test]
    fn a_cluster_of_one_moves_and_does_not_become_three() {
        let one = Members::of([(1, url("a:1"), 7)]);
        assert_eq!(compared(1, "a:1", &one), Ok(Fit::Known));
        assert_eq!(compared(1, "a:2", &one), Ok(Fit::Known));
        for three in ["a:1,b:1,c:1", "x:1,x:2,x:3"] {
            let refused = compared(1, three, &one);
            assert_eq!(refused, Err(Misfit::NeverMembers(vec![2, 3])), "{three}");
        }
    }

    #[test]
    fn a_list_is_taken_until_somebody_is_added_by_another() {
        let empty = Members::default();
        assert_eq!(compared(2, "x:1,x:2", &empty), Ok(Fit::Taken));
        let mut members = Members::first(&list("a:1,b:1,c:1"), 7);
        for other in [
            "a:1,b:1,c:1",
            "a:1,b:1,c:2",
            "x:1,x:2",
            "a:1",
            "a:1,b:1,c:1,d:1",
        ] {
            assert_eq!(compared(1, other, &members), Ok(Fit::Taken), "{other}");
        }
        let mut add = command(Kind::AddMember, 2, "b:1");
        add.member_incarnation = 8;
        members.apply(&add, 3);
        for (own, urls, expected) in [
            (1, "a:1,b:1,c:1", Ok(Fit::Taken)),
            (1, "a:2,b:1,c:1", Ok(Fit::Known)),
            (2, "a:1,b:2,c:1", Ok(Fit::Known)),
            (1, "a:1,b:1,c:2", Err(Misfit::Forming)),
            (1, "a:1,b:1", Err(Misfit::Forming)),
            (1, "a:1,b:1,c:1,d:1", Err(Misfit::Forming)),
            (2, "z:1,z:2,z:3", Ok(Fit::Known)),
        ] {
            assert_eq!(compared(own, urls, &members), expected, "{own}: {urls}");
        }
    }

    /// The directory of member 1, which was started with a list and holds these changes in its log, not committed.
    fn directory(dir: &Path, first: &str, changes: &[Command]) {
        let disk = Arc::new(RealDisk);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let start = Start::First(list(first));
        let mut opened = DataDir::new(disk, dir).open(1, start, &logger).unwrap();
        let entry = |(index, change): (u64, &Command)| {
            let mut batch = Batch::new();
            batch.commands.push(change.clone());
            Entry {
                entry_type: EntryType::EntryConfChange,
                index,
                term: 1,
                context: command::encode(&batch),
                ..Entry::default()
            }
        };
        let save = Save {
            entries: (2..).zip(changes).map(entry).collect(),
            sync: true,
            ..Save::default()
        };
        opened.wal.save(&[save]).unwrap();
    }

    fn checked(dir: &Path, urls: &str) -> Result<Fit, Failure> {
        let line = [
            "raftkvd",
            "--listen",
            "127.0.0.1",
            "--listen-peer",
            "127.0.0.1",
        ];
        let data_dir = ["--data-dir", dir.to_str().unwrap()];
        let urls: Vec<String> = list(urls).values().map(PeerUrl::to_string).collect();
        let urls = urls.join(",");
        let arguments = line.into_iter().chain(data_dir).chain(["--cluster", &urls]);
        let Ok(Task::Run(options)) = cli::parse(arguments) else {
            panic!("it runs the daemon");
        };
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let (config, _) = start::settle(options.asked, &disk, &mut |_| {
            Ok(vec![(std::net::Ipv4Addr::LOCALHOST, 0).into()])
        })
        .unwrap();
        check(&disk, &config)
    }

    #[track_caller]
    fn assert_refused(dir: &Path, urls: &str, says: &[&str]) {
        let failure = checked(dir, urls).unwrap_err();
        let line = failure.to_string();
        assert_eq!(failure.exit_code(), 2, "{line}");
        assert!(!line.contains('\n'), "{line}");
        let dir = dir.to_str().unwrap();
        for said in says.iter().chain([&dir]) {
            assert!(line.contains(said), "no {said:?} in {line:?}");
        }
    }

    fn add(id: u64, at: &str) -> Command {
        let mut add = command(Kind::AddMember, id, at);
        add.member_incarnation = 10 + id;
        add
    }

    #[test]
    fn a_list_of_another_cluster_is_refused_with_what_the_directory_holds_and_both_ways_out() {
        let dir = tempfile::tempdir().unwrap();
        directory(dir.path(), "a:1", &[]);
        let both_ways = [
            " holds member 1 of cluster ",
            ", a cluster of one at http://a:1, but --cluster lists members 2, 3, which",
            "start over: rm -r /",
            "leave out --cluster",
            "to create another cluster, choose another --data-dir",
        ];
        assert_refused(dir.path(), "a:1,b:1,c:1", &both_ways);
        assert_refused(dir.path(), "x:1,x:2,x:3", &both_ways);
        assert_eq!(checked(dir.path(), "a:2").unwrap(), Fit::Known);
    }

    #[test]
    fn members_that_only_the_log_knows_are_members() {
        let dir = tempfile::tempdir().unwrap();
        let moved = command(Kind::MoveMember, 2, "b:2");
        directory(dir.path(), "a:1", &[add(2, "b:1"), add(3, "c:1"), moved]);
        for fits in ["a:1,b:1,c:1", "x:1,b:1", "x:1,b:2"] {
            assert_eq!(checked(dir.path(), fits).unwrap(), Fit::Known, "{fits}");
        }
        let others = "a cluster of 3 at http://a:1, http://b:2, http://c:1, but";
        assert_refused(dir.path(), "a:1,b:1,c:1,d:1", &[others, "lists member 4,"]);
        assert_refused(dir.path(), "x:1,x:2", &["none of its members has ever"]);
        // All members move at once: the members of the first list, or all current members.
        for fits in ["x:1,x:2,x:3", "x:1"] {
            assert_eq!(checked(dir.path(), fits).unwrap(), Fit::Known, "{fits}");
        }
    }

    #[test]
    fn a_list_is_not_corrected_once_the_log_adds_a_member_by_it() {
        let dir = tempfile::tempdir().unwrap();
        directory(dir.path(), "a:1,b:1,c:1", &[]);
        assert_eq!(checked(dir.path(), "a:1,b:1,c:2").unwrap(), Fit::Taken);
        let dir = tempfile::tempdir().unwrap();
        directory(dir.path(), "a:1,b:1,c:1", &[add(2, "b:1")]);
        let says = [
            "which is forming from http://a:1, http://b:1, http://c:1 and has added members",
            "stop all members",
            "raftkvd inspect",
            "only if every one says",
        ];
        assert_refused(dir.path(), "a:1,b:1,c:2", &says);
        assert_eq!(checked(dir.path(), "a:1,b:1,c:1").unwrap(), Fit::Taken);
    }

    #[test]
    fn a_refused_list_leaves_the_directory_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        directory(dir.path(), "a:1", &[add(2, "b:1")]);
        let files = || {
            let parts = ["", "wal", "snap"].map(|part| dir.path().join(part));
            let entries = parts
                .iter()
                .flat_map(|part| std::fs::read_dir(part).unwrap());
            let paths = entries.map(|entry| entry.unwrap().path());
            let files = paths.filter(|path| path.is_file());
            files
                .map(|path| (path.clone(), std::fs::read(path).unwrap()))
                .collect::<BTreeMap<_, _>>()
        };
        let before = files();
        assert_refused(dir.path(), "a:1,b:1,c:1", &["member 3"]);
        assert!(files() == before);
    }
}
