//! The owner of a certificate, as the URI in it: `raftkvd://<tag>/member/<id>` or `raftkvd://<tag>/client/<name>?role=admin`.
//!
//! Each name has one spelling. Reading is strict, because a peer's identity depends on the text: a [`Name`] that is read is
//! written back unchanged. This version refuses additions of later versions, such as another role.

use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// The scheme of the URI, with the characters between scheme and tag.
const SCHEME: &str = "raftkvd://";
/// A tag has 128 bits.
const TAG_DIGITS: usize = 32;
/// The longest name of a client, in bytes.
pub const CLIENT_NAME_BYTES_MAX: usize = 64;

/// The owner of a certificate, within the cluster of a CA.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    /// The CA that issued the certificate.
    pub tag: Tag,
    /// A member or a client.
    pub subject: Subject,
}

/// A random number that all certificates of one cluster share. A new key of the CA keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag(pub u128);

/// A member or a client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// The member with this id, which is not 0.
    Member(u64),
    /// A client.
    Client {
        /// See [`is_client_name`].
        name: String,
        /// What the client may do.
        role: Role,
    },
}

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Everything.
    Admin,
}

/// Why a text is not a [`Name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NameError {
    /// The text has another scheme.
    #[error("it does not start with raftkvd://")]
    Scheme,
    /// The tag has another length, or other characters.
    #[error("its tag is not 32 hexadecimal digits in lower case")]
    Tag,
    /// The path names neither a member nor a client.
    #[error("it names neither a member nor a client")]
    Kind,
    /// The id is 0, too large, or not spelled as usual.
    #[error("the member's id is not a whole number from 1 on")]
    Id,
    /// The name of the client is empty, too long, or has other characters.
    #[error(
        "the client's name is not 1 to 64 of the characters a-z 0-9 . _ - with a letter or a digit in front"
    )]
    ClientName,
    /// The role is missing, or this version does not know it.
    #[error("this version of raftkvd does not know the client's role")]
    Role,
}

/// Whether a client can have this name. The name is also that of a directory, so a dot can't be its first character.
pub fn is_client_name(name: &str) -> bool {
    let fits = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    let is_first = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9');
    name.len() <= CLIENT_NAME_BYTES_MAX
        && name.as_bytes().first().is_some_and(is_first)
        && name.bytes().all(fits)
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Name, NameError> {
        let rest = text.strip_prefix(SCHEME).ok_or(NameError::Scheme)?;
        let (tag, rest) = rest.split_once('/').ok_or(NameError::Kind)?;
        let tag = tag.parse()?;
        let subject = match rest.split_once('/') {
            Some(("member", id)) => Subject::Member(member_id(id)?),
            Some(("client", client)) => {
                let (name, query) = client.split_once('?').ok_or(NameError::Role)?;
                if !is_client_name(name) {
                    return Err(NameError::ClientName);
                }
                Subject::Client {
                    name: name.to_owned(),
                    role: query.parse()?,
                }
            }
            _ => return Err(NameError::Kind),
        };
        Ok(Name { tag, subject })
    }
}

fn member_id(text: &str) -> Result<u64, NameError> {
    // A leading zero or plus would be another spelling of the same id.
    let starts_well = text.starts_with(|c: char| matches!(c, '1'..='9'));
    let id = starts_well.then(|| text.parse().ok()).flatten();
    id.ok_or(NameError::Id)
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/", self.tag)?;
        match &self.subject {
            Subject::Member(id) => write!(f, "member/{id}"),
            Subject::Client { name, role } => write!(f, "client/{name}?{role}"),
        }
    }
}

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Tag, NameError> {
        let is_digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != TAG_DIGITS || !text.bytes().all(is_digit) {
            return Err(NameError::Tag);
        }
        let number = u128::from_str_radix(text, 16);
        number.map(Tag).map_err(|_| NameError::Tag)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0TAG_DIGITS$x}", self.0)
    }
}

/// As in the query of the URI.
impl FromStr for Role {
    type Err = NameError;

    fn from_str(query: &str) -> Result<Role, NameError> {
        match query {
            "role=admin" => Ok(Role::Admin),
            _ => Err(NameError::Role),
        }
    }
}

/// As in the query of the URI.
impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Admin => f.write_str("role=admin"),
        }
    }
}

/// For people: `member 3`, `client admin`.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Member(id) => write!(f, "member {id}"),
            Subject::Client { name, .. } => write!(f, "client {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TAG: &str = "00112233445566778899aabbccddeeff";

    #[test]
    fn a_name_is_read_as_it_is_written() {
        for (rest, subject) in [
            ("member/1", Subject::Member(1)),
            ("member/18446744073709551615", Subject::Member(u64::MAX)),
            (
                "client/admin?role=admin",
                Subject::Client {
                    name: "admin".into(),
                    role: Role::Admin,
                },
            ),
            (
                "client/9.a_b-c?role=admin",
                Subject::Client {
                    name: "9.a_b-c".into(),
                    role: Role::Admin,
                },
            ),
        ] {
            let text = format!("raftkvd://{TAG}/{rest}");
            let name: Name = text.parse().unwrap();
            assert_eq!(name.subject, subject);
            assert_eq!(name.tag, Tag(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff));
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn a_name_has_one_spelling() {
        for (text, why) in [
            ("", NameError::Scheme),
            ("raftkvd:/TAG/member/1", NameError::Scheme),
            ("RAFTKVD://TAG/member/1", NameError::Scheme),
            ("https://TAG/member/1", NameError::Scheme),
            (" raftkvd://TAG/member/1", NameError::Scheme),
            ("raftkvd://TAG", NameError::Kind),
            ("raftkvd://TAG/", NameError::Kind),
            ("raftkvd:///member/1", NameError::Tag),
            ("raftkvd://TAG0/member/1", NameError::Tag),
            ("raftkvd://user@TAG/member/1", NameError::Tag),
            (
                "raftkvd://00112233445566778899AABBCCDDEEFF/member/1",
                NameError::Tag,
            ),
            (
                "raftkvd://+0112233445566778899aabbccddeeff/member/1",
                NameError::Tag,
            ),
            ("raftkvd://TAG/member", NameError::Kind),
            ("raftkvd://TAG/Member/1", NameError::Kind),
            ("raftkvd://TAG//member/1", NameError::Kind),
            ("raftkvd://TAG/member/", NameError::Id),
            ("raftkvd://TAG/member/0", NameError::Id),
            ("raftkvd://TAG/member/01", NameError::Id),
            ("raftkvd://TAG/member/+1", NameError::Id),
            ("raftkvd://TAG/member/1/", NameError::Id),
            ("raftkvd://TAG/member/1?role=admin", NameError::Id),
            ("raftkvd://TAG/member/1\n", NameError::Id),
            ("raftkvd://TAG/member/18446744073709551616", NameError::Id),
            ("raftkvd://TAG/client/a", NameError::Role),
            ("raftkvd://TAG/client/a?", NameError::Role),
            ("raftkvd://TAG/client/a?role=root", NameError::Role),
            ("raftkvd://TAG/client/a?role=admin&x=1", NameError::Role),
            ("raftkvd://TAG/client/a?role=admin#x", NameError::Role),
            ("raftkvd://TAG/client/?role=admin", NameError::ClientName),
            ("raftkvd://TAG/client/A?role=admin", NameError::ClientName),
            ("raftkvd://TAG/client/..?role=admin", NameError::ClientName),
            ("raftkvd://TAG/client/-a?role=admin", NameError::ClientName),
            ("raftkvd://TAG/client/a/b?role=admin", NameError::ClientName),
            ("raftkvd://TAG/client/%61?role=admin", NameError::ClientName),
        ] {
            let text = text.replace("TAG", TAG);
            assert_eq!(text.parse::<Name>(), Err(why), "{text}");
        }
    }

    #[test]
    fn the_name_of_a_client_has_a_longest_length() {
        assert!(is_client_name(&"a".repeat(CLIENT_NAME_BYTES_MAX)));
        assert!(!is_client_name(&"a".repeat(CLIENT_NAME_BYTES_MAX + 1)));
    }

    proptest! {
        #[test]
        fn what_is_taken_is_written_back_unchanged(
            rest in "(raftkvd://)?[0-9a-f]{31,33}/(member|client)/[0-9a-z.+?=/-]{0,22}",
        ) {
            if let Ok(name) = rest.parse::<Name>() {
                prop_assert_eq!(name.to_string(), rest);
            }
        }

        #[test]
        fn every_name_is_read_as_it_is_written_whatever_its_parts(
            tag in any::<u128>(), id in 1..=u64::MAX, client in "[a-z0-9][a-z0-9._-]{0,63}",
        ) {
            let client = Subject::Client { name: client, role: Role::Admin };
            for subject in [Subject::Member(id), client] {
                let name = Name { tag: Tag(tag), subject };
                prop_assert_eq!(name.to_string().parse(), Ok(name));
            }
        }
    }
}
