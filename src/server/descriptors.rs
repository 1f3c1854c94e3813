//! The limit of open files. A start raises the limit, and divides it between the files of this member, its peers and
//! its clients. So clients never take the descriptors that the log, a snapshot or a peer needs.

use super::failure::Failure;
use crate::limits;
use rustix::process::{Resource, getrlimit, setrlimit};
use slog::{Logger, info, warn};

/// How many descriptors each part of the process may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descriptors {
    /// The limit of the process.
    limit: u64,
    /// For the log, snapshots, connections to other members and lookups. The spare connections count here too.
    own: u64,
    /// Connections from other members.
    pub(super) peers: usize,
    /// Connections of clients.
    pub(super) clients: usize,
    /// Connections beyond `clients`, for probes.
    pub(super) spare: usize,
}

impl Descriptors {
    /// Raises the soft limit of open files to the hard limit, and divides the limit. Every connection needs a
    /// descriptor, and the usual soft limit of 1,024 is soon used up.
    pub(super) fn raise(logger: &Logger) -> Result<Descriptors, Failure> {
        let mut limit = getrlimit(Resource::Nofile);
        if limit.current != limit.maximum {
            limit.current = limit.maximum;
            if let Err(error) = setrlimit(Resource::Nofile, limit) {
                warn!(logger, "can't raise the limit of open files, and this member goes on with the present one; \
                    set LimitNOFILE in the unit"; "error" => %error);
            }
        }
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Descriptors::divide(limit).ok_or_else(|| {
            Failure::Usage(format!(
                "the limit of open files is {limit}, and a member needs at least {}; raise it with LimitNOFILE in the \
                 unit, or with ulimit -Hn",
                limits::FILES_LEAST
            ))
        })
    }

    /// `None` if the limit is too low.
    fn divide(limit: u64) -> Option<Descriptors> {
        if limit < limits::FILES_LEAST {
            return None;
        }
        let share = limit / limits::FILES_SHARE;
        let (least, most) = limits::FILES_OWN;
        let own = share.clamp(least, most);
        let most = limits::PEER_CONNECTIONS_MAX as u64;
        let peers = share.clamp(limits::PEER_CONNECTIONS_LEAST, most);
        let clients = (limit - own - peers).min(limits::CLIENT_CONNECTIONS_MAX as u64);
        let spare = own / limits::SPARE_CONNECTIONS_SHARE;
        let spare = spare.min(limits::SPARE_CONNECTIONS_MAX as u64);
        Some(Descriptors {
            limit,
            own,
            peers: peers as usize,
            clients: clients as usize,
            spare: spare as usize,
        })
    }

    /// Logs the shares.
    pub(super) fn tell(&self, logger: &Logger) {
        info!(logger, "divided the limit of open files"; "files_max" => self.limit,
            "client_connections_max" => self.clients, "peer_connections_max" => self.peers, "own_files_max" => self.own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_fit_the_limit_and_grow_with_it() {
        assert_eq!(Descriptors::divide(limits::FILES_LEAST - 1), None);
        let mut last = Descriptors::divide(limits::FILES_LEAST).unwrap();
        assert_eq!((last.own, last.peers, last.clients), (64, 32, 32));
        // Nine members: see `FILES_LEAST`.
        let others = 8;
        assert!(last.own - last.spare as u64 >= 20 + 4 * others, "{last:?}");
        assert!(last.peers as u64 >= 3 * others, "{last:?}");
        for limit in [129, 256, 1_024, 4_096, 20_000, 1 << 20, u64::MAX] {
            let shares = Descriptors::divide(limit).unwrap();
            let sum = shares.own + (shares.peers + shares.clients) as u64;
            assert!(sum <= limit, "{shares:?}");
            assert!(shares.spare as u64 * 2 <= shares.own, "{shares:?}");
            assert!(
                shares.clients >= last.clients && shares.peers >= last.peers,
                "{shares:?}"
            );
            last = shares;
        }
        let full = (limits::PEER_CONNECTIONS_MAX, limits::CLIENT_CONNECTIONS_MAX);
        assert_eq!((last.peers, last.clients), full);
        let enough = Descriptors::divide(20_000).unwrap();
        assert_eq!((enough.peers, enough.clients), full);
    }
}
