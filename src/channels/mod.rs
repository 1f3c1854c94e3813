//! Channels between threads: the inbox of the raft loop, the commit channel that leaves it, and the status that it
//! reports.

pub mod commit;
pub mod inbox;
pub mod notice;
pub mod status;
