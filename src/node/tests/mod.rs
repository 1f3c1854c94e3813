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
use crate::command::{self, Command, Kind};
use crate::identity::Reason;
use crate::inbox::ReadBack;
use crate::proposal::{NotTransferred, Outcome, Refusal, Transfer};
use crate::status::ClosedKind;
use crate::storage::SnapshotMeta;
use futures_channel::oneshot;
use harness::*;
use raft::eraftpb::{Entry, EntryType};
