//! The routes: all requests, and the function that answers each.
//!
//! [`RESOURCES`] is the only list of paths and methods. The path is matched first, byte by byte in its *decoded* form,
//! which is also the form of the key. So `/%2D/kv/a` is `/-/kv/a`, and no key has two meanings. The method is matched
//! second. A 405 lists in `Allow` the methods that the table has for the path.

use super::Front;
use super::access::Audience;
use super::body::Body;
use super::error_code::Code;
use super::reply::{self, Reply, ReplyResult};
use super::{hint, list, meant_option, path, watch};
use crate::limits;
use bytes::Bytes;
use hyper::Method;
use hyper::http::request::Parts;
use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::LazyLock;
use tokio::time::Instant;

/// A path or a pattern of paths, with the requests that it supports.
#[derive(Debug)]
pub(super) struct Resource {
    path: Pattern,
    endpoints: &'static [Endpoint],
    unlisted: Unlisted,
}

/// Requests that one function answers.
#[derive(Debug)]
struct Endpoint {
    methods: &'static [Method],
    /// Restricts the endpoint to some of the paths of its resource. The first endpoint that matches is taken.
    is_for: fn(&[u8]) -> bool,
    action: Action,
    needs: Needs,
    /// The path as spelled in the book.
    path: &'static str,
    /// What the request does, for the list of all requests.
    about: &'static str,
}

/// The function that answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Read,
    Write,
    ReadPair,
    DeletePair,
    SetPairs,
    List,
    Watch,
    Transact,
    BackUp,
    ListMembers,
    AddMember,
    Join,
    MoveMember,
    RemoveMember,
    RemoveNumber,
    HandOver,
    ShowStatus,
    ShowHash,
    ShowMetrics,
    ShowLive,
    ShowReady,
    ShowPaths,
}

impl Action {
    /// Whether the handler reads the query itself. For all other actions, `route` refuses every option.
    fn has_options(self) -> bool {
        matches!(
            self,
            Action::Read
                | Action::ReadPair
                | Action::List
                | Action::Watch
                | Action::BackUp
                | Action::ListMembers
        )
    }

    /// The clients that may make the request. The match has no wildcard, so a new action needs a decision.
    fn audience(self) -> Audience {
        match self {
            Action::ShowLive | Action::ShowReady => Audience::Everybody,
            Action::AddMember | Action::Join | Action::ShowStatus => Audience::Joiners,
            Action::Read
            | Action::Write
            | Action::ReadPair
            | Action::DeletePair
            | Action::SetPairs
            | Action::List
            | Action::Watch
            | Action::Transact
            | Action::BackUp
            | Action::ListMembers
            | Action::MoveMember
            | Action::RemoveMember
            | Action::RemoveNumber
            | Action::HandOver
            | Action::ShowHash
            | Action::ShowMetrics
            | Action::ShowPaths => Audience::Administrators,
        }
    }

    /// Whether options of other stores are refused with what serves the same purpose.
    fn is_about_one_key(self) -> bool {
        matches!(
            self,
            Action::Read | Action::Write | Action::ReadPair | Action::DeletePair
        )
    }

    /// Whether no cache may keep the answer, because the answer is the state of one moment, or too large.
    fn is_of_a_moment(self) -> bool {
        matches!(
            self,
            Action::BackUp
                | Action::ListMembers
                | Action::ShowStatus
                | Action::ShowHash
                | Action::ShowMetrics
                | Action::ShowLive
                | Action::ShowReady
        )
    }
}

/// What a member must be able to do before it answers a request: see `availability`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// Answered even while the snapshot is loading.
    Nothing,
    /// Needs a raft loop, and is answered even while the member is closed to clients.
    Raft,
    /// Answered only while the member serves clients.
    Service,
}

/// The answer to a method of [`METHODS`] for which the path has no endpoint. Other methods get 405 everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unlisted {
    /// 405.
    NotAllowed,
    /// 405, in any state of the member. No client that uses another method on a probe means the key of this name.
    ProbeOnly,
    /// A read gets 405. A write gets 403, because the client most likely meant the key of this name.
    ReservedPath,
    /// A read gets 404, a write 403.
    NoSuchPath,
}

const READ: &[Method] = &[Method::GET, Method::HEAD];
const PUT: &[Method] = &[Method::PUT];
const DELETE: &[Method] = &[Method::DELETE];
const WRITE: &[Method] = &[Method::PUT, Method::DELETE];
const POST: &[Method] = &[Method::POST];

/// The supported methods, in the order in which `Allow` lists them.
const METHODS: &[Method] = &[
    Method::GET,
    Method::HEAD,
    Method::PUT,
    Method::DELETE,
    Method::POST,
];

/// Makes [`RESOURCES`] from a table. Each path states the answer to unlisted methods, then has a line for each request.
macro_rules! resources {
    ($($pattern:literal, unlisted $unlisted:ident {
        $($methods:ident $path:literal $(if $is_for:path)? => $action:ident, needs $needs:ident, $about:literal;)*
    })*) => {
        /// All paths. The first match is taken. The last path matches everything.
        ///
        $($(#[doc = concat!("- ", stringify!($methods), " `", $path, "`: ", $about)])*)*
        static RESOURCES: &[Resource] = &[$(Resource {
            path: Pattern::new($pattern),
            unlisted: Unlisted::$unlisted,
            endpoints: &[$(Endpoint {
                methods: $methods,
                is_for: resources!(@is_for $($is_for)?),
                action: Action::$action,
                needs: Needs::$needs,
                path: $path,
                about: $about,
            }),*],
        }),*];
    };
    (@is_for $is_for:path) => { $is_for };
    (@is_for) => { |_| true };
}

resources! {
    "/-/kv", unlisted ReservedPath {
        READ "/-/kv" => List, needs Service, "lists keys, with their values or without";
    }
    "/-/kv/<key>", unlisted NotAllowed {
        READ "/-/kv/<key>" => Read, needs Service, "reads any key";
        WRITE "/-/kv/<key>" => Write, needs Service, "writes or deletes any key";
    }
    "/-/txn", unlisted ReservedPath {
        POST "/-/txn" => Transact, needs Service, "changes many keys at once, if conditions hold";
    }
    "/-/watch", unlisted ReservedPath {
        READ "/-/watch" => Watch, needs Service, "streams changes of keys";
    }
    "/-/snapshot", unlisted ReservedPath {
        READ "/-/snapshot" => BackUp, needs Service, "sends a backup";
    }
    "/key", unlisted NoSuchPath {
        POST "/key" => SetPairs, needs Service, "writes the pairs of a JSON object";
    }
    "/key/<k>", unlisted ReservedPath {
        READ "/key/<k>" => ReadPair, needs Service, "reads a key and its value as JSON";
        DELETE "/key/<k>" => DeletePair, needs Service, "deletes a key";
    }
    "/-/members", unlisted NotAllowed {
        READ "/-/members" => ListMembers, needs Service, "lists the members";
    }
    "/-/members/<id>", unlisted NotAllowed {
        POST "/-/members/<id>" => AddMember, needs Service, "adds a member";
        PUT "/-/members/<id>" => MoveMember, needs Service, "gives a member another URL";
        DELETE "/-/members/<id>" => RemoveMember, needs Service, "removes a member";
    }
    "/-/leader", unlisted ReservedPath {
        POST "/-/leader" => HandOver, needs Service, "hands leadership to a member";
    }
    "/-/status", unlisted ReservedPath {
        READ "/-/status" => ShowStatus, needs Raft, "shows what this member knows of the cluster";
    }
    "/-/hash", unlisted ReservedPath {
        READ "/-/hash" => ShowHash, needs Service, "shows a hash of the map";
    }
    "/-/metrics", unlisted ReservedPath {
        READ "/-/metrics" => ShowMetrics, needs Nothing, "shows figures for Prometheus";
    }
    "/-/live", unlisted ProbeOnly {
        READ "/-/live" => ShowLive, needs Nothing, "tells whether this member works";
    }
    "/-/ready", unlisted ProbeOnly {
        READ "/-/ready" => ShowReady, needs Raft, "tells whether this member serves clients";
    }
    "/-", unlisted ReservedPath {
        READ "/-" => ShowPaths, needs Nothing, "lists all requests";
    }
    "/-/", unlisted ReservedPath {
        READ "/-/" => ShowPaths, needs Nothing, "lists all requests";
    }
    "/-/<other>", unlisted NoSuchPath {}
    "/<key>", unlisted NotAllowed {
        READ "/" if is_empty => ShowPaths, needs Nothing, "lists all requests";
        READ "/<key>" => Read, needs Service, "reads a key";
        PUT "/<key>" => Write, needs Service, "writes a key";
        DELETE "/<id>" if path::is_all_digits => RemoveNumber, needs Service, "removes a member, for clients of raftexample";
        DELETE "/<key>" => Write, needs Service, "deletes a key";
        POST "/join" if is_join => Join, needs Service, "adds a member, for clients of hraftd";
        POST "/<id>" => AddMember, needs Service, "adds a member, for clients of raftexample";
    }
}

fn is_empty(key: &[u8]) -> bool {
    key.is_empty()
}

fn is_join(key: &[u8]) -> bool {
    key == b"join"
}

/// A path, or all paths with a prefix: a name in angle brackets at the end stands for the rest of the path.
#[derive(Debug)]
struct Pattern {
    /// The bytes before the name, without the first slash.
    fixed: &'static [u8],
    /// Any rest may follow, also an empty rest.
    is_prefix: bool,
}

impl Pattern {
    const fn new(text: &'static str) -> Pattern {
        let (slash, text) = text.as_bytes().split_at(1);
        assert!(slash[0] == b'/', "a path begins with a slash");
        let mut length = 0;
        while length < text.len() && text[length] != b'<' {
            length += 1;
        }
        Pattern {
            fixed: text.split_at(length).0,
            is_prefix: length < text.len(),
        }
    }

    fn matches(&self, path: &[u8]) -> bool {
        match self.is_prefix {
            true => path.starts_with(self.fixed),
            false => path == self.fixed,
        }
    }
}

impl Resource {
    /// The resource of a decoded path.
    pub(super) fn find(path: &[u8]) -> &'static Resource {
        let found = RESOURCES
            .iter()
            .find(|resource| resource.path.matches(path));
        found.expect("the last one matches every path")
    }

    /// The part of a decoded path that the name in the pattern stands for.
    pub(super) fn key<'a>(&self, path: Cow<'a, [u8]>) -> Cow<'a, [u8]> {
        let start = self.path.fixed.len();
        match path {
            Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[start..]),
            Cow::Owned(mut bytes) => Cow::Owned(bytes.split_off(start)),
        }
    }

    /// The clients that may make a request with this method. The refusal of a request that no endpoint answers shows which
    /// methods exist, so such a request is for administrators only.
    fn audience(&self, method: &Method, decoded: &[u8]) -> Audience {
        let key = &decoded[self.path.fixed.len()..];
        let endpoint = self.endpoint(method, key);
        endpoint.map_or(Audience::Administrators, |endpoint| {
            endpoint.action.audience()
        })
    }

    fn endpoint(&self, method: &Method, key: &[u8]) -> Option<&'static Endpoint> {
        let mut endpoints = self.endpoints.iter();
        endpoints.find(|endpoint| endpoint.methods.contains(method) && (endpoint.is_for)(key))
    }

    /// What the member must be able to do before it refuses a method. A member that can't do that answers why it does
    /// not serve clients.
    fn refusal_needs(&self) -> Needs {
        match self.unlisted {
            Unlisted::ProbeOnly => Needs::Nothing,
            _ => Needs::Service,
        }
    }

    /// 405, with the methods that the resource supports.
    fn not_allowed(&self) -> Box<Reply> {
        if self.endpoints.is_empty() && self.unlisted == Unlisted::NoSuchPath {
            // The path is wrong, whatever the method.
            return not_allowed(METHODS.iter());
        }
        not_allowed(METHODS.iter().filter(|method| {
            let mut endpoints = self.endpoints.iter();
            endpoints.any(|endpoint| endpoint.methods.contains(method))
        }))
    }

    /// The answer to one of [`METHODS`] that no endpoint has.
    fn refuse(&self, method: &Method, path: &str) -> Box<Reply> {
        let has_list = self.endpoints.iter().any(|e| e.action == Action::List);
        if has_list && *method == Method::DELETE {
            return meant_option::no_deletion_of_lists(path);
        }
        match (self.unlisted, READ.contains(method)) {
            (Unlisted::NotAllowed | Unlisted::ProbeOnly, _) | (Unlisted::ReservedPath, true) => {
                self.not_allowed()
            }
            (Unlisted::NoSuchPath, true) => no_such_path(path),
            (Unlisted::ReservedPath | Unlisted::NoSuchPath, false) => reply::error(
                Code::ReservedPath,
                format!(
                    "paths whose first part is - or key are reserved; {}{}",
                    written_by_put(method, path),
                    path::hint(path)
                ),
            ),
        }
    }
}

/// For a PUT to `/key/a`, what writes the key that `GET /key/a` reads. Otherwise empty.
fn written_by_put(method: &Method, path: &str) -> String {
    let key = path.strip_prefix("/key/").unwrap_or_default();
    let first = key.split('/').next().unwrap_or_default();
    match *method == Method::PUT && path.len() <= 200 && !matches!(first, "" | "-" | "key") {
        true => format!("to write the key {key}, use PUT /{key}; "),
        false => String::new(),
    }
}

/// 404, with the path that the client may have meant.
fn no_such_path(path: &str) -> Box<Reply> {
    let decoded = path::decode(path).unwrap_or_default();
    let meant = hint::meant(&decoded);
    let meant = meant.map_or_else(String::new, |meant| format!("did you mean {meant}? "));
    reply::error(
        Code::NoSuchPath,
        format!("there is nothing at this path; {meant}{}", path::hint(path)),
    )
}

/// A line for each request of the table.
static PATHS: LazyLock<Bytes> = LazyLock::new(|| {
    let mut text = "raftkvd, a replicated key-value store. A key is the path: PUT /greeting writes the key greeting.\n\n"
        .to_owned();
    for endpoint in RESOURCES.iter().flat_map(|resource| resource.endpoints) {
        // HEAD is served wherever GET is.
        let methods = endpoint
            .methods
            .iter()
            .filter(|method| **method != Method::HEAD);
        let methods: Vec<_> = methods.map(Method::as_str).collect();
        let request = format!("{} {}", methods.join(" "), endpoint.path);
        // Writing to a string can't fail.
        let _ = writeln!(text, "{request:28}{}", endpoint.about);
    }
    Bytes::from(text)
});

fn not_allowed<'a>(methods: impl Iterator<Item = &'a Method>) -> Box<Reply> {
    let methods: Vec<_> = methods.map(Method::as_str).collect();
    reply::not_allowed(&methods.join(", "))
}

impl Front {
    /// Answers a request according to the table.
    pub(super) async fn route(
        &self,
        head: &Parts,
        body: &mut Body,
        deadline: Instant,
    ) -> ReplyResult {
        let path = head.uri.path();
        let decoded = path::decode(path)?;
        self.admit(head, &decoded)
            .inspect_err(|refused| self.audit_refusal(head, refused))?;
        let resource = Resource::find(&decoded);
        let audience = resource.audience(&head.method, &decoded);
        self.check_rights(head, audience)
            .inspect_err(|refused| self.audit_refusal(head, refused))?;
        if path == "*" || head.method == Method::CONNECT {
            // `*` and the target of CONNECT name no resource, so there are no methods to list for them.
            return Err(not_allowed(METHODS.iter()));
        }
        if !METHODS.contains(&head.method) {
            return Err(resource.not_allowed());
        }
        let key = resource.key(decoded);
        let endpoint = resource.endpoint(&head.method, &key);
        self.check_available(endpoint.map_or(resource.refusal_needs(), |endpoint| endpoint.needs))?;
        match endpoint {
            Some(endpoint) => {
                let mut answer = self.act(endpoint.action, head, key, body, deadline).await;
                if endpoint.action.is_of_a_moment() {
                    answer = answer.map(reply::not_kept).map_err(|refused| {
                        let refused = reply::not_kept(*refused);
                        Box::new(refused)
                    });
                }
                answer
            }
            None => Err(resource.refuse(&head.method, path)),
        }
    }

    async fn act(
        &self,
        action: Action,
        head: &Parts,
        key: Cow<'_, [u8]>,
        body: &mut Body,
        deadline: Instant,
    ) -> ReplyResult {
        let path = head.uri.path();
        let query = head.uri.query();
        if action.is_about_one_key() {
            meant_option::check(&head.method, query)?;
        }
        if !action.has_options() {
            path::no_options(query)?;
        }
        match action {
            Action::Read => {
                let options = path::read_options(query)?;
                let key = self.checked(head, key)?;
                self.read(head, &key, options, deadline).await
            }
            Action::Write => {
                let key = self.checked(head, key)?;
                self.write(head, key, body, deadline).await
            }
            Action::ReadPair => {
                let options = path::read_options(query)?;
                let key = self.checked(head, key)?;
                self.read_pair(head, &key, options, deadline).await
            }
            Action::DeletePair => {
                let key = self.checked(head, key)?;
                self.delete_pair(head, key, body, deadline).await
            }
            Action::SetPairs => self.set_pairs(head, body, deadline).await,
            Action::List => self.list(list::list_options(query)?, deadline).await,
            Action::Watch => {
                let options = watch::watch_options(query)?;
                self.watch(head, options, deadline).await
            }
            Action::Transact => self.transact(head, body, deadline).await,
            Action::BackUp => {
                let options = path::read_options(query)?;
                self.back_up(head, options, deadline).await
            }
            Action::AddMember => self.add_member(head, &key, body, deadline).await,
            Action::Join => self.join(head, body, deadline).await,
            Action::MoveMember => self.move_member(head, &key, path, body, deadline).await,
            Action::ListMembers => {
                let options = path::read_options(query)?;
                self.list_members(options, deadline).await
            }
            Action::RemoveMember => self.remove_member(head, &key, deadline).await,
            Action::RemoveNumber => self.remove_number(head, &key, path, deadline).await,
            Action::HandOver => self.hand_over(head, body, deadline).await,
            Action::ShowStatus => self.show_status(deadline).await,
            Action::ShowHash => self.show_hash(deadline).await,
            Action::ShowMetrics => self.show_metrics(&head.headers, deadline).await,
            Action::ShowLive => self.show_live(deadline).await,
            Action::ShowReady => self.show_ready(head, deadline).await,
            Action::ShowPaths => Ok(reply::page(PATHS.clone())),
        }
    }

    /// Checks the length of the key. `--max-key-bytes` applies to keys that are written. A key that was written under a
    /// larger limit can be read and deleted.
    fn checked<'a>(&self, head: &Parts, key: Cow<'a, [u8]>) -> Result<Cow<'a, [u8]>, Box<Reply>> {
        if key.is_empty() {
            return Err(reply::error(
                Code::BadPath,
                "the key is empty: write it behind the slash, as in /hello",
            ));
        }
        let limit = match head.method {
            Method::PUT => self.api.limits.key_bytes_max,
            _ => limits::KEY_BYTES_LIMIT,
        };
        if key.len() > limit {
            return Err(reply::error(
                Code::KeyTooLong,
                format!(
                    "the key has {} bytes, at most {limit} are allowed: see --max-key-bytes",
                    key.len()
                ),
            ));
        }
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn paths_are_matched_as_they_are_decoded() {
        for (path, fixed, key) in [
            ("/", "", ""),
            ("/a", "", "a"),
            ("/a/-/kv/b", "", "a/-/kv/b"),
            ("/-a", "", "-a"),
            ("/keys", "", "keys"),
            ("/123", "", "123"),
            ("//-/x", "", "/-/x"),
            ("/-/status", "-/status", ""),
            ("/-/hash", "-/hash", ""),
            ("/-/live", "-/live", ""),
            ("/-/ready", "-/ready", ""),
            ("/-/metrics", "-/metrics", ""),
            ("/-/snapshot", "-/snapshot", ""),
            ("/-/kv/a", "-/kv/", "a"),
            ("/-/kv/", "-/kv/", ""),
            ("/-/kv//", "-/kv/", "/"),
            ("/-/kv/-/kv/a", "-/kv/", "-/kv/a"),
            ("/%2D/kv/%2d%2Fx", "-/kv/", "-/x"),
            ("/-/kv", "-/kv", ""),
            ("/-/watch", "-/watch", ""),
            ("/-/txn", "-/txn", ""),
            ("/-/leader", "-/leader", ""),
            ("/-/members", "-/members", ""),
            ("/-/members/", "-/members/", ""),
            ("/-/members/4", "-/members/", "4"),
            ("/%2D/member%73%2F4/x", "-/members/", "4/x"),
            ("/-/membersx", "-/", "membersx"),
            ("/-/txn/", "-/", "txn/"),
            ("/-", "-", ""),
            ("/-/", "-/", ""),
            ("/-/status/", "-/", "status/"),
            ("/key", "key", ""),
            ("/key/", "key/", ""),
            ("/key/a", "key/", "a"),
            ("/%6Bey%2Fa/", "key/", "a/"),
        ] {
            let decoded = path::decode(path).unwrap();
            let resource = Resource::find(&decoded);
            let found = (resource.path.fixed, &*resource.key(decoded));
            assert_eq!(found, (fixed.as_bytes(), key.as_bytes()), "{path}");
        }
    }

    #[test]
    fn at_the_root_the_key_tells_members_from_keys() {
        for (method, key, action) in [
            (Method::GET, "4", Action::Read),
            (Method::HEAD, "join", Action::Read),
            (Method::PUT, "4", Action::Write),
            (Method::PUT, "join", Action::Write),
            (Method::GET, "", Action::ShowPaths),
            (Method::DELETE, "4", Action::RemoveNumber),
            (Method::DELETE, "007", Action::RemoveNumber),
            (Method::DELETE, "", Action::Write),
            (Method::DELETE, "4x", Action::Write),
            (Method::DELETE, "join", Action::Write),
            (Method::POST, "4", Action::AddMember),
            (Method::POST, "a", Action::AddMember),
            (Method::POST, "join", Action::Join),
            (Method::POST, "join/", Action::AddMember),
        ] {
            let endpoint = Resource::find(key.as_bytes()).endpoint(&method, key.as_bytes());
            let found = endpoint.map(|endpoint| endpoint.action);
            assert_eq!(found, Some(action), "{method} /{key}");
        }
    }

    #[test]
    fn every_endpoint_is_where_its_path_says() {
        let mut count = 0;
        for endpoint in RESOURCES.iter().flat_map(|resource| resource.endpoints) {
            let path = endpoint.path.replace("<id>", "4");
            let path = path.replace("<key>", "x").replace("<k>", "x");
            let resource = Resource::find(&path.as_bytes()[1..]);
            let key = resource.key(Cow::Borrowed(&path.as_bytes()[1..]));
            for method in endpoint.methods {
                let found = resource.endpoint(method, &key);
                let action = found.map(|found| found.action);
                assert_eq!(action, Some(endpoint.action), "{method} {path}");
                count += 1;
            }
        }
        assert!(count > RESOURCES.len(), "{count}");
    }

    #[test]
    fn the_book_lists_the_same_requests() {
        let page = include_str!("../docs/reference/api.md");
        let mut documented = BTreeSet::new();
        for row in page.lines().filter_map(|line| line.strip_prefix("| ")) {
            let (request, _) = row.split_once('|').unwrap();
            // Every second piece is between backticks.
            for code in request.split('`').skip(1).step_by(2) {
                if let Some((methods, path)) = code.split_once(" /") {
                    let methods = methods.split(' ');
                    documented.extend(methods.map(|method| format!("{method} /{path}")));
                }
            }
        }
        let mut served = BTreeSet::new();
        for endpoint in RESOURCES.iter().flat_map(|resource| resource.endpoints) {
            // HEAD is served wherever GET is, and no row but the first mentions it.
            let methods = endpoint.methods.iter();
            let methods = methods.filter(|method| **method != Method::HEAD);
            served.extend(methods.map(|method| format!("{method} {}", endpoint.path)));
        }
        assert_eq!(documented, served);
    }
}
