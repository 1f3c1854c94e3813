//! The exit codes of the process, and what each of them means. `--help` and the manual page print this table.

use std::fmt;

/// The code with which the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum ExitCode {
    /// A signal has stopped the daemon, the member was removed, or a subcommand has done its work.
    Success = 0,
    /// Any failure that has no code of its own.
    Failure = 1,
    /// The command line does not fit the machine, the cluster or the data directory.
    Usage = 2,
    /// The lock of the data directory is taken.
    Locked = 3,
    /// A file is damaged, or two members contradict each other.
    Corrupt = 4,
    /// The data directory is not the one that the cluster knows for this member.
    WrongIdentity = 5,
    /// The operating system has reported an error of the disk.
    DiskFailed = 6,
    /// The cluster has removed this member.
    Removed = 7,
    /// The data needs a later version of raftkvd.
    LaterVersion = 8,
}

impl ExitCode {
    /// All of them, in ascending order.
    pub const ALL: [ExitCode; 9] = [
        ExitCode::Success,
        ExitCode::Failure,
        ExitCode::Usage,
        ExitCode::Locked,
        ExitCode::Corrupt,
        ExitCode::WrongIdentity,
        ExitCode::DiskFailed,
        ExitCode::Removed,
        ExitCode::LaterVersion,
    ];

    /// As the operating system takes it.
    pub fn number(self) -> i32 {
        self as i32
    }

    /// The meaning in one line, for the help.
    pub fn summary(self) -> &'static str {
        match self {
            ExitCode::Success => "stopped by SIGTERM or SIGINT, or removed from the cluster",
            ExitCode::Failure => {
                "another failure, a port in use, a second signal, or a failed backup"
            }
            ExitCode::Usage => "wrong usage, or a file that already exists",
            ExitCode::Locked => "another process uses the data directory",
            ExitCode::Corrupt => "data is corrupt, or two members contradict each other",
            ExitCode::WrongIdentity => "not the data directory that the cluster knows",
            ExitCode::DiskFailed => "a disk operation failed",
            ExitCode::Removed => "this member was removed from the cluster earlier",
            ExitCode::LaterVersion => "only a later version of raftkvd can read the data",
        }
    }

    /// When the process ends with this code, and what to do then. For the manual page.
    pub fn details(self) -> &'static str {
        match self {
            ExitCode::Success => {
                "A subcommand ends with this code when it has done its work. A member ends with it when it is stopped, and \
                 when the cluster removes it."
            }
            ExitCode::Failure => {
                "A port was still in use after 5 seconds, or the machine did not have an address by then, or a host name did \
                 not resolve; the data directory or the backup has an earlier format; a member refused a backup, or the \
                 connection broke off; the machine refused a thread or another resource; the output could not be \
                 written; or a second signal stopped the member before its requests were answered."
            }
            ExitCode::Usage => {
                "An option is wrong, or options contradict each other; --cluster lists another cluster than the data \
                 directory holds; this user may not use a port; the data directory belongs to another user, has a symbolic \
                 link in it, or holds files of something else; another member has the id or the peer URL of a member \
                 that joins; --join is given for the directory of a cluster that never formed; the limit of open files is too \
                 low; a file that the command line names can't be read; a restore of this data directory was not completed; or \
                 a backup, a restore or raftkvd cert would replace a file, or a file of certificates can't be used."
            }
            ExitCode::Locked => "Stop the other process, or choose another --data-dir.",
            ExitCode::Corrupt => {
                "A file of the data directory, or a backup, is damaged; or the logs of two members differ at a committed \
                 entry; or two members have led in one term. Keep the data directories of all members, and compare them \
                 with raftkvd inspect."
            }
            ExitCode::WrongIdentity => {
                "The data directory belongs to another member; or it was emptied or replaced; or it is an older copy, or has \
                 lost the end of its log; or another process runs on a copy of it. Keep the data directory: the message \
                 says how to go on."
            }
            ExitCode::DiskFailed => {
                "The member has acknowledged nothing that was part of the failed operation. Check the permissions and the \
                 health of the disk, and its space if this was the first start, and start the member again."
            }
            ExitCode::Removed => {
                "To add the member again, start it with --join and an empty data directory."
            }
            ExitCode::LaterVersion => {
                "Use the version of raftkvd that wrote the data directory, the log, the snapshot or the backup, or a later \
                 one. Nothing of it was applied. raftkvd --version prints the command version that this program knows."
            }
        }
    }
}

impl fmt::Display for ExitCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}

/// Tests say the number, as users see it.
#[cfg(test)]
impl PartialEq<i32> for ExitCode {
    fn eq(&self, number: &i32) -> bool {
        self.number() == *number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_complete_and_each_summary_is_one_short_line() {
        for (number, code) in (0..).zip(ExitCode::ALL) {
            assert_eq!(code, number);
            let line = code.summary();
            assert!(line.len() <= 70 && !line.ends_with('.'), "{line}");
            assert!(code.details().ends_with('.'), "{code}");
        }
    }
}
