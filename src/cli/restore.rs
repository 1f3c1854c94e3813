//! `raftkvd restore`: makes the data directory of a *new* cluster's first member from a snapshot. See
//! `storage::restore`.

use super::Quit;
use super::values::{parse_cluster, parse_peer_url};
use crate::logging::progress::{ProgressReport, Unit};
use crate::peer_url::PeerUrl;
use crate::storage::inspect::{self, FileKind, keys};
use crate::storage::restore::{Plan, restore};
use crate::storage::{self, DataDir, ReadOnlyDisk, RealDisk, StorageError};
use slog::Logger;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The options of a restore.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// The snapshot.
    pub file: PathBuf,
    /// The data directory to make.
    pub data_dir: PathBuf,
    /// Peer URLs of the new cluster's first members, by id from 1.
    pub cluster: BTreeMap<u64, PeerUrl>,
}

/// Checks the options of a restore.
pub(super) fn check(
    file: PathBuf,
    id: u64,
    cluster: Option<String>,
    peer_url: Option<String>,
    data_dir: Option<PathBuf>,
) -> Result<RestoreOptions, Quit> {
    if file == Path::new("-") {
        let line = "restore reads no pipe: write the backup to a file first, and name the file";
        return Err(Quit::Usage(line.to_owned()));
    }
    match file.metadata() {
        Ok(found) if found.is_file() => {}
        Ok(found) if !found.is_dir() => {
            let line = format!(
                "{} is not a regular file, and restore reads no pipe: write the backup to a file first, and name the file",
                file.display()
            );
            return Err(Quit::Usage(line));
        }
        Ok(_) => {
            let line = format!(
                "{} is not a regular file; name a backup, or a file of snap/ in a data directory",
                file.display()
            );
            return Err(Quit::Usage(line));
        }
        Err(error) => {
            return Err(Quit::Usage(format!(
                "can't read {}: {error}; name a backup, or a file of snap/ in a data directory",
                file.display()
            )));
        }
    }
    // `--cluster` and `--peer-url` mean the same as for the daemon.
    let cluster = match (cluster, peer_url) {
        (Some(_), Some(_)) => {
            let line = "--cluster and --peer-url (or RAFTKVD_CLUSTER and RAFTKVD_PEER_URL) are both given; leave out one";
            return Err(Quit::Usage(line.to_owned()));
        }
        (None, Some(url)) => {
            let url = parse_peer_url(&url);
            let url = url.map_err(|why| Quit::Usage(format!("--peer-url: {why}")))?;
            BTreeMap::from([(1, url)])
        }
        (cluster, None) => {
            let cluster = cluster.as_deref().unwrap_or("http://127.0.0.1:9021");
            parse_cluster(cluster).map_err(Quit::Usage)?
        }
    };
    if id != 1 {
        return Err(Quit::Usage(format!(
            "--id {id}: a restore makes the data directory of member 1 only; start the other members with empty data \
             directories and the same --cluster, and member 1 sends them all keys"
        )));
    }
    let kind = inspect::kind(&ReadOnlyDisk, &file);
    // An empty file can be a backup that was cut: `restore` calls such a file corrupt.
    let has_bytes = file.metadata().is_ok_and(|found| found.len() > 0);
    if has_bytes && !matches!(kind, Err(_) | Ok(Some(FileKind::Snapshot))) {
        return Err(Quit::Usage(format!(
            "{} does not start like a snapshot, so it is no backup of raftkvd; name a backup, or a file of snap/ in a data \
             directory",
            file.display()
        )));
    }
    Ok(RestoreOptions {
        file,
        data_dir: data_dir.unwrap_or_else(|| PathBuf::from("raftkvd-1")),
        cluster,
    })
}

/// Restores member 1. Returns the text to print.
pub fn run(settings: &RestoreOptions, logger: &Logger) -> Result<String, StorageError> {
    let RestoreOptions {
        file,
        data_dir,
        cluster,
    } = settings;
    let disk = Arc::new(RealDisk);
    let plan = Plan {
        file,
        dir: &DataDir::new(disk, data_dir),
        list: cluster,
        options: storage::WalOptions::default(),
    };
    let mut progress = ProgressReport::of_command("restoring", Unit::Bytes, logger);
    let told = |done, total| progress.at(done, total);
    let restored = restore(&ReadOnlyDisk, plan, told);
    drop(progress);
    let restored = restored?;
    restored.exposed.tell(data_dir, logger);
    Ok(format!(
        "restored {}: member 1 of the new cluster {:016x}, {} as of index {} of cluster {:016x}; it goes on at index {}; \
         {}\n",
        data_dir.display(),
        restored.cluster,
        keys(restored.entries),
        restored.from_index,
        restored.from_cluster,
        restored.index,
        next_commands(data_dir, cluster),
    ))
}

/// The commands to type after the restore. The data directory remembers the list and the URL, so member 1 needs no more
/// than its directory. Each of the others gets a directory of its own: without `--data-dir`, the line would start the
/// member of the old cluster.
fn next_commands(data_dir: &Path, cluster: &BTreeMap<u64, PeerUrl>) -> String {
    let first = format!("start it with: raftkvd --data-dir {}", quoted(data_dir));
    if cluster.len() <= 1 {
        return first;
    }
    let urls: Vec<String> = cluster.values().map(ToString::to_string).collect();
    let list = urls.join(",");
    let others = cluster.keys().filter(|id| **id != 1).map(|id| {
        let dir = new_directory(data_dir, *id);
        format!("\n  raftkvd --id {id} --data-dir {dir} --cluster {list}")
    });
    let others: String = others.collect();
    let hosts: BTreeSet<&str> = cluster.values().map(PeerUrl::host).collect();
    let port = match hosts.len() < cluster.len() {
        true => ", and on one machine with another --port each",
        false => "",
    };
    format!(
        "{first}\nstart the other members too{port} (stop the old cluster first, and do not use its directories); member 1 \
         sends them all keys:{others}"
    )
}

/// A directory for another member of the new cluster, quoted for a shell: `three-2` beside `three-1`. `raftkvd-2` is the
/// default name, which the member of the old cluster may have on its machine.
fn new_directory(of_first: &Path, id: u64) -> String {
    let name = of_first.file_name().map(|name| name.to_string_lossy());
    let Some(name) = name else {
        return "EMPTY_DIR".to_owned();
    };
    let stem = name.strip_suffix("-1").unwrap_or(&name);
    let plain = of_first.with_file_name(format!("{stem}-{id}"));
    let other = of_first.with_file_name(format!("{stem}-{id}-new"));
    let is_free = |path: &&PathBuf| path.symlink_metadata().is_err();
    let plain = (stem != "raftkvd").then_some(&plain);
    let found = plain.into_iter().chain([&other]).find(is_free);
    found.map_or_else(|| "EMPTY_DIR".to_owned(), |path| quoted(path))
}

/// The path, quoted for a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+@%".contains(c);
    match text.chars().all(is_plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(id: u64, cluster: Option<&str>) -> Result<RestoreOptions, Quit> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"rkvdsnap").unwrap();
        let cluster = cluster.map(str::to_owned);
        check(file.path().to_owned(), id, cluster, None, None)
    }

    #[test]
    fn the_commands_to_type_fit_the_list_and_the_shell() {
        let list = |urls: &str| parse_cluster(urls).unwrap();
        let next = |dir: &str, urls: &str| next_commands(Path::new(dir), &list(urls));
        assert_eq!(
            next("new-1", "http://a:1"),
            "start it with: raftkvd --data-dir new-1"
        );
        assert_eq!(
            next("a dir's", "http://a:1,http://b:1"),
            "start it with: raftkvd --data-dir 'a dir'\\''s'\nstart the other members too (stop the old cluster first, and do not \
             use its directories); member 1 sends them all keys:\n  raftkvd --id 2 --data-dir 'a dir'\\''s-2' --cluster \
             http://a:1,http://b:1"
        );
        let three = next("d-1", "http://a:1,http://a:2,http://a:3");
        assert!(
            three.ends_with(
                ":\n  raftkvd --id 2 --data-dir d-2 --cluster http://a:1,http://a:2,http://a:3\n  raftkvd --id 3 --data-dir \
                 d-3 --cluster http://a:1,http://a:2,http://a:3"
            ),
            "{three}"
        );
        assert!(
            three.contains("on one machine with another --port each"),
            "{three}"
        );
    }

    #[test]
    fn the_commands_name_no_directory_that_an_old_member_may_have() {
        let place = tempfile::tempdir().unwrap();
        let first = place.path().join("three-1");
        let name = |id| {
            let dir = new_directory(&first, id);
            dir.rsplit('/').next().map(str::to_owned).unwrap()
        };
        assert_eq!(name(2), "three-2");
        std::fs::create_dir(place.path().join("three-2")).unwrap();
        assert_eq!(name(2), "three-2-new");
        std::fs::create_dir(place.path().join("three-2-new")).unwrap();
        assert_eq!(name(2), "EMPTY_DIR");
        assert_eq!(new_directory(Path::new("raftkvd-1"), 2), "raftkvd-2-new");
        assert_eq!(new_directory(Path::new(".."), 2), "EMPTY_DIR");
    }

    #[test]
    fn only_member_1_is_restored() {
        let settings_of_1 = settings(1, Some("http://a:1,http://a:2")).unwrap();
        assert_eq!(settings_of_1.cluster.len(), 2);
        assert_eq!(settings_of_1.data_dir, PathBuf::from("raftkvd-1"));
        assert_eq!(settings(1, None).unwrap().cluster.len(), 1);
        match settings(2, Some("http://a:1,http://a:2")) {
            Err(Quit::Usage(line)) => {
                assert!(line.contains("directory of member 1 only"), "{line}");
                assert!(line.contains("with empty data directories"), "{line}");
                assert!(!line.contains('\n'));
            }
            other => panic!("{other:?}"),
        }
    }
}
