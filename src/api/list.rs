//! `GET /-/kv`: the keys in ascending order, one page at a time.
//!
//! A page shows the map at one index. Making a page looks at every key (see `store/scan.rs`) on a blocking thread, so
//! pages are made one at a time. A page that is on its way to its client counts against the JSON budget too, because a
//! client may read slowly.

use super::error_code::Code;
use super::json_budget::{self, JsonTexts, SharedText, TextName};
use super::path::{QueryOption, options, percent_encode, unknown};
use super::processor_share::Work;
use super::reply::{self, Reply, ReplyResult, RequestKind};
use super::{Front, json};
use crate::limits;
use crate::store::{Frozen, GivenUp, Page, Range};
use serde::Serialize;
use std::fmt::Write as _;
use std::sync::Arc;
use tokio::time::Instant;

/// The options of a list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ListOptions {
    pub(super) range: Range,
    pub(super) stale: bool,
}

impl ListOptions {
    /// The page at this index.
    fn page(&self, index: u64) -> TextName {
        TextName::Page {
            range: self.range.clone(),
            stale: self.stale,
            index,
        }
    }
}

impl Front {
    /// `GET /-/kv`.
    pub(super) async fn list(&self, options: ListOptions, deadline: Instant) -> ReplyResult {
        if !options.stale {
            let caught_up = self.catch_up(deadline).await;
            caught_up.map_err(|why| self.not_proposed(RequestKind::Read, why))?;
        }
        let texts = Arc::clone(&self.json_texts);
        let made = self.with_frozen(deadline, {
            let options = options.clone();
            move |index, map, work| make(&texts, index, map, &options, deadline, work)
        });
        let text = made.await.unwrap_or(Err(NotMade::GivenUp))?;
        Ok(json_budget::to_reply(text))
    }
}

/// Why there is no page.
enum NotMade {
    GivenUp,
    /// Too many texts are being sent.
    Full,
}

impl From<NotMade> for Box<Reply> {
    fn from(why: NotMade) -> Box<Reply> {
        match why {
            NotMade::GivenUp => not_listed(Code::TooSlow, GivenUp),
            NotMade::Full => not_listed(Code::QueueFull, "too many lists are being sent"),
        }
    }
}

/// Makes the page at this index, unless another client is being sent the same page.
fn make(
    texts: &JsonTexts,
    index: u64,
    map: Frozen,
    options: &ListOptions,
    deadline: Instant,
    work: &mut Work,
) -> Result<Arc<SharedText>, NotMade> {
    let shared = texts.get(options.page(index));
    if shared.initialized() {
        return Ok(shared);
    }
    let give_up = || {
        work.pause();
        Instant::now() >= deadline
    };
    let page = map.least(&options.range, give_up);
    let text = to_json(index, &page.map_err(|_| NotMade::GivenUp)?, options);
    let share = texts.share(text.len()).ok_or(NotMade::Full)?;
    // Pages are made one at a time.
    let _ = shared.set(share.text(text));
    Ok(shared)
}

fn not_listed(code: Code, why: impl std::fmt::Display) -> Box<Reply> {
    reply::unavailable(
        code,
        format!("not listed: {why}; try again, or with a longer --request-timeout"),
    )
}

const ENCODED: &str = "percent-encoded";
const LIMIT: &str = "a number from 1 to 10000";
const _: () = assert!(limits::LIST_KEYS_MAX == 10_000);

/// Reads the options of a list. `prefix` and `after` are percent-encoded, and a plus sign stands for a space.
pub(super) fn list_options(query: Option<&str>) -> Result<ListOptions, Box<Reply>> {
    let (mut prefix, mut after, mut limit, mut values, mut stale) = (None, None, None, None, None);
    for option in options(query) {
        let value = QueryOption::of(option);
        let name = value.name;
        // Whether the option was given before, or `None` if its value is invalid.
        let (given, form) = match name {
            "prefix" => (value.bytes().map(|b| prefix.replace(b).is_some()), ENCODED),
            "after" => (value.bytes().map(|b| after.replace(b).is_some()), ENCODED),
            "limit" => {
                let number = value.number().and_then(|n| usize::try_from(n).ok());
                let number = number.filter(|n| (1..=limits::LIST_KEYS_MAX).contains(n));
                (number.map(|n| limit.replace(n).is_some()), LIMIT)
            }
            "values" => {
                let asked = value.one_of("true", "false");
                (asked.map(|v| values.replace(v).is_some()), "true or false")
            }
            "consistency" => {
                let asked = value.one_of("stale", "linearizable");
                (
                    asked.map(|s| stale.replace(s).is_some()),
                    "stale or linearizable",
                )
            }
            _ => {
                return Err(unknown(
                    option,
                    "a list accepts prefix, after, limit, values and consistency",
                ));
            }
        };
        let refused = match given {
            Some(false) => continue,
            Some(true) => format!("the option {name} is given twice; give it once"),
            None => format!("the option {name} has to be {form}"),
        };
        return Err(reply::error(Code::BadOption, refused));
    }
    Ok(ListOptions {
        range: Range {
            prefix: prefix.unwrap_or_default(),
            after: after.unwrap_or_default(),
            limit: limit.unwrap_or(limits::LIST_KEYS_DEFAULT),
            values: values.unwrap_or(false),
        },
        stale: stale.unwrap_or(false),
    })
}

#[derive(Serialize)]
struct ListedKey<'a> {
    #[serde(flatten)]
    key: json::KeyJson<'a>,
    #[serde(flatten)]
    stored: json::Stored<'a>,
}

/// Writes the page item by item. The page ends before the item that would exceed `LIST_BYTES_MAX`, but keeps the first
/// item, however long.
fn to_json(index: u64, page: &Page, options: &ListOptions) -> Vec<u8> {
    let mut text = format!("{{\"index\":{index},\"keys\":[").into_bytes();
    let mut last = None;
    let mut more = page.more;
    for (position, entry) in page.entries.iter().enumerate() {
        let start = text.len();
        text.extend_from_slice(json::separator(position));
        let item = ListedKey {
            key: json::KeyJson::of(&entry.key),
            stored: json::Stored {
                size: entry.size,
                etag: json::Etag(entry.index),
                value: entry.value.as_deref().map(json::ValueJson::of),
            },
        };
        json::push(&mut text, &item);
        if text.len() > limits::LIST_BYTES_MAX && position > 0 {
            text.truncate(start);
            more = true;
            break;
        }
        last = Some(&*entry.key);
    }
    text.extend_from_slice(b"\n],\"next\":");
    let next = last.filter(|_| more).map(|after| next(options, after));
    json::push(&mut text, &next);
    text.extend_from_slice(b"}\n");
    text
}

/// The path of the next page.
fn next(options: &ListOptions, after: &[u8]) -> String {
    let mut link = format!("/-/kv?after={}", percent_encode(after));
    let range = &options.range;
    if !range.prefix.is_empty() {
        let _ = write!(link, "&prefix={}", percent_encode(&range.prefix));
    }
    if range.limit != limits::LIST_KEYS_DEFAULT {
        let _ = write!(link, "&limit={}", range.limit);
    }
    if range.values {
        link += "&values=true";
    }
    if options.stale {
        link += "&consistency=stale";
    }
    link
}
