//! How a member starts in an empty data directory.

use super::meta::Given;
use crate::peer_url::PeerUrl;
use std::collections::BTreeMap;

/// How a member starts in an empty data directory. Ignored when the directory holds a member.
#[derive(Debug, Clone, PartialEq)]
pub enum Start {
    /// As the first member of a new cluster that has these first members. This member has the lowest id: it starts
    /// alone and adds the others.
    First(BTreeMap<u64, PeerUrl>),
    /// Without any state: the leader of a cluster sends all of it.
    Empty,
    /// Only with an existing member. Otherwise the start is refused with this text.
    Existing(String),
}

/// The member that an empty data directory will belong to, and how that member starts.
#[derive(Debug, Clone)]
pub struct Beginning {
    /// Member id. If the directory already belongs to a member, this has to be that member's id.
    pub member: u64,
    /// How the member starts.
    pub start: Start,
    /// Options that `meta` remembers, so that later starts may omit them.
    pub given: Given,
}

impl Beginning {
    /// `Given` contains the list of `start` and the URL of `member` in that list, and nothing else.
    pub fn of(member: u64, start: Start) -> Beginning {
        let list = match &start {
            Start::First(list) => list.clone(),
            Start::Empty | Start::Existing(_) => BTreeMap::new(),
        };
        let url = list.get(&member).cloned();
        let given = Given {
            url,
            list,
            ..Given::default()
        };
        Beginning {
            member,
            start,
            given,
        }
    }
}
