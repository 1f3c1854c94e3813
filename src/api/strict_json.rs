//! Strict parsing of JSON objects from clients. Objects are read piece by piece and not into a tree. Unknown names and
//! repeated names are refused, and reading stops at once when there are too many items.
//!
//! Messages show names and keys, but never values. Of a long name they show only the start.

use serde::de::{DeserializeSeed, Deserializer, Error, Expected, MapAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// The members of an object.
pub(super) trait ObjectMembers: Sized {
    /// Names the object in messages.
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result;

    /// Reads the value of a name. Returns false if the object has this name already.
    fn take<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error>;
}

/// An object with arbitrary members.
impl ObjectMembers for Map<String, Value> {
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn take<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        Ok(self.insert(name.to_owned(), map.next_value()?).is_none())
    }
}

/// Reads a text that is one object.
pub(super) fn read<M: ObjectMembers>(text: &[u8], members: M) -> serde_json::Result<M> {
    let mut source = serde_json::Deserializer::from_slice(text);
    let members = Seed(Object(members)).deserialize(&mut source)?;
    source.end()?;
    Ok(members)
}

/// Deserializes a value with a visitor.
pub(super) struct Seed<V>(pub(super) V);

pub(super) struct Object<M>(pub(super) M);

/// A string. The field is its name, for messages.
pub(super) struct Text<'a>(pub(super) &'a str);

/// `true` or `false`. The field is its name, for messages.
pub(super) struct Flag<'a>(pub(super) &'a str);

impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for Seed<V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<V::Value, D::Error> {
        source.deserialize_any(self.0)
    }
}

impl<'de, M: ObjectMembers> Visitor<'de> for Object<M> {
    type Value = M;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<M, E> {
        Err(no_text(&self))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut object: A) -> Result<M, A::Error> {
        while let Some(name) = object.next_key::<String>()? {
            if !self.0.take(&name, &mut object)? {
                let name = shown(&name);
                return Err(A::Error::custom(format_args!("{name} appears twice")));
            }
        }
        Ok(self.0)
    }
}

impl Visitor<'_> for Text<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "a string for {}", shown(self.0))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
}

impl Visitor<'_> for Flag<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "true or false for {}", shown(self.0))
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<bool, E> {
        Err(no_text(&self))
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<bool, E> {
        Ok(flag)
    }
}

/// Reads the next value into the field of its name. Returns false if the field is set already.
pub(super) fn put<'de, V: Visitor<'de>, A: MapAccess<'de>>(
    field: &mut Option<V::Value>,
    object: &mut A,
    visitor: V,
) -> Result<bool, A::Error> {
    let value = object.next_value_seed(Seed(visitor))?;
    Ok(field.replace(value).is_none())
}

/// Replaces serde's message, which would repeat the string; the string may be a value.
pub(super) fn no_text<E: Error>(expected: &dyn Expected) -> E {
    E::custom(format_args!("expected {expected}, found a string"))
}

pub(super) fn unknown<E: Error>(name: &str, known: &[&str]) -> E {
    let (name, known) = (shown(name), known.join(", "));
    E::custom(format_args!("unknown name {name}: there are {known}"))
}

/// A name or a key in a message: in quotes, shortened, and on one line.
pub(super) fn shown(text: &str) -> String {
    let start: String = text.chars().take(40).collect();
    format!("{start:?}")
}
