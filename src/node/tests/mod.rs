//! Tests of the node in whole clusters: the harness, and one file for each topic.

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
mod revocation;
mod room;
mod snapshots;
mod transfers;
mod versions;
mod writes;

use super::*;
use crate::channels::notice::{Met, SnapshotWritten};

use crate::channels::commit::Commit;
use crate::channels::notice::EntriesRead;
use crate::channels::status::ClosedKind;
use crate::command::Batch;
use crate::command::outcome::{NotTransferred, Outcome, Refusal};
use crate::command::proposal::Transfer;
use crate::command::{self, Command, Kind};
use crate::identity::Reason;
use crate::peer_url::PeerUrl;
use crate::storage::Save;
use crate::storage::SnapshotMeta;
use crate::storage::wal::read_back::Request;
use futures_channel::oneshot;
use harness::*;
use raft::SnapshotStatus;
use raft::eraftpb::{Entry, EntryType};
use raft::eraftpb::{HardState, Message};
use std::collections::VecDeque;
