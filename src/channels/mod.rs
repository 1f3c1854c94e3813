//! What passes between threads: requests and messages into the raft loop, committed entries out of it, and the status
//! that it shows.

pub mod commit;
pub mod inbox;
pub mod notice;
pub mod status;
