//! Lists as the API makes them: a permission to read, the map frozen behind all that was published by then, and later,
//! while writes go on, a page of it.

use crate::checker::{Input, Listed, Output};
use crate::clients::Open;
use crate::oracle::Oracle;
use raftkvd::limits;
use raftkvd::store::{Frozen, Range};

/// Where the client goes on reading, if there is more.
pub fn next_page(input: &Input, output: &Output) -> Option<Input> {
    let (Input::List { .. }, Output::Listed { entries, more, .. }) = (input, output) else {
        return None;
    };
    let mut next = input.clone();
    if let Input::List { after, .. } = &mut next {
        *after = entries.last().map(|last| last.key.clone());
    }
    more.then_some(next)
}

/// The page that a client wants of the frozen map; it has to be that of the model.
pub fn page(open: &Open, input: &Input, index: u64, map: Frozen, oracle: &Oracle) -> Output {
    let Input::List {
        prefix,
        after,
        limit,
        values,
    } = input
    else {
        panic!("it is no list: {input}");
    };
    open.is_not_older(index);
    let range = Range {
        prefix: prefix.clone(),
        after: after.clone().unwrap_or_default(),
        limit: limit.unwrap_or(limits::LIST_KEYS_DEFAULT),
        values: *values,
    };
    let page = map.least(&range, || false);
    let page = page.expect("it is not told to give up");
    let entries = page.entries.into_iter().map(|entry| Listed {
        key: entry.key.into(),
        etag: entry.index,
        value: entry.value.map(Vec::from),
    });
    let listed = Output::Listed {
        index,
        entries: entries.collect(),
        more: page.more,
    };
    let wanted = expected(&range, index, oracle);
    assert_eq!(listed, wanted, "the answer to {input} is wrong");
    listed
}

fn expected(range: &Range, index: u64, oracle: &Oracle) -> Output {
    let map = oracle.changes.map_at(index);
    let wanted = |key: &[u8]| key > &range.after[..] && key.starts_with(&range.prefix);
    let mut found = map.filter(|(key, _)| wanted(key));
    let entries = found
        .by_ref()
        .take(range.limit)
        .map(|(key, (etag, value))| Listed {
            key: key.to_vec(),
            etag,
            value: range.values.then(|| value.to_vec()),
        });
    Output::Listed {
        index,
        entries: entries.collect(),
        more: found.next().is_some(),
    }
}
