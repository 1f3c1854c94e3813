//! What a member knows of itself and of the other members.

use super::claims::{Claims, Receiver};
use crate::command::version::VERSION;
use crate::members::{Member, Members, fingerprint};
use crate::peer_url::PeerUrl;

/// What a member knows of itself and of the other members, as of one applied index.
#[derive(Debug, Clone)]
pub struct View {
    /// The id of this member.
    pub me: u64,
    /// The incarnation of this member's data directory.
    pub incarnation: u64,
    /// The random number of this start of the process.
    pub run: u64,
    /// The peer URL of this member.
    pub url: PeerUrl,
    /// Whether `url` was given by this member's options. Otherwise it is that of the last start until the table says the
    /// same, and follows the table from then on.
    pub url_given: bool,
    /// The cluster id, or 0 while this member is empty.
    pub cluster: u64,
    /// The applied table. Empty while this member is empty.
    pub members: Members,
    /// The index of the entry that bound this member, or 0 while this member is empty. Kept after a removal, because
    /// the removed member still has to say who it is.
    pub bound_index: u64,
}

impl View {
    /// The view after the members table has changed.
    pub fn next(&self, cluster: u64, members: &Members) -> View {
        let own = members.members.get(&self.me);
        let own = own.filter(|own| own.incarnation == self.incarnation);
        View {
            url: self.next_url(own).clone(),
            cluster,
            members: members.clone(),
            bound_index: own.map_or(self.bound_index, |own| own.bound_index),
            ..self.clone()
        }
    }

    /// The peer URL of this member when `own` is its row. The row counts once the table has said where this member is.
    /// Before that, the table is older than the start: it is a snapshot, and the log behind it, whose end may not be
    /// committed yet. If a member named the URL of such a row, nobody would reach the member to commit its move.
    fn next_url<'a>(&'a self, own: Option<&'a Member>) -> &'a PeerUrl {
        let before = self.members.members.get(&self.me);
        let in_step = before.is_some_and(|before| before.url == self.url);
        own.filter(|_| in_step && !self.url_given)
            .map_or(&self.url, |own| &own.url)
    }

    /// The peer URL that the table, or the list from which the cluster forms, has for this id.
    pub fn place_of(&self, id: u64) -> Option<&PeerUrl> {
        let row = self.members.members.get(&id).map(|row| &row.url);
        row.or_else(|| self.members.forming.get(&id))
    }

    /// Whether this member has no table yet, and so no power.
    pub fn is_empty(&self) -> bool {
        self.members.members.is_empty()
    }

    /// Whether an operator has added this id and no data directory is bound to it.
    pub fn is_open(&self, id: u64) -> bool {
        let row = self.members.members.get(&id);
        row.is_some_and(|row| row.incarnation == 0)
    }

    /// The claims with which this member dials `to` at `url`. `whole`: the claims are those of this member also if `to`
    /// is open here.
    ///
    /// An open id may have any URL, even that of a server that is no raftkvd. So nothing that proves membership is sent
    /// there before the process at the URL has answered and is bound: the claims are those of an empty member. An empty
    /// process answers them with its fingerprint, as it answers every process that does not know its incarnation.
    pub fn claims_to_dial(&self, to: u64, url: &PeerUrl, whole: bool) -> Claims {
        if whole || !self.is_open(to) {
            return self.claims(to, Some(url));
        }
        // The hash can't be reversed. It is the same for all connections of this process, so they count as those of one run.
        let alias = fingerprint(self.run).max(1);
        Claims {
            cluster: 0,
            incarnation: alias,
            bound_index: 0,
            run: alias,
            receiver: None,
            ..self.claims(to, Some(url))
        }
    }

    /// The claims of this member towards `to`. `url` is where this member dials that peer, or `None` if the peer
    /// dialled this member.
    pub fn claims(&self, to: u64, url: Option<&PeerUrl>) -> Claims {
        let added = self.members.members.get(&to);
        let row = added.filter(|row| row.incarnation != 0);
        let is_open_here = |row: &Member| row.incarnation == 0 && url == Some(&row.url);
        Claims {
            cluster: self.cluster,
            from: self.me,
            to,
            incarnation: self.incarnation,
            bound_index: self.bound_index,
            run: self.run,
            url: self.url.clone(),
            url_given: self.url_given,
            version: VERSION,
            receiver: row.map(|row| Receiver {
                incarnation: row.incarnation,
                formed: self.members.is_formed(),
                same_url: url == Some(&row.url),
            }),
            awaits: added.is_some_and(is_open_here) && self.members.is_formed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{url, view};
    use super::*;

    #[test]
    fn a_url_follows_the_table_once_the_table_has_said_the_same() {
        let at = |number: u64| {
            let mut members = view().members;
            members.members.get_mut(&1).unwrap().url = url(number);
            members
        };
        // It has moved from 1 to 7, and the log is not applied that far.
        let start = View {
            url: url(7),
            url_given: false,
            members: Members::default(),
            ..view()
        };
        let found = start.next(5, &at(1));
        assert_eq!(found.url, url(7), "an older row");
        let applied = found.next(5, &at(7));
        let moved = applied.next(5, &at(8));
        assert_eq!((applied.url, moved.url), (url(7), url(8)));
    }

    #[test]
    fn the_url_of_an_open_id_is_dialled_with_the_claims_of_an_empty_member() {
        let said = view().claims_to_dial(4, &url(4), false);
        let own = view();
        assert_eq!((said.from, said.to, &said.url), (1, 4, &own.url));
        assert_eq!((said.cluster, said.bound_index), (0, 0));
        assert_eq!(said.receiver, None);
        let secrets = [own.incarnation, own.run, own.cluster];
        assert!(
            ![said.incarnation, said.run]
                .iter()
                .any(|said| secrets.contains(said))
        );
        // The claims are whole if the caller asks for that, and for every other id.
        let whole = view().claims(4, Some(&url(4)));
        assert_eq!(view().claims_to_dial(4, &url(4), true), whole);
        let whole = view().claims(2, Some(&url(2)));
        assert_eq!(view().claims_to_dial(2, &url(2), false), whole);
    }

    #[test]
    fn a_claim_says_who_the_receiver_is_to_the_claimant_only_where_it_dialled() {
        let known = Some(Receiver {
            incarnation: 20,
            formed: true,
            same_url: true,
        });
        let elsewhere = known.map(|receiver| Receiver {
            same_url: false,
            ..receiver
        });
        assert_eq!(view().claims(2, Some(&url(2))).receiver, known);
        assert_eq!(view().claims(2, None).receiver, elsewhere);
        assert_eq!(view().claims(2, Some(&url(8))).receiver, elsewhere);
        assert_eq!(view().claims(4, Some(&url(4))).receiver, None, "open");
    }

    #[test]
    fn a_claim_awaits_only_an_open_member_of_a_formed_cluster_where_it_was_dialled() {
        assert!(view().claims(4, Some(&url(4))).awaits);
        assert!(!view().claims(4, Some(&url(8))).awaits);
        assert!(!view().claims(4, None).awaits);
        assert!(!view().claims(2, Some(&url(2))).awaits, "bound");
        let mut forming = view();
        forming.members.forming.insert(1, url(1));
        assert!(!forming.claims(4, Some(&url(4))).awaits);
    }
}
