//! The line about the address on which this member listens. It is logged at every log level.
//!
//! A member serves clients only when it has read its log and has a leader. If that takes longer than a moment, the line
//! says what the member waits for, and a second line follows when the member serves clients. Only a member that serves
//! clients suggests a request to try.

use super::wiring::SharedParts;
use crate::limits;
use crate::logging;
use slog::info;
use std::net::SocketAddr;
use tokio::time::{sleep, timeout};

/// Logs where the member listens, and, if that comes later, that it serves clients.
pub(super) async fn tell(parts: SharedParts, id: u64, address: SocketAddr) {
    let logger = &parts.logger;
    let hello = format!(
        "try curl -X PUT -d hello http://{address}/greeting and then curl http://{address}/greeting"
    );
    let Err(_) = timeout(limits::LISTENING_WAIT, serves(&parts)).await else {
        info!(logger, #logging::ALWAYS, "raftkvd {id} is listening: {hello}");
        return;
    };
    let why = parts.state_machine.replay.under_way();
    let why = why.or_else(|| parts.inbox.waits_for());
    let why = why.unwrap_or_else(|| "this member has just started".to_owned());
    info!(logger, #logging::ALWAYS, "raftkvd {id} is listening at http://{address}; {why}");
    serves(&parts).await;
    info!(logger, #logging::ALWAYS, "raftkvd {id} serves clients: {hello}");
}

/// Completes when this member serves clients.
async fn serves(parts: &SharedParts) {
    while parts.state_machine.replay.under_way().is_some() {
        sleep(limits::LISTENING_POLL).await;
    }
    parts.inbox.serves().await;
}
