//! Who is who: what the ends of a connection claim about themselves, whether the other end believes it, and what a member
//! makes of being refused.
//!
//! A member is (id, incarnation), and the replicated table of the members says which incarnation an id is bound to, by
//! the entry at which index. So a claim is (cluster, id, incarnation, index of the binding), and [`judge()`] compares it
//! with the own applied table. Nothing that a claim says is kept over a restart.
//!
//! Tables differ in age. A member that was cut off for long may know none of those that now lead its cluster, and has to
//! vote for them. So a claim whose binding lies above the own applied index is not refused: it can't be judged yet, and its
//! messages pass until it can. And a refusal counts only if it comes from a table that is at least as new as the binding
//! of the member that it refuses.
//!
//! [`verdict()`] is the whole of what a member does about evidence against itself: a pure function, one row a case.

mod answer;
mod claims;
#[cfg(test)]
mod fixtures;
mod judge;
mod verdict;
mod view;

pub use answer::{Greeting, GreetingState, PeerAnswer, judge_answer};
pub use claims::{Claims, Receiver};
pub use judge::{Reason, Standing, judge};
pub use verdict::{Own, PeerRefusal, Verdict, verdict};
pub use view::View;
