//! How a member begins in an empty data directory.

use super::meta::Given;
use crate::peer_url::PeerUrl;
use std::collections::BTreeMap;

/// How a member begins when its data directory is empty. Ignored otherwise.
#[derive(Debug, Clone, PartialEq)]
pub enum Start {
    /// As the first member of a new cluster, with this list of first members. It has the lowest id, begins alone, and
    /// adds the others.
    First(BTreeMap<u64, PeerUrl>),
    /// With nothing: the leader of a cluster sends it all.
    Empty,
    /// Not at all. This line says why.
    Existing(String),
}

/// Whose a data directory is to be that is empty, and how this member begins there.
#[derive(Debug, Clone)]
pub struct Beginning {
    /// The member. Whose directory it is already, it has to be.
    pub member: u64,
    /// How it begins.
    pub start: Start,
    /// What later starts may leave out.
    pub given: Given,
}

impl Beginning {
    /// With a list, or without any addresses.
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
