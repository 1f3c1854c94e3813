//! Members that are removed and added while other things fail, and what the answers to that promise.
//!
//! 204 to `POST /<id>`: the member that answered has it among its members. 204 to `DELETE /<id>`: a member that serves a
//! linearizable read afterwards has it no more, and the process of the removed member ends with 0, at once or when it is
//! started the next time, and with 7 from then on.

use super::nemesis::{Fault, IDS, IMPATIENCE, Nemesis};
use crate::harness::PATIENCE;
use crate::http::Connection;
use crate::process::Status;
use std::thread;
use std::time::{Duration, Instant};

/// If a change of members has no outcome after this time, the nemesis ends all faults.
const CHANGE_PATIENCE: Duration = Duration::from_secs(6);

impl Nemesis<'_> {
    /// Adds the one that is missing, or removes one.
    pub fn change_members(&mut self) {
        match IDS.into_iter().find(|id| !self.members.contains(id)) {
            Some(id) => self.add_member(id),
            None => self.remove_member(),
        }
    }

    /// Adds a member whose data directory is not there, and starts it.
    pub fn add_member(&mut self, id: u64) {
        let url = self.cluster.nodes[&id].url();
        self.say("add member", format!("node {id}"));
        let via = self.until_decided("POST", id, url.as_bytes());
        if let Ok(status) = self.status_of(via) {
            let said = format!("node {via} says {status:?}");
            assert!(status.member(id).is_some(), "POST /{id} was 204, {said}");
            self.keep("204 to POST: it is a member");
        }
        self.let_it_join(id);
        self.cluster.node(id).start();
        self.members.insert(id);
    }

    fn remove_member(&mut self) {
        let mut candidates = self.running();
        // A member that has no table of members yet can't prove that it belongs to the cluster. It would not learn of its
        // removal, and would go on waiting to be added.
        candidates.retain(|id| {
            let status = self.status_of(*id);
            status.is_ok_and(|status| !status.members.is_empty())
        });
        let down = self.faults.iter().filter_map(|fault| match fault {
            Fault::Down(id) => Some(*id),
            _ => None,
        });
        candidates.extend(down);
        if candidates.is_empty() {
            return;
        }
        let id = self.random.pick(&candidates);
        let was_down = !self.cluster.nodes[&id].has_process();
        let how = if was_down { ", which is down" } else { "" };
        self.say("remove member", format!("node {id}{how}"));
        self.ask_to_remove(id);
        self.end_all();
        self.see_it_leave(id);
        self.keep(match was_down {
            true => "exit 0: removed while it was down",
            false => "exit 0: removed",
        });
        self.cluster.node(id).start_expecting_exit(7);
        self.keep("exit 7: started after its removal");
        self.cluster.node(id).wipe();
    }

    /// `DELETE /<id>` through others, until it is made; then no member that is up to date has it.
    pub fn ask_to_remove(&mut self, id: u64) {
        self.until_decided("DELETE", id, b"");
        self.members.remove(&id);
        self.copies.remove(&id);
        self.see_it_gone(id);
    }

    /// The process of a removed member ends, since it hears of its removal.
    pub fn see_it_leave(&mut self, id: u64) {
        let node = self.cluster.node(id);
        let code = node.exit_code(PATIENCE);
        assert_eq!(code, Some(0), "removed; it said:\n{}", node.last_log());
    }

    fn see_it_gone(&mut self, id: u64) {
        let running = self.running();
        if running.is_empty() {
            return;
        }
        let asked = self.random.pick(&running);
        let address = self.cluster.address(asked);
        let read = Connection::impatient(address, IMPATIENCE)
            .and_then(|mut c| c.send("GET", "/-/kv?limit=1", &[], b""));
        // Behind a linearizable read it knows all that was answered before.
        let is_current = read.is_ok_and(|response| response.status == 200);
        if let (true, Ok(status)) = (is_current, self.status_of(asked)) {
            let said = format!("node {asked} says {status:?}");
            assert!(status.member(id).is_none(), "DELETE /{id} was 204, {said}");
            self.keep("204 to DELETE: it is no member");
        }
    }

    fn status_of(&self, id: u64) -> Result<Status, String> {
        let status = Status::of(self.cluster.address(id), IMPATIENCE)?;
        self.clients.leaders.note(&status);
        Ok(status)
    }

    /// Sends a change through members until one of them knows that it is made, and gives that one.
    fn until_decided(&mut self, method: &str, id: u64, body: &[u8]) -> u64 {
        let begin = Instant::now();
        let (mut last, mut in_doubt) = (String::new(), false);
        loop {
            let waited = begin.elapsed();
            assert!(
                waited < CHANGE_PATIENCE + PATIENCE,
                "{method} /{id}: {last}"
            );
            if waited > CHANGE_PATIENCE {
                self.end_all();
            }
            let via = self.running();
            if via.is_empty() {
                thread::park_timeout(Duration::from_millis(50));
                continue;
            }
            let via = self.random.pick(&via);
            let answer = Connection::impatient(self.cluster.address(via), IMPATIENCE)
                .and_then(|mut c| c.send(method, &format!("/{id}"), &[], body));
            match answer {
                Ok(response) if response.status == 204 => return via,
                // A removal that was made at an earlier attempt.
                Ok(response) if response.status == 404 && in_doubt => return via,
                Ok(response) => {
                    let retry = [409, 503, 504].contains(&response.status);
                    assert!(retry, "{method} /{id} through {via}: {response:?}");
                    in_doubt |= response.status == 504;
                    last = format!("{response:?}");
                }
                Err(error) => {
                    in_doubt = true;
                    last = error.to_string();
                }
            }
            thread::park_timeout(Duration::from_millis(50));
        }
    }
}
