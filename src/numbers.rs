//! Names for the numbers that appear side by side, so that a signature says which number is which.

/// A position in raft's log, from 1 on. 0 is the position before the first entry.
pub type Index = u64;

/// A term of raft, from 1 on. 0 means no term.
pub type Term = u64;

/// The id of a member, from 1 on. 0 means no member.
pub type NodeId = u64;

/// Time as the node counts it, in ticks: since its start, or between two events.
pub type Ticks = u64;
