//! "Did you mean": options of other stores in requests for one key. Such a request is refused, and the line names the
//! request that serves the same purpose.

use super::error_code::Code;
use super::path::{hint, options, unknown};
use super::reply::{self, Reply};
use crate::limits;
use hyper::Method;

/// Refuses a request for one key that has an option of another store.
pub(super) fn check(method: &Method, query: Option<&str>) -> Result<(), Box<Reply>> {
    let known = options(query).find_map(|option| {
        let name = option.split('=').next().unwrap_or(option);
        Some((option, meant(method, name)?))
    });
    match known {
        Some((option, meant)) => Err(unknown(option, &meant)),
        None => Ok(()),
    }
}

/// What to do in place of this option.
fn meant(method: &Method, name: &str) -> Option<String> {
    let is_read = [Method::GET, Method::HEAD].contains(method);
    let line = match name {
        "prefix" | "recurse" | "recursive" | "keys" | "after" | "limit" | "values" if is_read => {
            "a read gives one key; to list keys, use GET /-/kv?prefix=PREFIX"
        }
        "wait" | "watch" | "index" | "waitIndex" | "stream" if is_read => {
            "a read gives the current value; to follow changes, use GET /-/watch?prefix=PREFIX"
        }
        "stale" | "consistent" | "quorum" | "level" | "serializable" if is_read => {
            "a read accepts consistency=stale and consistency=linearizable, which is the default"
        }
        "prefix" | "recurse" | "recursive" | "dir" if *method == Method::DELETE => {
            return Some(format!("a request deletes one key; {}", delete_many()));
        }
        "cas" | "prevValue" | "prevIndex" | "prevExist" if !is_read => {
            "conditions are headers: send If-Match with the ETag of a read, or If-None-Match: * for a key that must be absent"
        }
        "ttl" | "expire" | "expires" | "expiration" | "ex" | "lease" => {
            "keys do not expire; delete a key when it is no longer needed"
        }
        _ => return None,
    };
    Some(line.to_owned())
}

/// How to delete many keys.
fn delete_many() -> String {
    format!(
        "to delete many, list them with GET /-/kv?prefix=PREFIX, and delete each one, or up to {} in a transaction \
         (POST /-/txn)",
        limits::TXN_OPERATIONS_MAX
    )
}

/// The refusal of a DELETE of the list of keys.
pub(super) fn no_deletion_of_lists(path: &str) -> Box<Reply> {
    reply::error(
        Code::ReservedPath,
        format!(
            "a list of keys can't be deleted by one request; {}; {}",
            delete_many(),
            hint(path)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_of_another_store_is_refused_and_any_other_is_left_alone() {
        for (method, query) in [
            (Method::GET, "prefix=a"),
            (Method::HEAD, "consistency=stale&wait=true"),
            (Method::DELETE, "recursive"),
            (Method::PUT, "ttl=5"),
            (Method::PUT, "cas=0"),
        ] {
            assert!(check(&method, Some(query)).is_err(), "{method} {query}");
        }
        for (method, query) in [
            (Method::GET, "consistency=stale"),
            (Method::GET, "cas=0"),
            (Method::PUT, "prefix=a"),
            (Method::DELETE, "x"),
        ] {
            assert!(check(&method, Some(query)).is_ok(), "{method} {query}");
        }
        assert!(check(&Method::GET, None).is_ok());
    }
}
