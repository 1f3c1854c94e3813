//! A disk lost while the cluster forms: what the operator does about it.
//!
//! Nothing was ever served then. The operator stops all first members, and looks into what is left of their logs. If none
//! says that the cluster has formed, all are emptied and started again. If one does, nothing is emptied: the others form
//! the cluster, and then the member that lost its disk is repaired as any other.

use crate::disk::FakeDisk;
use crate::lives::Memory;
use crate::ports::changes;
use crate::process::DATA_DIR;
use crate::runs::quiet;
use crate::world::{Event, MILLISECOND, World};
use raftkvd::command::Kind;
use raftkvd::members::Members;
use raftkvd::storage::{DataDir, Start, StorageError, WalOptions};
use std::sync::Arc;

impl World {
    /// The first members of a cluster of several.
    fn first_members(&self) -> Vec<usize> {
        let is_first = |place: &usize| {
            let machine = &self.machines[*place];
            machine.first_of.len() > 1 && !machine.retired
        };
        (0..self.machines.len()).filter(is_first).collect()
    }

    /// Helps a cluster that can't form, if a disk was lost. True: something was done.
    pub fn rescue_formation(&mut self) -> bool {
        if self.formed_at.is_some() || self.operator.leaves_alone {
            return false;
        }
        let places = self.first_members();
        let is_lost = |place: &usize| self.machines[*place].memory != Memory::Intact;
        if !places.iter().any(is_lost) {
            return false;
        }
        for place in &places {
            self.kill(self.target(*place));
        }
        let has_formed = places.iter().any(|place| {
            let machine = &self.machines[*place];
            has_formed(&machine.disk, machine.id)
        });
        if has_formed {
            self.count("lost disks while a cluster had formed that nobody knew of");
            self.tell(|| {
                "operator: one log says that the cluster has formed, nothing is emptied".to_owned()
            });
            self.operator.leaves_alone = true;
        } else {
            assert!(
                !self.oracle.has_formed(),
                "the cluster has formed, and none of the logs that are left says so"
            );
            self.count("clusters emptied before they had formed");
            self.tell(|| {
                "operator: no log says that the cluster has formed, all are emptied".to_owned()
            });
            for place in &places {
                self.empty(*place);
            }
            self.lost = 0;
        }
        for place in places {
            let delay = self.operator.random.below(500 * MILLISECOND);
            self.after(delay, Event::Start(place));
        }
        true
    }
}

/// The log of this directory, committed or not, or its snapshot, says that the cluster has formed.
fn has_formed(disk: &FakeDisk, id: u64) -> bool {
    // Looking changes nothing.
    let disk = disk.after_kill();
    disk.set_free(None);
    let start = Start::Existing("nothing is there".to_owned());
    let options = WalOptions::default();
    let dir = DataDir::new(Arc::new(disk), DATA_DIR);
    let opened = match dir.open_with(id, start, options, &quiet()) {
        Ok(opened) => opened,
        Err(StorageError::NoMember(_)) => return false,
        Err(error) => panic!("the directory of member {id}: {error}"),
    };
    let snapshot = opened.recovered.snapshot.as_ref();
    let in_snapshot = snapshot.is_some_and(|meta| {
        Members::from_state(&meta.state).is_ok_and(|members| members.is_formed())
    });
    let entries = opened.recovered.entries.iter();
    let mut commands = entries.flat_map(changes);
    in_snapshot || commands.any(|command| command.kind == Kind::Formed)
}
