//! Identity: what the two ends of a connection claim, whether each end believes the other, and what a member does when
//! it is refused.
//!
//! A member is (id, incarnation). The replicated members table says which incarnation an id is bound to, and at which
//! index. So a claim is (cluster, id, incarnation, index of the binding), and [`judge()`] compares it with the applied
//! table of the member that judges. Nothing from a claim is kept across a restart.
//!
//! Tables differ in age. A member that was cut off for long may know none of the members that now lead its cluster, but
//! still has to vote for them. So:
//! - A claim whose binding lies above the applied index of the judging member is not refused, if the claimant knows
//!   that member's incarnation. The claim can't be judged yet, and messages pass until it can be judged.
//! - A refusal counts only if the table that it comes from is at least as new as the binding of the member that it
//!   refuses.
//!
//! A refusal tells a claimant only what the claimant has proved to know, or has to know: see `disclosure.rs`.
//!
//! [`verdict()`] decides what a member does when it is refused. It is a pure function, with one row for each case.

mod answer;
mod claims;
mod disclosure;
#[cfg(test)]
mod fixtures;
mod judge;
mod verdict;
mod view;

pub use answer::{Greeting, GreetingState, Leader, PeerAnswer, judge_answer};
pub use claims::{Claims, Receiver};
pub use judge::{Reason, Standing, judge};
pub use verdict::{Own, PeerRefusal, Verdict, verdict};
pub use view::View;
