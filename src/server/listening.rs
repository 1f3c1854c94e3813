//! The line about the address on which this member listens. It is logged at every log level.
//!
//! A member serves clients only when it has read its log and has a leader. If that takes longer than a moment, the line
//! says what the member waits for, and a second line follows when the member serves clients. Only a member that serves
//! clients suggests a request to try.

use super::wiring::SharedParts;
use crate::channels::status::ClosedKind;
use crate::limits;
use crate::logging;
use slog::{Drain, Level, info};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tokio::time::{sleep, timeout};

/// Logs where the member listens, and, if that comes later, that it serves clients.
pub(super) async fn tell(
    parts: SharedParts,
    id: u64,
    address: SocketAddr,
    tls_dir: Option<PathBuf>,
) {
    let logger = &parts.logger;
    let (curl, scheme) = match tls_dir {
        None => ("curl".to_owned(), "http"),
        Some(dir) => (curl_with_certificates(&dir), "https"),
    };
    let hello = format!(
        "try {curl} -X PUT -d hello {scheme}://{address}/greeting and then {curl} {scheme}://{address}/greeting"
    );
    let Err(_) = timeout(limits::LISTENING_WAIT, serves(&parts)).await else {
        info!(logger, #logging::ALWAYS, "raftkvd {id} is listening: {hello}");
        return;
    };
    let why = why(&parts);
    info!(logger, #logging::ALWAYS, "raftkvd {id} is listening at {scheme}://{address}; {why}");
    serves(&parts).await;
    info!(logger, #logging::ALWAYS, "raftkvd {id} serves clients: {hello}");
}

/// The command for a client, with the files of the administrator if they are beside those of this member.
fn curl_with_certificates(dir: &Path) -> String {
    let admin = dir.parent().map(|parent| parent.join("admin"));
    let admin = admin.filter(|admin| admin.join("client.pem").exists());
    let (ca, own) = match &admin {
        Some(admin) => (dir.join("ca.pem"), format!("{}/", admin.display())),
        None => (dir.join("ca.pem"), String::new()),
    };
    format!(
        "curl --cacert {} --cert {own}client.pem --key {own}client.key",
        ca.display()
    )
}

/// What this member waits for. The log of a member that waits to be added says so already, in the line `serving no
/// clients`. So the line about the address repeats what it waits for, but not what to do.
fn why(parts: &SharedParts) -> String {
    if let Some(replay) = parts.state_machine.replay.under_way() {
        return replay;
    }
    match parts.inbox.closed() {
        Some(closed)
            if closed.kind == ClosedKind::Joining
                && Drain::is_enabled(&parts.logger, Level::Info) =>
        {
            // The line `serving no clients` comes before the first answer of a member that was asked, and lacks the advice.
            match closed.why.starts_with("joining through ") {
                true => closed.why.clone(),
                false => first_statement(&closed.why).to_owned(),
            }
        }
        _ => {
            let why = parts.inbox.waits_for();
            why.unwrap_or_else(|| "this member has just started".to_owned())
        }
    }
}

/// The text before the first `; ` that is not inside brackets.
fn first_statement(text: &str) -> &str {
    let is_complete = |start: &str| {
        let count = |bracket| start.matches(bracket).count();
        count('(') == count(')') && count('[') == count(']')
    };
    let mut starts = text.match_indices("; ").map(|(at, _)| &text[..at]);
    starts.find(|start| is_complete(start)).unwrap_or(text)
}

/// Completes when this member serves clients.
async fn serves(parts: &SharedParts) {
    while parts.state_machine.replay.under_way().is_some() {
        sleep(limits::LISTENING_POLL).await;
    }
    parts.inbox.serves().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_statements_and_never_inside_brackets() {
        for (text, start) in [
            ("joining", "joining"),
            ("joining: not added; add it", "joining: not added"),
            (
                "not added (TLS: expired; renew it); add it",
                "not added (TLS: expired; renew it)",
            ),
            (
                "not added (TLS: expired; renew it",
                "not added (TLS: expired; renew it",
            ),
            ("at http://[::1]:9121; wait", "at http://[::1]:9121"),
        ] {
            assert_eq!(first_statement(text), start);
        }
    }
}
