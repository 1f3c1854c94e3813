//! Channels between threads: the inbox of the raft loop, the commit channel that leaves it, the status that it reports,
//! and the hosts of the members.

pub mod commit;
pub mod inbox;
pub mod member_hosts;
pub mod notice;
pub mod status;
