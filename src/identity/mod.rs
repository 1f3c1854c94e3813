//! Who is who: what the ends of a connection claim about themselves, whether the other end believes it, and what a member
//! makes of being refused.
//!
//! A member is (id, incarnation), and the replicated table of the members says which incarnation an id is bound to, by
//! the entry at which index. So a claim is (cluster, id, incarnation, index of the binding), and [`judge`] compares it
//! with the own applied table. Nothing that a claim says is kept over a restart.
//!
//! Tables differ in age. A member that was cut off for long may know none of those that now lead its cluster, and has to
//! vote for them. So a claim whose binding lies above the own applied index is not refused: it can't be judged yet, and its
//! messages pass until it can. And a refusal counts only if it comes from a table that is at least as new as the binding
//! of the member that it refuses.
//!
//! [`verdict`] is the whole of what a member does about evidence against itself: a pure function, one row a case.

use crate::command::version::VERSION;
use crate::members::{Members, fingerprint};
use crate::mutants::{Mutant, is_planted};
use crate::peer_url::PeerUrl;
use std::fmt;

/// What an end of a connection says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Its cluster, 0: it is empty and belongs to none.
    pub cluster: u64,
    /// Its member id.
    pub from: u64,
    /// The id it means to talk to.
    pub to: u64,
    /// The incarnation of its data directory.
    pub incarnation: u64,
    /// The index of the entry that bound it, in its own table; 0: no table binds it.
    pub bound_index: u64,
    /// A random number of this start of its process.
    pub run: u64,
    /// Where it is reached.
    pub url: PeerUrl,
    /// It was told so itself. Otherwise that is where its table says, which may be an old one, and no word of a move.
    pub url_given: bool,
    /// The command version that its build knows.
    pub version: u64,
    /// What its table says of the receiver, if it has a bound one.
    pub receiver: Option<Receiver>,
}

/// What a claimant's table says of the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receiver {
    /// The incarnation that is bound, never 0.
    pub incarnation: u64,
    /// The claimant's cluster has formed.
    pub formed: bool,
    /// It is bound at the very place where the claimant dialled.
    pub same_url: bool,
}

/// What a member answers to claims that it does not refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Its own claims: to another member.
    Claims(Claims),
    /// To one that waits to be let in, and to everybody who does not know an empty member's incarnation.
    Greeting(Greeting),
}

/// What a member says to somebody who may be a stranger: nothing with which a stranger could pass for a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// Its member id.
    pub from: u64,
    /// Its state.
    pub state: State,
}

/// The state of a member that greets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It is empty. The fingerprint of its incarnation: it tells the incarnation itself only where it dials, so one that
    /// comes with that incarnation is the one that was dialled.
    Empty(u64),
    /// It has a table. Its leader, if it knows one that it can name.
    Member(Option<(u64, PeerUrl)>),
}

impl Answer {
    /// The id of the member that answers.
    pub fn from(&self) -> u64 {
        match self {
            Answer::Claims(claims) => claims.from,
            Answer::Greeting(greeting) => greeting.from,
        }
    }

    /// No table binds the member that answers.
    pub fn is_empty(&self) -> bool {
        match self {
            Answer::Claims(claims) => claims.bound_index == 0,
            Answer::Greeting(greeting) => matches!(greeting.state, State::Empty(_)),
        }
    }
}

/// What a member knows of itself and of the others, as of some index.
#[derive(Debug, Clone)]
pub struct View {
    /// This member.
    pub me: u64,
    /// The incarnation of its data directory.
    pub incarnation: u64,
    /// The random number of this start of the process.
    pub run: u64,
    /// Where it is reached.
    pub url: PeerUrl,
    /// It was told so itself. Otherwise that is where the table says.
    pub url_given: bool,
    /// Its cluster, 0 while it is empty.
    pub cluster: u64,
    /// The applied table. Empty while this member is.
    pub members: Members,
    /// The index of the entry that bound this member, 0 while it is empty. Kept when it is removed: it still is who it
    /// was.
    pub bound_index: u64,
}

impl View {
    /// The view that follows this one.
    pub fn next(&self, cluster: u64, members: &Members) -> View {
        let own = members.members.get(&self.me);
        let own = own.filter(|own| own.incarnation == self.incarnation);
        let listed = own.filter(|_| !self.url_given);
        View {
            url: listed.map_or(&self.url, |own| &own.url).clone(),
            cluster,
            members: members.clone(),
            bound_index: own.map_or(self.bound_index, |own| own.bound_index),
            ..self.clone()
        }
    }

    /// It has no table yet, and so no power.
    pub fn is_empty(&self) -> bool {
        self.members.members.is_empty()
    }

    /// What this member claims towards `to`, which it dials at `url` (`None`: it was dialled).
    pub fn claims(&self, to: u64, url: Option<&PeerUrl>) -> Claims {
        let row = self.members.members.get(&to);
        let row = row.filter(|row| row.incarnation != 0);
        Claims {
            cluster: self.cluster,
            from: self.me,
            to,
            incarnation: self.incarnation,
            bound_index: self.bound_index,
            run: self.run,
            url: self.url.clone(),
            url_given: self.url_given || is_planted(Mutant::PlaceNotGiven),
            version: VERSION,
            receiver: row.map(|row| Receiver {
                incarnation: row.incarnation,
                formed: self.members.is_formed(),
                same_url: url == Some(&row.url),
            }),
        }
    }
}

impl View {
    /// The answer to claims with this standing. `leader`: who leads, 0 if that is not known.
    pub fn answer(&self, claims: &Claims, standing: Standing, leader: u64) -> Answer {
        if standing != Standing::Waiting {
            let mut answer = self.claims(claims.from, None);
            // It need not learn whose its id is, if that is another's.
            answer
                .receiver
                .take_if(|receiver| receiver.incarnation != claims.incarnation);
            return Answer::Claims(answer);
        }
        let leader = self.members.members.get_key_value(&leader);
        let state = match self.is_empty() {
            true => State::Empty(fingerprint(self.incarnation)),
            false => State::Member(leader.map(|(id, row)| (*id, row.url.clone()))),
        };
        Answer::Greeting(Greeting {
            from: self.me,
            state,
        })
    }
}

/// What may pass on a connection whose ends believe each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The applied table binds this incarnation to this id.
    Bound,
    /// It can't be judged yet: the binding that it names lies above the applied index. Messages pass both ways, and its
    /// word ends no process.
    Ahead,
    /// It has no power yet: it is to be added or bound. The connection stays, and no message passes.
    Waiting,
}

/// Why a claim is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// This id was removed by the entry at this index.
    Removed {
        /// Index of the removing entry.
        removed_index: u64,
    },
    /// No member has this id.
    NotAMember,
    /// The id is bound to another incarnation.
    OtherIncarnation {
        /// Index of the entry that bound it.
        bound_index: u64,
        /// It is bound at the very place where the claimant says that it is.
        same_url: bool,
    },
    /// The id was added at another place, and whoever answers there will be bound.
    OtherPlace,
    /// They belong to different clusters.
    WrongCluster {
        /// There, too, the claimant's id is bound at the claimant's place, to another incarnation.
        other_life: bool,
    },
    /// The connection led to another member than it was meant for.
    WrongReceiver {
        /// The id that answered.
        actual: u64,
    },
    /// Another process runs with this incarnation.
    Twice,
    /// It is a voter, and claims that no table binds it: what it has acknowledged since it was let in is lost.
    StateLost,
}

impl fmt::Display for Reason {
    /// As what is wrong with the claimant.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Removed { removed_index } => {
                write!(f, "it was removed at index {removed_index}")
            }
            Reason::NotAMember => write!(f, "no member has its id"),
            Reason::OtherIncarnation { bound_index, .. } => write!(
                f,
                "its id is bound to another data directory, at index {bound_index}"
            ),
            Reason::OtherPlace => write!(f, "its id was added at another peer URL"),
            Reason::WrongCluster { other_life: false } => write!(f, "it is of another cluster"),
            Reason::WrongCluster { other_life: true } => write!(
                f,
                "it is of another cluster, and here its id and peer URL are those of another data directory"
            ),
            Reason::WrongReceiver { actual } => {
                write!(
                    f,
                    "at its address member {actual} answers; two addresses were mixed up"
                )
            }
            Reason::Twice => write!(f, "another process runs on a copy of its data directory"),
            Reason::StateLost => write!(
                f,
                "it is a voter, and its data directory is from before it was let in"
            ),
        }
    }
}

/// Judges a peer's claims with this view, of which everything up to `applied` is applied.
pub fn judge(claims: &Claims, view: &View, applied: u64) -> Result<Standing, Reason> {
    if claims.to != view.me {
        return Err(Reason::WrongReceiver { actual: view.me });
    }
    let row = view.members.members.get(&claims.from);
    let same_url = row.is_some_and(|row| row.url == claims.url);
    if view.cluster != 0 && claims.cluster != 0 && view.cluster != claims.cluster {
        let bound = row.is_some_and(|row| row.incarnation != 0);
        let other = row.is_some_and(|row| row.incarnation != claims.incarnation);
        return Err(Reason::WrongCluster {
            other_life: bound && other && same_url,
        });
    }
    if let Some(row) = row.filter(|row| row.incarnation == claims.incarnation) {
        // A learner becomes a voter when it has stored its first state, so a voter that is empty has lost that. One that has
        // just become a voter may have made these claims before, and makes others now.
        let is_lost = claims.bound_index == 0 && !row.learner;
        return match is_lost && !is_planted(Mutant::PutBackLedOn) {
            true => Err(Reason::StateLost),
            false => Ok(Standing::Bound),
        };
    }
    // Members with a newer table know this one's incarnation. The cluster id, which every client may know, does not suffice.
    let knows_me = claims
        .receiver
        .is_some_and(|receiver| receiver.incarnation == view.incarnation);
    if claims.bound_index > applied && knows_me {
        return Ok(match is_planted(Mutant::BindingAhead) {
            true => Standing::Bound,
            false => Standing::Ahead,
        });
    }
    if view.is_empty() {
        return Ok(Standing::Waiting);
    }
    match row {
        Some(row) if row.incarnation == 0 && claims.bound_index > 0 => {
            // Of an earlier life of the id.
            Err(Reason::Removed {
                removed_index: row.added_index,
            })
        }
        Some(row) if row.incarnation == 0 => match same_url || is_planted(Mutant::BoundAnywhere) {
            true => Ok(Standing::Waiting),
            false => Err(Reason::OtherPlace),
        },
        Some(row) => Err(Reason::OtherIncarnation {
            bound_index: row.bound_index,
            same_url,
        }),
        None => judge_stranger(claims, view),
    }
}

/// Judges what a peer has answered at this URL. `come`: the claims with which it has come by itself and was let in. It may
/// have said there that it was bound since it has answered. A greeting proves nothing, so what greets is only taken for one
/// that has come if that one says to be there.
pub fn judge_answer<'a>(
    answer: &Answer,
    url: &PeerUrl,
    come: impl IntoIterator<Item = &'a Claims>,
    view: &View,
    applied: u64,
) -> Result<Standing, Reason> {
    let mut come = come.into_iter();
    let claims = match answer {
        Answer::Claims(claims) => {
            let is_later = |other: &&Claims| {
                other.incarnation == claims.incarnation && other.bound_index > claims.bound_index
            };
            Some(come.find(is_later).unwrap_or(claims))
        }
        Answer::Greeting(greeting) => match greeting.state {
            State::Member(_) => come.find(|claims| claims.url == *url),
            State::Empty(print) => {
                let row = view.members.members.get(&greeting.from);
                if let Some(row) = row.filter(|row| row.incarnation != 0)
                    && fingerprint(row.incarnation) != print
                {
                    return Err(Reason::OtherIncarnation {
                        bound_index: row.bound_index,
                        same_url: false,
                    });
                }
                // While it is empty it lets only those in that name it.
                let has_table = |claims: &&Claims| claims.bound_index > 0;
                come.filter(has_table)
                    .find(|claims| fingerprint(claims.incarnation) == print && claims.url == *url)
            }
        },
    };
    match claims.map_or(Ok(Standing::Waiting), |claims| judge(claims, view, applied)) {
        // It may have been let in since it has answered. If it was not, it takes nothing in which it is a voter.
        Err(Reason::StateLost) => Ok(Standing::Bound),
        judged => judged,
    }
}

/// Judges the claims of an id that the table does not have.
fn judge_stranger(claims: &Claims, view: &View) -> Result<Standing, Reason> {
    if let Some(url) = view.members.forming.get(&claims.from)
        && claims.bound_index == 0
    {
        return match *url == claims.url {
            true => Ok(Standing::Waiting),
            false => Err(Reason::OtherPlace),
        };
    }
    match view.members.removed_at(claims.from, claims.bound_index) {
        // While its removal is not settled it must not go home: its vote may be needed elsewhere.
        Some(removed_index) if !view.members.is_leaving(claims.from) => {
            Err(Reason::Removed { removed_index })
        }
        _ => Err(Reason::NotAMember),
    }
}

/// Why a peer refuses this member, in the peer's own view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The peer that refuses.
    pub by: u64,
    /// Up to where its table is applied.
    pub applied: u64,
    /// Its cluster has formed.
    pub formed: bool,
    /// It was dialled where this member expects it. Otherwise it came by itself, and may be anybody.
    pub dialled: bool,
    /// Its reason.
    pub reason: Reason,
}

impl Refusal {
    /// What a claim itself says against the member that it was made to: the claimant's table binds this id, at this
    /// place, to another incarnation. It does not say with which index.
    pub fn of_claim(claims: &Claims, view: &View) -> Option<Refusal> {
        let receiver = claims.receiver?;
        let other_cluster = view.cluster != 0 && claims.cluster != view.cluster;
        let is_me = receiver.incarnation == view.incarnation;
        if claims.to != view.me || is_me || !receiver.same_url {
            return None;
        }
        Some(Refusal {
            by: claims.from,
            applied: 0,
            formed: receiver.formed,
            dialled: false,
            reason: match other_cluster {
                true => Reason::WrongCluster { other_life: true },
                false => Reason::OtherIncarnation {
                    bound_index: claims.bound_index,
                    same_url: true,
                },
            },
        })
    }
}

/// The life and state of the member that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// It has no table: it was never let in, or its directory was emptied.
    Empty,
    /// It belongs to a cluster that has not formed, as far as it knows.
    Forming {
        /// Index of the entry that bound it.
        bound_index: u64,
    },
    /// It is, and always was, the only member of a cluster of one.
    Sole,
    /// It belongs to a cluster that has formed, by the binding at this index.
    Member {
        /// Index of the entry that bound it.
        bound_index: u64,
    },
}

/// What a member does about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing follows from it.
    GoOn,
    /// It waits to be added, and says so once.
    Wait,
    /// It goes on, and a person should look.
    Warn,
    /// It answers 503 `other-life` to everything for as long as this is heard.
    RefuseService,
    /// It ends with 5: its directory is not the one that its id is bound to.
    EndAsReplaced,
    /// The same, if that goes on to be said and nobody else lets it in: the table that says so may be an old one.
    EndAsReplacedUnlessLetIn,
    /// It ends with 5: its directory is from before it was let in, and it has voted since.
    EndAsStateLost,
    /// It ends with 5: another process runs with its incarnation.
    EndAsTwice,
    /// It ends with 0, and no later start succeeds: it was removed by the entry at this index.
    EndAsRemoved {
        /// Index of the removing entry, or of one behind it.
        index: u64,
    },
}

/// What a member does about being refused.
pub fn verdict(own: Own, refusal: &Refusal) -> Verdict {
    use Reason::*;
    // Whoever came by itself may be anybody: it ends no process.
    let known = refusal.dialled;
    match (own, refusal.reason) {
        (_, Twice) if known => Verdict::EndAsTwice,
        (_, Twice) => Verdict::Warn,
        (_, WrongReceiver { .. }) => Verdict::GoOn,

        (Own::Empty, StateLost) if known && refusal.formed => Verdict::EndAsStateLost,
        (Own::Empty, StateLost) => Verdict::Warn,
        // It was let in after it had made the claims that were refused.
        (_, StateLost) => Verdict::GoOn,

        (Own::Empty, OtherIncarnation { same_url: true, .. }) => match known && refusal.formed {
            true => Verdict::EndAsReplacedUnlessLetIn,
            false => Verdict::Warn,
        },
        (Own::Empty, NotAMember | Removed { .. }) => Verdict::Wait,
        (Own::Empty, OtherIncarnation { .. } | OtherPlace | WrongCluster { .. }) => Verdict::Warn,

        (Own::Forming { .. }, WrongCluster { other_life: true }) if known && refusal.formed => {
            Verdict::EndAsReplaced
        }
        // It was away when its cluster had formed, and may be a member no more.
        (Own::Forming { bound_index }, Removed { .. } | OtherIncarnation { .. })
            if refusal.formed =>
        {
            verdict(Own::Member { bound_index }, refusal)
        }
        (Own::Forming { .. }, _) => Verdict::Warn,

        (Own::Sole, WrongCluster { other_life: true }) if refusal.formed => Verdict::RefuseService,
        (Own::Sole, _) => Verdict::Warn,

        (Own::Member { .. }, _) if !known => Verdict::GoOn,
        // Its table may be older than this member's binding.
        (Own::Member { bound_index }, _) if refusal.applied < bound_index => Verdict::GoOn,
        (Own::Member { bound_index }, Removed { removed_index }) if removed_index > bound_index => {
            Verdict::EndAsRemoved {
                index: removed_index,
            }
        }
        (
            Own::Member { bound_index },
            OtherIncarnation {
                bound_index: later, ..
            },
        ) if later > bound_index => Verdict::EndAsRemoved { index: later },
        // While its removal is not settled, for a moment, or a contradiction.
        (Own::Member { .. }, NotAMember) => Verdict::GoOn,
        (Own::Member { .. }, _) => Verdict::Warn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Kind;
    use crate::members::{Member, Unsettled};

    const CLUSTER: u64 = 0xc1;

    fn url(id: u64) -> PeerUrl {
        format!("http://a:{id}").parse().unwrap()
    }

    /// Member 1 of three first ones, who knows 4 to be added by hand at 40, 5 removed at 50, and 9 removed at 60, which is
    /// not settled. Applied up to 60.
    fn view() -> View {
        let mut members = Members::of((1..=3).map(|id| (id, url(id), 10 * id)));
        let open = Member {
            url: url(4),
            learner: true,
            added_index: 40,
            incarnation: 0,
            bound_index: 0,
            description: Default::default(),
        };
        members.members.insert(4, open);
        members.removed.insert(5, 50);
        members.removed.insert(9, 60);
        members.unsettled = Some(Unsettled {
            index: 60,
            kind: Kind::RemoveMember,
            member: 9,
        });
        View {
            me: 1,
            incarnation: 10,
            run: 1,
            url: url(1),
            url_given: true,
            cluster: CLUSTER,
            members,
            bound_index: 1,
        }
    }

    fn empty_view() -> View {
        View {
            cluster: 0,
            members: Members::default(),
            bound_index: 0,
            ..view()
        }
    }

    /// Of somebody who knows member 1.
    fn claims(from: u64, incarnation: u64, bound_index: u64) -> Claims {
        Claims {
            cluster: if bound_index == 0 { 0 } else { CLUSTER },
            from,
            to: 1,
            incarnation,
            bound_index,
            run: 1,
            url: url(from),
            url_given: true,
            version: VERSION,
            receiver: Some(Receiver {
                incarnation: 10,
                formed: true,
                same_url: true,
            }),
        }
    }

    fn judged(claims: Claims) -> Result<Standing, Reason> {
        judge(&claims, &view(), 60)
    }

    #[test]
    fn a_member_is_its_id_with_its_incarnation() {
        assert_eq!(judged(claims(2, 20, 1)), Ok(Standing::Bound));
        let moved = Claims {
            url: url(7),
            ..claims(2, 20, 1)
        };
        assert_eq!(judged(moved), Ok(Standing::Bound));
    }

    #[test]
    fn a_voter_that_is_empty_has_lost_its_state_and_a_learner_has_not_had_one() {
        let mut view = view();
        view.members.members.get_mut(&2).unwrap().learner = true;
        assert_eq!(judge(&claims(2, 20, 0), &view, 60), Ok(Standing::Bound));
        assert_eq!(judged(claims(2, 20, 0)), Err(Reason::StateLost));
        assert_eq!(judged(claims(2, 20, 1)), Ok(Standing::Bound));
        // What it has answered may be from before it was let in, and it has not come again yet.
        let before = Answer::Claims(claims(2, 20, 0));
        let answered = judge_answer(&before, &url(2), [], &self::view(), 60);
        assert_eq!(answered, Ok(Standing::Bound));
    }

    #[test]
    fn an_id_is_bound_at_the_place_that_was_added_for_it() {
        assert_eq!(judged(claims(4, 44, 0)), Ok(Standing::Waiting));
        let elsewhere = Claims {
            url: url(7),
            ..claims(4, 44, 0)
        };
        assert_eq!(judged(elsewhere), Err(Reason::OtherPlace));
    }

    #[test]
    fn each_reason_to_refuse() {
        let other = |same_url| Reason::OtherIncarnation {
            bound_index: 1,
            same_url,
        };
        let misdirected = Claims {
            to: 2,
            ..claims(3, 30, 1)
        };
        let elsewhere = Claims {
            url: url(7),
            ..claims(2, 21, 0)
        };
        let foreign = Claims {
            cluster: 9,
            ..claims(2, 21, 1)
        };
        let stranger = Claims {
            cluster: 9,
            url: url(7),
            ..claims(2, 21, 1)
        };
        for (claims, reason) in [
            (misdirected, Reason::WrongReceiver { actual: 1 }),
            (claims(2, 21, 0), other(true)),
            (claims(2, 21, 60), other(true)),
            (elsewhere, other(false)),
            (foreign, Reason::WrongCluster { other_life: true }),
            (stranger, Reason::WrongCluster { other_life: false }),
            (claims(5, 55, 1), Reason::Removed { removed_index: 50 }),
            (claims(5, 55, 0), Reason::Removed { removed_index: 50 }),
            (claims(4, 41, 3), Reason::Removed { removed_index: 40 }),
            // Its removal is not settled.
            (claims(9, 90, 1), Reason::NotAMember),
            (claims(6, 66, 0), Reason::NotAMember),
        ] {
            assert_eq!(judged(claims.clone()), Err(reason), "{claims:?}");
        }
    }

    #[test]
    fn a_member_whose_removal_is_forgotten_is_refused_as_removed() {
        let mut view = view();
        view.members.forgotten_index = 40;
        let removed = Reason::Removed { removed_index: 40 };
        assert_eq!(judge(&claims(6, 66, 39), &view, 60), Err(removed));
        // An empty directory never was a member.
        let empty = judge(&claims(6, 66, 0), &view, 60);
        assert_eq!(empty, Err(Reason::NotAMember));
    }

    #[test]
    fn a_binding_above_what_is_applied_can_not_be_judged_yet() {
        for later in [claims(6, 66, 61), claims(2, 21, 61), claims(5, 55, 70)] {
            assert_eq!(judged(later.clone()), Ok(Standing::Ahead), "{later:?}");
            assert!(judge(&later, &view(), 70).is_err());
        }
        // A stranger knows the cluster id at best.
        for incarnation in [None, Some(11)] {
            let receiver = incarnation.map(|incarnation| Receiver {
                incarnation,
                formed: true,
                same_url: true,
            });
            let stranger = Claims {
                receiver,
                ..claims(6, 66, 61)
            };
            assert_eq!(judged(stranger), Err(Reason::NotAMember));
        }
        let foreign = Claims {
            cluster: 9,
            ..claims(6, 66, 61)
        };
        let wrong = Reason::WrongCluster { other_life: false };
        assert_eq!(judged(foreign), Err(wrong));
    }

    #[test]
    fn an_empty_member_hears_those_that_know_it_and_waits_beside_all_others() {
        let to_empty = |claims: Claims| judge(&claims, &empty_view(), 0);
        assert_eq!(to_empty(claims(2, 20, 1)), Ok(Standing::Ahead));
        assert_eq!(to_empty(claims(2, 20, 0)), Ok(Standing::Waiting));
        for receiver in [None, claims(2, 20, 1).receiver] {
            let mut stranger = claims(2, 20, 1);
            stranger.receiver = receiver.map(|receiver| Receiver {
                incarnation: 11,
                ..receiver
            });
            assert_eq!(to_empty(stranger), Ok(Standing::Waiting));
        }
        let pinned = View {
            cluster: 9,
            ..empty_view()
        };
        let wrong = Reason::WrongCluster { other_life: false };
        assert_eq!(judge(&claims(2, 20, 1), &pinned, 0), Err(wrong));
    }

    #[test]
    fn an_answer_tells_who_somebody_is_only_to_those_that_know_it() {
        let answer = |view: &View, claims: &Claims| {
            let standing = judge(claims, view, 60).unwrap();
            view.answer(claims, standing, 2)
        };
        let greeting = |state| Answer::Greeting(Greeting { from: 1, state });
        let open = answer(&view(), &claims(4, 44, 0));
        assert_eq!(open, greeting(State::Member(Some((2, url(2))))));
        let stranger = Claims {
            receiver: None,
            ..claims(2, 20, 1)
        };
        let empty = answer(&empty_view(), &stranger);
        assert_eq!(empty, greeting(State::Empty(fingerprint(10))));
        let own = |claims: &Claims| Answer::Claims(view().claims(claims.from, None));
        let bound = claims(2, 20, 1);
        assert_eq!(answer(&view(), &bound), own(&bound));
        let ahead = claims(2, 21, 61);
        match answer(&view(), &ahead) {
            Answer::Claims(said) => assert_eq!((said.incarnation, said.receiver), (10, None)),
            greeting => panic!("{greeting:?}"),
        }
    }

    #[test]
    fn what_has_greeted_is_judged_by_what_it_said_when_it_came() {
        let greets = |from, state| Answer::Greeting(Greeting { from, state });
        let empty = |from, incarnation| greets(from, State::Empty(fingerprint(incarnation)));
        let judged = |answer: &Answer, come: &[Claims]| {
            judge_answer(answer, &url(answer.from()), come, &view(), 60)
        };
        assert_eq!(judged(&empty(2, 20), &[]), Ok(Standing::Waiting));
        assert_eq!(
            judged(&empty(2, 20), &[claims(2, 20, 0)]),
            Ok(Standing::Waiting)
        );
        let come = [claims(2, 20, 1)];
        assert_eq!(judged(&empty(2, 20), &come), Ok(Standing::Bound));
        let other = Reason::OtherIncarnation {
            bound_index: 1,
            same_url: false,
        };
        assert_eq!(judged(&empty(2, 21), &come), Err(other));
        // Nobody that came is the one that has answered.
        let come = [claims(4, 44, 61)];
        assert_eq!(judged(&empty(4, 45), &come), Ok(Standing::Waiting));
        assert_eq!(judged(&empty(4, 44), &come), Ok(Standing::Ahead));
        let member = greets(2, State::Member(None));
        let to_empty =
            |at, come: &[Claims]| judge_answer(&member, &url(at), come, &empty_view(), 0);
        assert_eq!(to_empty(2, &[]), Ok(Standing::Waiting));
        assert_eq!(to_empty(2, &[claims(2, 20, 1)]), Ok(Standing::Ahead));
        // Something greets at a place where that one is not.
        assert_eq!(to_empty(7, &[claims(2, 20, 1)]), Ok(Standing::Waiting));
    }

    #[test]
    fn a_listed_member_waits_at_the_place_of_the_list() {
        let list = (1..=3).map(|id| (id, url(id))).collect();
        let forming = View {
            members: Members::first(&list, 10),
            ..view()
        };
        let judged = |claims: &Claims| judge(claims, &forming, 5);
        assert_eq!(judged(&claims(2, 20, 0)), Ok(Standing::Waiting));
        let elsewhere = Claims {
            url: url(7),
            ..claims(2, 20, 0)
        };
        assert_eq!(judged(&elsewhere), Err(Reason::OtherPlace));
        assert_eq!(judged(&claims(4, 40, 0)), Err(Reason::NotAMember));
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
        let to = |incarnation, cluster| {
            let mut said = claims(2, 20, 1);
            said.cluster = cluster;
            said.receiver = Some(Receiver {
                incarnation,
                formed: true,
                same_url: true,
            });
            Refusal::of_claim(&said, &view()).map(|refusal| refusal.reason)
        };
        assert_eq!(to(10, CLUSTER), None);
        let wrong = Reason::WrongCluster { other_life: true };
        assert_eq!(to(11, 9), Some(wrong));
    }

    #[test]
    fn what_a_member_does_about_a_refusal() {
        use Reason::*;
        use Verdict::*;
        let refusal = |reason, formed, dialled, applied| Refusal {
            by: 2,
            applied,
            formed,
            dialled,
            reason,
        };
        let other = |same_url| OtherIncarnation {
            bound_index: 70,
            same_url,
        };
        let foreign = |other_life| WrongCluster { other_life };
        let removed = Removed { removed_index: 70 };
        let member = Own::Member { bound_index: 60 };
        let later = Own::Member { bound_index: 80 };
        let forming = Own::Forming { bound_index: 60 };
        let rows = [
            // Own state, reason, the peer's cluster has formed, it was dialled, its applied index: what follows.
            (
                Own::Empty,
                other(true),
                true,
                true,
                90,
                EndAsReplacedUnlessLetIn,
            ),
            (Own::Empty, other(true), false, true, 90, Warn),
            (Own::Empty, other(true), true, false, 0, Warn),
            (Own::Empty, other(false), true, true, 90, Warn),
            (Own::Empty, OtherPlace, true, true, 90, Warn),
            (Own::Empty, NotAMember, true, true, 90, Wait),
            (Own::Empty, removed, true, true, 90, Wait),
            (Own::Empty, foreign(true), true, true, 90, Warn),
            (Own::Empty, StateLost, true, true, 90, EndAsStateLost),
            (Own::Empty, StateLost, false, true, 90, Warn),
            (Own::Empty, StateLost, true, false, 90, Warn),
            (forming, StateLost, true, true, 90, GoOn),
            (member, StateLost, true, true, 90, GoOn),
            (forming, foreign(true), true, true, 90, EndAsReplaced),
            (forming, foreign(true), false, true, 90, Warn),
            (forming, foreign(true), true, false, 0, Warn),
            (forming, foreign(false), true, true, 90, Warn),
            (forming, NotAMember, true, true, 90, Warn),
            (forming, removed, true, true, 90, EndAsRemoved { index: 70 }),
            (forming, removed, false, true, 90, Warn),
            (forming, removed, true, true, 59, GoOn),
            (forming, removed, true, false, 90, GoOn),
            (Own::Sole, foreign(true), true, false, 0, RefuseService),
            (Own::Sole, foreign(true), false, false, 0, Warn),
            (Own::Sole, foreign(false), true, true, 90, Warn),
            (member, removed, true, true, 90, EndAsRemoved { index: 70 }),
            (
                member,
                other(true),
                true,
                true,
                90,
                EndAsRemoved { index: 70 },
            ),
            (member, removed, true, true, 59, GoOn),
            (member, removed, true, false, u64::MAX, GoOn),
            (member, other(true), true, false, u64::MAX, GoOn),
            (later, removed, true, true, 90, Warn),
            (later, other(true), true, true, 90, Warn),
            (member, NotAMember, true, true, 90, GoOn),
            (member, foreign(true), true, true, 90, Warn),
            (member, foreign(true), true, false, 0, GoOn),
            (member, Twice, true, true, 90, EndAsTwice),
            (member, Twice, true, false, 90, Warn),
            (
                Own::Empty,
                WrongReceiver { actual: 3 },
                true,
                true,
                90,
                GoOn,
            ),
        ];
        for (own, reason, formed, dialled, applied, expected) in rows {
            let refusal = refusal(reason, formed, dialled, applied);
            assert_eq!(verdict(own, &refusal), expected, "{own:?}: {refusal:?}");
        }
    }
}
