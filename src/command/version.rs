//! Command versions: what this build knows of commands and of replicated state, and how it detects what it does not
//! know.
//!
//! Members of versions n and n + 1 run together. A member may find data in the log or in a snapshot that only a later
//! version knows. It must not guess: protobuf decodes an unknown kind as the default, which would mean "put the empty
//! value". Decoded data is therefore searched for unknown fields, which also contain unknown kinds. In addition, a
//! batch and a state say which version they need. If a member finds data that it does not know, it applies nothing of
//! the entry, and the process ends. A later version continues from the same directory.
//!
//! A new kind, or a new field that changes the effect of a command, raises [`VERSION`]. It is proposed only when all
//! members in the table know it: see [`Members::known_version`](crate::members::Members::known_version). A field number
//! is never reused with another meaning.

use crate::command::{Batch, Command, Kind, ReplicatedState, SnapshotHeader};
use protobuf::UnknownFields;
use raft::eraftpb::Entry;

// The first command version is 2. Data that needs only this version has 0 in its version field.

/// The command version in which the removal of a member, and a new key of a member, revoke the key that the member had.
pub const REVOKES: u64 = 3;

/// The newest command version without the feature `later`.
const NEWEST: u64 = REVOKES;

/// The command version of this build.
pub const VERSION: u64 = match cfg!(feature = "later") {
    true => NEWEST + 1,
    false => NEWEST,
};

/// Data that needs a later version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "needs raftkvd of command version {needed}, and this one knows {VERSION}: use the version that wrote it, or a later one"
)]
pub struct Later {
    /// The command version that the data needs, as far as it is known.
    pub needed: u64,
}

/// The command version that introduced the kind of this command, or a field that it uses, in the form of
/// [`Batch::version`]: 0 for the first version.
pub fn needed_by(command: &Command) -> u64 {
    match command.kind {
        // An earlier version knows the field, but revokes no key because of it.
        Kind::AddMember | Kind::RemoveMember | Kind::DescribeMember
            if !command.member_key_fingerprint.is_empty() =>
        {
            REVOKES
        }
        Kind::Put
        | Kind::Delete
        | Kind::Transaction
        | Kind::AddMember
        | Kind::BindMember
        | Kind::PromoteMember
        | Kind::MoveMember
        | Kind::RemoveMember
        | Kind::Formed
        | Kind::CorrectList
        | Kind::Settle
        | Kind::DescribeMember => 0,
        #[cfg(feature = "later")]
        Kind::Later => NEWEST + 1,
    }
}

/// The command version for which this command waits at its proposer, in the form of [`Batch::version`]. An addition or a
/// description with a key waits for none: the leader takes the key out if not all members know what the key means.
pub fn awaited_by(command: &Command) -> u64 {
    match command.kind {
        Kind::AddMember | Kind::DescribeMember => 0,
        _ => needed_by(command),
    }
}

/// Checks that this build knows all fields of an entry other than its data.
pub fn check_entry(entry: &Entry) -> Result<(), Later> {
    check(0, is_unknown(&entry.unknown_fields))
}

/// Checks that this build knows everything in the batch.
pub fn check_batch(batch: &Batch) -> Result<(), Later> {
    let unknown = is_unknown(&batch.unknown_fields)
        || batch.commands.iter().any(|command| {
            let etags = [&command.if_match, &command.if_none_match];
            is_unknown(&command.unknown_fields)
                || any_unknown(&command.listed)
                || etags.iter().any(|etags| has_unknown(etags.as_ref()))
                || command.transaction.iter().any(|transaction| {
                    let checks = || transaction.checks.iter();
                    let etags = checks().flat_map(|check| [&check.if_match, &check.if_none_match]);
                    is_unknown(&transaction.unknown_fields)
                        || checks().any(|check| is_unknown(&check.unknown_fields))
                        || etags.into_iter().any(|etags| has_unknown(etags.as_ref()))
                        || any_unknown(&transaction.writes)
                })
        });
    check(batch.version, unknown)
}

/// Checks that this build knows everything in the state.
pub fn check_state(state: &ReplicatedState) -> Result<(), Later> {
    let unknown = is_unknown(&state.unknown_fields)
        || any_unknown(&state.members)
        || any_unknown(&state.removed)
        || any_unknown(&state.sessions)
        || any_unknown(&state.forming)
        || any_unknown(&state.former)
        || any_unknown(&state.revoked_keys)
        || has_unknown(state.unsettled.as_ref());
    check(state.version, unknown)
}

/// Checks that this build knows everything in the header.
pub fn check_header(header: &SnapshotHeader) -> Result<(), Later> {
    check_state(header.get_state())?;
    check(0, is_unknown(&header.unknown_fields))
}

fn check(needed: u64, unknown: bool) -> Result<(), Later> {
    match (needed > VERSION, unknown) {
        (true, _) => Err(Later { needed }),
        // The data does not say which version it needs, or says a wrong one.
        (false, true) => Err(Later {
            needed: VERSION + 1,
        }),
        (false, false) => Ok(()),
    }
}

fn any_unknown<M: protobuf::Message>(messages: &[M]) -> bool {
    let mut messages = messages.iter();
    messages.any(|message| is_unknown(message.get_unknown_fields()))
}

fn has_unknown<M: protobuf::Message>(message: Option<&M>) -> bool {
    message.is_some_and(|message| is_unknown(message.get_unknown_fields()))
}

fn is_unknown(fields: &UnknownFields) -> bool {
    fields.fields.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{self, Check, DecodeError, Etags, Transaction, Write};
    use bytes::Bytes;
    use protobuf::reflect::{FieldDescriptor, MessageDescriptor};
    use protobuf::{Message, ProtobufEnum as _, UnknownValue};

    fn add_unknown(message: &mut dyn Message) {
        let fields = message.mut_unknown_fields();
        fields.add_value(5000, UnknownValue::Varint(1));
    }

    /// A batch that uses every message and field.
    fn full_batch() -> Batch {
        let mut check = Check::new();
        check.if_match = Some(Etags::new()).into();
        check.if_none_match = Some(Etags::new()).into();
        let mut transaction = Transaction::new();
        transaction.checks.push(check);
        transaction.writes.push(Write::new());
        let mut command = Command::new();
        command.if_match = Some(Etags::new()).into();
        command.if_none_match = Some(Etags::new()).into();
        command.transaction = Some(transaction).into();
        command.listed.push(command::Listed::new());
        let mut batch = Batch::new();
        batch.commands.push(command);
        batch
    }

    fn full_header() -> SnapshotHeader {
        let mut state = ReplicatedState::new();
        state.members.push(command::Member::new());
        state.removed.push(command::RemovedMember::new());
        state.sessions.push(command::Session::new());
        state.forming.push(command::Listed::new());
        state.former.push(command::Listed::new());
        state.revoked_keys.push(command::RevokedKey::new());
        state.unsettled = Some(command::Unsettled::new()).into();
        let mut header = SnapshotHeader::new();
        header.state = Some(state).into();
        header
    }

    /// The paths of all messages within a message, as lists of field names.
    fn paths(of: &MessageDescriptor) -> Vec<Vec<String>> {
        let inner = |field: &FieldDescriptor| match field.proto().get_type_name() {
            ".raftkvd.Command" => Some(Command::descriptor_static()),
            ".raftkvd.Transaction" => Some(Transaction::descriptor_static()),
            ".raftkvd.Check" => Some(Check::descriptor_static()),
            ".raftkvd.ReplicatedState" => Some(ReplicatedState::descriptor_static()),
            _ => None,
        };
        let is_message = |field: &&FieldDescriptor| {
            let name = field.proto().get_type_name();
            !name.is_empty() && name != ".raftkvd.Kind"
        };
        let mut found = vec![Vec::new()];
        for field in of.fields().iter().filter(is_message) {
            let below = inner(field).map_or(vec![Vec::new()], paths);
            found.extend(below.into_iter().map(|path| {
                let mut whole = vec![field.name().to_owned()];
                whole.extend(path);
                whole
            }));
        }
        found
    }

    fn batch_with_unknown(path: &[&str]) -> Batch {
        let mut batch = full_batch();
        {
            let message: &mut dyn Message = match path {
                [] => &mut batch,
                ["commands"] => &mut batch.commands[0],
                ["commands", "if_match"] => batch.commands[0].mut_if_match(),
                ["commands", "if_none_match"] => batch.commands[0].mut_if_none_match(),
                ["commands", "listed"] => &mut batch.commands[0].listed[0],
                ["commands", "transaction"] => batch.commands[0].mut_transaction(),
                ["commands", "transaction", "writes"] => {
                    &mut batch.commands[0].mut_transaction().writes[0]
                }
                ["commands", "transaction", "checks", rest @ ..] => {
                    let check = &mut batch.commands[0].mut_transaction().checks[0];
                    match rest {
                        [] => check,
                        ["if_match"] => check.mut_if_match(),
                        ["if_none_match"] => check.mut_if_none_match(),
                        other => panic!("{other:?} is not searched"),
                    }
                }
                other => panic!("{other:?} is not searched"),
            };
            add_unknown(message);
        }
        batch
    }

    fn header_with_unknown(path: &[&str]) -> SnapshotHeader {
        let mut header = full_header();
        let message: &mut dyn Message = match path {
            [] => &mut header,
            ["state"] => header.mut_state(),
            ["state", "members"] => &mut header.mut_state().members[0],
            ["state", "removed"] => &mut header.mut_state().removed[0],
            ["state", "sessions"] => &mut header.mut_state().sessions[0],
            ["state", "forming"] => &mut header.mut_state().forming[0],
            ["state", "former"] => &mut header.mut_state().former[0],
            ["state", "revoked_keys"] => &mut header.mut_state().revoked_keys[0],
            ["state", "unsettled"] => header.mut_state().mut_unsettled(),
            other => panic!("{other:?} is not searched"),
        };
        add_unknown(message);
        header
    }

    #[test]
    fn an_unknown_field_is_found_wherever_it_stands() {
        let next = Later {
            needed: VERSION + 1,
        };
        assert_eq!(check_batch(&full_batch()), Ok(()));
        let batches = paths(Batch::descriptor_static());
        assert_eq!(batches.len(), 10, "{batches:?}");
        for path in batches {
            let path: Vec<&str> = path.iter().map(|name| &**name).collect();
            let batch = batch_with_unknown(&path);
            assert_eq!(check_batch(&batch), Err(next), "{path:?}");
            match command::decode(&command::encode(&batch)) {
                Err(DecodeError::Later(later)) => assert_eq!(later, next, "{path:?}"),
                other => panic!("{path:?}: {other:?}"),
            }
        }
        assert_eq!(check_header(&full_header()), Ok(()));
        let headers = paths(SnapshotHeader::descriptor_static());
        assert_eq!(headers.len(), 9, "{headers:?}");
        for path in headers {
            let path: Vec<&str> = path.iter().map(|name| &**name).collect();
            let header = header_with_unknown(&path);
            assert_eq!(check_header(&header), Err(next), "{path:?}");
        }
    }

    #[test]
    fn a_change_of_a_member_with_a_key_needs_the_version_that_revokes_keys() {
        let kinds = [Kind::AddMember, Kind::RemoveMember, Kind::DescribeMember];
        for (kind, awaited) in kinds.into_iter().zip([0, REVOKES, 0]) {
            let mut command = Command::new();
            command.kind = kind;
            assert_eq!((needed_by(&command), awaited_by(&command)), (0, 0));
            command.member_key_fingerprint = vec![7; 32].into();
            let versions = (needed_by(&command), awaited_by(&command));
            assert_eq!(versions, (REVOKES, awaited), "{kind:?}");
            command.kind = Kind::MoveMember;
            assert_eq!(needed_by(&command), 0);
        }
    }

    #[test]
    fn an_unknown_kind_is_not_decoded_as_a_write() {
        let newest = Kind::values().iter().map(|kind| kind.value()).max();
        let mut command = Command::new();
        let kind = newest.unwrap() as u64 + 1;
        let fields = command.mut_unknown_fields();
        fields.add_value(1, UnknownValue::Varint(kind));
        let mut batch = Batch::new();
        batch.commands.push(command);
        for version in [0, VERSION, 9] {
            batch.version = version;
            let decoded = command::decode(&command::encode(&batch));
            let needed = version.max(VERSION + 1);
            match decoded {
                Err(DecodeError::Later(later)) => assert_eq!(later, Later { needed }),
                other => panic!("{version}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_unknown_field_or_type_of_an_entry_is_refused() {
        let mut entry = Entry::default();
        entry.data = command::encode(&full_batch());
        assert!(matches!(command::of_entry(&entry), Ok(Some(_))));
        let with = |more: &[u8]| {
            let mut bytes = entry.write_to_bytes().unwrap();
            bytes.extend(more);
            Entry::parse_from_bytes(&bytes)
        };
        // Field 15 is 1.
        let read = command::of_entry(&with(&[0x78, 1]).unwrap());
        assert!(matches!(read, Err(DecodeError::Later(_))), "{read:?}");
        // Field 1, the type, is 9.
        with(&[8, 9]).unwrap_err();
    }

    #[test]
    fn the_reserved_expiry_fields_are_refused() {
        // Command: field 30 is 1. Transaction: a write whose field 31 is 1.
        for command in [&[0xf0, 1, 1][..], &[0x6a, 5, 0x12, 3, 0xf8, 1, 1]] {
            let mut data = vec![8, 1, 0x2a, command.len() as u8];
            data.extend_from_slice(command);
            let decoded = command::decode(&Bytes::from(data));
            assert!(matches!(decoded, Err(DecodeError::Later(_))), "{decoded:?}");
        }
    }

    #[test]
    fn a_later_version_is_refused_even_if_all_fields_are_known() {
        let mut batch = full_batch();
        let mut state = ReplicatedState::new();
        for version in [0, 2, REVOKES, VERSION] {
            (batch.version, state.version) = (version, version);
            assert_eq!(check_batch(&batch), Ok(()));
            assert_eq!(check_state(&state), Ok(()));
        }
        (batch.version, state.version) = (9, 9);
        let later = Err(Later { needed: 9 });
        assert_eq!((check_batch(&batch), check_state(&state)), (later, later));
    }
}
