//! What watchers heard, and whether it is what was done.
//!
//! A [`Span`] is a part of the log in which its watcher has to have heard of every change of its keys. [`check`] holds all
//! spans against each other, against what clients were told, and against the map at the end: every change that a
//! client or another watcher knows of is there, once, in the order of the log, and nothing else.

use super::nemesis::IMPATIENCE;
use crate::clients::Sent;
use crate::event_source::Block;
use crate::http::Connection;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Keys with their ETags and values.
pub type Map = BTreeMap<String, (u64, String)>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    index: u64,
    key: String,
    /// `None`: it was deleted.
    value: Option<String>,
}

/// A part of the log without a gap, as one watcher heard of it.
#[derive(Debug)]
pub struct Span {
    pub prefix: &'static str,
    /// The map as of `from`.
    base: Map,
    from: u64,
    pub to: u64,
    changes: Vec<Change>,
    /// How often the watcher came back within it.
    pub resumed: u32,
}

impl Span {
    /// Begins with a list, if this member gives one.
    pub fn begin(address: SocketAddr, prefix: &'static str) -> Option<Span> {
        let (from, base) = read_map(address, prefix)?;
        Some(Span {
            prefix,
            base,
            from,
            to: from,
            changes: Vec::new(),
            resumed: 0,
        })
    }

    /// Takes what came. Changes count when the id of their index has come.
    pub fn take(&mut self, open: &mut Vec<Change>, block: Block) {
        if let Some(data) = &block.data {
            let index = data["index"].as_u64().expect("a change has an index");
            let value = match data["op"].as_str() {
                Some("put") => {
                    assert_eq!(etag(data), index, "{data}");
                    Some(text(data, "value"))
                }
                Some("delete") => None,
                _ => panic!("{data}"),
            };
            let newest = open.last().map_or(self.to + 1, |last: &Change| last.index);
            assert!(index >= newest, "{data} behind {newest}, after {}", self.to);
            let key = text(data, "key");
            open.push(Change { index, key, value });
        }
        if let Some(id) = block.id {
            let last = open.last().map_or(id, |last| last.index);
            let is_whole = last == id || block.data.is_none();
            assert!(last <= id && is_whole, "id {id} behind a change of {last}");
            self.changes.append(open);
            self.to = id;
        }
    }

    fn covers(&self, index: u64, key: &str) -> bool {
        self.from < index && index <= self.to && key.starts_with(self.prefix)
    }

    /// The map with a prefix as of an index of this span, or what is wrong with its changes.
    fn map_at(&self, index: u64, prefix: &str) -> Result<Map, String> {
        let mut map = self.base.clone();
        for change in self.changes.iter().take_while(|c| c.index <= index) {
            let key = change.key.clone();
            match &change.value {
                Some(value) => drop(map.insert(key, (change.index, value.clone()))),
                None if map.remove(&key).is_none() => {
                    return Err(format!("{change:?}: it was not there"));
                }
                None => {}
            }
        }
        map.retain(|key, _| key.starts_with(prefix));
        Ok(map)
    }
}

/// All keys with a prefix, which are few enough for one page, and the index of the list.
pub fn read_map(address: SocketAddr, prefix: &str) -> Option<(u64, Map)> {
    let path = format!("/-/kv?values=true&limit=10000&prefix={prefix}");
    let mut connection = Connection::impatient(address, IMPATIENCE).ok()?;
    let response = connection.send("GET", &path, &[], b"").ok()?;
    if response.status == 503 {
        return None;
    }
    assert_eq!(response.status, 200, "{response:?}");
    let page: Value = serde_json::from_slice(&response.body).expect("JSON");
    assert!(page["next"].is_null(), "more than a page: {page}");
    let keys = page["keys"].as_array().expect("a list").iter();
    let entry = |key: &Value| (text(key, "key"), (etag(key), text(key, "value")));
    let index = page["index"].as_u64().expect("an index");
    Some((index, keys.map(entry).collect()))
}

fn text(value: &Value, name: &str) -> String {
    let text = value[name].as_str();
    text.unwrap_or_else(|| panic!("no text {name:?} in {value}"))
        .to_owned()
}

fn etag(value: &Value) -> u64 {
    text(value, "etag").parse().expect("an ETag is an index")
}

/// Holds what watchers heard against what clients sent and were told, and against the map at the end. Gives what was
/// checked, for people; an error says what does not fit.
pub fn check(spans: &[Vec<Span>], sent: &[Sent], last: &Map) -> Result<String, String> {
    let all = || spans.iter().flatten();
    let mut known: BTreeMap<(u64, &str), Option<&str>> = BTreeMap::new();
    let mut expected = 0;
    for write in sent {
        if let Some(index) = write.index {
            known.insert((index, &write.key), write.value.as_deref());
            expected += 1;
        }
    }
    for change in all().flat_map(|span| &span.changes) {
        let value = change.value.as_deref();
        let before = known.insert((change.index, &change.key), value);
        if before.is_some_and(|before| before != value) {
            return Err(format!("{change:?}, but also {before:?}"));
        }
    }
    check_values(all(), sent)?;
    for span in all() {
        check_span(span, &known)?;
        for other in all().filter(|other| span.prefix.starts_with(other.prefix)) {
            let as_other = match other.from <= span.from && span.from <= other.to {
                true => other.map_at(span.from, span.prefix)?,
                false => continue,
            };
            if as_other != span.base {
                let (at, base) = (span.from, &span.base);
                return Err(format!(
                    "at {at} a list says {base:?}, changes {as_other:?}"
                ));
            }
        }
    }
    for spans in spans {
        let span = spans.last().ok_or("a watcher heard nothing")?;
        let (got, mut last) = (span.map_at(span.to, span.prefix)?, last.clone());
        last.retain(|key, _| key.starts_with(span.prefix));
        if got != last {
            return Err(format!(
                "in the end there is {last:?}, and changes say {got:?}"
            ));
        }
    }
    let heard: usize = all().map(|span| span.changes.len()).sum();
    let resumed: u32 = all().map(|span| span.resumed).sum();
    Ok(format!(
        "{} watchers heard {heard} changes in {} spans and came back {resumed} times; {expected} acknowledged writes \
         were looked for",
        spans.len(),
        all().count()
    ))
}

/// No gap, no double, in order.
fn check_span(span: &Span, known: &BTreeMap<(u64, &str), Option<&str>>) -> Result<(), String> {
    let mut heard: Vec<(u64, &str)> = Vec::with_capacity(span.changes.len());
    for change in &span.changes {
        if heard.last().is_some_and(|(index, _)| *index > change.index) {
            return Err(format!("out of order: {change:?}"));
        }
        heard.push((change.index, &change.key));
    }
    // An entry writes its keys in any order.
    heard.sort();
    let all: Vec<(u64, &str)> = known
        .keys()
        .filter(|(index, key)| span.covers(*index, key))
        .copied()
        .collect();
    match heard == all {
        true => Ok(()),
        false => {
            let at = heard.iter().zip(&all).take_while(|(a, b)| a == b).count();
            let near = |of: &[(u64, &str)]| {
                format!("{:?}", of.get(at.saturating_sub(1)..of.len().min(at + 2)))
            };
            Err(format!(
                "a watcher of {:?} heard of {} changes behind {} up to {}, where there are {}: they part at {} and {}",
                span.prefix,
                heard.len(),
                span.from,
                span.to,
                all.len(),
                near(&heard),
                near(&all)
            ))
        }
    }
}

/// Every value that was put was sent by a client, which was not told that it had no effect, nor that it had one at
/// another index.
fn check_values<'a>(spans: impl Iterator<Item = &'a Span>, sent: &[Sent]) -> Result<(), String> {
    let puts = sent
        .iter()
        .filter_map(|write| Some((write.value.as_deref()?, write)));
    // A value is of one request, and may be of several keys.
    let mut by_value: BTreeMap<(&str, &str), &Sent> = BTreeMap::new();
    by_value.extend(puts.map(|(value, write)| ((value, &*write.key), write)));
    for change in spans.flat_map(|span| &span.changes) {
        let Some(value) = &change.value else {
            continue;
        };
        let write = by_value.get(&(value.as_str(), &*change.key));
        let write = write.ok_or_else(|| format!("{change:?}: nobody sent that"))?;
        if write.surely_not || write.index.is_some_and(|index| index != change.index) {
            return Err(format!("{change:?}: its client was told {write:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(index: u64, key: &str, value: &str) -> Change {
        let value = Some(value.to_owned());
        let key = key.to_owned();
        Change { index, key, value }
    }

    fn deleted(index: u64, key: &str) -> Change {
        let (key, value) = (key.to_owned(), None);
        Change { index, key, value }
    }

    /// What two clients know of: four writes, of which one has no outcome and one had no effect.
    fn sent() -> Vec<Sent> {
        let write = |key: &str, value: &str, index, surely_not| Sent {
            key: key.to_owned(),
            value: Some(value.to_owned()),
            index,
            surely_not,
        };
        vec![
            write("hot/1", "a", Some(3), false),
            write("hot/2", "b", Some(5), false),
            write("hot/1", "c", None, false),
            write("hot/1", "never", None, true),
        ]
    }

    fn changes() -> Vec<Change> {
        vec![
            put(3, "hot/1", "a"),
            put(5, "hot/2", "b"),
            put(6, "hot/1", "c"),
            deleted(8, "hot/2"),
        ]
    }

    /// Of one watcher of all keys that heard this, and one of a key that heard what is right.
    fn check_changes(changes: Vec<Change>) -> Result<String, String> {
        let span = |prefix, changes| Span {
            prefix,
            base: Map::new(),
            from: 2,
            to: 8,
            changes,
            resumed: 0,
        };
        let one = vec![put(3, "hot/1", "a"), put(6, "hot/1", "c")];
        let last = Map::from([("hot/1".to_owned(), (6, "c".to_owned()))]);
        check(
            &[vec![span("", changes)], vec![span("hot/1", one)]],
            &sent(),
            &last,
        )
    }

    fn without(place: usize) -> Vec<Change> {
        let mut changes = changes();
        changes.remove(place);
        changes
    }

    #[track_caller]
    fn assert_wrong(changes: Vec<Change>, why: &str) {
        let said = check_changes(changes).expect_err("it is wrong");
        assert!(said.contains(why), "{said}");
    }

    #[test]
    fn what_is_whole_passes() {
        check_changes(changes()).expect("all is right");
    }

    #[test]
    fn a_gap_is_seen() {
        // Acknowledged, and heard of by another watcher alone.
        assert_wrong(
            without(0),
            "heard of 3 changes behind 2 up to 8, where there are 4",
        );
        assert_wrong(
            without(2),
            "heard of 3 changes behind 2 up to 8, where there are 4",
        );
        // Nobody heard of it, but the key is gone in the end.
        assert_wrong(without(3), "in the end there is");
    }

    #[test]
    fn a_double_and_another_order_are_seen() {
        let mut doubled = changes();
        doubled.insert(1, put(3, "hot/1", "a"));
        assert_wrong(
            doubled,
            "heard of 5 changes behind 2 up to 8, where there are 4",
        );
        let mut swapped = changes();
        swapped.swap(0, 1);
        assert_wrong(swapped, "out of order");
    }

    #[test]
    fn a_change_that_nobody_made_is_seen() {
        let mut other = changes();
        other[1] = put(5, "hot/2", "z");
        assert_wrong(other, "but also Some");
        let mut unknown = changes();
        unknown.insert(3, put(7, "hot/3", "z"));
        assert_wrong(unknown, "nobody sent that");
        let mut refused = changes();
        refused.push(put(8, "hot/1", "never"));
        assert_wrong(refused, "its client was told");
        let mut moved = changes();
        moved.insert(3, put(7, "hot/1", "a"));
        assert_wrong(moved, "its client was told");
        let mut absent = changes();
        absent.insert(0, deleted(3, "hot/4"));
        assert_wrong(absent, "it was not there");
    }

    #[test]
    fn changes_count_when_the_id_of_their_index_has_come() {
        let mut span = Span {
            prefix: "",
            base: Map::new(),
            from: 2,
            to: 2,
            changes: Vec::new(),
            resumed: 0,
        };
        let block = |id, index: u64, key| Block {
            event: None,
            id,
            data: Some(serde_json::json!({"op": "delete", "index": index, "key": key})),
        };
        let mut open = Vec::new();
        span.take(&mut open, block(None, 4, "a"));
        assert_eq!((span.to, span.changes.len(), open.len()), (2, 0, 1));
        span.take(&mut open, block(Some(4), 4, "b"));
        assert_eq!((span.to, span.changes.len(), open.len()), (4, 2, 0));
    }
}
