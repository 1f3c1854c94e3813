//! One oracle for each cluster that ever began. An emptied first member begins another cluster, whose log has nothing to do
//! with that of the others; and a person may empty all first members of a cluster that has not formed.
//!
//! Clients know one cluster only: the first that has formed. Of those that began from a list of several no second one may
//! ever form.

use crate::oracle::Oracle;
use raftkvd::members::Members;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

pub struct Oracles {
    /// By the cluster's id; 0: of members that are empty, which have nothing to say.
    clusters: BTreeMap<u64, Oracle>,
    /// In the order in which they began.
    began: Vec<u64>,
    /// The one that clients know, 0 until one has formed.
    serving: u64,
    /// For the first cluster that begins.
    prepared: Option<Oracle>,
}

impl Oracles {
    pub fn new() -> Oracles {
        Oracles {
            clusters: BTreeMap::from([(0, Oracle::new())]),
            began: Vec::new(),
            serving: 0,
            prepared: None,
        }
    }

    /// The first cluster that begins has this oracle.
    pub fn beginning_with(oracle: Oracle) -> Oracles {
        Oracles {
            prepared: Some(oracle),
            ..Oracles::new()
        }
    }

    /// That of this cluster.
    pub fn of(&mut self, cluster: u64) -> &mut Oracle {
        if !self.clusters.contains_key(&cluster) {
            let oracle = match self.prepared.take() {
                Some(oracle) => oracle,
                None => Oracle::new(),
            };
            self.clusters.insert(cluster, oracle);
            self.began.push(cluster);
        }
        self.clusters.get_mut(&cluster).expect("it was looked for")
    }

    /// A member of this cluster has published these members.
    pub fn publishes(&mut self, cluster: u64, members: &Members) {
        if self.serving == cluster || members.members.is_empty() || !members.is_formed() {
            return;
        }
        let formed_by_itself = members
            .members
            .values()
            .all(|member| member.added_index == 1);
        assert!(
            self.serving == 0 || formed_by_itself,
            "a second cluster has formed of several members: {members:?}"
        );
        if self.serving == 0 {
            self.serving = cluster;
        }
    }

    /// Clients are to be served by this cluster.
    pub fn serves(&self, cluster: u64) -> bool {
        self.serving != 0 && self.serving == cluster
    }

    /// Some cluster has formed.
    pub fn has_formed(&self) -> bool {
        self.serving != 0
    }

    /// The cluster that has formed, or else the one that began last.
    fn main(&self) -> u64 {
        match self.serving {
            0 => self.began.last().copied().unwrap_or(0),
            serving => serving,
        }
    }
}

impl Deref for Oracles {
    type Target = Oracle;

    /// Of the cluster that has formed, or else of the one that began last.
    fn deref(&self) -> &Oracle {
        &self.clusters[&self.main()]
    }
}

impl DerefMut for Oracles {
    fn deref_mut(&mut self) -> &mut Oracle {
        let main = self.main();
        self.of(main)
    }
}
