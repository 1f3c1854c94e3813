//! Tests of the node in whole clusters: the harness, and a file for each topic.

mod catch_up;
mod checks;
mod elections;
mod formation;
mod harness;
mod identity;
mod membership;
mod places;
mod reads;
mod removal;
mod snapshots;
mod transfers;
mod versions;
mod writes;

use super::*;
use crate::channels::notice::ReadBack;
use crate::channels::status::ClosedKind;
use crate::command::outcome::{NotTransferred, Outcome, Refusal};
use crate::command::proposal::Transfer;
use crate::command::{self, Command, Kind};
use crate::identity::Reason;
use crate::storage::SnapshotMeta;
use futures_channel::oneshot;
use harness::*;
use raft::eraftpb::{Entry, EntryType};
