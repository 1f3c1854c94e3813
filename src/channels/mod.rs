//! Channels between threads: the inbox of the raft loop, the commit channel that leaves it, the status that it reports,
//! the hosts of the members, and the revoked keys.

pub mod commit;
pub mod inbox;
pub mod member_hosts;
pub mod notice;
pub mod revoked_keys;
pub mod status;
