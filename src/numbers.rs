//! What the numbers are that stand beside each other in pairs: a signature says which is which.

/// A position in raft's log, from 1 on; 0: before the first entry.
pub type Index = u64;

/// A term of raft, from 1 on; 0: none.
pub type Term = u64;

/// The id of a member, from 1 on; 0: nobody.
pub type NodeId = u64;

/// Time as the node counts it: from its start, or between two events.
pub type Ticks = u64;
