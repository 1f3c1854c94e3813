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
use std::collections::BTreeMap;
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
/// than its directory.
fn next_commands(data_dir: &Path, cluster: &BTreeMap<u64, PeerUrl>) -> String {
    let first = format!("raftkvd --data-dir {}", quoted(data_dir));
    let others = cluster.len().saturating_sub(1);
    if others == 0 {
        return format!("start it with: {first}");
    }
    let urls = cluster.values().map(ToString::to_string);
    let list = urls.collect::<Vec<_>>().join(",");
    let empty = match others {
        1 => "member 2, with an empty data directory,".to_owned(),
        _ => format!(
            "members 2 to {}, each with an empty data directory,",
            others + 1
        ),
    };
    let id = if others == 1 { "2" } else { "ID" };
    format!(
        "start it with: {first}; start {empty} with: raftkvd --id {id} --cluster {list}; member 1 sends all keys to {}",
        if others == 1 { "it" } else { "them" }
    )
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
            next("a dir's", "http://a:1,http://a:2"),
            "start it with: raftkvd --data-dir 'a dir'\\''s'; start member 2, with an empty data directory, with: raftkvd \
             --id 2 --cluster http://a:1,http://a:2; member 1 sends all keys to it"
        );
        let three = next("d", "http://a:1,http://a:2,http://a:3");
        assert!(
            three.ends_with(
                "start members 2 to 3, each with an empty data directory, with: raftkvd --id ID --cluster \
                 http://a:1,http://a:2,http://a:3; member 1 sends all keys to them"
            ),
            "{three}"
        );
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
